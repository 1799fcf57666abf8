"""The data pipeline of a config: what each transform costs per sample."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from .errors import stop
from .run import Figures, start
from .steps import options_of
from .table import number, table

HEAD = ['transform', 'median ms', 'mean ms', 'share %', 'samples']
#: What a sample takes beside its transforms: its entry is found and copied.
REST, WHOLE = '(the rest)', '(whole sample)'


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
    return '\n'.join([title, table(HEAD, rows), ''])


def sound(result: dict[str, Any]) -> bool:
    """Whether the samples could be had."""
    return 'failed' not in result
