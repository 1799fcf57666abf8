"""Command lines of ``tools/convert.py`` and ``tools/init_checkpoint.py``; initial weights."""

import argparse
from collections import OrderedDict

from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import set_random_seed
from torch import Tensor

from kdmm.config import load_config
from kdmm.engine.cli import Overrides, run_command
from kdmm.engine.plain_model import built_model
from kdmm.errors import ConfigError
from kdmm.pretrained.libraries import MM, ZOO, silenced_logs
from kdmm.transfer.convert import convert
from kdmm.transfer.plan import Request
from kdmm.transfer.writing import Draft, check_out, tidy


def convert_command(argv: list[str] | None = None) -> None:
    """Convert, prove, print what was done and how to use the file."""
    parser = argparse.ArgumentParser(
        description='Write the backbone of a checkpoint for another library, and prove the file'
    )
    add = parser.add_argument
    add('checkpoint', help='path or URL: of MMEngine, torchvision, timm, or a bare state dict')
    add('--to', required=True, choices=MM + ZOO, help='library that is to load the file')
    add('--out', required=True, help='file to write')
    add('--config', help='config of the target, file or package::path; default the same network')
    add('--source-config', help='config of the checkpoint; default the one that it brings')
    add('--arch', help='model name in torchvision or timm, such as resnet50')
    add('--prefix', help="what stands before the backbone's keys; default 'backbone.' if it does")
    add('--container', help="the file's entry with the weights; default 'state_dict'")
    add('--branch', type=int, help='of networks that share a trunk: layer3_N is layer3')
    add('--drop', nargs='+', default=[], help='parts beside the trunk, such as projection_head')
    add('--into', metavar='FULL', help='complete checkpoint that gets the backbone; OUT is a copy')
    add('--also', nargs='+', default=[], help='with --into: further prefixes to carry over')
    add('--accept', nargs='+', default=[], help='differences that may be, although features change')
    add('--force', action='store_true', help='overwrite OUT')
    add('--unsafe', action='store_true', help='read files that can run code; for files you trust')
    add('--size', nargs=2, type=int, default=[64, 64], metavar=('H', 'W'), help="the proof's input")
    values = vars(parser.parse_args(argv))
    values |= {key: tuple(values[key]) for key in ('drop', 'also', 'accept', 'size')}
    run_command(lambda: print(convert(Request(**values))))


def fresh_command(argv: list[str] | None = None) -> None:
    """Write the initial weights of a config's model."""
    parser = argparse.ArgumentParser(
        description="Write the initial weights of a config's model, without anything pretrained"
    )
    parser.add_argument('config', help='config file, or package::path')
    parser.add_argument('--seed', type=int, required=True, help='the same seed, the same file')
    parser.add_argument('--out', required=True, help='file to write')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, default={}, help='overrides')
    args = parser.parse_args(argv)

    def write() -> None:
        if not 0 <= args.seed < 2**32:
            raise ConfigError(key='--seed', got=args.seed, expected='a number from 0 to 2**32 - 1')
        cfg = load_config(args.config, args.cfg_options)
        entries = write_fresh(cfg, args.seed, args.out, args.force)
        print(f'{args.out}: {entries} entries, seed {args.seed}, nothing pretrained')

    run_command(write)


def fresh_state(cfg: Config, seed: int) -> 'OrderedDict[str, Tensor]':
    """Draw the weights that ``cfg.model`` starts from under ``seed`` with nothing pretrained.

    All arms of a comparison can start from them.

    Raises:
        ConfigError: If there is no such model.
    """
    set_random_seed(seed)
    with silenced_logs():
        net = built_model(cfg)
        if isinstance(net, BaseModule):
            net.init_weights()
    return tidy(net.state_dict())


def write_fresh(cfg: Config, seed: int, out: str, force: bool = False) -> int:
    """Write `fresh_state` as ``dict(state_dict=...)``.

    Returns:
        Number of entries.

    Raises:
        ConfigError: If the model or the file is impossible.
    """
    check_out(out, force, [])
    state = fresh_state(cfg, seed)
    with Draft(out) as draft:
        draft.save(dict(state_dict=state))
        draft.commit()
    return len(state)
