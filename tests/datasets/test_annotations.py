"""Labels: tests/datasets/test_class_sampler.py."""

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset

from kdmm.datasets import SeededDataset, StratifiedSubset
from kdmm.datasets.annotations import read_labels, read_sample_ids
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


def test_joined_data_sets_number_their_images_from_0_each():
    data = ConcatDataset([Numbered(), Numbered(indices=[4, 1])])
    assert both(data)[0] == [0, 1, 2, 3, 4, 5, 0, 1]


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
