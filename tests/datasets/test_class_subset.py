import pickle

import pytest

pytest.importorskip('mmpretrain')

from mmpretrain.structures import DataSample  # noqa: E402

import kdmm  # noqa: E402
from kdmm.datasets import ClassSubset, SeededDataset  # noqa: E402
from kdmm.datasets.annotations import read_labels, read_sample_ids  # noqa: E402
from kdmm.registry import DATASETS  # noqa: E402
from tests.e2e.tiny_cifar import write_folder  # noqa: E402
from tests.errors import refused  # noqa: E402

from .labelled import LabelsOnly  # noqa: E402

NAMES = ('ape', 'bee', 'cat', 'dog')
LABELS = [3, 0, 1, 2, 3, 1, 0, 2, 3]


@DATASETS.register_module(force=True)
class FourClasses(LabelsOnly):
    METAINFO = dict(classes=NAMES)
    LABELS = LABELS


def subset(labels=LABELS, **options) -> ClassSubset:
    return ClassSubset(dict(type='kdmm.FourClasses', labels=labels), **options)


def items(data) -> list[tuple[int, int]]:
    return [(data[i]['number'], data[i]['gt_label']) for i in range(len(data))]


def test_kept_classes_are_numbered_in_the_order_given():
    """Images of the old labels 3 and 1, in their own order."""
    data = subset(classes_kept=['dog', 'bee'])
    assert items(data) == [(0, 0), (2, 1), (4, 0), (5, 1), (8, 0)]
    assert data.metainfo == dict(classes=('dog', 'bee'))
    assert items(subset(classes_kept=[3, 1])) == items(data)


def test_the_rest_is_numbered_by_the_old_numbers():
    data = subset(classes_kept=['dog', 'bee'], rest=True)
    assert items(data) == [(1, 0), (3, 1), (6, 0), (7, 1)]
    assert data.metainfo == dict(classes=('ape', 'cat'))


@pytest.mark.parametrize('split', range(5))
def test_a_split_is_two_disjoint_sets_of_classes(split):
    base, novel = (subset(count=2, split=split, rest=rest) for rest in (False, True))
    names = [data.metainfo['classes'] for data in (base, novel)]
    assert sorted(names[0] + names[1]) == sorted(NAMES)
    assert [list(each) for each in names] == [sorted(each, key=NAMES.index) for each in names]
    numbers = [[number for number, _ in items(data)] for data in (base, novel)]
    assert sorted(numbers[0] + numbers[1]) == list(range(9))
    for data, kept in zip((base, novel), names, strict=True):
        assert all(kept[label] == NAMES[LABELS[number]] for number, label in items(data))


def drawn(total: int, **options) -> list[int]:
    data = ClassSubset(LabelsOnly(list(range(total))), **options)
    return [data.get_data_info(index)['number'] for index in range(len(data))]


def test_these_are_the_splits_of_ten_classes():
    """So that a report's splits can be had again, whatever the versions."""
    splits = [drawn(10, count=5, split=split) for split in range(5)]
    assert splits == SPLITS
    assert drawn(10, count=5, split=3, rest=True) == splits[2]
    assert drawn(10, count=5, seed=1) != splits[0]


def test_splits_share_the_classes_out():
    """A class is a base class in 2 or 3 of 5 splits, whatever the seed."""
    for seed in range(5):
        every = [c for split in range(5) for c in drawn(10, count=5, split=split, seed=seed)]
        assert {every.count(c) for c in range(10)} == {2, 3}
    thirds = [drawn(10, count=3, split=split) for split in range(4)]
    assert len({*thirds[0], *thirds[1], *thirds[2]}) == 9 and thirds[3] not in thirds[:3]
    most = [drawn(10, count=7, split=split) for split in range(3)]
    assert len({tuple(each) for each in most}) == 3 and {len(each) for each in most} == {7}


SPLITS = [
    [1, 3, 4, 6, 7],
    [0, 2, 5, 8, 9],
    [0, 1, 4, 8, 9],
    [2, 3, 5, 6, 7],
    [1, 2, 4, 8, 9],
]


def test_annotations_are_those_of_the_items():
    data = subset(classes_kept=['cat', 'ape'])
    for index in range(-1, len(data)):
        info = data.get_data_info(index)
        assert (info['number'], info['gt_label']) == (
            data[index]['number'],
            data[index]['gt_label'],
        )
        assert data.get_cat_ids(index) == [info['gt_label']]
    assert read_labels(data, 'x').tolist() == [1, 0, 1, 0]
    assert read_sample_ids(data, 'x').tolist() == [1, 3, 6, 7]  # the whole data set's
    with pytest.raises(IndexError):
        data[len(data)]


