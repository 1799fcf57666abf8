import pytest
from mmengine.config import Config

from kdmm.engine import check_data
from kdmm.errors import ConfigError


@pytest.fixture
def root(tmp_path):
    for name in ('img/train', 'ann/train'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'train.txt').write_text('a\n')
    return tmp_path


def dataset(root, **changes) -> dict:
    prefix = dict(img_path='img/train', seg_map_path='ann/train')
    return {**dict(type='X', data_root=str(root), data_prefix=prefix, ann_file='train.txt'),
            **changes}  # fmt: skip


def check(data: dict, stages=('train', 'val')) -> None:
    check_data(Config(dict(train_dataloader=dict(dataset=data), val_dataloader=None)), stages)


def test_what_is_there_passes(root):
    check(dataset(root))


@pytest.mark.parametrize(
    'changes, place',
    [
        (dict(data_root='/no/where'), r"dataset\.data_root: there is no '/no/where'"),
        (dict(data_prefix=dict(img_path='img/trian')), r'data_prefix\.img_path: .*img/trian'),
        (dict(ann_file='none.txt'), r"ann_file: there is no '.*none\.txt'"),
    ],
)
def test_key_path_and_remedy_are_named(root, changes, place):
    with pytest.raises(ConfigError, match=place):
        check(dataset(root, **changes))
    with pytest.raises(ConfigError, match=r'--cfg-options train_dataloader\.dataset\.data_root='):
        check(dataset(root, **changes))


@pytest.mark.parametrize(
    'wrap, key',
    [
        (lambda d: dict(type='RepeatDataset', dataset=d), 'dataset.dataset'),
        (lambda d: dict(type='ConcatDataset', datasets=[d]), r'dataset.datasets\[0\]'),
        (lambda d: dict(type='R', dataset=dict(type='C', datasets=(dict(type='A'), d))),
         r'dataset.dataset.datasets\[1\]'),
    ],
)  # fmt: skip
def test_wrappers_are_opened(root, wrap, key):
    check(wrap(dataset(root)))
    with pytest.raises(ConfigError, match=rf'train_dataloader\.{key}\.data_root: ') as no:
        check(wrap(dataset('/no/where')))
    option = key.replace('\\[', '.').replace('\\]', '')
    assert f'--cfg-options train_dataloader.{option}.data_root=' in str(no.value)


@pytest.mark.parametrize(
    'data',
    [
        dict(type='X'),
        dict(type='X', data_root=None, data_prefix=None, ann_file=''),
        dict(type='X', data_root='s3://bucket/x', data_prefix=dict(img_path='a')),
        dict(type='X', data_prefix=dict(img_path='', seg_map_path=None)),
        'built',
    ],
)
def test_what_names_no_local_path_passes(data):
    check(data)


def test_an_absolute_path_needs_no_root(root):
    check(dataset(root, ann_file=str(root / 'train.txt')))
    check(dict(type='X', data_prefix=dict(img_path=str(root / 'img'))))


def test_only_the_stages_asked_for():
    cfg = Config(dict(train_dataloader=dict(dataset=dataset('/no/where'))))
    check_data(cfg, ('test',))
    with pytest.raises(ConfigError):
        check_data(cfg, ('train',))


def test_a_prefix_that_is_a_string(root):
    """As mmpretrain's data sets take it."""
    check(dataset(root, data_prefix='img'))
    with pytest.raises(ConfigError, match='data_prefix'):
        check(dataset(root, data_prefix='imgs'))


@pytest.mark.parametrize('several', [False, True])
def test_the_annotations_of_a_metric(root, several):
    """They do not follow a data set that is named elsewhere."""

    def metric(path):
        found = dict(type='CocoMetric', ann_file=path)
        evaluator = [dict(type='Other'), found] if several else found
        check_data(Config(dict(val_evaluator=evaluator)), ('val',))

    metric(str(root / 'train.txt'))
    metric('s3://bucket/a.json')
    metric(None)
    key = r'val_evaluator\.1\.ann_file' if several else r'val_evaluator\.ann_file'
    with pytest.raises(ConfigError, match=f"^{key}: there is no 'none.json'.*options {key}=") as no:
        metric('none.json')
    assert 'variable' not in str(no.value)


def test_a_variable_that_names_the_place(tmp_path, monkeypatch):
    (tmp_path / 'base.py').write_text("data_root = '{{$SOME_CELLS_ROOT:data/cells}}'\n")
    (tmp_path / 'c.py').write_text(
        "_base_ = 'base.py'\n"
        "train_dataloader = dict(dataset=dict(type='X', data_root=_base_.data_root))\n"
    )
    for place in ('data/cells', '/no/where'):  # unset, set
        with pytest.raises(ConfigError, match=f'{place}.*, or the environment variable SOME_CELL'):
            check_data(Config.fromfile(tmp_path / 'c.py'), ('train',))
        monkeypatch.setenv('SOME_CELLS_ROOT', '/no/where')


def test_classes_chosen_from_a_data_sets_own(root):
    """MMSegmentation maps them by name."""
    pytest.importorskip('mmseg')

    def chosen(*names: str, **more: object) -> None:
        data = dataset(root, type='CityscapesDataset', metainfo=dict(classes=names), **more)
        loader = dict(dataset=data)
        check_data(Config(dict(default_scope='mmseg', train_dataloader=loader)), ('train',))

    chosen('road', 'car')
    with pytest.raises(ConfigError) as refused:
        chosen('raod', 'car', 'buss')
    said = str(refused.value)
    assert said.startswith('train_dataloader.dataset.metainfo.classes: 2 of 3 names are no class')
    assert "'raod': nearest: road" in said and "'buss': nearest: bus" in said
    check_data(
        Config(
            dict(
                default_scope='mmseg',
                train_dataloader=dict(
                    dataset=dataset(root, type='BaseSegDataset', metainfo=dict(classes=('raod',)))
                ),
            )
        ),
        ('train',),
    )  # one that has none of its own
