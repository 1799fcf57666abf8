#!/usr/bin/env python3
r"""Pretrain, finetune, and compare the starts: one table and one plot.

    python tools/compare_pretraining.py configs/small/pose/finetune.py \
        --pretrain configs/small/pose/pretrain.py --seeds 0 1 2 --work-dir work_dirs/pose_small

For each seed one set of initial weights of FINETUNE's model is written. Every PRETRAIN config
trains from its backbone; every arm finetunes from a complete checkpoint that differs from the
initial weights in the backbone alone. The first arm, `scratch`, is the initial weights themselves;
`--imagenet FILE` adds one with the backbone of a classification file, and `--start NAME=FILE` one
with that of any checkpoint; `{seed}` in FILE stands for the seed. What is finished is not repeated,
what was interrupted is resumed. The work dir gets `table.md`, `results.json` and `plot.png` of
finetuning, and the folders `weights`, `pretrain` (with the same files), `finetune`.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import SUMMARY, Comparison, refuse, refuse_foreign, report

TOOLS = Path(__file__).resolve().parent
SCRATCH, IMAGENET = 'scratch', 'imagenet'


def refuse_older(product: Path, sources: Sequence[Path]) -> None:
    """End where something was made before what it is made from."""
    for source in sources:
        both = product.is_file() and source.is_file()
        if both and source.stat().st_mtime > product.stat().st_mtime:
            raise SystemExit(
                f'{product} is older than {source}, from which it is made: delete it and what was '
                'made from it, or give another --work-dir'
            )


@dataclass
class FromWeights(Comparison):
    """Runs of which each begins with a file of its own.

    Attributes:
        key: Where the config names that file.
        starts: (arm, seed) to the file; a run without one counts as failed.
        shared: The config of all arms, where arms are not configs.
    """

    key: str = 'load_from'
    starts: dict[tuple[str, int], Path] = field(default_factory=dict)
    shared: str | None = None

    def file(self, config: str) -> str:
        """The shared config if there is one."""
        return self.shared or config

    def overrides(self, config: str, seed: int) -> list[str]:
        """With the file that the run begins with."""
        return [*super().overrides(config, seed), f'{self.key}={self.starts[config, seed]}']

    def run(self, config: str, seed: int) -> dict[str, Any] | None:
        """None where pretraining failed."""
        return super().run(config, seed) if (config, seed) in self.starts else None

    def claim(self) -> list[str]:
        """As the base; a finished run must be younger than what it began with."""
        for (config, seed), start in self.starts.items():
            refuse_older(self.folder(config, seed) / SUMMARY, [start])
        return super().claim()


@dataclass
class Weights:
    """The files that runs begin with, in ``folder``; each is written once.

    Attributes:
        folder: Where they are.
        library: Base library of the backbone, as ``tools/convert.py`` names it.
        finetune: Config whose initial weights all arms share.
    """

    folder: Path
    library: str
    finetune: str

    def initial(self, seed: int) -> Path:
        """The complete initial weights of a seed."""
        tool = ('init_checkpoint.py', self.finetune, '--seed', str(seed))
        return self._made(f'{SCRATCH}_seed{seed}', tool)

    def backbone(self, seed: int) -> Path:
        """The backbone of `initial`."""
        source = ('convert.py', str(self.initial(seed)), '--source-config', self.finetune)
        return self._made(f'{SCRATCH}_seed{seed}_backbone', (*source, '--to', self.library))

    def with_backbone(self, arm: str, seed: int, source: Sequence[str]) -> Path:
        """`initial` with the backbone of another checkpoint."""
        into = ('--to', self.library, '--config', self.finetune, '--into', str(self.initial(seed)))
        return self._made(f'{Path(arm).stem}_seed{seed}', ('convert.py', *source, *into))

    def _made(self, name: str, tool: Sequence[str]) -> Path:
        path = self.folder / f'{name}.pth'
        refuse_older(path, [word for word in map(Path, tool[1:]) if word.suffix == '.pth'])
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(TOOLS / tool[0]), *tool[1:], '--out', str(path)]
            print(' '.join(command), file=sys.stderr, flush=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f'{done.stdout}{done.stderr}')
            warnings = [line for line in done.stdout.splitlines() if line.startswith('warning')]
            print(*warnings, sep='\n', end='\n' * bool(warnings), file=sys.stderr, flush=True)
        return path


def pretrain(
    parser: argparse.ArgumentParser, args: argparse.Namespace, weights: Weights
) -> FromWeights:
    """Run the pretext tasks; the comparison knows where the runs are."""
    runs = [(arm, seed) for arm in args.pretrain for seed in args.seeds]
    comparison = FromWeights(
        configs=args.pretrain,
        seeds=args.seeds,
        work_dir=args.work_dir / 'pretrain',
        options=['model.backbone.init_cfg.type=Pretrained', *args.pretrain_options],
        metric=args.pretrain_metric,
        key='model.backbone.init_cfg.checkpoint',
        starts={(arm, seed): weights.backbone(seed) for arm, seed in runs},
    )
    refuse_foreign(parser, comparison)
    if args.pretrain:
        report(comparison, comparison.everything(args.jobs))
    return comparison


def starts(
    args: argparse.Namespace, weights: Weights, pretraining: FromWeights
) -> Iterator[tuple[tuple[str, int], Path]]:
    """Return the checkpoint from which each arm is finetuned."""
    for seed in args.seeds:
        yield (SCRATCH, seed), weights.initial(seed)
        for arm in args.pretrain:
            last = pretraining.folder(arm, seed) / 'last_checkpoint'
            if last.is_file() and (last.parent / 'run_summary.json').is_file():
                source = (last.read_text().strip(), '--source-config', arm)
                yield (arm, seed), weights.with_backbone(arm, seed, source)
        if args.imagenet:
            flags = ('--arch', args.imagenet_arch) if args.imagenet_arch else ()
            yield (IMAGENET, seed), weights.with_backbone(IMAGENET, seed, (args.imagenet, *flags))
        for name, file in args.start:
            checkpoint = file.replace('{seed}', str(seed))
            yield (name, seed), weights.with_backbone(name, seed, (checkpoint,))


def arms(args: argparse.Namespace) -> list[str]:
    """Of finetuning, in the order of the table."""
    given = [name for name, _ in args.start]
    return [SCRATCH, *args.pretrain, *([IMAGENET] if args.imagenet else []), *given]


def named_file(text: str) -> tuple[str, str]:
    """``NAME=FILE``."""
    name, _, file = text.partition('=')
    if not file or Path(name).stem != name:
        raise argparse.ArgumentTypeError(f'expected NAME=FILE, got {text!r}')
    return name, file


def finetune(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    weights: Weights,
    pretraining: FromWeights,
) -> int:
    """Run the arms, report them; how many runs failed."""
    comparison = FromWeights(
        configs=arms(args),
        seeds=args.seeds,
        work_dir=args.work_dir / 'finetune',
        options=args.finetune_options,
        metric=args.metric,
        starts=dict(starts(args, weights, pretraining)),
        shared=args.finetune,
    )
    refuse_foreign(parser, comparison)
    results = comparison.everything(args.jobs)
    comparison.work_dir = args.work_dir  # the result belongs on top
    return report(comparison, results)


def main() -> int:
    """Pretrain, compose, finetune; the number of failed finetuning runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('finetune', help='config of the downstream task')
    parser.add_argument('--pretrain', nargs='+', default=[], help='configs of pretext tasks')
    parser.add_argument('--imagenet', metavar='FILE', help='classification weights, an arm more')
    parser.add_argument('--imagenet-arch', metavar='NAME', help='their --arch for convert.py')
    parser.add_argument(
        '--start',
        nargs='+',
        type=named_file,
        default=[],
        metavar='NAME=FILE',
        help='arms from files',
    )
    parser.add_argument('--library', default='mmpose', help="the backbone's, as convert.py --to")
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare_pretraining'))
    parser.add_argument('--metric', default='pck/PCK', help='of finetuning')
    parser.add_argument('--pretrain-metric', default='jigsaw/patch_acc')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    for stage in ('pretrain', 'finetune'):
        parser.add_argument(f'--{stage}-options', nargs='+', default=[], help='as --cfg-options')
    args = parser.parse_args()
    weights = Weights(args.work_dir / 'weights', args.library, args.finetune)
    refuse(parser, [args.finetune, *args.pretrain], args.seeds, args.jobs)
    stems = [Path(arm).stem for arm in arms(args)]
    if len(set(stems)) < len(stems):
        parser.error(f'arms are repeated: {stems}')
    return finetune(parser, args, weights, pretrain(parser, args, weights))


if __name__ == '__main__':
    sys.exit(main())
