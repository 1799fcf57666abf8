#!/usr/bin/env python3
r"""Run several configs with several seeds; print one table and draw one plot of the result.

    python tools/compare.py configs/small/camvid/student.py configs/seg_kd/camvid_small_*.py \
        --seeds 0 1 2 --work-dir work_dirs/camvid_small

The first config is the baseline: `gain` is the mean over the `n` seeds of the difference to its run
of the same seed, beside its interval by Student's t; `undecided` where that spans zero. A run that
is finished is not repeated, one that was interrupted is resumed, and one that failed is in the
table too, with the end of its log. What is found must come from the same config and options, or
nothing is run. The work dir gets `table.md`, `results.json` and `plot.png`.

`{seed}` in an option stands for the number of the seed, so that seeds can be splits of the data,
too: `--cfg-options train_dataloader.dataset.split={seed} val_dataloader.dataset.split={seed}`.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmm.utils.statistics import LEVEL, PairedDifference, paired_difference
from kdmm.utils.tables import for_stream, markdown

TRAIN = Path(__file__).resolve().parent / 'train.py'
SUMMARY = 'run_summary.json'  # written by kdmm.RunSummaryHook when training ends
ORIGIN = 'origin.json'  # what a run was made from
SEED = '{seed}'  # in an option, the number of the seed
Runs = list[dict[str, Any] | None]  # one summary a seed, None where the run failed


@dataclass
class Comparison:
    """The runs of a comparison and their folders."""

    configs: Sequence[str]
    seeds: Sequence[int]
    work_dir: Path
    options: Sequence[str]
    metric: str

    def folder(self, config: str, seed: int) -> Path:
        """The work dir of one run."""
        return self.work_dir / f'{Path(config).stem}_seed{seed}'

    def file(self, config: str) -> str:
        """The config file of an arm; here arms are configs."""
        return config

    def overrides(self, config: str, seed: int) -> list[str]:
        """Return the ``--cfg-options`` of one run."""
        options = [option.replace(SEED, str(seed)) for option in self.options]
        return [f'randomness.seed={seed}', *options]

    def claim(self) -> list[str]:
        """Mark each run's folder with its origin; those that have another one are returned."""
        foreign = []
        for config in self.configs:
            origin = dict(config=config_digest(self.file(config)), options=sorted(self.options))
            for seed in self.seeds:
                path = self.folder(config, seed) / ORIGIN
                if path.is_file() and json.loads(path.read_text()) != origin:
                    foreign.append(str(path.parent))
                elif not path.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(origin) + '\n')
        return foreign

    def run(self, config: str, seed: int) -> dict[str, Any] | None:
        """The summary of one run, made now if it is not there yet; None if it failed."""
        folder = self.folder(config, seed)
        summary = folder / SUMMARY
        if not summary.is_file():
            command = [sys.executable, str(TRAIN), self.file(config), '--work-dir', str(folder)]
            command += ['--resume'] if (folder / 'last_checkpoint').is_file() else []
            command += ['--cfg-options', *self.overrides(config, seed)]
            print(' '.join(command), file=sys.stderr, flush=True)
            with open(folder / 'output.log', 'a') as log:
                done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                print(f'failed: {self.complaint(config, seed)}', file=sys.stderr, flush=True)
        return json.loads(summary.read_text()) if summary.is_file() else None

    def complaint(self, config: str, seed: int) -> str:
        """Return the log's path of a failed run, and its last line."""
        log = self.folder(config, seed) / 'output.log'
        lines = log.read_text(errors='replace').split('\n') if log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), 'empty log')
        return f'{log}: {last[:300]}'

    def everything(self, jobs: int) -> dict[str, Runs]:
        """All runs; seeds outside, so that after the first round every arm has a figure."""
        pairs = [(config, seed) for seed in self.seeds for config in self.configs]
        with ThreadPoolExecutor(jobs) as pool:
            found = dict(zip(pairs, pool.map(lambda pair: self.run(*pair), pairs), strict=True))
        return {config: [found[config, seed] for seed in self.seeds] for config in self.configs}


