import logging

import pytest
from mmengine.config import Config

from kdmm.engine import check_data
from tests.errors import refused

NAMES = ('ape', 'bee', 'cat')


def fill(folder, names=NAMES) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / '0.jpg').write_bytes(b'')


@pytest.fixture
def root(tmp_path):
    for split in ('train', 'val'):
        fill(tmp_path / split)
    return tmp_path


def dataset(root, prefix='train', kind='CustomDataset', **changes) -> dict:
    return dict(type=kind, data_root=str(root), data_prefix=prefix, **changes)


def check(train: dict, val: dict | None = None, num_classes: int | None = None) -> None:
    head = dict(type='LinearClsHead', num_classes=num_classes)
    check_data(
        Config(
            dict(
                model=dict(head=head if num_classes else None),
                train_dataloader=dict(dataset=train),
                val_dataloader=dict(dataset=val) if val else None,
            )
        )
    )


def test_equal_folders_pass(root):
    check(dataset(root), dataset(root, 'val'), num_classes=3)
    check(dataset(root, kind='mmpretrain.CustomDataset'), dataset(root, dict(img_path='val')))
    check_data(Config(dict(train_dataloader=dict(dataset=dataset(root)))))  # without a model


def test_some_of_the_classes(root):
    """The head has as many as a wrapper keeps; folders that differ are refused all the same."""

    def chosen(inner, **options) -> dict:
        return dict(type='kdmm.ClassSubset', count=2, dataset=inner, **options)

    check(chosen(dataset(root)), chosen(dataset(root, 'val'), rest=True), num_classes=2)
    outside = dict(type='kdmm.StratifiedSubset', dataset=chosen(dataset(root)), fraction=0.5)
    check(dict(type='ConcatDataset', datasets=[outside, outside]), num_classes=2)
    wrapped = dict(type='kdmm.StratifiedSubset', dataset=dataset(root), fraction=0.5)
    with refused(key='train_dataloader.dataset.dataset', problem='3 class folders'):
        check(wrapped, num_classes=2)
    fill(root / 'val', ['dog'])
    with refused(key='val_dataloader.dataset.dataset', problem='adds dog'):
        check(chosen(dataset(root)), chosen(dataset(root, 'val')), num_classes=2)


@pytest.mark.parametrize('kind', ['CustomDataset', 'mmpretrain.ImageNet'])
def test_a_missing_folder_says_the_layout(root, kind):
    for changes, key, path in (
        (dict(root='/no/where'), 'data_root', '/no/where'),
        (dict(prefix='trian'), 'data_prefix', f'{root}/trian'),
    ):
        folder = f'{changes.get("root", root)}/{changes.get("prefix", "train")}'
        layout = f'{folder}/<class>/<image>'
        with refused(key=f'train_dataloader.dataset.{key}', got=path, expected=layout):
            check(dataset(**dict(dict(root=root, kind=kind), **changes)))


def test_imagenets_split_is_a_folder(root):
    imagenet = dict(type='ImageNet', data_root=str(root))
    check(dict(imagenet, split='train'))
    told = 'no class folder with images'
    with refused(got=f'{root}/nil', problem=told, expected='/nil/<class>/<image>'):
        check(dict(imagenet, split='nil'))
    check(dict(imagenet, split='test'))  # has no labels
    (root / 'meta').mkdir()
    (root / 'meta/nil.txt').write_text('')
    check(dict(imagenet, split='nil'))


@pytest.mark.parametrize('names', [(), NAMES])
def test_a_folder_without_images(tmp_path, names):
    """Nothing in it, or only folders of nothing."""
    for name in ('', *names):
        (tmp_path / 'train' / name).mkdir(parents=True)
    (tmp_path / 'train/readme.txt').write_text('')
    folder = f'{tmp_path}/train'
    with refused(
        key='train_dataloader.dataset',
        got=folder,
        problem='no class folder with images',
        expected=f'{folder}/<class>/<image>',
    ):
        check(dataset(tmp_path))


