"""Bad inputs, each in a process of its own: how many give one message, a stack trace, nothing.

    python -m tests.fuzz.bad_inputs                 all of them, a few minutes on one core
    python -m tests.fuzz.bad_inputs coco resume     those whose names hold one of these words
    python -m tests.fuzz.bad_inputs --show          with what each one said

A command of kdmm gets a wrong config, option, data file, checkpoint or environment. Right is one
message that ends the output and holds the word that the case names (the key or the file), with exit
code 2, or 1 for what happens in training. The exit code of this script is the number of others.
"""

import argparse
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Verdicts; the first is right.
MESSAGE, WORDLESS, TRACE, NOTHING, HANG, OTHER = (
    'one message', 'a message without the word', 'a stack trace', 'nothing', 'no end',
    'another end',
)  # fmt: skip
SECONDS = 60.0
#: Overrides with which a segmentation job ends soon.
QUICK = ('train_cfg.max_iters=2', 'train_cfg.val_interval=100')
Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: Unique.
        command: Of `COMMANDS`, or a script of tools/ that a shell runs.
        arguments: Of the command, seen from a folder with the files of `world.write_world`.
        word: What the message must hold: the key, the flag, the file.
        spoil: Changes the files of that folder, or the process, before the command.
        env: Environment variables.
        warns: The input is no reason to stop: the run ends well and the word is in a warning.
    """

    name: str
    command: str
    arguments: Sequence[str]
    word: str
    spoil: Spoil | None = None
    env: tuple[tuple[str, str], ...] = ()
    warns: bool = False


@dataclass(frozen=True)
class Outcome:
    """Exit of a case and its last line."""

    case: Case
    verdict: str
    code: int
    said: str
    seconds: float


def commands() -> dict[str, Callable[[list[str]], None]]:
    """The command lines of tools/, by name."""
    from kdmm.engine.cli import test, train
    from kdmm.engine.profile_cli import profile
    from kdmm.engine.visualize import visualize
    from kdmm.transfer.cli import convert_command, fresh_command

    return dict(
        train=train, test=test, profile=profile, visualize=visualize, convert=convert_command,
        init_checkpoint=fresh_command,
    )  # type: ignore[return-value]  # fmt: skip


def run_case(case: Case, world: Path, scratch: Path) -> Outcome:
    """Run one case in a copy of ``world``, in a forked process."""
    folder = scratch / case.name.replace('/', '_').replace(' ', '_')[:80]
    shutil.copytree(world, folder)
    folder.chmod(0o755)
    start = time.monotonic()
    screen, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(screen)
        _child(case, folder, writes)
    os.close(writes)
    code, text = _wait(pid, screen, SECONDS)
    os.close(screen)
    seconds = time.monotonic() - start
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case, verdict(case, code, text), code, text, seconds)


def verdict(case: Case, code: int, text: str) -> str:
    """Judge the output of a command as its reader would."""
    if code == -signal.SIGALRM:
        return HANG
    if 'Traceback (most recent call last)' in text:
        return TRACE
    if case.warns:  # the run may end well
        return MESSAGE if code == 0 and case.word in text else NOTHING if code == 0 else OTHER
    if code == 0:
        return NOTHING
    if code not in (1, 2):
        return OTHER
    last = text.strip().rsplit('\n', 1)[-1]
    if text.count('kdmm: error') > 1:
        return OTHER
    usage = 'usage: ' in text and code == 2
    if 'error' not in last and not usage:
        return OTHER
    return MESSAGE if case.word in (text if usage else last) else WORDLESS


def _wait(pid: int, screen: int, seconds: float) -> tuple[int, str]:
    """The exit code, negative for a signal (SIGALRM: the time limit), and what was written."""
    stop = time.monotonic() + seconds
    said, status, done = b'', 0, False
    while time.monotonic() < stop:
        while select.select([screen], [], [], 0 if done else 0.02)[0]:
            piece = os.read(screen, 2**16)
            said += piece
            if not piece:
                break
        if done:
            return os.waitstatus_to_exitcode(status), said.decode(errors='replace')
        found, status = os.waitpid(pid, os.WNOHANG)
        done = bool(found)
        if select.select([screen], [], [], 0)[0] and not done:
            time.sleep(0.005)  # closed by a process that goes on
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGALRM, said.decode(errors='replace')


def _child(case: Case, folder: Path, screen: int) -> None:
    """The forked process: never returns."""
    code: object = 99
    try:
        os.setsid()
        os.chdir(folder)
        for descriptor in (1, 2):
            os.dup2(screen, descriptor)
        sys.stdout = open(1, 'w', closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = open(2, 'w', closefd=False, buffering=1)  # noqa: SIM115
        os.environ.pop('KDMM_TRACEBACK', None)
        os.environ.update(case.env)
        sys.path.insert(0, str(folder))
        if case.spoil is not None:
            case.spoil(folder)
        if case.command.endswith('.sh'):
            tool = Path(__file__).resolve().parents[2] / 'tools' / case.command
            os.execvp('bash', ['bash', str(tool), *case.arguments])
        sys.argv = [f'{case.command}.py', *case.arguments]
        commands()[case.command](list(case.arguments))
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def run(cases: Sequence[Case], show: bool = False) -> list[Outcome]:
    """Run the cases one after the other; print those that are not right."""
    from tests.fuzz.world import write_world

    outcomes = []
    with tempfile.TemporaryDirectory(prefix='kdmm_bad_') as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        write_world(scratch / 'world')
        for case in cases:
            outcome = run_case(case, scratch / 'world', scratch)
            outcomes.append(outcome)
            if show or outcome.verdict != MESSAGE:
                print(f'\n{case.name}: {outcome.verdict}, code {outcome.code}', flush=True)
                print(f'  {case.command} {" ".join(case.arguments)}   (word: {case.word!r})')
                lines = outcome.said.strip().splitlines()
                print('\n'.join(f'  | {line[:400]}' for line in lines[-1 if show else -12 :]))
    return outcomes


def main() -> int:
    """Command line."""
    from tests.fuzz.cases import CASES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('words', nargs='*', help='parts of names of cases')
    parser.add_argument('--show', action='store_true', help='print the last line of every case')
    args = parser.parse_args()
    chosen = [c for c in CASES if not args.words or any(word in c.name for word in args.words)]
    start = time.monotonic()
    outcomes = run(chosen, args.show)
    counts = Counter(outcome.verdict for outcome in outcomes)
    print(f'\n{len(outcomes)} bad inputs in {time.monotonic() - start:.0f} s')
    for kind in (MESSAGE, WORDLESS, TRACE, NOTHING, HANG, OTHER):
        print(f'{counts[kind]:>5}  {kind}')
    return len(outcomes) - counts[MESSAGE]


if __name__ == '__main__':
    sys.exit(min(main(), 100))
