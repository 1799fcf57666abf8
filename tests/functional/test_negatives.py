"""The sampler of negatives: a worked example, uniformity, edge cases."""

import pytest
import torch

from kdmm.functional import (
    ClassIndex,
    ShareIndex,
    draw_columns,
    draw_distinct,
    draw_others,
    draw_own,
    draw_share,
    index_classes,
    index_shares,
)

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


def members(shares: ShareIndex, label: int) -> set[int]:
    """The share of a class, drawn value by value of the noise."""
    count = int(shares.members[label])
    each = torch.tensor([[values_for(place, count)[0] for place in range(count)]])
    found = draw_share(shares, torch.tensor([label]), each)[0].tolist()
    assert len(set(found)) == count
    return set(found)


@pytest.mark.parametrize('label', [0, 1, 2])
def test_distinct_draws_are_every_subset_equally_often(label):
    """4 of each class's 9 to 23 others: pairs as often as in a sample without replacement."""
    index, draws, count = index_classes(UNEVEN), 20_000, 4
    others = int((label != UNEVEN).sum())
    labels = torch.full((draws,), label)
    found = draw_distinct(index, labels, noise(draws, 26), count)
    seen = torch.zeros(draws, 26).scatter_(1, found, 1.0)
    assert found.shape == (draws, count) and (seen.sum(1) == count).all()
    assert (UNEVEN[found] != label).all()
    pairs = (seen.T @ seen)[label != UNEVEN][:, label != UNEVEN].double()  # (others, others)
    each, both = count / others, count * (count - 1) / (others * (others - 1))
    chance = torch.full_like(pairs, both).fill_diagonal_(each)
    assert ((pairs - draws * chance) ** 2 < 25 * draws * chance * (1 - chance)).all()


def test_all_others_at_once():
    index = index_classes(UNEVEN)
    found = draw_distinct(index, torch.tensor([1]), noise(1, 26), 9)
    assert set(found[0].tolist()) == set(UNEVEN.ne(1).nonzero().flatten().tolist())


def test_rows_of_distinct_draws_do_not_depend_on_each_other():
    index, random = index_classes(UNEVEN), noise(3, 26)
    whole = draw_distinct(index, torch.tensor([0, 1, 2]), random, 5)
    for row in range(3):
        part = draw_distinct(index, torch.tensor([row]), random[row : row + 1], 5)
        assert set(part[0].tolist()) == set(whole[row].tolist())


class TestShares:
    @pytest.mark.parametrize('share', [0.01, 0.3, 0.5, 1.0])
    def test_a_share_of_the_others_of_each_class(self, share):
        shares = index_shares(UNEVEN, share)
        for label in range(3):
            others = set(UNEVEN.ne(label).nonzero().flatten().tolist())
            found = members(shares, label)
            assert found <= others and len(found) == max(int(share * len(others)), 1)

    def test_it_is_drawn_once_by_seed_and_differs_between_classes(self):
        first, again, other = (index_shares(UNEVEN, 0.5, seed) for seed in (0, 0, 1))
        assert members(first, 0) == members(again, 0) != members(other, 0)
        labels, both = torch.arange(400) % 4, []
        for seed in range(40):  # of the 200 images of neither class each has a quarter in both
            shares = index_shares(labels, 0.5, seed)
            both.append(len(members(shares, 0) & members(shares, 1)))
        assert 35 < sum(both) / len(both) < 65

    def test_every_subset_is_equally_likely(self):
        labels, seeds = torch.arange(12) // 4, 2000
        seen = torch.zeros(seeds, 12)
        for seed in range(seeds):
            seen[seed, sorted(members(index_shares(labels, 0.5, seed), 1))] = 1
        pairs = (seen.T @ seen)[labels != 1][:, labels != 1].double()
        chance = torch.full_like(pairs, 4 * 3 / (8 * 7)).fill_diagonal_(0.5)
        assert (seen[:, labels == 1] == 0).all()
        assert ((pairs - seeds * chance) ** 2 < 25 * seeds * chance * (1 - chance)).all()

    def test_draws_are_uniform_in_it(self):
        shares, draws = index_shares(UNEVEN, 0.5), 200_000
        for label in range(3):
            found = draw_share(shares, torch.tensor([label]), noise(1, draws))[0]
            inside = sorted(members(shares, label))
            counts = torch.bincount(found, minlength=26)[inside].double()
            assert counts.sum() == draws
            expected = draws / len(inside)
            assert ((counts - expected).abs() < 5 * expected**0.5).all()

    def test_distinct_draws_are_of_it(self):
        shares, labels = index_shares(UNEVEN, 0.4), torch.tensor([1, 0, 2])
        found = draw_distinct(shares, labels, noise(3, 26), 3)
        for label, row in zip(labels.tolist(), found.tolist(), strict=True):
            assert len(set(row)) == 3 and set(row) <= members(shares, label)
        count = int(shares.members[2])
        every = draw_distinct(shares, torch.tensor([2]), noise(1, 26), count)
        assert set(every[0].tolist()) == members(shares, 2)

    def test_all_is_what_is_drawn_without_shares(self):
        shares = index_shares(UNEVEN, 1.0)
        for label in range(3):
            assert members(shares, label) == set(UNEVEN.ne(label).nonzero().flatten().tolist())


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
    shares = ShareIndex(*(x.to('meta') for x in index_shares(EXAMPLE, 0.5)))
    assert draw_share(shares, images, random).shape == (2, 8)
    for found in (index, shares):
        assert draw_distinct(found, images, random[:, :6], 2).shape == (2, 2)
