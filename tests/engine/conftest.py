"""One thread and one seed for every test, and runners that start quickly."""

import signal
from collections.abc import Iterator

import pytest

from tests.distillers.conftest import one_thread_one_seed  # noqa: F401


@pytest.fixture(autouse=True)
def quick_runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No look at compilers for the log; signal handlers as they were."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
