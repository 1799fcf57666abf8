"""The data pipeline of a config: what each transform costs per sample.

The first half starts a process a config and shows its figures, the second half is that process.
"""

import contextlib
import random
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from kdmm.utils.tables import for_stream

from .errors import stop
from .figures import Figures, number
from .run import start
from .steps import options_of

HEAD = ['transform', 'median ms', 'mean ms', 'share %', 'samples']
#: What a sample takes beside its transforms: its entry is found and copied.
REST, WHOLE = '(the rest)', '(whole sample)'
WARM = 20  # samples: imports, page cache, the transforms' own tables


def refuse(config: str, options: dict[str, Any]) -> None:
    """End if the config has no training data, or they are not there."""
    from kdmm.engine import check_data, load_config
    from kdmm.errors import ConfigError

    try:
        cfg = load_config(config, options)
        if not (cfg.get('train_dataloader') or {}).get('dataset'):
            raise ConfigError(
                f'train_dataloader.dataset: {config!r} has none; --pipeline needs a config that '
                'trains'
            )
        check_data(cfg, ('train',))
    except ConfigError as error:
        stop(str(error))


def measure(names: Sequence[str], args: Namespace) -> Iterator[dict[str, Any]]:
    """One entry a config, as it is written to JSON."""
    options = options_of(args.cfg_options)
    for config in names:
        refuse(config, options)
    for config in names:
        common = dict(kind='pipeline', config=config, options=options, threads=args.threads)
        found = start(dict(common, samples=3 if args.quick else args.samples))
        yield dict(config=config, **(found if 'failed' in found else entry(found)))


def entry(found: Figures) -> dict[str, Any]:
    """Medians, means and shares; ``found`` has a time for every sample and transform."""
    whole = [seconds for seconds, _ in found['samples']]
    inside = [parts for _, parts in found['samples']]
    rows = []
    for i, name in enumerate(found['transforms']):
        times = [parts[i] for parts in inside if parts[i] is not None]
        rows.append(row(name, times, whole))
    spent = [sum(filter(None, parts)) for parts in inside]
    rest = [total - part for total, part in zip(whole, spent, strict=True)]
    rows += [row(REST, rest, whole), row(WHOLE, whole, whole)]
    return dict(dataset=found['dataset'], length=found['length'], rows=rows)


def row(name: str, times: list[float], whole: list[float]) -> dict[str, Any]:
    """One line of the table. Its share is that of the time of all samples."""
    found = dict(name=name, times=times, share=sum(times) / sum(whole))
    none = dict(median_s=None, mean_s=None)
    return dict(found, **(dict(median_s=median(times), mean_s=fmean(times)) if times else none))


def render(result: dict[str, Any]) -> str:
    """One config as a table."""
    if 'failed' in result:
        return f'{result["config"]}\nfailed: {result["failed"]}\n'
    rows = []
    for found in result['rows']:
        times = (found[key] and found[key] * 1e3 for key in ('median_s', 'mean_s'))
        share, samples = number(found['share'] * 100, 1), str(len(found['times']))
        rows.append([found['name'], *map(number, times), share, samples])
    title = f'{result["config"]}: {result["dataset"]} of {result["length"]}'
    return '\n'.join([title, for_stream(HEAD, rows, numbers=True), ''])


def sound(result: dict[str, Any]) -> bool:
    """Return True if the samples could be drawn."""
    return 'failed' not in result


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
