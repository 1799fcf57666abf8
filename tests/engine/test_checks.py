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
    with pytest.raises(ConfigError, match=rf'train_dataloader\.{key}\.data_root: '):
        check(wrap(dataset('/no/where')))


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
