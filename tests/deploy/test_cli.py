"""Inputs that `tools/export.py` refuses."""

import sys

import pytest

from kdmm.deploy import cli
from kdmm.deploy.formats import BY_PROGRAM, TORCH
from tests.deploy.nets import UnknownOperator, tiny, write
from tests.distillers.tiny_models import TinyNet
from tests.errors import refused

for package in ('onnx', 'onnxruntime', *(['onnxscript'] * (TORCH >= BY_PROGRAM))):
    pytest.importorskip(package, reason=f'{package} (the extra export) is not installed')


def fails(capsys, code: int, *words: object) -> str:
    with pytest.raises(SystemExit) as info:
        cli.export([str(word) for word in words])
    printed = capsys.readouterr()
    assert info.value.code == code and printed.out == ''
    assert len(printed.err.splitlines()) == 1
    return printed.err


def test_a_failed_proof_is_exit_code_1_and_leaves_no_file(tmp_path, capsys, monkeypatch):
    files = write(tmp_path, tiny(TinyNet))
    right = cli.references_of

    def wrong(network):
        found = right(network)
        found[1].outputs['outputs'][2] *= 1.001
        return found

    monkeypatch.setattr(cli, 'references_of', wrong)
    (tmp_path / 'a.onnx').write_text('as it was')
    told = fails(capsys, 1, *files[:2], '--onnx', tmp_path / 'a.onnx', '--size', 8, 8, '--force')
    assert 'the output outputs differs by' in told and told.endswith('; nothing was written\n')
    assert (tmp_path / 'a.onnx').read_text() == 'as it was'
    assert not list(tmp_path.glob('*.part'))


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path, capsys):
    files = write(tmp_path, tiny(UnknownOperator))
    told = fails(capsys, 2, *files[:2], '--onnx', tmp_path / 'a.onnx', '--size', 8, 8)
    assert told.startswith('kdmm: error: --onnx: the operator ') and 'bessel_j0' in told
    assert not (tmp_path / 'a.onnx').exists()


def test_wrong_files_are_refused_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('KDMM_TRACEBACK', '1')
    monkeypatch.chdir(tmp_path)
    for name in ('a.pth', 'b.onnx'):
        (tmp_path / name).touch()

    def call(*words: str) -> None:
        cli.export(['nothing.py', 'a.pth', *words])

    with refused(problem='no file to write', fix='--onnx FILE'):
        call()
    with refused(key='--onnx', got='nowhere', problem='no such folder'):
        call('--onnx', 'nowhere/a.onnx')
    with refused(key='--onnx', got=str(tmp_path), problem='a folder'):
        call('--onnx', str(tmp_path))
    with refused(key='--onnx', got='a.pth', problem='the checkpoint'):
        call('--onnx', 'a.pth', '--force')
    with refused(key='--onnx', got='b.onnx', problem='the file exists', fix='--force'):
        call('--onnx', 'b.onnx')
    with refused(key='--torch-export', problem='the file of --onnx'):
        call('--onnx', 'c', '--torch-export', './c')
    with refused(key='--opset', got=17, problem='belongs to --onnx'):
        call('--torch-export', 'c.pt2', '--opset', '17')
    with refused(key='config', got='nothing.py'):
        call('--onnx', 'c.onnx')


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv('KDMM_TRACEBACK', '1')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with refused(key='--onnx', problem='pip install onnxruntime'):
        cli.export(['a.py', 'a.pth', '--onnx', str(tmp_path / 'a.onnx')])
