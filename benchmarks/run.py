"""Starts the processes that measure: one after the other, or all at once and a step in turn."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .figures import Figures, combine

ROOT = Path(__file__).resolve().parents[1]
#: What a process writes when it waits for its turn.
READY = 'ready'
Jobs = dict[str, dict[str, Any]]


class Child:
    """A process that measures one job.

    Args:
        job: What `child` reads. With ``turns=True`` it waits before every step until it may go on.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        path = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
        # no pipe: one that nobody reads may fill up
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.child', json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(path), **job.get('env', {})},
        )
        self.last = ''

    def waits(self) -> bool:
        """Read on until it waits for its turn; False where it has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == READY:
                return True
            self.last = line
        return False

    def go(self) -> None:
        """Let it take a step."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write('\n')
            self.process.stdin.flush()
        except BrokenPipeError:  # it died while it waited; its exit code says so
            pass

    def result(self) -> Figures:
        """Measurements of the process, or ``dict(failed=reason)``."""
        while self.waits():
            self.go()
        code = self.process.wait()
        if code < 0:
            return dict(failed=f'killed by signal {-code} (out of memory?)')
        if code:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines() or ['no message']
            return dict(failed=lines[-1][:300])
        return json.loads(self.last)

    def close(self) -> None:
        """End it, if it runs."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:  # what was not flushed goes with it
                pass


def start(job: dict[str, Any]) -> Figures:
    """Run one process; return its measurements or ``dict(failed=reason)``."""
    child = Child(job)
    try:
        return child.result()
    finally:
        child.close()


def one_by_one(jobs: Jobs) -> dict[str, Figures]:
    """Run every job, one after the other."""
    return {name: start(job) for name, job in jobs.items()}


def in_turn(jobs: Jobs) -> dict[str, Figures]:
    """Run all jobs at once, of which one takes a step while the others wait."""
    children = {name: Child(dict(job, turns=True)) for name, job in jobs.items()}
    try:
        waiting = [child for child in children.values() if child.waits()]
        while waiting:
            for child in list(waiting):
                child.go()
                if not child.waits():
                    waiting.remove(child)
        return {name: child.result() for name, child in children.items()}
    finally:
        for child in children.values():
            child.close()


def alternate(
    jobs: Jobs, rounds: int, once: Callable[[Jobs], dict[str, Figures]] = one_by_one
) -> dict[str, Figures]:
    """Run every job once a round, so that a busy moment of the machine meets all alike.

    Args:
        jobs: By the name of their row. One that fails is not started again.
        rounds: How often.
        once: How the jobs of a round run.
    """
    runs: dict[str, list[Figures]] = {name: [] for name in jobs}
    for _ in range(rounds):
        good = {n: job for n, job in jobs.items() if not any('failed' in run for run in runs[n])}
        for name, found in once(good).items():
            runs[name].append(found)
    return {name: combine(found) for name, found in runs.items()}
