"""Wall-clock time and peak memory of blocks of code.

On CUDA it is the memory that torch's allocator hands out, on CPU the resident memory of the whole
process, which contains the interpreter, its libraries and freed memory that the C library keeps.
``added`` leaves out the memory that was resident at the beginning.
"""

import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 2**20
_STATUS = Path('/proc/self/status')
_CLEAR = Path('/proc/self/clear_refs')


@dataclass
class Interval:
    """One measured interval.

    Attributes:
        seconds: Wall-clock time; the device is waited for at both ends.
        peak: Bytes at the highest point.
        added: ``peak`` without the bytes in use at the beginning.
    """

    seconds: float = 0.0
    peak: int = 0
    added: int = 0


class ResourceMonitor:
    """Measure time and memory of blocks on one device.

    Attributes:
        exact: Whether the peak can be reset, so that each interval has its own. Where the system
            refuses that (CPU, not Linux), an interval below an earlier peak adds 0.

    Args:
        device: Of the tensors.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.exact = self.reset()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def used(self) -> int:
        """Bytes in use."""
        if self.device.type == 'cuda':
            return torch.cuda.memory_allocated(self.device)
        return _status('VmRSS')

    def settle(self) -> None:
        """Give freed memory back to the system where the C library can."""
        if self.device.type == 'cpu':
            gc.collect()
            with suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)

    def peak(self) -> int:
        """Highest number of bytes in use since the last `reset`."""
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self.device)
        return _status('VmHWM')

    def reset(self) -> bool:
        """Set the peak back to the memory in use; return False where the system refuses."""
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        with suppress(OSError):
            _CLEAR.write_text('5')  # proc(5): resets the peak resident size
            return True
        return False

    @contextmanager
    def measure(self) -> Iterator[Interval]:
        """Measure a block; the result is filled in at its end."""
        result = Interval()
        self.synchronize()
        self.reset()
        base = self.used() if self.exact else self.peak()
        start = time.perf_counter()
        yield result
        self.synchronize()
        result.seconds = time.perf_counter() - start
        result.peak = self.peak()
        result.added = max(result.peak - base, 0)


class PartStatistics:
    """Time and added memory of named parts of a step, an entry an iteration.

    Attributes:
        peak: Highest number of bytes so far.
    """

    def __init__(self, monitor: ResourceMonitor) -> None:
        self.monitor, self.peak = monitor, 0
        self.seconds: dict[str, list[float]] = {}
        self.added: dict[str, list[int]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        with self.monitor.measure() as interval:
            yield
        self.seconds.setdefault(name, []).append(interval.seconds)
        self.added.setdefault(name, []).append(interval.added)
        self.peak = max(self.peak, interval.peak)

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


def _status(key: str) -> int:
    """A size of this process in bytes; without ``/proc`` its peak so far."""
    if _STATUS.exists():  # unlike getrusage's, these are not inherited from the parent process
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
