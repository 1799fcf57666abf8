import os
import signal

import pytest
import torch
from mmengine.hooks import Hook

from kdmm.engine import Runner
from kdmm.hooks import Interrupted, InterruptHook
from tests.engine.tiny_run import by_epoch, config, files, validated


class Signal(Hook):
    """Sends ``number`` to this process in the middle of an iteration."""

    def __init__(self, at: int, number: int = signal.SIGTERM, times: int = 1) -> None:
        self.at, self.number, self.times = at, number, times

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def interrupted(cfg, at: int, number: int = signal.SIGTERM, times: int = 1) -> Runner:
    made = Runner.from_cfg(cfg)
    made.register_hook(Signal(at, number, times))
    made.train()
    return made


@pytest.fixture
def rare(tmp_path):
    """A run that saves at its end only."""
    return lambda **changes: config(tmp_path, default_hooks__checkpoint__interval=100, **changes)


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_iteration_is_finished_and_saved(tmp_path, rare, number, code):
    with pytest.raises(Interrupted) as info:
        interrupted(rare(), 1, number)
    assert info.value.code == code
    assert files(tmp_path) == ['iter_2.pth']
    content = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    assert content['meta']['iter'] == 2 and 'optimizer' in content and 'kdmm' in content
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')


def test_the_run_goes_on_to_the_same_weights(tmp_path, rare):
    Runner.from_cfg(config(tmp_path / 'whole', iters=4)).train()
    with pytest.raises(Interrupted):
        interrupted(rare(iters=4), 1)
    cfg = rare(iters=4)
    cfg.resume = True
    Runner.from_cfg(cfg).train()
    whole, parts = (
        torch.load(folder / 'iter_4.pth', weights_only=False)
        for folder in (tmp_path / 'whole', tmp_path)
    )
    for part in ('state_dict', 'kdmm'):
        assert all(torch.equal(parts[part][key], v) for key, v in whole[part].items())


def test_handlers_are_restored(rare):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    Runner.from_cfg(rare()).train()
    assert all(signal.getsignal(number) is handler for number, handler in before.items())
    with pytest.raises(Interrupted):
        interrupted(rare(), 1)
    assert all(signal.getsignal(number) is handler for number, handler in before.items())


def test_an_echo_of_the_first_signal_changes_nothing(tmp_path, rare):
    """The terminal and torchrun both pass Ctrl-C on."""
    with pytest.raises(Interrupted):
        interrupted(rare(), 1, times=2)
    assert files(tmp_path) == ['iter_2.pth']


def test_a_second_signal_ends_at_once(tmp_path, rare, monkeypatch):
    monkeypatch.setattr('kdmm.hooks.interrupt.ECHO', -1.0)
    with pytest.raises(KeyboardInterrupt):
        interrupted(rare(), 1, times=2)
    assert files(tmp_path) == []


def test_at_the_last_iteration_of_an_iteration_based_run(tmp_path, rare):
    with pytest.raises(Interrupted):
        interrupted(rare(iters=4), 3)
    assert files(tmp_path) == ['iter_4.pth']


def test_in_an_epoch_the_run_resumes_at_its_beginning(tmp_path):
    with pytest.raises(Interrupted):
        interrupted(by_epoch(config(tmp_path)), 5)  # 4 iterations an epoch
    assert files(tmp_path) == ['epoch_1.pth', 'iter_6.pth']
    meta = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['meta']
    assert (meta['epoch'], meta['iter']) == (1, 4)
    cfg = by_epoch(config(tmp_path))
    cfg.resume = True
    made = Runner.from_cfg(cfg)
    made.train()
    assert made.iter == 8 and 'epoch_2.pth' in files(tmp_path)


def test_at_the_last_iteration_of_an_epoch_based_run_nothing_is_lost(tmp_path):
    with pytest.raises(Interrupted):
        interrupted(by_epoch(config(tmp_path)), 7)
    assert len(files(tmp_path)) == 2  # epoch_1.pth and what was trained since


def test_a_signal_during_a_validation_is_obeyed_after_it(tmp_path, monkeypatch):
    class Val(Hook):
        def before_val(self, runner):
            os.kill(os.getpid(), signal.SIGTERM)

    made = Runner.from_cfg(validated(config(tmp_path, iters=4), interval=2))
    made.register_hook(Val())
    with pytest.raises(Interrupted):
        made.train()
    assert 'iter_2.pth' in files(tmp_path)


def test_a_worker_ends_on_sigterm_and_ignores_ctrl_c():
    """Data loader workers inherit the handler; Ctrl-C reaches the whole process group."""
    reader, writer = os.pipe()
    hook = InterruptHook()
    if (child := os.fork()) == 0:
        hook._handle(signal.SIGINT, None)
        os.write(writer, b'alive')
        hook._handle(signal.SIGTERM, None)
        os._exit(0)
    os.close(writer)  # so that reading ends if the child has died
    assert os.read(reader, 5) == b'alive'
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert hook._received == 0


def test_without_a_signal_nothing_happens(tmp_path):
    made = Runner.from_cfg(config(tmp_path))
    made.train()
    assert files(tmp_path) == ['iter_2.pth', 'iter_4.pth']
