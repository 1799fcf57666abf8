import pytest
from mmengine.config import Config

from kdmm.engine import check_data
from tests.errors import refused


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
    'changes, key, path',
    [
        (dict(data_root='/no/where'), 'data_root', '/no/where'),
        (dict(data_prefix=dict(img_path='img/trian')), 'data_prefix.img_path', 'img/trian'),
        (dict(ann_file='none.txt'), 'ann_file', 'none.txt'),
    ],
)
def test_key_path_and_remedy_are_named(root, changes, key, path):
    key, path = f'train_dataloader.dataset.{key}', str(root / path)
    remedy = '--cfg-options train_dataloader.dataset.data_root='
    with refused(key=key, got=path, problem='no such file', fix=remedy):
        check(dataset(root, **changes))


@pytest.mark.parametrize(
    'wrap, key',
    [
        (lambda d: dict(type='RepeatDataset', dataset=d), 'dataset.dataset'),
        (lambda d: dict(type='ConcatDataset', datasets=[d]), 'dataset.datasets[0]'),
        (lambda d: dict(type='R', dataset=dict(type='C', datasets=(dict(type='A'), d))),
         'dataset.dataset.datasets[1]'),
    ],
)  # fmt: skip
def test_wrappers_are_opened(root, wrap, key):
    check(wrap(dataset(root)))
    option = key.replace('[', '.').replace(']', '')
    remedy = f'--cfg-options train_dataloader.{option}.data_root='
    with refused(key=f'train_dataloader.{key}.data_root', got='/no/where', fix=remedy):
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
    with refused(key='train_dataloader.dataset.data_root', got='/no/where'):
        check_data(cfg, ('train',))


def test_a_prefix_that_is_a_string(root):
    """As mmpretrain's data sets take it."""
    check(dataset(root, data_prefix='img'))
    with refused(key='train_dataloader.dataset.data_prefix', got=str(root / 'imgs')):
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
    key = 'val_evaluator.1.ann_file' if several else 'val_evaluator.ann_file'
    with refused(key=key, got='none.json', fix=f'--cfg-options {key}=') as caught:
        metric('none.json')
    assert 'variable' not in caught.value.fix


def test_a_variable_that_names_the_place(tmp_path, monkeypatch):
    (tmp_path / 'base.py').write_text("data_root = '{{$SOME_CELLS_ROOT:data/cells}}'\n")
    (tmp_path / 'c.py').write_text(
        "_base_ = 'base.py'\n"
        "train_dataloader = dict(dataset=dict(type='X', data_root=_base_.data_root))\n"
    )
    for place in ('data/cells', '/no/where'):  # unset, set
        with refused(got=place, fix='or the environment variable SOME_CELLS_ROOT'):
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
    told = ('2 of 3 names', "'raod': nearest: road", "'buss': nearest: bus")
    with refused(key='train_dataloader.dataset.metainfo.classes', problem=told):
        chosen('raod', 'car', 'buss')
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
