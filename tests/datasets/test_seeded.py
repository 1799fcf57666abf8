import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

from kdmm.datasets import SeededDataset, SeededSampler
from kdmm.datasets import seeded as module
from kdmm.datasets.seeded import StreamIndex, seeded
from kdmm.registry import DATA_SAMPLERS, DATASETS

SIZE = 12


@DATASETS.register_module(force=True)
class Noisy:
    """Each item draws from all three generators; says what it holds."""

    metainfo = dict(classes=('a',))

    def __init__(self, size: int = SIZE) -> None:
        self.size, self.ready = size, False

    def full_init(self) -> None:
        self.ready = True

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> list[float]:
        assert type(index) is int
        return [float(index), random.random(), float(np.random.rand()), float(torch.rand(1))]


def dataset() -> SeededDataset:
    return SeededDataset(dict(type='kdmm.Noisy'))


def sampler(kind: str = 'InfiniteSampler', rank: int = 0, world: int = 1, seed: int = 3):
    """As rank ``rank`` of ``world`` builds it."""
    with pytest.MonkeyPatch.context() as patch:
        for target in ('mmengine.dataset.sampler.get_dist_info',
                       'kdmm.datasets.seeded.get_dist_info'):  # fmt: skip
            patch.setattr(target, lambda: (rank, world))
        return SeededSampler(dict(type=kind, shuffle=True), range(SIZE), seed)


def first(indices, count: int = 8) -> list[StreamIndex]:
    return [index for index, _ in zip(indices, range(count), strict=False)]


def batches(workers: int, count: int = 3, **options: int) -> torch.Tensor:
    loader = DataLoader(
        dataset(),
        batch_size=4,
        sampler=sampler(**options),
        num_workers=workers,
        collate_fn=torch.tensor,
        multiprocessing_context='fork' if workers else None,
    )
    iterator = iter(loader)
    return torch.cat([next(iterator) for _ in range(count)])


def test_an_index_is_an_int_that_knows_its_place():
    index = StreamIndex(7, (0, 1, 2))
    assert index == 7 and [*range(9)][index] == 7
    again = pickle.loads(pickle.dumps(index))
    assert again == 7 and isinstance(again, StreamIndex) and again.entropy == (0, 1, 2)


def test_the_number_of_workers_does_not_matter():
    assert torch.equal(batches(0), batches(2))


def test_items_differ_between_positions_epochs_and_seeds():
    data = dataset()
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    seen = [data[StreamIndex(5, place)] for place in places]
    assert data[StreamIndex(5, places[0])] == seen[0]
    for position in (1, 2, 3):
        assert len({item[position] for item in seen}) == len(places)


def test_the_stream_is_the_same_for_every_number_of_ranks():
    alone = first(sampler(), 24)
    for world in (2, 3):
        shares = [first(sampler(rank=rank, world=world), 24 // world) for rank in range(world)]
        merged = [index for step in zip(*shares, strict=True) for index in step]
        assert merged == alone
        assert [i.entropy for i in merged] == [i.entropy for i in alone]


def test_the_batches_of_two_ranks_are_those_of_one():
    alone = batches(0, count=2)
    both = torch.stack([batches(0, count=1, rank=rank, world=2) for rank in range(2)], dim=1)
    assert torch.equal(both.flatten(0, 1), alone)


@pytest.mark.parametrize('world', [1, 2])
@pytest.mark.skipif(not hasattr(InfiniteSampler, 'skip'), reason='an MMEngine that never skips')
def test_skipping_continues_the_stream(world):
    whole = first(sampler(rank=world - 1, world=world), 20)
    rest = sampler(rank=world - 1, world=world)
    rest.skip(12)
    assert len(rest) == SIZE
    found = first(rest)
    assert found == whole[12:]
    assert [i.entropy for i in found] == [i.entropy for i in whole[12:]]


def test_a_sampler_that_cannot_skip_does_not_pretend_to():
    """MMEngine then walks over the batches, through the ends of passes."""
    assert not hasattr(sampler('DefaultSampler'), 'skip')


def test_it_is_the_wrapped_samplers_order():
    assert first(sampler()) == first(InfiniteSampler(range(SIZE), seed=3))
    plain = DefaultSampler(range(SIZE), seed=3)
    plain.set_epoch(2)
    wrapped = sampler('DefaultSampler')
    wrapped.set_epoch(2)
    assert list(wrapped) == list(plain) and len(wrapped) == SIZE


def test_epochs_start_over_with_other_numbers():
    made = sampler('DefaultSampler')
    passes = []
    for epoch in (0, 1):
        made.set_epoch(epoch)
        passes.append([index.entropy for index in made])
    assert passes[0] == [(3, 0, p) for p in range(SIZE)]
    assert passes[1] == [(3, 1, p) for p in range(SIZE)]


def test_without_a_seed_the_wrapped_samplers_counts():
    made = SeededSampler(dict(type='InfiniteSampler'), range(SIZE))
    assert made.seed == made.sampler.seed
    assert first(made, 1)[0].entropy[0] == made.sampler.seed


def test_the_main_process_generators_are_untouched():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    dataset()[StreamIndex(0, (0, 0, 0))]
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError), seeded((1, 2)):
        raise ZeroDivisionError
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_a_plain_index_is_passed_through():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    item = dataset()[4]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert item == Noisy()[4]


def test_everything_else_is_the_wrapped_data_sets():
    data = dataset()
    data.full_init()
    assert data.ready and data.metainfo == Noisy.metainfo and len(data) == SIZE
    with pytest.raises(AttributeError, match='nothing'):
        data.nothing  # noqa: B018
    again = pickle.loads(pickle.dumps(data))
    assert again[StreamIndex(1, (0, 0, 0))] == data[StreamIndex(1, (0, 0, 0))]


def test_a_data_set_without_full_init(monkeypatch):
    monkeypatch.delattr(Noisy, 'full_init')
    dataset().full_init()


def test_a_batch_sampler_can_reach_the_wrapped_sampler():
    """mmdet's aspect-ratio batches look images up through ``sampler.dataset``."""

    class Reads(BatchSampler):
        def __iter__(self):
            for index in super().__iter__():
                assert self.sampler.dataset == range(SIZE)
                yield index

    assert len(list(Reads(sampler('DefaultSampler'), 4, False))) == 3


def test_both_are_registered():
    assert DATASETS.get('SeededDataset') is SeededDataset
    assert DATA_SAMPLERS.get('SeededSampler') is SeededSampler
    assert module.__name__ == 'kdmm.datasets.seeded'
