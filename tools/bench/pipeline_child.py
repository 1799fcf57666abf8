"""Times every transform of a config's training data, in a process of its own."""

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

WARM = 20  # samples: imports, page cache, the transforms' own tables


class Timed:
    """A transform that notes how long it takes; None while it is not called."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.seconds: float | None = None

    def __call__(self, data: Any) -> Any:
        """As the transform."""
        start = time.perf_counter()
        try:
            return self.transform(data)
        finally:
            self.seconds = (self.seconds or 0.0) + time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        if name == 'transform':  # not there yet while it is copied
            raise AttributeError(name)
        return getattr(self.transform, name)


def pipelines(dataset: Any) -> Iterator[list[Any]]:
    """The lists of transforms of a data set, those of what it wraps first."""
    own = vars(dataset)
    for part in own.get('datasets') or [own.get('dataset')]:
        if hasattr(part, 'metainfo'):
            yield from pipelines(part)
    transforms = getattr(own.get('pipeline'), 'transforms', own.get('pipeline'))
    if isinstance(transforms, list):
        yield transforms


def instrument(dataset: Any) -> list[tuple[str, tuple[Timed, ...]]]:
    """Put a clock around every transform; the same pipeline in several data sets is one.

    Returns:
        Names and clocks, in the order of the table.
    """
    found: dict[tuple[str, ...], list[list[Timed]]] = {}
    for transforms in pipelines(dataset):
        transforms[:] = [Timed(transform) for transform in transforms]
        names = tuple(type(timed.transform).__name__ for timed in transforms)
        found.setdefault(names, []).append(transforms)
    return [
        column
        for names, copies in found.items()
        for column in zip(names, zip(*copies, strict=True), strict=True)
    ]


def read(clocks: tuple[Timed, ...]) -> float | None:
    """Seconds since the last reading, over all of them; None if none of them ran."""
    times = [clock.seconds for clock in clocks if clock.seconds is not None]
    for clock in clocks:
        clock.seconds = None
    return sum(times) if times else None


def measure_pipeline(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of every sample and, in it, of every transform."""
    with contextlib.redirect_stdout(sys.stderr):
        return _measure(job)


def _build(job: dict[str, Any]) -> Any:
    import cv2
    from mmengine.registry import DATASETS, init_default_scope

    import kdmm  # noqa: F401  (registers everything)
    from kdmm.engine import load_config

    cv2.setNumThreads(job['threads'])
    cfg = load_config(job['config'], job['options'])
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if not len(dataset):
        raise ValueError('train_dataloader.dataset: there is no sample in it')
    return dataset


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    dataset = _build(job)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    columns = instrument(dataset)
    if not columns:
        raise ValueError(f'train_dataloader.dataset: {type(dataset).__name__} has no pipeline')
    count = WARM + job['samples']
    rounds = -(-count // len(dataset))
    order = np.concatenate([np.random.permutation(len(dataset)) for _ in range(rounds)])
    samples = []
    for index in order[:count].tolist():
        start = time.perf_counter()
        dataset[index]
        whole = time.perf_counter() - start
        samples.append((whole, [read(clocks) for _, clocks in columns]))
    return dict(
        dataset=type(dataset).__name__,
        length=len(dataset),
        transforms=[name for name, _ in columns],
        samples=samples[WARM:],
    )
