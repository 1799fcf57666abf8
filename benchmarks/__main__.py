"""Time and memory of losses beside their textbook forms, of training steps, of data pipelines.

    python -m benchmarks                            every loss
    python -m benchmarks p2p memory --device cuda   two of them, on a GPU
    python -m benchmarks --steps configs/seg_kd/camvid_small_cirkd.py
    python -m benchmarks --pipeline configs/seg_kd/camvid_small_cirkd.py
    python -m benchmarks --taps                     what it costs to read them
    python -m benchmarks --phase                    L-MCL's meta-optimisation, beside an iteration
    python -m benchmarks --list

It runs in the folder of the checkout. Every figure comes from a fresh process; the rows of a table
take turns, and one whose times lie far apart is marked. ``added`` is the memory over imports and
inputs, ``peak`` the whole process on CPU (Python, torch, inputs) and all tensors on CUDA.
docs/benchmark.md says how to read the tables.
"""

import argparse
import difflib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from . import losses, phase, pipeline, steps, taps
from .cases import CASES
from .errors import stop


def parse_args() -> argparse.Namespace:
    """The command line; wrong names end with exit code 2."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('cases', nargs='*', help='losses by name, default all')
    parser.add_argument('--list', action='store_true', help='name the losses and stop')
    parser.add_argument('--steps', nargs='+', metavar='CONFIG', help='training steps instead')
    parser.add_argument('--pipeline', nargs='+', metavar='CONFIG', help='data pipelines instead')
    parser.add_argument('--taps', action='store_true', help='the reading of taps instead')
    parser.add_argument('--phase', action='store_true', help="L-MCL's phases instead")
    parser.add_argument('--samples', type=int, default=200, help='of --pipeline')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help='of --steps')
    parser.add_argument('--batch', type=int, help='of --steps, default as in the config')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='of --steps, --pipeline'
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='float32', help='float32, bfloat16 or float16')
    parser.add_argument(
        '--tf32', action='store_true', help='CUDA may round float32 products, of all forms alike'
    )
    parser.add_argument(
        '--threads', type=int, help="default all cores; of --pipeline 1, as a loader's worker has"
    )
    parser.add_argument('--rounds', type=int, default=2, help='fresh processes for each figure')
    parser.add_argument('--iters', type=int, default=3, help='of --steps, in each process')
    parser.add_argument(
        '--apart',
        action='store_true',
        help='--steps: one process at a time, where memory does not hold all rows at once',
    )
    parser.add_argument('--seconds', type=float, default=0.5, help='repeat fast forms for so long')
    parser.add_argument('--quick', action='store_true', help='small shapes, one call: does it run?')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures there')
    args = parser.parse_args()
    refuse(args)
    args.rounds = 1 if args.quick else args.rounds
    args.threads = args.threads or (1 if args.pipeline else len(os.sched_getaffinity(0)))
    return args


def refuse(args: argparse.Namespace) -> None:
    """End for what cannot work, in one line."""
    for name, value, known in (
        *(('loss', name, CASES) for name in args.cases),
        ('--dtype', args.dtype, ('float32', 'bfloat16', 'float16')),
    ):
        if value not in known:
            close = difflib.get_close_matches(value, known, 3, cutoff=0.3)
            hint = f'nearest: {", ".join(close)}' if close else f'known: {", ".join(known)}'
            stop(f'{name}: there is no {value!r}; {hint}')
    for option in ('threads', 'rounds', 'iters', 'batch', 'samples'):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            stop(f'--{option}: at least 1, not {getattr(args, option)}')
    if args.apart and not args.steps:
        stop('--apart: only with --steps; all others run one process at a time')
    kinds = [option for option in ('steps', 'pipeline', 'taps', 'phase') if getattr(args, option)]
    if kinds and args.cases:
        stop(f'--{kinds[0]} measures no losses; leave out {" ".join(args.cases)}')
    if len(kinds) > 1:
        stop(f'{" and ".join(f"--{kind}" for kind in kinds)}: one of them at a time')
    if args.pipeline and args.device != 'cpu':
        stop(f'--device {args.device}: a data pipeline runs on the CPU')
    if args.steps and args.device == 'cpu' and args.dtype != 'float32':
        stop(f'--dtype {args.dtype}: mixed precision training needs --device cuda')
    if args.device.split(':')[0] not in ('cpu', 'cuda'):
        stop(f'--device: cpu or cuda, not {args.device!r}')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        stop('--device cuda: torch sees no CUDA device')
    if args.json and not args.json.resolve().parent.is_dir():
        stop(f'--json: there is no folder {str(args.json.resolve().parent)!r}')


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the figures depend on."""
    cuda = args.device.startswith('cuda')
    name = torch.cuda.get_device_name(args.device) if cuda else platform.processor()
    given = {key: value for key, value in vars(args).items() if key not in ('json', 'list')}
    return dict(given, torch=torch.__version__, python=platform.python_version(), hardware=name)


def main() -> int:
    """Print tables as the figures come; 1 if a form of kdmm's failed or disagrees."""
    args = parse_args()
    if args.list:
        print('\n'.join(f'{name:<10} {case.what}' for name, case in CASES.items()))
        return 0
    kinds = dict(steps=steps, pipeline=pipeline, taps=taps, phase=phase)
    kind: Any = next((kinds[name] for name in kinds if getattr(args, name)), losses)
    names = list(taps.PLACES if args.taps else CASES)
    print(f'{args.device}, {args.threads} threads, {args.dtype}, torch {torch.__version__}\n')
    results: list[dict[str, Any]] = []
    for result in kind.measure(args.steps or args.pipeline or args.cases or names, args):
        results.append(result)
        print(kind.render(result), flush=True)
        if args.json:  # what is there so far survives an interrupt
            args.json.write_text(json.dumps(dict(settings=settings(args), results=results)))
    return int(not all(map(kind.sound, results)))


if __name__ == '__main__':
    sys.exit(main())
