#!/usr/bin/env python3
"""Train every config for two iterations, on a few images, and validate it.

    python tools/check_configs.py                     # all of them
    python tools/check_configs.py crd 'mcl/*_x4_*'    # those whose path below configs/ matches
    python tools/check_configs.py --jobs 4 --timeout 60 --logs work_dirs/failed

A pattern is a glob of the whole path, or a part of it. The tests train one config of each kind;
this command is for a change that may concern any of them. Both make a config small, and check what
its run logs and writes, by one table, tests/e2e/config_table.py: few small images, shallower
networks of random weights, small banks. Each config is trained in a process of its own, so that one
that dies or hangs stops no other. Old paths, which inherit the new ones, are left out.

A line a config: ok, error with its message, or skipped with the reason; then how many, and seconds.
Exit code 1 if one fails, 130 after Ctrl-C.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(1, ROOT)  # where the tests are
#: Verdicts.
OK, ERROR, SKIPPED = 'ok', 'error', 'skipped'
LOG = 'log.txt'
#: Children inherit what was imported; what a registry asks for first takes seconds.
PARTS = ('models', 'datasets', 'evaluation')
_context = get_context('fork')


@dataclass(frozen=True)
class Result:
    """Outcome of a config.

    Attributes:
        name: Its path below ``configs/``.
        verdict: `OK`, `ERROR` or `SKIPPED`.
        said: The error's message or the reason, in one line.
        seconds: From the start of its process to the end.
    """

    name: str
    verdict: str
    said: str = ''
    seconds: float = 0.0

    def __str__(self) -> str:
        line = f'{self.verdict:<8}{self.seconds:6.1f} s  {self.name}'
        return f'{line}: {self.said}' if self.said else line


class Trial:
    """The process that trains one config.

    Args:
        name: Path of the config below ``configs/``.
        folder: Of its own; images, run and log are written there.
        timeout: Seconds until it is stopped.
    """

    def __init__(self, name: str, folder: Path, timeout: float) -> None:
        self.name, self.folder, self.start = name, folder, time.monotonic()
        self.deadline = self.start + timeout
        folder.mkdir()
        self._said, writes = _context.Pipe(duplex=False)
        self.process: ForkProcess = _context.Process(target=_child, args=(name, folder, writes))
        self.process.start()
        writes.close()

    def ended(self) -> Result | None:
        """Return the result if the process has ended or its time is over."""
        seconds = time.monotonic() - self.start
        if not self.process.is_alive():
            try:
                verdict, said = self._said.recv()
            except EOFError:
                verdict, said = ERROR, f'its process ended with code {self.process.exitcode}'
        elif time.monotonic() >= self.deadline:
            verdict, said = ERROR, f'not done after {seconds:.0f} s'
        else:
            return None
        return Result(self.name, verdict, said, seconds)

    def close(self) -> None:
        """Stop the process, and those that it has started, and remove its files."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()  # if it has no group of its own yet
        self.process.join()
        self._said.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _child(name: str, folder: Path, said: Any) -> None:
    """Train in a session of its own, which Ctrl-C does not reach; all output goes to the log."""
    os.setsid()
    os.chdir(folder)
    log = open(LOG, 'w', buffering=1)  # noqa: SIM115
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    sys.stdout = sys.stderr = log
    try:
        train_small(name, folder)
        said.send((OK, ''))
    except BaseException as error:
        traceback.print_exc()
        said.send((ERROR, ' '.join(f'{type(error).__name__}: {error}'.split())[:2000]))


def train_small(name: str, folder: Path) -> None:
    """Train a config on one core for two iterations, validate it, and check what it has left.

    Args:
        name: Path of the config below ``configs/``.
        folder: Where images and run are written.
    """
    import torch

    from kdmm.engine.checks import check_data
    from tests.e2e.config_table import TABLE, read, train

    torch.set_num_threads(1)
    cfg, family = read(name), TABLE[name]
    scores = family.scores(cfg)
    family.shrink(cfg, folder / 'data', folder / 'work')
    cfg.experiment_name = name
    check_data(cfg, ('train', 'val'))
    train(cfg, 2, scores)


