"""The command ``kdmm`` and what it runs."""

import sys
from importlib import import_module

import pytest

import kdmm
from kdmm import __main__ as command
from kdmm.__main__ import COMMANDS, main


def leaving(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['kdmm'])
    assert leaving(name, '--help') == 0
    assert f'usage: kdmm {name} ' in capsys.readouterr().out


def test_the_help_lists_the_commands(capsys):
    assert leaving('--help') == 0
    out = capsys.readouterr().out
    assert all(f'\n  {name} ' in out for name in COMMANDS)


@pytest.mark.parametrize(
    'arguments, told',
    [((), 'usage: kdmm COMMAND'), (('trian',), "'trian'; nearest: train"), (('',), 'usage')],
)
def test_without_a_known_command_nothing_runs(arguments, told, capsys):
    assert leaving(*arguments) == 2
    caught = capsys.readouterr()
    assert told in caught.err and not caught.out


def test_the_version_is_the_packages(capsys):
    assert leaving('--version') == 0
    assert capsys.readouterr().out == f'kdmm {kdmm.__version__}\n'


def test_a_command_gets_the_arguments_after_its_name(monkeypatch):
    found = []
    monkeypatch.setattr(sys, 'argv', ['/bin/kdmm', 'convert', 'a.pth', '--to', 'timm'])
    monkeypatch.setattr(import_module('kdmm.transfer.cli'), 'convert_command', found.append)
    command.main()
    assert found == [['a.pth', '--to', 'timm']]
