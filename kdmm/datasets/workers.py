"""Workers of data loaders that outlive a signal to the process group, and end with their run.

A terminal sends Ctrl-C, torchrun and Slurm send SIGTERM, to all processes of a run. The main
process then finishes its iteration and saves, for which it needs its workers: PyTorch's die at
once, and the main process with them.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds within which another signal is taken for an echo of the first.
ECHO = 3.0


class SignalEchoFilter:
    """Distinguish a second signal from an echo of the first by a launcher or a terminal."""

    def __init__(self) -> None:
        self.received, self._at = 0, 0.0

    def again(self, number: int) -> bool:
        """Note a signal; whether it is one more after the first and its echoes."""
        now = time.monotonic()
        if self.received and now - self._at > ECHO:
            return True
        self.received, self._at = number, now
        return False


class WorkerInit:
    """The ``worker_init_fn`` of a `SignalSafeLoader`.

    The worker ignores Ctrl-C and the first SIGTERM (a later one it obeys): it ends when the main
    process closes the loader, and, as PyTorch's workers do, when there is no main process any more.

    Args:
        then: The loader's own ``worker_init_fn``, called after that.
    """

    def __init__(self, then: Callable[[int], Any] | None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Handle signals, then do what the loader asks for."""
        heard = SignalEchoFilter()

        def handle(number: int, frame: Any) -> None:
            if number == signal.SIGTERM and heard.again(number):
                os._exit(128 + number)

        for number in SIGNALS:
            signal.signal(number, handle)
        if hasattr(signal, 'pthread_sigmask'):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self.then is not None:
            self.then(worker_id)


class SignalSafeLoader(DataLoader):
    """A `DataLoader` whose workers start with signals blocked, until they can handle them."""

    def __iter__(self) -> Any:
        if self.num_workers and _start_method(self) != 'fork':
            resource_tracker.ensure_running()  # its start lets the signals in again
        with _blocked():
            iterator: Any = super().__iter__()
        if self.num_workers:
            _running.setdefault(self, weakref.WeakSet()).add(iterator)
            known = {worker: owner for worker, owner in _workers.items() if worker.is_alive()}
            _workers.clear()
            _workers.update(known | dict.fromkeys(iterator._workers, weakref.ref(self)))
        return iterator

    def close(self) -> None:
        """End the workers; the loader starts new ones if it is used again.

        Left to the garbage collector, that takes 5 s for each worker: of a cycle it closes the
        queues first, and the iterator cannot send its last word through them.
        """
        self._iterator = None
        for iterator in _running.pop(self, ()):
            iterator._shutdown_workers()
        _kill([worker for worker, owner in _workers.items() if owner() is self])


#: The iterators that started workers.
_running: 'weakref.WeakKeyDictionary[SignalSafeLoader, weakref.WeakSet[Any]]' = (
    weakref.WeakKeyDictionary()
)
#: All workers that may still run, and the loader of each, which may be gone.
_workers: 'dict[Any, weakref.ref[SignalSafeLoader]]' = {}


def _forget() -> None:
    """Forget iterators and workers, in a forked process: they are its parent's."""
    _running.clear()
    _workers.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget)


def _kill(workers: Iterable[Any]) -> None:
    """Kill workers that did not end when they were told to.

    They are in the midst of a sample, after the 5 s that PyTorch waits; or left over by an iterator
    that is gone, whose SIGTERM they took for one to the whole group.
    """
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()
        _workers.pop(worker, None)


def keep_through_signals(loader: Any) -> None:
    """Make a loader a `SignalSafeLoader`, in place; it holds for workers that start from now on.

    Args:
        loader: Left alone if it is of a class of its own, or one already.
    """
    if type(loader) is DataLoader:
        loader.worker_init_fn = WorkerInit(loader.worker_init_fn)
        loader.__class__ = SignalSafeLoader


@atexit.register  # later than those of PyTorch and multiprocessing, hence called before them
def close_workers() -> None:
    """End the workers of all `SignalSafeLoader` objects; the process would wait for them."""
    for loader in list(_running):
        loader.close()
    _kill(list(_workers))  # of loaders that are gone


def _start_method(loader: DataLoader) -> str | None:
    context = loader.multiprocessing_context
    return (multiprocessing if context is None else context).get_start_method()


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Let signals wait; processes that are started meanwhile, a fork server too, begin so."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
