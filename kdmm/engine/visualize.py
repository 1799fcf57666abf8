"""Command line of ``tools/visualize.py``."""

import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from kdmm.datasets.puzzle import META_KEYS
from kdmm.engine.checks import check_data
from kdmm.engine.cli import command_line, launch
from kdmm.engine.runner import build_runner
from kdmm.errors import ConfigError
from kdmm.hooks.jigsaw_sheet import solve
from kdmm.visualization import jigsaw_sheet


def visualize(argv: list[str] | None = None) -> None:
    """Write a sheet of validation puzzles with the solutions of a checkpoint."""
    parser = command_line('Draw what a pretext network makes of its puzzles')
    parser.add_argument('checkpoint', help='a checkpoint of the pretext network')
    parser.add_argument('--out', type=Path, required=True, help='picture to write, .png or .jpg')
    parser.add_argument('--num', type=int, default=6, help='puzzles on the sheet')
    args = parser.parse_args(argv)

    def run(cfg: Config) -> None:
        _refuse(cfg, args.out, args.num)
        check_data(cfg, ('val',))
        cfg.load_from, cfg.strict_load, cfg.custom_hooks = args.checkpoint, True, []
        images, samples = _solved(build_runner(cfg), args.num)
        _write(jigsaw_sheet(images, samples), args.out)

    launch(args, run)


def _refuse(cfg: Config, out: Path, count: int) -> None:
    if count < 1:
        raise ConfigError(key='--num', got=count, expected='at least 1')
    if not out.resolve().parent.is_dir() or out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise ConfigError(
            key='--out', got=str(out), expected='a .png or .jpg in a folder that exists'
        )
    dataset = (cfg.get('val_dataloader') or {}).get('dataset') or {}
    pipeline = dataset.get('pipeline') or []
    kinds = [step['type'] for step in pipeline]
    if 'kdmm.ShufflePatches' not in kinds:
        raise ConfigError(
            key='val_dataloader.dataset.pipeline',
            got=kinds,
            expected='kdmm.ShufflePatches among them',
            fix='Give a pretext config, whose puzzles this draws, such as '
            'configs/hsjp/pretrain_simplebaseline_r50_256x192.py',
        )
    packed: Any = next((step for step in pipeline if step['type'] == 'PackPoseInputs'), {})
    if not set(META_KEYS) <= set(packed.get('meta_keys', ())):
        raise ConfigError(
            key='val_dataloader.dataset.pipeline: PackPoseInputs.meta_keys',
            got=packed.get('meta_keys'),
            expected=f'{", ".join(META_KEYS)} among them',
        )


def _solved(runner: Any, count: int) -> tuple[list[torch.Tensor], list[Any]]:
    """The first puzzles of the validation set: network inputs, and samples with predictions."""
    runner.logger.setLevel(logging.WARNING)
    runner.load_or_resume()
    loader = runner.build_dataloader(runner.cfg.val_dataloader)
    images: list[torch.Tensor] = []
    samples: list[Any] = []
    for batch in loader:
        few = count - len(images)
        inputs, wanted = list(batch['inputs'][:few]), list(batch['data_samples'][:few])
        samples += solve(runner.model, inputs, wanted)
        images += inputs
        if len(images) == count:
            break
    return images, samples


def _write(sheet: Any, path: Path) -> None:
    import cv2

    done, data = cv2.imencode(path.suffix.lower(), sheet[..., ::-1])
    if not done:
        raise ConfigError('OpenCV cannot write it', key='--out', got=str(path))
    path.write_bytes(data.tobytes())
    print(f'{path}: {sheet.shape[1]}x{sheet.shape[0]}')
