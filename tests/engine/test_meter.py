"""Time and memory of stretches."""

import time
from pathlib import Path

import pytest
import torch

import kdmm.engine.meter
from kdmm.engine.meter import MIB, Meter


def test_a_stretch_has_a_peak_of_its_own() -> None:
    meter = Meter('cpu')
    if not meter.exact:
        pytest.skip('this system refuses to set the peak back: see the next test')
    with meter.stretch() as large:
        torch.ones(200 * MIB // 4)  # gone at the end, and counted
    with meter.stretch() as small:
        torch.ones(40 * MIB // 4)
    assert 195 * MIB < large.added < 260 * MIB
    assert 35 * MIB < small.added < 100 * MIB
    assert large.peak > small.peak > small.added


def test_without_a_reset_only_what_exceeds_the_peak_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems that refuse to set the peak back."""
    monkeypatch.setattr(kdmm.engine.meter, '_CLEAR', tmp_path / 'nowhere' / 'clear_refs')
    meter = Meter('cpu')
    assert not meter.exact
    torch.ones(400 * MIB // 4)
    with meter.stretch() as below:
        torch.ones(40 * MIB // 4)
    assert below.added < 20 * MIB
    used = meter.peak() - meter.used()
    with meter.stretch() as above:
        torch.ones((used + 100 * MIB) // 4)
    assert 80 * MIB < above.added < 160 * MIB


def test_what_is_there_already_is_not_added() -> None:
    meter = Meter('cpu')
    kept = torch.ones(150 * MIB // 4)
    with meter.stretch() as stretch:
        kept.add_(1)
    assert stretch.added < 20 * MIB and stretch.peak > 150 * MIB


def test_seconds() -> None:
    with Meter('cpu').stretch() as stretch:
        time.sleep(0.05)
    assert 0.05 <= stretch.seconds < 1