def prepare() -> None:
    """Import what the processes of all configs need; settings that change no result."""
    from tests.e2e.brief import read_metafiles_once, start_sooner
    from tests.e2e.config_table import FAMILIES

    for library in sorted({family.library for family in FAMILIES.values()}):
        for part in PARTS if find_spec(library) else ():
            import_module(f'{library}.{part}')
    read_metafiles_once()
    start_sooner()


def check(names: Sequence[str], jobs: int, timeout: float, logs: Path | None) -> Iterator[Result]:
    """Train configs, so many at a time, and give each result when it is there.

    Args:
        names: Paths below ``configs/``.
        jobs: Processes at a time.
        timeout: Seconds that a config may take.
        logs: Folder for the logs of those that fail, or None.
    """
    from tests.e2e.config_table import TABLE

    waiting, running = list(names), list[Trial]()
    with tempfile.TemporaryDirectory(prefix='kdmm_configs_') as root:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = waiting.pop(0)
                    library = TABLE[name].library
                    if find_spec(library) is None:
                        yield Result(name, SKIPPED, f'{library} is not installed')
                        continue
                    folder = Path(root) / name.strip('/').replace('/', '_')
                    running.append(Trial(name, folder, timeout))
                if running:
                    first = min(trial.deadline for trial in running)
                    connection.wait(
                        [trial.process.sentinel for trial in running],
                        max(0.0, first - time.monotonic()),
                    )
                for trial in list(running):
                    result = trial.ended()
                    if result is None:
                        continue
                    if result.verdict == ERROR and logs is not None:
                        shutil.copy(trial.folder / LOG, logs / f'{trial.folder.name}.log')
                    running.remove(trial)
                    trial.close()
                    yield result
        finally:
            for trial in running:
                trial.close()


def chosen(patterns: Sequence[str]) -> list[str]:
    """The configs that match one of the patterns; all of them without patterns.

    Raises:
        ValueError: If a pattern matches none.
    """
    from tests.e2e.config_table import TABLE

    found = {p: {name for name in TABLE if p in name or fnmatch(name, p)} for p in patterns}
    for pattern, names in found.items():
        if not names:
            raise ValueError(f'no config has a path below configs/ that matches {pattern!r}')
    return [name for name in TABLE if not patterns or name in set().union(*found.values())]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('patterns', nargs='*', metavar='PATTERN', help='of paths below configs/')
    parser.add_argument('--jobs', type=int, default=2, help='processes at a time (2)')
    parser.add_argument('--timeout', type=float, default=300.0, help='seconds a config (300)')
    parser.add_argument('--logs', type=Path, help='folder for the logs of those that fail')
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'argument --jobs: at least 1, got {args.jobs}')
    start, counts = time.monotonic(), Counter[str]()
    try:
        names = chosen(args.patterns)
    except ValueError as error:
        parser.error(str(error))
    if args.logs is not None:
        args.logs.mkdir(parents=True, exist_ok=True)
    prepare()
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    results = check(names, args.jobs, args.timeout, args.logs)
    try:
        for result in results:
            counts[result.verdict] += 1
            print(result, flush=True)
        code = 1 if counts[ERROR] else 0
    except KeyboardInterrupt:
        code = 130
    finally:
        results.close()  # type: ignore[attr-defined]
        signal.signal(signal.SIGTERM, previous)
    done = ', '.join(f'{counts[verdict]} {verdict}' for verdict in (OK, ERROR, SKIPPED))
    left = f', {len(names) - counts.total()} not tried: interrupted' if code == 130 else ''
    print(f'{len(names)} configs in {time.monotonic() - start:.0f} s: {done}{left}')
    return code


if __name__ == '__main__':
    sys.exit(main())
