"""Time and memory of intervals, each test in a process of its own."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

import kdmm.engine.resources
from kdmm.engine.resources import MIB, Interval, ResourceMonitor


def alone(measure: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(measure, *args).result()


def large_and_small() -> tuple[bool, Interval, Interval]:
    monitor = ResourceMonitor('cpu')
    with monitor.measure() as large:
        torch.ones(200 * MIB // 4)  # gone at the end, and counted
    with monitor.measure() as small:
        torch.ones(40 * MIB // 4)
    return monitor.exact, large, small


def test_a_stretch_has_a_peak_of_its_own() -> None:
    exact, large, small = alone(large_and_small)
    if not exact:
        pytest.skip('this system refuses to set the peak back: see the next test')
    assert 195 * MIB < large.added < 260 * MIB
    assert 35 * MIB < small.added < 100 * MIB
    assert large.peak > small.peak > small.added


def below_and_above(nowhere: Path) -> tuple[bool, Interval, Interval]:
    kdmm.engine.resources._CLEAR = nowhere
    monitor = ResourceMonitor('cpu')
    torch.ones(400 * MIB // 4)
    with monitor.measure() as below:
        torch.ones(40 * MIB // 4)
    used = monitor.peak() - monitor.used()
    with monitor.measure() as above:
        torch.ones((used + 100 * MIB) // 4)
    return monitor.exact, below, above


def test_without_a_reset_only_what_exceeds_the_peak_is_added(tmp_path: Path) -> None:
    """As on systems that refuse to set the peak back."""
    exact, below, above = alone(below_and_above, tmp_path / 'nowhere' / 'clear_refs')
    assert not exact
    assert below.added < 20 * MIB
    assert 80 * MIB < above.added < 160 * MIB


def beside_what_is_there() -> Interval:
    monitor = ResourceMonitor('cpu')
    kept = torch.ones(150 * MIB // 4)
    with monitor.measure() as interval:
        kept.add_(1)
    return interval


def test_what_is_there_already_is_not_added() -> None:
    interval = alone(beside_what_is_there)
    assert interval.added < 20 * MIB and interval.peak > 150 * MIB


def test_seconds() -> None:
    with ResourceMonitor('cpu').measure() as interval:
        time.sleep(0.05)
    assert 0.05 <= interval.seconds < 1
