"""Time and memory of each part of a step, over several steps."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from kdmm.engine.meter import MIB, Meter


class Ledger:
    """Seconds and added bytes of each part, an entry an iteration.

    Attributes:
        peak: The highest number of bytes seen.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter, self.peak = meter, 0
        self.seconds: dict[str, list[float]] = {}
        self.added: dict[str, list[int]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        with self.meter.stretch() as stretch:
            yield
        self.seconds.setdefault(name, []).append(stretch.seconds)
        self.added.setdefault(name, []).append(stretch.added)
        self.peak = max(self.peak, stretch.peak)

    def rows(self, skip: int) -> dict[str, dict[str, float]]:
        """Medians without the first ``skip`` iterations: part to ``ms``, ``min_ms``, ``mib``."""
        return {
            name: dict(
                ms=statistics.median(values[skip:]) * 1e3,
                min_ms=min(values[skip:]) * 1e3,
                mib=max(self.added[name][skip:]) / MIB,
            )
            for name, values in self.seconds.items()
        }
