"""Command line of ``tools/export.py``."""

import argparse
from contextlib import ExitStack
from pathlib import Path

from kdmm.compat.packages import require
from kdmm.config import load_config
from kdmm.deploy.export import PARTS, network_of, peer_config
from kdmm.deploy.formats import (
    BY_PROGRAM,
    TORCH,
    default_opset,
    recorded_program,
    to_onnx,
    to_torch_export,
)
from kdmm.deploy.verify import prove_onnx, prove_torch_export, references_of
from kdmm.engine.cli import Overrides, run_command
from kdmm.errors import ConfigError
from kdmm.utils.files import Draft


def export(argv: list[str] | None = None) -> None:
    """Export a network, prove the files, print what they hold."""
    parser = argparse.ArgumentParser(
        description='Write the network of a checkpoint as ONNX or a torch.export archive, and '
        'prove that the file computes the same'
    )
    add = parser.add_argument
    add('config', help='config file, or package::path; its section kd is ignored')
    add('checkpoint', help='path or URL: a checkpoint of the plain network, ours or not')
    add('--onnx', metavar='FILE', help='.onnx to write')
    add('--torch-export', metavar='FILE', help='.pt2 to write, for torch.export.load')
    add(
        '--part',
        choices=PARTS,
        help="network: what the head gives; features: backbone and neck, detectors' default",
    )
    add('--size', nargs=2, type=int, metavar=('H', 'W'), help="default the training images'")
    add('--batch', type=int, metavar='N', help='fixed number of images; default any')
    add('--opset', type=int, metavar='N', help=f'of ONNX; default {default_opset()}')
    add('--peer', type=int, metavar='N', help='the checkpoint is peer<N>.pth of a cohort')
    add('--force', action='store_true', help='overwrite files')
    add('--unsafe', action='store_true', help='read a checkpoint that can run code, if trusted')
    add('--cfg-options', nargs='+', action=Overrides, default={}, help='overrides, key=value')
    args = parser.parse_args(argv)
    run_command(lambda: print(_export(args)))


def _export(args: argparse.Namespace) -> str:
    """Write and prove the files that are asked for; all of them, or none.

    Returns:
        The report.
    """
    _check_files(args)
    cfg = load_config(args.config, args.cfg_options)
    if args.peer is not None:
        peer_config(cfg, args.peer)
    network = network_of(cfg, args.checkpoint, args.part, args.size, args.batch, args.unsafe)
    program = None
    if args.torch_export or TORCH >= BY_PROGRAM:
        program = recorded_program(network, '--torch-export' if args.torch_export else '--onnx')
    references = references_of(network)
    lines = [str(network)]
    with ExitStack() as stack:
        drafts = []
        if args.onnx:
            opset = default_opset() if args.opset is None else args.opset
            drafts.append(stack.enter_context(Draft(args.onnx)))
            drafts[-1].write(to_onnx(network, opset, program))
            lines.append(f'proof: {prove_onnx(drafts[-1].path, references)}')
            lines.append(f'written: {args.onnx} ({_mebibytes(drafts[-1])}, ONNX opset {opset})')
        if args.torch_export:
            drafts.append(stack.enter_context(Draft(args.torch_export)))
            drafts[-1].write(to_torch_export(network, program))
            lines.append(f'proof: {prove_torch_export(drafts[-1].path, references)}')
            lines.append(f'written: {args.torch_export} ({_mebibytes(drafts[-1])})')
        for draft in drafts:
            draft.commit()
    return '\n'.join(lines)


def _check_files(args: argparse.Namespace) -> None:
    """Refuse files and packages that the export would find missing at its end."""
    files = {'--onnx': args.onnx, '--torch-export': args.torch_export}
    named = {flag: Path(name) for flag, name in files.items() if name}
    if not named:
        raise ConfigError('no file to write', fix='Give --onnx FILE, --torch-export FILE or both.')
    if args.opset is not None and not args.onnx:
        raise ConfigError('it belongs to --onnx', key='--opset', got=args.opset)
    if len(set(map(Path.resolve, named.values()))) < len(named):
        raise ConfigError('this is the file of --onnx', key='--torch-export', got=args.onnx)
    for flag, path in named.items():
        if not path.parent.is_dir():
            raise ConfigError('there is no such folder', key=flag, got=str(path.parent))
        if path.is_dir():
            raise ConfigError('this is a folder', key=flag, got=str(path), expected='a file')
        if Path(args.checkpoint).resolve() == path.resolve():
            raise ConfigError('this is the checkpoint', key=flag, got=str(path))
        if path.exists() and not args.force:
            raise ConfigError(
                'the file exists', key=flag, got=str(path), fix='Overwrite it with --force.'
            )
    if args.onnx:
        for package in ('onnx', *(['onnxscript'] * (TORCH >= BY_PROGRAM)), 'onnxruntime'):
            require(package, '--onnx')


def _mebibytes(draft: Draft) -> str:
    return f'{Path(draft.path).stat().st_size / 2**20:.1f} MiB'
