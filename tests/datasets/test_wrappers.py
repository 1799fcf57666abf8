"""Wrappers of the base libraries: tests/datasets/test_annotations.py."""

from types import SimpleNamespace

from mmengine.dataset import ConcatDataset, RepeatDataset

from kdmm.datasets import SeededDataset
from kdmm.datasets.wrappers import inside, leaf_datasets, wrappers

from .labelled import LabelsOnly


class Two(LabelsOnly):
    METAINFO = dict(classes=('ape', 'bee'))
    LABELS = [0, 1]


def test_a_nest_of_wrappers():
    first, second = Two(), Two()
    twice = RepeatDataset(second, times=2)
    joined = ConcatDataset([first, Two()])
    joined.datasets[1] = twice  # MMEngine 0.10 takes configs of wrappers alone
    outer = SimpleNamespace(dataset=joined)
    assert [*leaf_datasets(outer)] == [first, second]
    assert [*wrappers(outer)] == [outer, joined, twice]
    assert inside(outer) == [joined] and inside(joined) == [first, twice]
    assert inside(SimpleNamespace(datasets=(first, second))) == [first, second]


def test_a_data_set_alone():
    data = Two()
    assert inside(data) is None and [*leaf_datasets(data)] == [data] and not [*wrappers(data)]
    nothing = SimpleNamespace(dataset=None, datasets='names')  # attributes of another meaning
    assert inside(nothing) is None and [*leaf_datasets(nothing)] == [nothing]


def test_a_seeded_data_set_is_no_level_of_its_own():
    data = Two()
    seeded = SeededDataset(RepeatDataset(data, times=2))
    assert [*leaf_datasets(seeded)] == [data] and [*wrappers(seeded)] == [seeded]