def test_a_class_is_missing_in_one_split(root):
    (root / 'val/bee/0.jpg').unlink()
    (root / 'val/bee').rmdir()
    told = (f"it lacks bee, compared with '{root}/train'", 'alphabet')
    with refused(key='val_dataloader.dataset', got=f'{root}/val', problem=told) as caught:
        check(dataset(root), dataset(root, 'val'))
    assert 'adds' not in caught.value.problem


def test_a_folder_too_many(root):
    (root / 'val/.ipynb_checkpoints').mkdir()
    with refused(problem='it adds .ipynb_checkpoints, compared'):
        check(dataset(root), dataset(root, 'val'))


def test_one_missing_and_one_too_many(root):
    (root / 'val/bee').rename(root / 'val/dog')
    with refused(problem='lacks bee and adds dog'):
        check(dataset(root), dataset(root, 'val'))


def test_many_names_are_cut(tmp_path):
    fill(tmp_path / 'train', [f'c{i:02d}' for i in range(12)])
    fill(tmp_path / 'val', ['c00'])
    with refused(problem='lacks c01, c02, c03, c04, c05 and 6 more, compared'):
        check(dataset(tmp_path), dataset(tmp_path, 'val'))


def test_the_head_has_another_number_of_classes(root):
    with refused(
        key='train_dataloader.dataset',
        got=f'{root}/train',
        problem=('3 class folders (ape, bee, cat)', 'model.head.num_classes=4'),
        expected=f'{root}/train/<class>/<image>',
    ):
        check(dataset(root), num_classes=4)


def test_a_level_too_high(root):
    """``train`` and ``val`` would be the two classes."""
    with refused(problem='2 class folders (train, val)', fix='a level too high'):
        check(dict(type='CustomDataset', data_root=str(root)), num_classes=3)


@pytest.mark.parametrize('named', [dict(classes=NAMES), dict(metainfo=dict(classes=NAMES))])
def test_named_classes_are_left_to_mmpretrain(root, named):
    (root / 'val/bee').rename(root / 'val/dog')
    check(dataset(root), dataset(root, 'val', **named))
    check(dataset(root, **named), num_classes=4)


@pytest.mark.parametrize(
    'changes', [dict(ann_file='list.txt'), dict(with_label=False), dict(data_root='s3://x')]
)
def test_what_is_not_labelled_by_local_folders_passes(root, changes):
    (root / 'list.txt').write_text('a/0.jpg 0\n')
    (root / 'val/bee').rename(root / 'val/dog')
    check(dataset(root), dict(dataset(root, 'val'), **changes), num_classes=3)


def test_other_types_are_not_looked_into(root):
    (root / 'val/bee').rename(root / 'val/dog')
    check(dataset(root), dataset(root, 'val', kind='BaseSegDataset'))


def test_below_wrappers(root):
    (root / 'val/bee').rename(root / 'val/dog')
    inner = dataset(root, 'val')
    both = dict(type='ConcatDataset', datasets=[dataset(root), inner])
    with refused(key='train_dataloader.dataset.dataset.datasets[1]', got=f'{root}/val'):
        check(dict(type='kdmm.StratifiedSubset', fraction=0.5, dataset=both))


def test_one_empty_class_is_mmpretrains_to_warn_of(root, caplog):
    """It goes on, with the right labels; that is why the check lets it."""
    datasets = pytest.importorskip('mmpretrain.datasets')
    from mmengine.logging import MMLogger

    (root / 'train/bee/0.jpg').unlink()
    check(dataset(root), num_classes=3)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        made = datasets.CustomDataset(data_root=str(root), data_prefix='train')
    logger.removeHandler(caplog.handler)
    assert 'Found no valid file in the folder bee' in caplog.text
    assert made.get_gt_labels().tolist() == [0, 2]


def test_what_mmpretrain_says_of_named_classes(root):
    """A count, so the check need not."""
    datasets = pytest.importorskip('mmpretrain.datasets')
    with pytest.raises(AssertionError, match=r"subfolders \(3\) doesn't match .* \(2\)"):
        datasets.CustomDataset(data_root=str(root), data_prefix='train', classes=('a', 'b'))
