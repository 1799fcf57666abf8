import gc
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from kdmm.datasets.workers import SignalSafeLoader, WorkerInit, close_workers, keep_through_signals

INTERVAL = 'torch.utils.data._utils.{}MP_STATUS_CHECK_INTERVAL'


class Slow:
    """Numbers, each after a while."""

    def __init__(self, wait: float = 0.05) -> None:
        self.wait = wait

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        time.sleep(self.wait)
        return index


def note(worker_id: int) -> None:
    torch.manual_seed(worker_id)


def loader(wait: float = 0.05, **changes: Any) -> DataLoader:
    made = DataLoader(Slow(wait), batch_size=2, **{'num_workers': 2, **changes})
    keep_through_signals(made)
    return made


def numbers(batches: Any) -> list[int]:
    return [int(number) for batch in batches for number in batch]


def workers() -> list[Any]:
    return multiprocessing.active_children()


@pytest.fixture(autouse=True)
def none_left():
    yield
    close_workers()
    stop = time.monotonic() + 20  # one that has read its last batch may be on its way out
    while workers() and time.monotonic() < stop:
        time.sleep(0.05)
    assert workers() == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('persistent', [False, True])
def test_workers_go_on_when_the_group_is_told_to_end(number, persistent):
    made = loader(persistent_workers=persistent)
    for _ in range(2):
        read = iter(made)
        first = next(read)
        for worker in workers() * 2:  # torchrun repeats what it gets
            os.kill(worker.pid, number)
        assert numbers([first, *read]) == list(range(12))


@pytest.fixture
def server():
    """The fork server, started anew."""
    found = multiprocessing.forkserver._forkserver
    found._stop()  # type: ignore[attr-defined]
    yield found
    found._stop()  # type: ignore[attr-defined]


def test_a_fork_server_goes_on_too(server):
    """It is a process of the group; its workers end with it."""
    made = loader(multiprocessing_context='forkserver', worker_init_fn=note, num_workers=1)
    read = iter(made)
    first = next(read)
    for pid in (*(worker.pid for worker in workers()), server._forkserver_pid):
        os.kill(pid, signal.SIGTERM)
    assert numbers([first, *read]) == list(range(12))


def test_the_loaders_own_function_is_called():
    called = []
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        WorkerInit(called.append)(3)
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    assert called == [3]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_they_start_is_not_lost_on_them(monkeypatch, number):
    """Between the fork and PyTorch's handlers, and between these and ours."""
    name = 'torch.utils.data._utils.signal_handling._set_worker_signal_handlers'
    real = torch.utils.data._utils.signal_handling._set_worker_signal_handlers

    def told() -> None:
        os.kill(os.getpid(), number)
        real()
        os.kill(os.getpid(), number)

    monkeypatch.setattr(name, told)
    assert numbers(loader()) == list(range(12))


def test_a_later_sigterm_ends_a_worker(monkeypatch):
    monkeypatch.setattr('kdmm.datasets.workers.ECHO', 0.0)
    made = loader(0.3, num_workers=1)
    read = iter(made)
    next(read)
    (worker,) = workers()
    with pytest.raises(RuntimeError, match='exited unexpectedly|killed by signal'):
        for _ in range(2):
            os.kill(worker.pid, signal.SIGTERM)
            time.sleep(0.1)
        list(read)
    worker.join()
    assert worker.exitcode == 143


@pytest.mark.parametrize('persistent', [False, True])
def test_closing_ends_them_at_once_and_the_loader_can_be_used_again(persistent):
    made = loader(persistent_workers=persistent)
    read = iter(made)
    next(read)
    made.itself = (made, read)  # a cycle, as a Runner is one
    began = time.monotonic()
    made.close()  # type: ignore[attr-defined]
    assert workers() == [] and time.monotonic() - began < 3
    assert numbers(made) == list(range(12))


def test_a_worker_in_the_midst_of_a_sample_is_ended(monkeypatch):
    monkeypatch.setattr(INTERVAL.format(''), 0.2)
    made = loader(60.0)
    read = iter(made)
    for worker in workers():
        os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.2)
    began = time.monotonic()
    made.close()  # type: ignore[attr-defined]
    assert workers() == [] and read is not None and time.monotonic() - began < 20


def gone(pid: int) -> bool:
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='looks processes up in /proc')
def test_they_end_when_the_main_process_is_killed(monkeypatch):
    monkeypatch.setattr(INTERVAL.format('worker.'), 0.2)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        read = iter(loader(num_workers=1))
        next(read)
        (worker,) = read._workers  # type: ignore[attr-defined]
        os.kill(worker.pid, signal.SIGTERM)  # which it ignores
        os.write(writer, str(worker.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    pid = int(os.read(reader, 20))
    os.waitpid(child, 0)
    deadline = time.monotonic() + 20
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(pid)


def test_loaders_of_other_classes_and_without_workers_stay():
    class Mine(DataLoader):
        pass

    mine = Mine(Slow(), num_workers=1)
    keep_through_signals(mine)
    assert type(mine) is Mine and mine.worker_init_fn is None
    alone = loader(0.0, num_workers=0)
    start = alone.worker_init_fn
    keep_through_signals(alone)
    assert type(alone) is SignalSafeLoader and alone.worker_init_fn is start
    assert numbers(alone) == list(range(12))


@pytest.mark.parametrize('loader_is_gone', [False, True])
def test_closing_ends_a_worker_whose_iterator_is_gone(monkeypatch, loader_is_gone):
    """PyTorch terminates one that does not end in time, which a worker takes for an echo."""
    made = loader(num_workers=1)
    read = iter(made)
    monkeypatch.setattr(type(read), '_shutdown_workers', lambda self: None)
    (worker,) = workers()
    del read
    gc.collect()
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert worker.is_alive()
    if loader_is_gone:
        del made
        gc.collect()
        close_workers()
    else:
        made.close()  # type: ignore[attr-defined]
    assert not worker.is_alive()


def _loads(loader: SignalSafeLoader) -> None:
    """Exit code 1 if the loader cannot start workers."""
    sys.exit(int(len(list(loader)) != 2))


def test_a_forked_process_does_not_take_its_parents_workers_for_its_own():
    """While those run; it cannot ask whether they are alive."""
    kept = SignalSafeLoader(range(4), batch_size=2, num_workers=1, persistent_workers=True)
    assert len(list(kept)) == 2
    child = multiprocessing.get_context('fork').Process(
        target=_loads, args=(SignalSafeLoader(range(4), batch_size=2, num_workers=1),)
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0 and len(list(kept)) == 2
    kept.close()