def config_digest(config: str) -> str:
    """SHA-256 of the config with all that it inherits."""
    from kdmm.engine import load_config

    text = json.dumps(load_config(config).to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def score(run: dict[str, Any] | None, metric: str) -> float | None:
    """The metric of a run, if it has one."""
    return None if run is None else run['metrics'].get(metric)


def digits_of(values: Iterable[float | None]) -> int:
    """Decimals to print: 2 for percent, 4 for shares of one."""
    return 4 if all(abs(value) <= 1 for value in values if value is not None) else 2


def mean_and_deviation(values: Sequence[float | None], digits: int) -> tuple[str, str]:
    """Of the values that exist: mean and sample standard deviation."""
    good = [value for value in values if value is not None]
    mean = f'{statistics.mean(good):.{digits}f}' if good else '-'
    return mean, f'{statistics.stdev(good):.{digits}f}' if len(good) > 1 else '-'


def difference(runs: Runs, baseline: Runs, metric: str) -> PairedDifference | None:
    """The gain over the baseline, seed by seed."""
    return paired_difference(*([score(one, metric) for one in arm] for arm in (runs, baseline)))


def row(name: str, runs: Runs, baseline: Runs, metric: str, digits: int) -> list[str]:
    """One line of the table."""
    values = [score(one, metric) for one in runs]
    cells = ['failed' if value is None else f'{value:.{digits}f}' for value in values]
    done = [one for one in runs if one is not None]
    times = [one['seconds_per_iteration'] for one in done if one['seconds_per_iteration']]
    step = f'{statistics.median(times):.3f}' if times else '-'
    memory = f'{max(one["peak_memory_mib"] for one in done):.0f}' if done else '-'
    found = difference(runs, baseline, metric)
    gain = ('-', '-', '0') if found is None else found.cells(digits)
    gain = ('', '', '') if runs is baseline else gain
    return [name, *cells, *mean_and_deviation(values, digits), *gain, step, memory]


def table(results: Mapping[str, Runs], comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one an arm."""
    baseline = results[comparison.configs[0]]
    seeds = [f'seed {seed}' for seed in comparison.seeds]
    head = ['arm', *seeds, 'mean', 'std', 'gain', f'{LEVEL:.0%} interval', 'n', 's/it', 'MiB']
    digits = digits_of(score(one, comparison.metric) for runs in results.values() for one in runs)
    return head, [
        row(Path(config).stem, runs, baseline, comparison.metric, digits)
        for config, runs in results.items()
    ]


def failures(results: Mapping[str, Runs], comparison: Comparison) -> list[str]:
    """A line for each run that failed; why goes to the error stream."""
    lines = []
    for config, runs in results.items():
        for seed, one in zip(comparison.seeds, runs, strict=True):
            if one is None:
                lines += ['', f'{Path(config).stem}, seed {seed}: failed']
                print(comparison.complaint(config, seed), file=sys.stderr)
    return lines


def plot(results: Mapping[str, Runs], metric: str, path: Path) -> None:
    """Every run a dot and every arm's mean a bar; beside them the gains with their intervals."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = [Path(config).stem for config in results]
    baseline = next(iter(results.values()))
    size = (10, 0.42 * len(names) + 1.2)
    figure, (left, right) = pyplot.subplots(1, 2, sharey=True, figsize=size, layout='constrained')
    right.axvline(0, color='0.7', linewidth=1)
    for place, runs in enumerate(results.values()):
        values = [value for one in runs if (value := score(one, metric)) is not None]
        if not values:
            left.text(0.5, place, 'failed', transform=left.get_yaxis_transform(), va='center')
            continue
        mean = statistics.mean(values)
        left.plot([mean, mean], [place - 0.3, place + 0.3], color='C3', linewidth=2)
        left.scatter(values, [place] * len(values), color='C0', zorder=3)
        gain = None if runs is baseline else difference(runs, baseline, metric)
        if gain is not None:
            colour = '0.6' if gain.undecided else 'C0'
            right.errorbar(gain.mean, place, xerr=gain.half, fmt='o', color=colour, capsize=4)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel(metric)
    left.set_title('dot: one seed; bar: mean', fontsize='medium')
    right.set_xlabel(f'{metric}, difference to {names[0]}')
    right.set_title(f'{LEVEL:.0%} interval over seeds; grey: undecided', fontsize='medium')
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(comparison: Comparison, results: Mapping[str, Runs]) -> int:
    """Print and write the table, write the figures and the plot; how many runs failed."""
    (head, rows), folder = table(results, comparison), comparison.work_dir
    failed = failures(results, comparison)
    text = '\n'.join([markdown(head, rows), *failed])
    # a pipe gets the text of the file
    print('\n'.join([for_stream(head, rows), *failed]) if sys.stdout.isatty() else text)
    (folder / 'table.md').write_text(text + '\n')
    named = {Path(config).stem: runs for config, runs in results.items()}
    (folder / 'results.json').write_text(json.dumps(named, indent=2) + '\n')
    plot(results, comparison.metric, folder / 'plot.png')
    return min(sum(one is None for runs in results.values() for one in runs), 100)


def refuse(
    parser: argparse.ArgumentParser, configs: Sequence[str], seeds: Sequence[int], jobs: int
) -> None:
    """End for what cannot be compared, with exit code 2."""
    names = [Path(config).stem for config in configs]  # they name folders and rows
    for what, values in dict(configs=names, seeds=seeds).items():
        if len(set(values)) < len(values):
            parser.error(f'{what} are repeated: {values}')
    missing = [config for config in configs if '::' not in config and not Path(config).exists()]
    if missing:
        parser.error(f'no such config: {", ".join(missing)}')
    if jobs < 1:
        parser.error(f'--jobs must be at least 1, got {jobs}')


def refuse_foreign(parser: argparse.ArgumentParser, comparison: Comparison) -> None:
    """End where folders hold runs of another config or other options."""
    if foreign := comparison.claim():
        parser.error(
            f'made from another config or other options: {", ".join(foreign)}. Give another '
            '--work-dir, or delete these'
        )


def main() -> int:
    """Run everything, print the table, return the number of failed runs (at most 100)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', help='the baseline first')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    parser.add_argument('--metric', default='mIoU')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], help='for every run; {seed} is its seed'
    )
    args = parser.parse_args()
    refuse(parser, args.configs, args.seeds, args.jobs)
    comparison = Comparison(args.configs, args.seeds, args.work_dir, args.cfg_options, args.metric)
    refuse_foreign(parser, comparison)
    return report(comparison, comparison.everything(args.jobs))


if __name__ == '__main__':
    sys.exit(main())