def test_inside_out_and_copied():
    """Within itself, around lazy data, pickled for workers."""
    inner = dict(type='kdmm.ClassSubset', dataset=dict(type='kdmm.FourClasses', lazy_init=True))
    data = ClassSubset(dict(inner, classes_kept=['dog', 'cat', 'bee'], lazy_init=True), [2, 0])
    assert data.metainfo == dict(classes=('bee', 'dog'))
    expected = [(0, 1), (2, 0), (4, 1), (5, 0), (8, 1)]
    assert items(data) == expected == items(pickle.loads(pickle.dumps(data)))
    assert items(SeededDataset(data)) == expected


def test_lazy_data_know_their_classes_when_asked():
    data = subset(classes_kept=['dog', 'bee'], lazy_init=True)
    assert not data._fully_initialized and data.metainfo == dict(classes=('dog', 'bee'))
    assert len(subset(classes_kept=[3], lazy_init=True)) == 3
    assert subset(classes_kept=[3], lazy_init=True)[2] == dict(data[4])


def test_packed_samples_have_the_new_label_every_time(tmp_path):
    write_folder(tmp_path, classes=3, per_class=2, size=8)
    folder = dict(
        type='mmpretrain.CustomDataset', data_root=str(tmp_path), data_prefix='train',
        pipeline=[dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmpretrain.PackInputs')],
    )  # fmt: skip
    data = ClassSubset(folder, ['class_02', 'class_00'])
    assert data.metainfo['classes'] == ('class_02', 'class_00')
    for _ in range(2):
        samples = [data[i]['data_samples'] for i in range(4)]
        assert [int(sample.gt_label) for sample in samples] == [1, 1, 0, 0]
        assert [sample.sample_idx for sample in samples] == [0, 1, 4, 5]
    assert 'class_02' in samples[2].img_path


def test_views_without_label_stay_as_they_are():
    class Views(LabelsOnly):
        def __getitem__(self, index):
            return dict(inputs=[index, index], data_samples=DataSample())

    item = ClassSubset(Views([0, 1, 1]), [1])[1]
    assert item['inputs'] == [2, 2] and 'gt_label' not in item['data_samples']


@pytest.mark.parametrize(
    ('options', 'key', 'fields'),
    [
        (dict(), '', dict(expected='either classes_kept or count')),
        (dict(classes_kept=[0], count=1), '', dict(expected='either classes_kept or count')),
        (dict(classes_kept='ape'), '.classes_kept', dict(got='ape', expected='a list')),
        (dict(classes_kept=['ape', 'eel']), '.classes_kept', dict(problem="'eel'; nearest: bee")),
        (dict(classes_kept=[4]), '.classes_kept', dict(got=[4], problem='no class 4')),
        (dict(classes_kept=[-1]), '.classes_kept', dict(got=[-1], problem='no class -1')),
        (dict(classes_kept=['ape', 0]), '.classes_kept', dict(problem='named twice')),
        (dict(classes_kept=[]), '.classes_kept', dict(got=[], expected='1 to 3 classes')),
        (dict(classes_kept=[0, 1, 2, 3]), '.classes_kept', dict(problem='4 of 4 classes')),
        (dict(count=4), '.count', dict(got=4, expected='1 to 3 classes')),
        (dict(count=0), '.count', dict(got=0, expected='a whole number from 1 on')),
        (dict(count=1, split=-1), '.split', dict(got=-1, expected='a whole number from 0 on')),
        (dict(count=1, split=True), '.split', dict(got=True)),
        (dict(count=1, seed=1.5), '.seed', dict(got=1.5)),
        (dict(count=1, labels=[0, None]), '.dataset', dict(got=None, problem='image 1')),
    ],
)
def test_refusals(options, key, fields):
    with refused(key=f'ClassSubset{key}', **fields):
        subset(**options)


def test_classes_without_images_are_none():
    with refused(key='ClassSubset', problem='of 2 images none is left'):
        subset(labels=[0, 1], classes_kept=['dog'])


def test_it_is_registered_and_exported():
    assert DATASETS.get('ClassSubset') is ClassSubset is kdmm.datasets.ClassSubset
