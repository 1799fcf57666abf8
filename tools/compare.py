#!/usr/bin/env python3
"""Run several configs with several seeds and print one table: mean, deviation, time, memory.

    python tools/compare.py configs/camvid_small/student*.py --seeds 0 1 2 --work-dir work_dirs/x

A run that is finished is not repeated, one that was interrupted is resumed, and one that failed is
in the table too.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).resolve().parent / 'train.py'
SUMMARY = 'run_summary.json'  # written by kdmm.RunSummaryHook when training ends


def run(config: str, seed: int, folder: Path, options: Sequence[str]) -> dict[str, Any] | None:
    """The summary of one run, made now if it is not there yet; None if it failed."""
    summary = folder / SUMMARY
    if not summary.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(TRAIN), config, '--work-dir', str(folder)]
        command += ['--resume'] if (folder / 'last_checkpoint').is_file() else []
        command += ['--cfg-options', f'randomness.seed={seed}', *options]
        print(' '.join(command), file=sys.stderr, flush=True)
        with open(folder / 'output.log', 'a') as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            print(f'failed, see {folder / "output.log"}', file=sys.stderr, flush=True)
    return json.loads(summary.read_text()) if summary.is_file() else None


def row(name: str, runs: Sequence[dict[str, Any] | None], metric: str) -> str:
    """One line of the table."""
    values = [None if one is None else one['metrics'].get(metric) for one in runs]
    cells = ['failed' if value is None else f'{value:.2f}' for value in values]
    good = [value for value in values if value is not None]
    mean = f'{statistics.mean(good):.2f}' if good else '-'
    spread = f'{statistics.stdev(good):.2f}' if len(good) > 1 else '-'
    done = [one for one in runs if one is not None]
    step = f'{statistics.median(o["seconds_per_iteration"] for o in done):.3f}' if done else '-'
    memory = f'{max(o["peak_memory_mib"] for o in done):.0f}' if done else '-'
    return '| ' + ' | '.join([name, *cells, mean, spread, step, memory]) + ' |'


def main() -> int:
    """Run everything, print the table, return the number of failed runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    parser.add_argument('--metric', default='mIoU')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='for every run')
    args = parser.parse_args()
    head = ['arm', *(f'seed {seed}' for seed in args.seeds), 'mean', 'std', 's/it', 'MiB']
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    results: dict[str, list[dict[str, Any] | None]] = {config: [] for config in args.configs}
    for seed in args.seeds:  # seeds outside: after the first round every arm has a figure
        for config, runs in results.items():
            folder = args.work_dir / f'{Path(config).stem}_seed{seed}'
            runs.append(run(config, seed, folder, args.cfg_options))
    lines += [row(Path(config).stem, runs, args.metric) for config, runs in results.items()]
    print('\n'.join(lines))
    (args.work_dir / 'table.md').write_text('\n'.join(lines) + '\n')
    return sum(one is None for runs in results.values() for one in runs)


if __name__ == '__main__':
    sys.exit(main())
