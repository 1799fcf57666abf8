"""Wall-clock time and peak memory of stretches of code.

On CUDA memory is what torch's allocator hands out. On CPU it is the resident memory of the whole
process: it contains the interpreter and its libraries, and what the C library keeps of memory that
was freed. ``added`` leaves out what was resident when the stretch began.
"""

import ctypes
import gc
import resource
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
class Stretch:
    """One measured stretch.

    Attributes:
        seconds: Wall-clock time; the device is waited for at both ends.
        peak: Bytes at the highest point.
        added: The same without what was in use at the beginning.
    """

    seconds: float = 0.0
    peak: int = 0
    added: int = 0


class Meter:
    """Measures on one device.

    Attributes:
        exact: Whether the peak can be set back, so that a stretch's peak is its own. Where the
            system refuses that (CPU, not Linux), a stretch below an earlier peak adds 0.

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
        """Give freed memory back to the system, as far as its C library knows how to."""
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
        """Let the peak begin anew; whether that is possible."""
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        with suppress(OSError):
            _CLEAR.write_text('5')  # proc(5): resets the peak resident size
            return True
        return False

    @contextmanager
    def stretch(self) -> Iterator[Stretch]:
        """Measure a block; the result is filled in at its end."""
        result = Stretch()
        self.synchronize()
        self.reset()
        base = self.used() if self.exact else self.peak()
        start = time.perf_counter()
        yield result
        self.synchronize()
        result.seconds = time.perf_counter() - start
        result.peak = self.peak()
        result.added = max(result.peak - base, 0)


def _status(key: str) -> int:
    """A size of this process in bytes; where there is no ``/proc``, its peak so far."""
    if _STATUS.exists():  # unlike getrusage's, these are not inherited from the parent process
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
