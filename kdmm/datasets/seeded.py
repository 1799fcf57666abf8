"""Augmentation that depends on the position in the sample stream alone.

MMEngine seeds each worker once, so what a sample looks like depends on the number of workers and on
how many samples that worker drew before; a resumed run differs. Here the sampler hands the position
out with the index, and the data set draws from a generator seeded with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from kdmm.errors import ConfigError
from kdmm.registry import DATA_SAMPLERS, DATASETS
from kdmm.utils.seeds import seeded

#: Of the wrapped object these would give a copy that is not wrapped.
_COPYING = ('__copy__', '__deepcopy__')


class StreamIndex(int):
    """A data set index that knows its place in the global sample stream.

    Attributes:
        entropy: (seed, epoch, position); the same for every number of ranks and workers.
    """

    entropy: tuple[int, int, int]

    def __new__(cls, index: int, entropy: tuple[int, int, int]) -> 'StreamIndex':
        """An index with its place."""
        self = super().__new__(cls, index)
        self.entropy = entropy
        return self

    def __reduce__(self) -> Any:
        return StreamIndex, (int(self), self.entropy)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler[int]):
    """Wraps a sampler whose ranks take every W-th sample of one stream, as MMEngine's do.

    What is set on it, or deleted, is set on the wrapped sampler.

    Args:
        sampler: The sampler to wrap, or its config.
        dataset: The data set, given by the Runner.
        seed: Given by the Runner; of the stream and of the augmentation.
    """

    _OWN = ('sampler', '_config', '_dataset', '_seed', '_epoch', '_drawn', '_unwanted', '_place')

    def __init__(self, sampler: Any, dataset: Any, seed: int | None = None) -> None:
        self._config, self._dataset = sampler, dataset
        self._place = get_dist_info()
        self._epoch = self._drawn = self._unwanted = 0
        self.reseed(seed)

    def reseed(self, seed: int | None) -> None:
        """Begin the stream of another seed."""
        self._seed = seed
        if not isinstance(self._config, Mapping):
            self.sampler = self._config
            if seed is not None and hasattr(self.sampler, 'seed'):
                self.sampler.seed = seed
            if isinstance(self.sampler, InfiniteSampler) and not hasattr(self.sampler, 'skip'):
                # upstream's has one stream for all iterators, and workers may have drawn from it
                self.sampler.indices = self.sampler._indices_of_rank()
            return
        self.sampler = DATA_SAMPLERS.build(
            dict(self._config), default_args=dict(dataset=self._dataset, seed=seed)
        )

    @property
    def seed(self) -> int:
        """That of the wrapped sampler, if it has one."""
        return int(getattr(self.sampler, 'seed', self._seed) or 0)

    @property
    def epoch(self) -> int:
        """The pass over the data, as `set_epoch` or the wrapped sampler has it."""
        return int(getattr(self.sampler, 'epoch', self._epoch))

    def __getattr__(self, name: str) -> Any:
        if name in self._OWN or name in _COPYING:  # not there yet while it is unpickled
            raise AttributeError(name)
        if name == 'skip' and (
            hasattr(self.sampler, 'skip') or isinstance(self.sampler, InfiniteSampler)
        ):
            return self._skip
        return getattr(self.sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.sampler, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.sampler, name)

    def __iter__(self) -> Iterator[StreamIndex]:
        rank, world_size = self._place
        wanted = islice(self.sampler, self._unwanted, None)
        self._unwanted = 0
        for count, index in enumerate(wanted, start=self._drawn):
            yield StreamIndex(index, (self.seed, self.epoch, count * world_size + rank))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Begin another pass."""
        self._epoch = epoch
        self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        """Continue behind ``num_samples`` samples of this rank, without loading them."""
        self._drawn = num_samples
        if hasattr(self.sampler, 'skip'):
            self.sampler.skip(num_samples)
        else:  # upstream's infinite sampler cannot
            self._unwanted = num_samples


@DATASETS.register_module()
class SeededDataset:
    """Wraps a data set: each item is drawn with generators seeded by its `StreamIndex`.

    Everything else is the wrapped data set's: what is read from, set on or deleted from the one is
    read from, set on or deleted from the other (``pipeline``, as hooks switch it, ``metainfo``,
    ``dataset`` of a `RepeatDataset`), and ``isinstance`` knows both classes.

    Args:
        dataset: The data set to wrap, or its config.

    Raises:
        ConfigError: If it is a text.
    """

    __slots__ = ('_wrapped',)
    _wrapped: Any

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, str):
            raise ConfigError(
                key='train_dataloader.dataset',
                got=dataset,
                expected='dict(type=...) or a data set',
            )
        built = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        object.__setattr__(self, '_wrapped', built)

    def full_init(self) -> None:
        """Load the annotations."""
        if hasattr(self._wrapped, 'full_init'):
            self._wrapped.full_init()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._wrapped)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return SeededDataset, (self._wrapped,)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        if name == '_wrapped' or name in _COPYING:
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._wrapped, name)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, StreamIndex):
            return self._wrapped[index]
        with seeded(index.entropy):
            return self._wrapped[int(index)]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items one by one: a `torch.utils.data.Subset` would draw them all without seeds."""
        return [self[index] for index in indices]


def seed_loader(loader: Any, seed: int | None) -> Any:
    """Let a training loader draw a seeded stream.

    Args:
        loader: Config of a loader as MMEngine builds it, or a `DataLoader`, which is changed in
            place. One that is seeded already stays as it is.
        seed: That of the run.

    Raises:
        ConfigError: If its batch sampler does not say from which sampler it draws.
    """
    if isinstance(loader, Mapping):
        changed = dict(loader)
        for key, kind in (('dataset', 'SeededDataset'), ('sampler', 'SeededSampler')):
            changed[key] = {'type': f'kdmm.{kind}', key: loader[key]}
        return changed
    if stream_of(loader) is None:
        drawn = getattr(loader.batch_sampler or loader, 'sampler', None)
        if drawn is None:
            raise ConfigError(
                f'{type(loader.batch_sampler).__name__} has no `sampler`, so that its stream '
                'cannot be seeded',
                key='train_dataloader.batch_sampler',
                fix='Give it one, or set reproducible=False in the config.',
            )
        sampler = SeededSampler(drawn, loader.dataset, seed)
        if loader.batch_sampler is not None:
            loader.batch_sampler.sampler = sampler
        # a DataLoader refuses to have these set, for the sake of its batch sampler
        if loader.sampler is drawn:
            object.__setattr__(loader, 'sampler', sampler)
        object.__setattr__(loader, 'dataset', SeededDataset(loader.dataset))
    return loader


def stream_of(loader: Any) -> SeededSampler | None:
    """The seeded sampler from which a loader draws, if it has one."""
    for owner in (getattr(loader, 'batch_sampler', None), loader):
        sampler = getattr(owner, 'sampler', None)
        if isinstance(sampler, SeededSampler):
            return sampler
    return None
