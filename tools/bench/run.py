"""Starts the children, several times in turn, and puts their figures together."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
#: Largest relative difference at which two forms still count as the same loss.
TOLERANCE = {'float32': 2e-3, 'bfloat16': 5e-2, 'float16': 5e-2}
Figures = dict[str, Any]


def start(job: dict[str, Any]) -> Figures:
    """What one child measured, or ``dict(failed=reason)``."""
    path = [str(TOOLS), str(TOOLS.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
    done = subprocess.run(
        [sys.executable, '-m', 'bench.child', json.dumps(job)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path), **job.get('env', {})},
        check=False,
    )
    if done.returncode < 0:
        return dict(failed=f'killed by signal {-done.returncode} (out of memory?)')
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ['no message']
        return dict(failed=lines[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])


def alternate(jobs: dict[str, dict[str, Any]], rounds: int) -> dict[str, Figures]:
    """Every job once a round, one after the other, so that a busy moment hits all alike."""
    runs: dict[str, list[Figures]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            if not any('failed' in run for run in runs[name]):
                runs[name].append(start(job))
    return {name: combine(found) for name, found in runs.items()}


def combine(runs: list[Figures]) -> Figures:
    """Median and minimum of all times; of the memory figures the highest."""
    for run in runs:
        if 'failed' in run:
            return run
    times = [seconds for run in runs for seconds in run['times']]
    return dict(
        runs[0],
        times=times,
        median_s=statistics.median(times),
        min_s=min(times),
        peak_mib=max(run['peak_mib'] for run in runs),
        added_mib=max(run['added_mib'] for run in runs),
    )


def ratio(one: Figures | None, other: Figures | None, key: str, least: float = 0.0) -> float | None:
    """How many times as much ``one`` has; None where one failed or has hardly anything."""
    if not one or not other or 'failed' in one or 'failed' in other:
        return None
    return one[key] / other[key] if min(one[key], other[key]) > least else None


def difference(one: Figures, other: Figures) -> float | None:
    """Largest relative difference of the results of two forms."""
    if 'failed' in one or 'failed' in other or not one['values'] or not other['values']:
        return None
    found = [
        abs(one['values'][key][i] - other['values'][key][i]) / (one['values'][key][0] or 1.0)
        for key in one['values']
        for i in (0, 1)
    ]
    return max(found)
