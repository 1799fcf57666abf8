"""Labels: tests/datasets/test_class_sampler.py."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import DataLoader, Subset

from kdmm.datasets import SeededDataset, StratifiedSubset, number_sources
from kdmm.datasets.annotations import read_labels, read_sample_ids
from kdmm.engine.runner import Runner
from kdmm.registry import DATASETS
from tests.errors import refused

from .labelled import LabelsOnly


@DATASETS.register_module(force=True)
class Numbered(LabelsOnly):
    METAINFO = dict(classes=('ape', 'bee'))
    LABELS = [0, 1, 1, 0, 1, 0]

    def __getitem__(self, idx):
        raise AssertionError('no image is to be loaded')


def both(data) -> tuple[list[int], list[int]]:
    ids, labels = read_sample_ids(data, 'Here'), read_labels(data, 'Here')
    assert ids.dtype == labels.dtype == np.int64
    return ids.tolist(), labels.tolist()


def test_a_data_set_numbers_its_images():
    assert both(Numbered()) == ([0, 1, 2, 3, 4, 5], [0, 1, 1, 0, 1, 0])


def test_a_filtered_data_set_numbers_what_is_left():
    assert both(Numbered(indices=[4, 0, 1])) == ([0, 1, 2], [1, 0, 1])


def test_a_subset_keeps_the_numbers_of_the_whole():
    data = StratifiedSubset(Numbered(), per_class=2)
    ids, labels = both(data)
    assert ids == data._indices.tolist() and len(ids) == 4 and max(ids) > 3
    assert labels == [Numbered.LABELS[i] for i in ids]


def test_repeated_and_seeded_data_sets():
    expected = ([0, 1, 2, 3, 4, 5] * 2, [0, 1, 1, 0, 1, 0] * 2)
    assert both(RepeatDataset(Numbered(), times=2)) == expected
    assert both(SeededDataset(dict(type='Numbered')))[0] == [0, 1, 2, 3, 4, 5]


SECOND = 2**32  # where the second source begins


class Packed(Numbered):
    """Gives what arrives in a batch: its number and its label."""

    def __getitem__(self, idx):
        info = self.get_data_info(idx)
        return info['sample_idx'], info['gt_label']


def joined() -> ConcatDataset:
    """Six images, and twice two of six: of both, image 0 is of class 0."""
    return ConcatDataset(
        [Packed(), dict(type=RepeatDataset, dataset=Packed(indices=[0, 4]), times=2)]
    )


def in_batches(data, **options) -> list[tuple[int, int]]:
    loader = DataLoader(data, batch_size=3, collate_fn=list, **options)
    return [item for batch in loader for item in batch]


@pytest.mark.parametrize('workers', [dict(), dict(num_workers=1, multiprocessing_context='spawn')])
def test_joined_data_sets_number_their_images_differently(workers):
    data = joined()
    number_sources(data)
    ids, labels = both(data)
    assert ids == [0, 1, 2, 3, 4, 5, *[SECOND, SECOND + 1] * 2]
    assert in_batches(data, **workers) == list(zip(ids, labels, strict=True))


def test_numbering_again_changes_nothing_and_one_source_stays_as_it_is():
    data = joined()
    for _ in range(2):
        number_sources(data)
    assert both(data)[0][6:8] == [SECOND, SECOND + 1]
    alone = RepeatDataset(Packed(), times=2)
    number_sources(alone)
    assert 'get_data_info' not in vars(alone.dataset) and both(alone)[0][6:8] == [0, 1]


def test_a_data_set_that_is_joined_with_itself_is_one_source():
    data = Packed()
    twice = ConcatDataset([data, data])
    number_sources(twice)
    assert both(twice)[0] == [*range(6)] * 2


@pytest.mark.parametrize('change', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_number_their_own_images(change):
    data = joined()
    number_sources(data)
    other = change(data)
    data.datasets[1].dataset.labels = other.datasets[1].dataset.data_list = None
    assert both(other)[0][6:8] == [SECOND, SECOND + 1]
    part = data.datasets[1].dataset.get_subset([1])
    assert part.get_data_info(0)['sample_idx'] == SECOND and part.get_data_info(0)['gt_label'] == 1


def test_joined_data_sets_that_were_not_numbered_are_refused():
    told = dict(problem='2 data sets are joined', fix='number_sources')
    with refused(key='Here', **told):
        read_sample_ids(joined(), 'Here')


def test_the_runner_numbers_training_data_only():
    for test_mode in (False, True):
        parts = [dict(type=Numbered, test_mode=test_mode) for _ in range(2)]
        data: Any = Runner.build_dataloader(
            dict(
                dataset=dict(type='ConcatDataset', datasets=parts),
                sampler=dict(type='DefaultSampler', shuffle=False),
                batch_size=2,
                num_workers=0,
            )
        ).dataset
        last = data.get_data_info(11)['sample_idx']
        assert last == (5 if test_mode else SECOND + 5)


def test_wrappers_of_the_base_libraries():
    balanced = ClassBalancedDataset(Numbered(), 0.6)  # classes of half the images each
    assert len(balanced) == 12 and both(balanced)[0] == [i for i in range(6) for _ in range(2)]
    folds = pytest.importorskip('mmpretrain.datasets').KFoldDataset
    fold = folds(dict(type=Numbered), fold=1, num_splits=3)  # upstream takes configs alone
    ids, labels = both(fold)
    assert ids == [0, 1, 2, 3] and labels == [0, 1, 1, 0]
    assert [fold.get_data_info(i)['number'] for i in range(4)] == [0, 1, 4, 5]


class Hiding:
    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


class Renumbering(Numbered):
    def __init__(self, dataset) -> None:
        super().__init__()
        self.dataset = dataset


@pytest.mark.parametrize('wrapper', [Hiding, Renumbering, lambda x: Subset(x, [0, 1])])
def test_a_wrapper_that_cannot_be_looked_through_is_named(wrapper):
    for data in (wrapper(Numbered()), StratifiedSubset(wrapper(Numbered()), 0.5, lazy_init=True)):
        inner = data if not isinstance(data, StratifiedSubset) else data.dataset
        name = type(inner).__name__
        data.full_init = lambda: None
        with refused(key='Here', problem=f'inside of {name}', fix=f'Leave {name} out'):
            read_sample_ids(data, 'Here')


@pytest.mark.parametrize('number', [None, -1, 'a', 1.5])
def test_images_without_a_number_are_refused(number):
    class Odd(Numbered):
        def get_data_info(self, idx):
            return dict(sample_idx=number if idx == 2 else idx)

    with refused(key='Here', got=number, problem='the sample_idx of image 2 of Odd'):
        read_sample_ids(Odd(), 'Here')


def test_a_data_set_without_annotations_is_refused():
    with refused(problem='image 0 of list', got=None, fix='BaseDataset'):
        read_sample_ids([1, 2], 'Here')


def test_the_error_of_labels_says_who_asks():
    with refused(key='Here', got=[], problem='the classes of image 0 of list', fix='get_cat_ids'):
        read_labels([1, 2], 'Here')
