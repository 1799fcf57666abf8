"""The sampler of negatives: a worked example, uniformity, edge cases."""

import pytest
import torch

from kdmm.functional import ClassIndex, draw_columns, draw_others, draw_own, index_classes

EXAMPLE = torch.tensor([1, 0, 2, 0, 1, 1])
UNEVEN = torch.cat([torch.zeros(6), torch.full((17,), 1), torch.full((3,), 2)]).long()
UNEVEN = UNEVEN[torch.randperm(26, generator=torch.Generator().manual_seed(0))]
TOP = 2**32


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(TOP, shape, generator=torch.Generator().manual_seed(seed))


def values_for(place: int, choices: int) -> tuple[int, int]:
    """The smallest and the largest noise that draw number ``place`` of ``choices``."""
    return -(-place * TOP // choices), -(-(place + 1) * TOP // choices) - 1


def test_the_worked_example():
    index = index_classes(EXAMPLE)
    assert index.order.tolist() == [1, 3, 0, 4, 5, 2]
    assert index.size.tolist() == [2, 3, 1] and index.start.tolist() == [0, 2, 5]
    each = torch.tensor([[values_for(r, 3)[0] for r in range(3)]])
    assert draw_others(index, torch.tensor([1]), each).tolist() == [[1, 3, 2]]
    assert draw_own(index, torch.tensor([1]), each).tolist() == [[0, 4, 5]]


def test_other_classes_uniformly():
    """5 sigma for each image, chi-square over all; the first, a middle and the last class."""
    index, labels, draws = index_classes(UNEVEN), torch.arange(3), 1_000_000
    found = draw_others(index, labels, noise(3, draws))
    for label, row in zip(labels, found, strict=True):
        counts = torch.bincount(row, minlength=26)
        assert (counts[label == UNEVEN] == 0).all()
        counts = counts[label != UNEVEN].double()
        expected = draws / len(counts)
        error = (counts - expected) / (expected * (1 - 1 / len(counts))) ** 0.5
        assert error.abs().max() < 5
        freedom = len(counts) - 1
        chi = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5


def test_the_own_class_uniformly():
    index, labels, draws = index_classes(UNEVEN), torch.arange(3), 200_000
    for label, row in zip(labels, draw_own(index, labels, noise(3, draws)), strict=True):
        counts = torch.bincount(row, minlength=26)
        assert (counts[label != UNEVEN] == 0).all()
        counts = counts[label == UNEVEN].double()
        expected = draws / len(counts)
        assert ((counts - expected).abs() < 5 * expected**0.5).all()


@pytest.mark.parametrize('place', [0, 1, 640_000, 1_281_000 - 3, 1_281_000 - 2])
def test_finer_than_float32(place):
    """At ImageNet's size every image has 3352 or 3353 values of the noise; float32 has 13 or 14."""
    images = 1_281_000
    labels = torch.zeros(images, dtype=torch.long)
    labels[-1] = 1
    index, choices = index_classes(labels), images - 1
    low, high = values_for(place, choices)
    assert abs(high - low + 1 - TOP / choices) < 1
    edges = torch.tensor([[low, high]])
    assert draw_others(index, torch.tensor([1]), edges).tolist() == [[place, place]]
    around = torch.tensor([[max(low - 1, 0), min(high + 1, TOP - 1)]])
    expected = [[max(place - 1, 0), min(place + 1, choices - 1)]]
    assert draw_others(index, torch.tensor([1]), around).tolist() == expected


class Itself:
    """An order of 2^31 - 1 images that takes no memory."""

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, place: torch.Tensor) -> torch.Tensor:
        return place


def test_products_do_not_overflow():
    most = len(Itself())
    index = ClassIndex(Itself(), torch.tensor([most - 1, 1]), torch.tensor([0, most - 1]))
    ends = torch.tensor([[values_for(place, most - 1)[1] for place in (0, 77, most - 2)]])
    assert draw_others(index, torch.tensor([1]), ends).tolist() == [[0, 77, most - 2]]
    assert draw_own(index, torch.tensor([0]), ends).tolist() == [[0, 77, most - 2]]


@pytest.mark.parametrize('labels', [[0, 0, 1], [2, 0, 0, 5], [0, 1, 2, 3]])
def test_single_images_and_empty_classes(labels):
    labels = torch.tensor(labels)
    index = index_classes(labels)
    others, own = (draw(index, labels, noise(len(labels), 99)) for draw in (draw_others, draw_own))
    assert (labels[others] != labels[:, None]).all() and (labels[own] == labels[:, None]).all()
    for row, label in enumerate(labels):
        assert len(others[row].unique()) == (labels != label).sum()
        assert len(own[row].unique()) == (labels == label).sum()


def test_columns():
    index, images = index_classes(UNEVEN), torch.tensor([4, 4, 25])
    labels, random = UNEVEN[images], noise(3, 9)
    columns = draw_columns(index, images, labels, random)
    assert columns.shape == (3, 10) and torch.equal(columns[:, 0], images)
    assert torch.equal(columns[:, 1:2], draw_own(index, labels, random[:, :1]))
    assert torch.equal(columns[:, 2:], draw_others(index, labels, random[:, 1:]))


@pytest.mark.parametrize('label', [0, 3])
def test_a_class_that_holds_everything_is_refused(label):
    with pytest.raises(ValueError, match=f'all 5 images are of class {label}: .* none of another'):
        index_classes(torch.full((5,), label))


@pytest.mark.parametrize('labels', [[], [[0, 1]], [0, -1]])
def test_labels_are_one_class_an_image(labels):
    with pytest.raises(ValueError, match=r'labels must be \(n,\)'):
        index_classes(torch.tensor(labels, dtype=torch.long))


def test_no_host_sync():
    """On 'meta' tensors anything that reads a value fails."""
    index = ClassIndex(*(x.to('meta') for x in index_classes(EXAMPLE)))
    images = torch.zeros(2, dtype=torch.long, device='meta')
    random = torch.zeros(2, 8, dtype=torch.long, device='meta')
    assert draw_columns(index, images, images, random).shape == (2, 9)
