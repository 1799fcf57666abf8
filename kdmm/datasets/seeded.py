"""Augmentation that depends on the position in the sample stream and on nothing else.

MMEngine seeds each worker once, so what a sample looks like depends on the number of workers and on
how many samples that worker drew before; a resumed run differs. Here the sampler hands the position
out with the index, and the data set draws from a generator seeded with it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from kdmm.registry import DATA_SAMPLERS, DATASETS


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

    Args:
        sampler: Config of the sampler to wrap.
        dataset: The data set, given by the Runner.
        seed: Given by the Runner; of the stream and of the augmentation.
    """

    def __init__(self, sampler: dict[str, Any], dataset: Any, seed: int | None = None) -> None:
        self._config, self._dataset = sampler, dataset
        self.reseed(seed)
        self.rank, self.world_size = get_dist_info()
        self.epoch = 0
        self._drawn = 0

    def reseed(self, seed: int | None) -> None:
        """Begin the stream of another seed."""
        self.sampler = DATA_SAMPLERS.build(
            self._config, default_args=dict(dataset=self._dataset, seed=seed)
        )
        self.seed = int(getattr(self.sampler, 'seed', seed) or 0)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':
            raise AttributeError(name)
        if name == 'skip' and hasattr(self.sampler, 'skip'):
            return self._skip
        return getattr(self.sampler, name)

    def __iter__(self) -> Iterator[StreamIndex]:
        for count, index in enumerate(self.sampler, start=self._drawn):
            position = count * self.world_size + self.rank
            yield StreamIndex(index, (self.seed, self.epoch, position))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Begin another pass."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        """Continue behind ``num_samples`` samples of this rank, without loading them."""
        self._drawn = num_samples
        self.sampler.skip(num_samples)


@DATASETS.register_module()
class SeededDataset:
    """Wraps a data set: each item is drawn with generators seeded by its `StreamIndex`.

    Everything else, ``metainfo`` and the like, is the wrapped data set's.

    Args:
        dataset: Config of the data set to wrap.
    """

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.dataset = DATASETS.build(dataset)

    def full_init(self) -> None:
        """Load the annotations."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # not there yet while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, StreamIndex):
            return self.dataset[index]
        with seeded(index.entropy):
            return self.dataset[int(index)]


@contextmanager
def seeded(entropy: tuple[int, ...]) -> Iterator[None]:
    """Seed Python, NumPy and torch (CPU) inside, and leave no trace outside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
