"""Batches of P classes and K images of each, which contrast within a batch needs."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import DataLoader, Sampler

from kdmm.datasets.annotations import read_labels
from kdmm.errors import ConfigError
from kdmm.registry import DATA_SAMPLERS

WHERE = 'PKSampler'


@DATA_SAMPLERS.register_module()
class PKSampler(Sampler[int]):
    """Gives every rank batches of P classes x K different images of each.

    It is a sampler, not a batch sampler, so that MMEngine's loops, `kdmm.SeededSampler` and
    whatever asks for the loader's ``batch_size`` work as ever; that ``batch_size`` has to be P x K,
    see `check_batch_size`. The images of one step form a global batch of W ranks x P classes: first
    one image of each class, then the next of each. Rank r takes every W-th one, beginning with its
    r-th, so it has all K images of its classes, no other rank has one of them, and W ranks of P
    classes see what one rank of W x P classes sees.

    Classes and images are drawn anew for every batch, as in MCL (arXiv:2207.11518). A pass has as
    many images as fill whole batches, but it is not one over the data: images repeat or are missed.
    It depends on ``seed`` and the epoch alone. MMEngine resumes it as it resumes `DefaultSampler`:
    by the epoch or, in loops that count iterations, by walking over the batches.

    Args:
        dataset: The data set, given by the Runner; each image has one class. An image that it holds
            twice (`RepeatDataset`) counts as two.
        classes_per_batch: P, of each rank.
        samples_per_class: K.
        seed: Given by the Runner; None draws one and shares it with all ranks.

    Raises:
        ConfigError: P or K no positive whole number; images without one label; fewer classes with
            images than ranks x P; a class of fewer than K images.
    """

    def __init__(
        self,
        dataset: Any,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int | None = None,
    ) -> None:
        sizes = dict(classes_per_batch=classes_per_batch, samples_per_class=samples_per_class)
        for key, value in sizes.items():
            if type(value) is not int or value < 1:
                raise ConfigError(
                    key=f'{WHERE}.{key}', got=value, expected='a whole number from 1 on'
                )
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.classes_per_batch, self.samples_per_class = classes_per_batch, samples_per_class
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        labels = read_labels(dataset, WHERE)
        self._members = {int(i): np.flatnonzero(labels == i) for i in np.unique(labels)}
        self._check_classes()
        self._num_batches = len(labels) // (self.batch_size * self.world_size)

    @property
    def batch_size(self) -> int:
        """P x K, the images of one batch of one rank."""
        return self.classes_per_batch * self.samples_per_class

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f'{self.seed} {self.epoch}')
        return itertools.islice(self._stream(rng), self.rank, None, self.world_size)

    def __len__(self) -> int:
        """Images of this rank in a pass."""
        return self._num_batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Begin another pass."""
        self.epoch = epoch

    def _stream(self, rng: random.Random) -> Iterator[int]:
        """The images of all ranks, global batch by global batch."""
        for _ in range(self._num_batches):
            drawn = rng.sample(list(self._members), self.classes_per_batch * self.world_size)
            images = [self._draw(rng, self._members[label]) for label in drawn]  # (W * P, K)
            yield from itertools.chain(*zip(*images, strict=True))

    def _draw(self, rng: random.Random, members: np.ndarray) -> list[int]:
        """Draw K different images."""
        return members[rng.sample(range(len(members)), self.samples_per_class)].tolist()

    def _check_classes(self) -> None:
        needed = self.classes_per_batch * self.world_size
        if needed > len(self._members):
            raise ConfigError(
                f'each of {self.world_size} rank(s) needs classes of its own, {needed} a step',
                key=f'{WHERE}.classes_per_batch',
                got=self.classes_per_batch,
                expected=f'no more classes than the data set has images of, {len(self._members)}',
                fix='Lower classes_per_batch, and batch_size with it.',
            )
        for label, members in self._members.items():
            if len(members) < self.samples_per_class:
                raise ConfigError(
                    f'the data set has {len(members)} image(s) of class {self._name(label)!r}',
                    key=f'{WHERE}.samples_per_class',
                    got=self.samples_per_class,
                    expected='no more than every class has',
                    fix='Lower samples_per_class or leave the class out.',
                )

    def _name(self, label: int) -> Any:
        names = (getattr(self.dataset, 'metainfo', None) or {}).get('classes') or ()
        return names[label] if label < len(names) else label


def check_batch_size(loader: DataLoader) -> None:
    """Refuse a loader that cuts a `PKSampler`'s batches elsewhere; others pass.

    Raises:
        ConfigError: If ``batch_size`` is not P x K, or a batch sampler leaves it open.
    """
    sampler = getattr(loader.batch_sampler, 'sampler', None)
    sampler = getattr(sampler, 'sampler', sampler)  # that of a `SeededSampler`
    if isinstance(sampler, PKSampler) and loader.batch_size != sampler.batch_size:
        raise ConfigError(
            f'{WHERE} gives {sampler.classes_per_batch} classes x {sampler.samples_per_class} '
            'images',
            key='train_dataloader.batch_size',
            got=loader.batch_size,
            expected=str(sampler.batch_size),
            fix='Set batch_size to that, without a batch_sampler.',
        )
