"""Command line of ``tools/profile.py``."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from kdmm.config import objective_class, use_amp
from kdmm.engine.checks import check_data
from kdmm.engine.cli import command_line, launch
from kdmm.engine.dry_run import to_blank_data, to_dry_run
from kdmm.engine.memory_estimate import PROCESS
from kdmm.engine.profiling import ProfileLoop
from kdmm.engine.resources import MIB
from kdmm.engine.runner import build_runner
from kdmm.errors import ConfigError
from kdmm.utils.tables import for_stream

DESCRIPTION = 'Profile one training step of a config, and the memory that it needs'


def profile(argv: list[str] | None = None) -> None:
    """Estimate the memory of a run, measure its steps, print both."""
    parser = command_line(DESCRIPTION)
    parser.add_argument('--iters', type=int, default=10, help='iterations that count')
    parser.add_argument('--warmup', type=int, default=3, help='iterations before them')
    parser.add_argument(
        '--synthetic', action='store_true', help='blank images of the crop size, not the data set'
    )
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help='of --synthetic')
    parser.add_argument('--amp', choices=['float16', 'bfloat16'], help='mixed precision')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there, too')
    args = parser.parse_args(argv)

    def run(cfg: Config) -> None:
        with tempfile.TemporaryDirectory(prefix='kdmm_profile_') as folder:
            _profile(cfg, args, args.work_dir or folder)

    launch(args, run)


def _profile(cfg: Config, args: argparse.Namespace, work_dir: str) -> None:
    if args.iters < 1:
        raise ConfigError(key='--iters', got=args.iters, expected='at least 1')
    if args.warmup < 0:
        raise ConfigError(key='--warmup', got=args.warmup, expected='at least 0')
    if args.size and min(args.size) < 1:
        raise ConfigError(key='--size', got=args.size, expected='two positive numbers')
    if args.json and not args.json.resolve().parent.is_dir():
        raise ConfigError('there is no such folder', key='--json', got=str(args.json))
    if args.size and not args.synthetic:
        raise ConfigError(
            "the data set's pipeline says the size",
            key='--size',
            got=args.size,
            fix='Give --synthetic, too, or leave --size out.',
        )
    if not objective_class(cfg.get('kd') or {}).by_term:
        raise ConfigError(
            'its steps cannot be taken apart by term',
            key='kd.type',
            got=cfg.kd.type,
            fix=f'Time them beside the plain model: python -m benchmarks --steps {cfg.filename}',
        )
    if args.amp:
        use_amp(cfg, args.amp)
    loop = dict(type='kdmm.ProfileLoop', warmup=args.warmup, iters=args.iters)
    if args.synthetic:
        to_blank_data(cfg, args.size)
    else:
        check_data(cfg, ('train',))
    to_dry_run(cfg, loop, work_dir)
    runner = build_runner(cfg)
    runner.train()
    if is_main_process():
        found = figures(runner, cfg)
        print(report(found, runner.train_loop), flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2))


def figures(runner: Runner, cfg: Config) -> dict[str, Any]:
    """All measured figures, in ms and MiB."""
    loop: Any = runner.train_loop
    estimate = loop.estimate
    process = estimate.held.get(PROCESS, 0)
    return dict(
        config=cfg.filename,
        device=str(loop.monitor.device),
        world_size=runner.world_size,
        batch_size=cfg.train_dataloader.batch_size,
        iters=loop.iters,
        whole=loop.whole,
        parts=loop.parts,
        memory=dict(
            estimate_mib=estimate.total / MIB,
            peak_mib=loop.peak / MIB,
            process_mib=process / MIB,
            ratio=estimate.total / loop.peak,
            ratio_without_process=(estimate.total - process) / max(loop.peak - process, 1),
            held={name: size / MIB for name, size in estimate.held.items()},
            passing={name: size / MIB for name, size in estimate.passing.items()},
            not_estimated=estimate.notes,
        ),
    )


def report(found: dict[str, Any], loop: ProfileLoop) -> str:
    """Format the figures as text."""
    parts = {name: row for name, row in found['parts'].items() if name != 'communication'}
    total = sum(row['ms'] for row in parts.values())
    rows = [
        (name, f'{row["ms"]:.2f}', f'{row["ms"] / total:.1%}', f'{row["mib"]:.1f}')
        for name, row in parts.items()
    ]
    whole = sum(row['ms'] for row in found['whole'].values())
    rest = {
        'sum of the parts': total,
        'communication, within the parts above': found['parts']['communication']['ms'],
        'step as it is trained, with data and hooks': whole,
    }
    rows += [(name, f'{ms:.2f}', '', '') for name, ms in rest.items()]
    lines = [for_stream(('part', 'ms', 'share', 'added MiB'), rows, numbers=True)]
    memory = found['memory']
    lines += [
        '',
        f'memory: estimated {memory["estimate_mib"]:.0f} MiB, measured peak of a step '
        f'{memory["peak_mib"]:.0f} MiB, ratio {memory["ratio"]:.2f}',
    ]
    if memory['process_mib']:
        lines.append(f'without the process itself: ratio {memory["ratio_without_process"]:.2f}')
    if not loop.monitor.exact:
        lines.append('this system does not reset peaks: added MiB are lower bounds')
    return '\n'.join(lines)
