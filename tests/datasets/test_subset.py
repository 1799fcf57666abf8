"""Common properties of subsets of a data set; the tests of each kind say which images they keep."""

import numpy as np
import pytest

from kdmm.datasets import ClassSubset, SeededDataset, StratifiedSubset
from kdmm.datasets.annotations import read_labels, read_sample_ids
from kdmm.registry import DATASETS

from .labelled import LabelsOnly


@DATASETS.register_module(force=True)
class ThreeClasses(LabelsOnly):
    METAINFO = dict(classes=('ape', 'bee', 'cat'))
    LABELS = [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


def classes() -> ClassSubset:
    """Images 0, 2, 3, 5, 6, 8, 9 of the classes 2 and 1, which become 0 and 1."""
    return ClassSubset(ThreeClasses(), classes_kept=['cat', 'bee'])


def numbers(data) -> list[int]:
    return [data[i]['number'] for i in range(len(data))]


@pytest.mark.parametrize(
    ('indices', 'kept'),
    [
        (3, [0, 2, 3]),
        (0, []),
        (-2, [8, 9]),
        ([4, 0, 4], [6, 0, 6]),
        (np.array([5, -1]), [8, 9]),
        ([], []),
    ],
)
def test_a_subset_of_a_subset(indices, kept):
    """As `mmengine.dataset.BaseDataset.get_subset` takes its argument."""
    data = classes()
    part = data.get_subset(indices)
    assert numbers(part) == kept and len(data) == 7
    assert type(part) is ClassSubset and part.dataset is data.dataset
    assert [part[i]['gt_label'] for i in range(len(part))] == [[0, 0, 1][n % 3] for n in kept]
    assert part.metainfo == data.metainfo
    again = classes()
    assert again.get_subset_(indices) is None and numbers(again) == kept


def test_of_one_that_is_loaded_later():
    data = StratifiedSubset(ThreeClasses(), fraction=1, lazy_init=True)
    assert numbers(data.get_subset([1])) == [1] and len(data) == 10
    later = StratifiedSubset(ThreeClasses(), fraction=1, lazy_init=True)
    later.get_subset_(2)
    later.full_init()
    assert numbers(later) == [0, 1]


@pytest.mark.parametrize('options', [
    dict(type='kdmm.StratifiedSubset', per_class=2),
    dict(type='kdmm.ClassSubset', classes_kept=['cat', 'bee']),
], ids=lambda x: x['type'])  # fmt: skip
def test_folds_of_a_subset(options):
    folds = pytest.importorskip('mmpretrain.datasets').KFoldDataset
    options = dict(options, dataset=dict(type='kdmm.ThreeClasses'))
    whole = DATASETS.build(options)
    held_out = []
    for fold in range(3):
        train, test = (
            folds(dict(options), fold=fold, num_splits=3, seed=1, test_mode=mode)
            for mode in (False, True)
        )
        assert sorted(numbers(train) + numbers(test)) == numbers(whole)
        held_out += numbers(test)
        ids = read_sample_ids(SeededDataset(train), 'Here')
        assert ids.tolist() == numbers(train)  # each image has the number that it has in the whole
        found = dict(zip(numbers(whole), read_labels(whole, 'Here').tolist(), strict=True))
        assert read_labels(train, 'Here').tolist() == [found[n] for n in numbers(train)]
    assert sorted(held_out) == numbers(whole)
