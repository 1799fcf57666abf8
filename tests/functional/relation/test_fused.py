"""The Triton kernels, in Triton's interpreter: no GPU is needed, and nothing is compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdmm.functional.relation import fused
from tests.versions import needs

pytest.importorskip('triton', reason='Triton is not installed')

CHECK = """
import torch
from kdmm.functional.relation import fused
with torch.no_grad():  # as in a validation
    for half in (False, True):
        print('wrong:', fused.disagreement(torch.device('cpu'), half, 7, 18))
"""


def interpret(code: str) -> str:
    """Run code with Triton interpreted; kernels choose that when they are defined."""
    needs('triton', '3.0', 'interpreter that runs without a GPU')
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_kernels_repeat_the_torch_forms():
    """Values and gradients of all three forms, masked, with odd sizes, in both precisions."""
    assert [line.strip() for line in interpret(CHECK).splitlines()] == ['wrong:', 'wrong:']


@pytest.mark.parametrize(
    'line, broken',
    [
        ('cross = cross * shrink', 'cross = cross'),
        ('d += tl.where(row_counts', 'd -= tl.where(row_counts'),
        ('* r_w[:, None]', ''),
        ('MASKED=mask is not None', 'MASKED=True'),
    ],
)
def test_the_comparison_notices_broken_kernels(line, broken, tmp_path):
    source = Path(fused.__file__).with_name('kernels.py').read_text()
    assert source.count(line) >= 1
    spoiled = f"""
import importlib.util, sys, pathlib, tempfile
path = pathlib.Path({str(tmp_path)!r}) / 'kernels.py'
spec = importlib.util.spec_from_file_location('kdmm.functional.relation.kernels', path)
module = importlib.util.module_from_spec(spec)
from kdmm.functional import relation
sys.modules['kdmm.functional.relation.kernels'] = relation.kernels = module
spec.loader.exec_module(module)
"""
    (tmp_path / 'kernels.py').write_text(source.replace(line, broken))
    out = interpret(spoiled + CHECK.replace('(False, True)', '(False,)'))
    assert ': error ' in out


@pytest.mark.parametrize(
    'result, served', [('', True), ('self: error 1.0 of 1.0', False), (RuntimeError('x'), False)]
)
def test_disagreement_or_failure_means_the_torch_form_and_one_warning(result, served, monkeypatch):
    def answer(*_):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(fused, 'disagreement', answer)
    fused.agrees.cache_clear()
    where = (torch.device('cuda', 0), True, 8, 8, 'ieee')
    try:
        if served:
            assert fused.agrees(*where)
        else:
            with pytest.warns(UserWarning, match='fused relation kernels are not used'):
                assert not fused.agrees(*where)
    finally:
        fused.agrees.cache_clear()
