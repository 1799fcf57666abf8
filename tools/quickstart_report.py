"""Table, pictures, curves and proof of the quick start, from what its runs left behind."""

import argparse
import io
import json
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstart_figures import curves, pictures
from verify_plain import verify

from kdmm.utils.tables import markdown

TITLES = {
    'teacher': 'teacher',
    'student': 'student alone',
    'student_cirkd': 'student with CIRKD',
}


@dataclass(frozen=True)
class Arm:
    """One trained network of the quick start.

    Attributes:
        name: Its config and work dir are called so.
        title: What a person reads.
        folder: Its work dir.
        summary: ``run_summary.json``.
        checkpoint: The last checkpoint.
    """

    name: str
    title: str
    folder: Path
    summary: dict[str, Any]
    checkpoint: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.folder / f'{self.name}.py'

    @property
    def miou(self) -> float:
        """MIoU in percent on the validation split, at the last iteration."""
        return float(self.summary['metrics']['mIoU'])


def read_arm(work: Path, name: str) -> Arm:
    """Read an arm's work dir.

    Raises:
        FileNotFoundError: It has no finished training.
        ValueError: Its summary lacks a key, or its last validation is not at the last iteration.
    """
    folder = work / name
    try:
        summary = json.loads((folder / 'run_summary.json').read_text())
        checkpoint = Path((folder / 'last_checkpoint').read_text().strip())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{folder} holds no finished training: {error.filename} is missing'
        ) from None
    wanted = (
        'seconds',
        'iterations',
        'peak_memory_mib',
        'world_size',
        'seed',
        'metrics',
        'metrics_at',
    )
    missing = [key for key in wanted if key not in summary]
    if missing or 'mIoU' not in summary['metrics']:
        raise ValueError(f'{folder}/run_summary.json lacks {", ".join(missing) or "metrics.mIoU"}')
    found = folder / checkpoint.name
    if found.name != f'iter_{summary["metrics_at"]}.pth':
        raise ValueError(
            f'{folder}: the last validation is at {summary["metrics_at"]}, not at {found.name}'
        )
    return Arm(name, TITLES[name], folder, summary, found)


def parameters(arm: Arm) -> float:
    """Parameters of an arm's network in millions, buffers left out."""
    import torch

    state = torch.load(arm.checkpoint, map_location='cpu', weights_only=False)['state_dict']
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    return sum(value.numel() for key, value in state.items() if not key.endswith(buffers)) / 1e6


def table(arms: list[Arm], sizes: list[float]) -> str:
    """The table of ``report.md``."""
    head = ('', 'mIoU', 'training', 'per iteration', 'peak memory', 'parameters')
    rows = []
    for arm, size in zip(arms, sizes, strict=True):
        run = arm.summary
        resumed = ' (resumed)' if run['iterations'] < run['metrics_at'] else ''
        rows.append(
            (
                arm.title,
                f'{arm.miou:.2f} %',
                f'{run["seconds"]:.0f} s' + resumed,
                f'{1000 * run["seconds"] / max(run["iterations"], 1):.0f} ms',
                f'{run["peak_memory_mib"]:.0f} MiB',
                f'{size:.2f} M',
            )
        )
    return markdown(head, rows)


def notes(arms: list[Arm]) -> str:
    """Notes on what the table shows and does not show."""
    teacher, alone, distilled = arms
    run = distilled.summary
    return (
        f'{run["metrics_at"]} iterations each on {run["world_size"]} processes; mIoU at the last '
        'iteration on the validation scenes;\ntraining time without validation; peak memory of the '
        'larger process, libraries included.\n'
        f'CIRKD minus alone: {distilled.miou - alone.miou:+.2f} points; teacher minus alone: '
        f'{teacher.miou - alone.miou:+.2f} points.\n'
        f'This is ONE seed ({run["seed"]}) and a short training: a difference of a few points may '
        'change its sign with the seed\nand says nothing about the method. docs/results/ compares '
        'several seeds on real data.'
    )


def report(work: Path) -> str:
    """Write ``report.md``, ``pictures.png`` and ``curves.png``; returns the text.

    Raises:
        FileNotFoundError: An arm is not trained.
        RuntimeError: The distilled checkpoint is not a plain one.
    """
    arms = [read_arm(work, name) for name in TITLES]
    proof = verify(str(arms[-1].config), str(arms[-1].checkpoint))
    pictures(arms, work / 'pictures.png')
    curves(arms, work / 'curves.png')
    text = '\n\n'.join([table(arms, [parameters(arm) for arm in arms]), notes(arms), proof])
    files = '\n'.join(f'{what:<9} {work / name}' for what, name in FILES)
    (work / 'report.md').write_text(f'{text}\n')
    return f'{text}\n\n{files}'


FILES = (('pictures', 'pictures.png'), ('curves', 'curves.png'), ('report', 'report.md'))


def main() -> int:
    """Print the report; 1 when something is missing or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work', type=Path, help='work dir of the quick start')
    work = parser.parse_args().work
    warnings.simplefilter('ignore')
    try:
        with redirect_stdout(io.StringIO()):  # the base libraries greet
            text = report(work)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        print(f'quickstart_report: {error}', file=sys.stderr)
        return 1
    print(f'\n{text}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
