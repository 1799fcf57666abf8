import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import (
    BaseDataset,
    ConcatDataset,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
)
from torch.utils.data import BatchSampler, DataLoader, Subset

from kdmm.datasets import SeededDataset, SeededSampler
from kdmm.datasets import seeded as module
from kdmm.datasets.seeded import StreamIndex, seed_loader, seeded, stream_of
from kdmm.registry import DATA_SAMPLERS, DATASETS
from tests.errors import refused

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


@DATASETS.register_module(force=True)
class Piped(Noisy):
    """Says which pipeline a worker applies, and with which number."""

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = 0.0

    def __getitem__(self, index: int) -> list[float]:
        return [self.pipeline, float(torch.rand(1))]


class Based(BaseDataset):
    """MMEngine's own, whose wrappers take no other."""

    def load_data_list(self) -> list[dict]:
        return [dict(number=i) for i in range(SIZE)]


def test_what_a_hook_sets_is_set_on_the_data_set():
    data = SeededDataset(dict(type='kdmm.Piped'))
    inner = object.__getattribute__(data, '_wrapped')
    data.pipeline = 2.0
    assert inner.pipeline == 2.0 and data[0][0] == 2.0 and data[StreamIndex(0, (0, 0, 0))][0] == 2.0
    del data.pipeline
    assert not hasattr(inner, 'pipeline') and not hasattr(data, 'pipeline')
    assert isinstance(data, Piped) and isinstance(data, SeededDataset)


@pytest.mark.parametrize('kind', [RepeatDataset, ConcatDataset])
def test_a_wrapped_wrapper_is_walked_through_as_ever(kind):
    """As MMPretrain's SwitchRecipeHook does; ``dataset`` is the wrapper's, as without kdmm."""
    inner = Based(pipeline=[])
    outer = RepeatDataset(inner, 2) if kind is RepeatDataset else ConcatDataset([inner, inner])
    data = SeededDataset(outer)
    assert not hasattr(data, 'pipeline')
    found = data.dataset if kind is RepeatDataset else data.datasets[0]
    assert found is inner and isinstance(data, kind)
    found.pipeline = lambda item: 'second'
    assert data[StreamIndex(0, (0, 0, 0))] == 'second'
    data.dataset = other = Based(pipeline=[])
    assert outer.dataset is other


@pytest.mark.parametrize('persistent', [False, True])
def test_workers_that_are_started_anew_see_it(persistent):
    """As MMDetection's PipelineSwitchHook starts persistent ones."""
    loader = DataLoader(
        SeededDataset(dict(type='kdmm.Piped')),
        batch_size=4,
        sampler=sampler('DefaultSampler'),
        num_workers=1,
        persistent_workers=persistent,
        multiprocessing_context='fork',
        collate_fn=torch.tensor,
    )
    before = torch.cat(list(loader))
    loader.dataset.pipeline = 1.0  # type: ignore[attr-defined]
    if persistent:
        loader._DataLoader__initialized = False
        loader._iterator = None
    after = torch.cat(list(loader))
    assert before[:, 0].unique().tolist() == [0.0] and after[:, 0].unique().tolist() == [1.0]
    assert torch.equal(before[:, 1], after[:, 1])  # drawn by place in the stream


@pytest.mark.parametrize(
    'again', [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_is_seeded_and_takes_what_is_set(again):
    data = SeededDataset(dict(type='kdmm.Piped'))
    data.pipeline = 5.0
    made = again(data)
    place = StreamIndex(1, (0, 0, 0))
    assert type(made) is SeededDataset and made[place] == data[place] and made[place][0] == 5.0
    made.pipeline = 6.0
    assert made[place][0] == 6.0


def test_a_copy_of_a_data_set_that_copies_itself_is_seeded():
    class Copies(Noisy):
        def __deepcopy__(self, memo):
            return Copies(self.size)

    assert type(copy.deepcopy(SeededDataset(Copies()))) is SeededDataset


def test_a_subset_that_draws_many_at_once_is_seeded():
    """torch hands a whole batch to a data set that has ``__getitems__``, as `Subset` has."""
    data = SeededDataset(Subset(Noisy(), [3, 4, 5]))
    loader = DataLoader(data, 2, sampler=[StreamIndex(i, (0, 0, i)) for i in range(2)],
                        collate_fn=torch.tensor)  # fmt: skip
    expected = [data[StreamIndex(i, (0, 0, i))] for i in range(2)]
    assert next(iter(loader)).tolist() == torch.tensor(expected).tolist()


def test_what_a_hook_sets_on_the_sampler_is_set_on_it():
    made = sampler('DefaultSampler')
    made.shuffle, made.seed, made.epoch = False, 8, 4
    assert (made.sampler.shuffle, made.sampler.seed, made.sampler.epoch) == (False, 8, 4)
    drawn = list(made)
    assert drawn == list(range(SIZE)) and drawn[1].entropy == (8, 4, 1)
    del made.shuffle
    assert not hasattr(made.sampler, 'shuffle')


# loaders that are built already


def built(**options) -> DataLoader:
    data = Noisy()
    return DataLoader(data, 4, sampler=DefaultSampler(data, seed=None), collate_fn=torch.tensor,
                      **options)  # fmt: skip


def test_a_built_loader_is_seeded_in_place():
    expected = torch.stack(list(seed_loader(built(), 3)))
    loader = built()
    assert stream_of(loader) is None
    seed_loader(loader, 3)
    stream = stream_of(loader)
    assert stream is loader.sampler is loader.batch_sampler.sampler and stream.sampler.seed == 3
    assert torch.equal(torch.stack(list(loader)), expected)
    assert torch.equal(torch.stack(list(loader)), expected)
    assert stream_of(seed_loader(loader, 4)) is stream and stream.seed == 3


def test_a_built_loader_is_that_of_the_config():
    """The stream of a loader that a hook builds is the one that the run would have built."""
    torch.manual_seed(0)
    config = seed_loader(
        dict(dataset=dict(type='kdmm.Noisy'), sampler=dict(type='DefaultSampler')), 3
    )
    data = DATASETS.build(config['dataset'])
    drawn = DATA_SAMPLERS.build(config['sampler'], default_args=dict(dataset=data, seed=3))
    whole = DataLoader(data, 4, sampler=drawn, collate_fn=torch.tensor)
    assert torch.equal(torch.stack(list(seed_loader(built(), 3))), torch.stack(list(whole)))


def test_a_batch_sampler_that_hides_its_sampler_is_refused():
    loader = DataLoader(Noisy(), batch_sampler=[[0, 1], [2, 3]])
    key = 'train_dataloader.batch_sampler'
    with refused(key=key, problem='list has no `sampler`', fix='reproducible=False'):
        seed_loader(loader, 3)


def test_a_data_set_by_name_is_refused():
    with refused(key='train_dataloader.dataset', got='Noisy', expected='dict(type=...)'):
        SeededDataset('Noisy')


def test_a_loader_without_batches():
    loader = seed_loader(DataLoader(Noisy(), None, sampler=DefaultSampler(Noisy(), seed=1)), 3)
    assert stream_of(loader) is loader.sampler and isinstance(loader.dataset, SeededDataset)


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
