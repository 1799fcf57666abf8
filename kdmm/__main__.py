"""The command ``kdmm``, or ``python -m kdmm``: what a user of the installed package types.

Each command is the function that the script of the same name in ``tools/`` calls, imported when it
is asked for.
"""

import sys
from importlib import import_module
from typing import NamedTuple

from kdmm.errors import nearest

PROGRAM = 'kdmm'


class Command(NamedTuple):
    """A function that takes the arguments after the command's name, and a line about it."""

    module: str
    function: str
    summary: str


COMMANDS = {
    'train': Command('kdmm.engine.cli', 'train', 'train a config; distil if it has a section kd'),
    'test': Command('kdmm.engine.cli', 'test', "evaluate a checkpoint with a config's metrics"),
    'profile': Command(
        'kdmm.engine.profile_cli', 'profile', "time and memory of a config's training step"
    ),
    'convert': Command(
        'kdmm.transfer.cli', 'convert_command', 'hand a backbone to another library'
    ),
    'export': Command('kdmm.deploy.cli', 'export', 'write a network as ONNX or for torch.export'),
    'init-checkpoint': Command(
        'kdmm.transfer.cli', 'fresh_command', "write the initial weights of a config's model"
    ),
    'prune': Command(
        'kdmm.transfer.prune', 'prune_command', 'write the network without its zero filters'
    ),
    'visualize': Command(
        'kdmm.engine.visualize', 'visualize', 'draw puzzles and how a pretext network solves them'
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names.

    Args:
        argv: Command and its arguments; default those of the process.

    Raises:
        SystemExit: 0 after ``--help`` or ``--version``, 2 without a command or with an unknown one,
            else the command's own.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ['']
    if name in ('-h', '--help'):
        print(_usage())
        raise SystemExit(0)
    if name == '--version':
        print(f'{PROGRAM} {import_module("kdmm").__version__}')
        raise SystemExit(0)
    if name not in COMMANDS:
        wrong = f'unknown command {name!r}; {nearest(name, COMMANDS)}' if name else _usage()
        print(f'{PROGRAM}: error: {wrong}' if name else wrong, file=sys.stderr)
        raise SystemExit(2)
    sys.argv[0] = f'{PROGRAM} {name}'  # what the command's own --help calls it
    command = COMMANDS[name]
    getattr(import_module(command.module), command.function)(rest)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f'  {name:<{width}}  {command.summary}' for name, command in COMMANDS.items()]
    return '\n'.join(
        [
            f'usage: {PROGRAM} COMMAND [arguments]',
            '',
            *lines,
            '',
            f'{PROGRAM} COMMAND --help lists the arguments; {PROGRAM} --version says the version.',
            f'Several processes: torchrun --nproc_per_node=N -m {PROGRAM} train CONFIG --launcher '
            'pytorch',
        ]
    )


if __name__ == '__main__':
    main()
