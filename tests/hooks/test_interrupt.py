import copy
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import Runner as BaseRunner

from kdmm.engine import Runner
from kdmm.hooks import Interrupted, InterruptHook
from kdmm.hooks.ownership import objective_of
from kdmm.hooks.reproducible import restart_stream
from kdmm.registry import DATA_SAMPLERS
from tests.e2e.job import assert_same
from tests.engine.tiny_run import KD, by_epoch, config, files, validated


def load(path: Path) -> dict:
    return torch.load(path, weights_only=False)


@DATA_SAMPLERS.register_module(force=True)
class Reversed(DefaultSampler):
    """A sampler of one's own that knows nothing of positions."""

    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


@LOOPS.register_module(force=True)
class LoopOfSomebody(EpochBasedTrainLoop):
    """MMEngine's under another name."""


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


class SignalToTheGroup(Signal):
    """Its data loader workers get it, too."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            assert len(multiprocessing.active_children()) >= 2
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, self.number)
        super().before_train_iter(runner, batch_idx, data_batch)


class Replaced(Hook):
    """Trains with another loader from iteration 2 on, one that MMEngine builds."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 0:
            loader = BaseRunner.build_dataloader(runner.cfg.train_dataloader, seed=0)
            runner.train_loop.dataloader = loader
            restart_stream(runner.train_loop)


@pytest.mark.parametrize('kd', [None, KD])
@pytest.mark.parametrize('hooks', [[], [Replaced]])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_workers_serve_until_the_iteration_is_finished_and_end(tmp_path, rare, kd, hooks, number):
    loaders = dict(num_workers=2, persistent_workers=True)
    changes = {f'train_dataloader__{key}': value for key, value in loaders.items()}
    cfg = validated(rare(kd=kd, iters=8, **changes), interval=2)
    cfg.val_dataloader.update(loaders)
    made = Runner.from_cfg(cfg)
    for hook in hooks:
        made.register_hook(hook())
    made.register_hook(SignalToTheGroup(3, number))
    with pytest.raises(Interrupted):
        made.train()
    assert files(tmp_path) == ['iter_4.pth'] and multiprocessing.active_children() == []
    made.val()
    assert multiprocessing.active_children() == []


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
    monkeypatch.setattr('kdmm.datasets.workers.ECHO', -1.0)
    with pytest.raises(KeyboardInterrupt):
        interrupted(rare(), 1, times=2)
    assert files(tmp_path) == []


def test_at_the_last_iteration_of_an_iteration_based_run(tmp_path, rare):
    with pytest.raises(Interrupted):
        interrupted(rare(iters=4), 3)
    assert files(tmp_path) == ['iter_4.pth']


class Rates(Hook):
    """Notes what each iteration trains with."""

    priority = 'LOWEST'

    def __init__(self, seen: list) -> None:
        self.seen = seen

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        images = [sample.img_path for sample in data_batch['data_samples']]
        rates = [group['lr'] for group in runner.optim_wrapper.param_groups]
        weight = objective_of(runner.model).terms['kd'].progress
        self.seen.append((runner.epoch, runner.iter, batch_idx, images, rates, weight))


def in_epochs(folder: Path, **changes: object) -> Config:
    """Two epochs of 4 iterations with all that moves along."""
    kd = copy.deepcopy(KD)
    kd['losses']['kd']['weight'] = dict(type='Linear', start=0.1, stop=3.0, end=2, unit='epoch')
    cfg = by_epoch(config(folder, kd))
    cfg.param_scheduler = [
        dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=8, by_epoch=False),
        dict(type='MultiStepLR', milestones=[1], gamma=0.5, by_epoch=True),
    ]
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


def run(cfg: Config, seen: list, at: int | None = None) -> None:
    made = Runner.from_cfg(cfg)
    made.register_hook(Rates(seen))
    if at is None:
        made.train()
        return
    made.register_hook(Signal(at))
    with pytest.raises(Interrupted):
        made.train()


def resumed(cfg: Config) -> Config:
    cfg.resume = True
    return cfg


WORKERS = dict(train_dataloader__num_workers=1)
ACCUMULATED = dict(optim_wrapper__accumulative_counts=4)


@pytest.mark.parametrize(
    'at, left, changes',
    [
        (5, 6, {}),
        (1, 2, WORKERS),
        (3, 4, {}),  # the epoch's hooks have not run yet
        (7, 8, {}),
        (4, 8, ACCUMULATED),  # the step is waited for
        (5, 6, dict(train_dataloader__sampler=dict(type='kdmm.Reversed', _delete_=True))),
    ],
)
def test_an_epoch_goes_on_exactly_where_it_ended(tmp_path, at, left, changes):
    whole, parts = [], []
    run(in_epochs(tmp_path / 'whole', **changes), whole)
    run(in_epochs(tmp_path / 'parts', **changes), parts, at)
    assert len(parts) == left
    meta = load(tmp_path / f'parts/iter_{left}.pth')['meta']
    assert (meta['epoch'], meta['iter']) == ((left - 1) // 4, left)
    run(resumed(in_epochs(tmp_path / 'parts', **changes)), parts)
    assert parts == whole and len(whole) == 8
    assert set(files(tmp_path / 'parts')) == {*files(tmp_path / 'whole'), f'iter_{left}.pth'}
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        first, second = (load(tmp_path / folder / name) for folder in ('whole', 'parts'))
        keys = ('state_dict', 'ema_state_dict', 'kdmm', 'optimizer', 'param_schedulers')
        assert_same(*({key: one[key] for key in keys} for one in (first, second)))
        assert first['meta']['iter'] == second['meta']['iter']


def test_twice_in_one_epoch(tmp_path):
    whole, parts = [], []
    run(in_epochs(tmp_path / 'whole'), whole)
    run(in_epochs(tmp_path / 'parts'), parts, 0)
    run(resumed(in_epochs(tmp_path / 'parts')), parts, 2)
    run(resumed(in_epochs(tmp_path / 'parts')), parts)
    assert parts == whole


def test_a_checkpoint_by_iterations_within_an_epoch_resumes_there(tmp_path):
    """Not only a signal ends a run: the process may be killed."""
    hook = dict(type='CheckpointHook', by_epoch=False, interval=3)
    whole, rest = [], []
    run(in_epochs(tmp_path, default_hooks__checkpoint=hook), whole)
    again = resumed(in_epochs(tmp_path, default_hooks__checkpoint=hook))
    again.load_from = str(tmp_path / 'iter_6.pth')
    run(again, rest)
    assert rest == whole[6:]


def test_a_plain_run_keeps_the_order_of_its_images(tmp_path):
    """Augmentation is not seeded there; all else is exact."""

    def cfg(folder: str) -> Config:
        made = by_epoch(config(tmp_path / folder, kd=None))
        made.param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=8, by_epoch=False)]
        return made

    class Order(Rates):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            images = [sample.img_path for sample in data_batch['data_samples']]
            self.seen.append((runner.iter, images, runner.optim_wrapper.get_lr()))

    whole, parts = [], []
    for folder, seen, steps in (('whole', whole, [None]), ('parts', parts, [5, None])):
        for number, at in enumerate(steps):
            made = Runner.from_cfg(resumed(cfg(folder)) if number else cfg(folder))
            made.register_hook(Order(seen))
            if at is None:
                made.train()
            else:
                made.register_hook(Signal(at))
                with pytest.raises(Interrupted):
                    made.train()
    assert parts == whole


def test_an_epoch_of_another_length_goes_on_at_the_same_share_and_says_so(tmp_path, capsys):
    seen = []
    run(in_epochs(tmp_path), [], 5)  # 2 of 4 batches
    smaller = in_epochs(tmp_path, train_dataloader__batch_size=1, log_level='WARNING')
    run(resumed(smaller), seen)
    assert [entry[2] for entry in seen] == [4, 5, 6, 7]
    text = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert '2 batches into an epoch of 4' in text and 'begins at batch 5' in text


def test_a_loop_that_cannot_go_on_within_an_epoch_keeps_the_checkpoint_before(tmp_path):
    cfg = in_epochs(tmp_path)
    cfg.train_cfg.type = 'LoopOfSomebody'
    run(cfg, [], 5)
    assert 'iter_6.pth' in files(tmp_path)
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')


def test_a_signal_during_a_validation_is_obeyed_after_it(tmp_path, monkeypatch):
    class Val(Hook):
        def before_val(self, runner):
            os.kill(os.getpid(), signal.SIGTERM)

    made = Runner.from_cfg(validated(config(tmp_path, iters=4), interval=2))
    made.register_hook(Val())
    with pytest.raises(Interrupted):
        made.train()
    assert 'iter_2.pth' in files(tmp_path)


def test_a_forked_process_ends_on_sigterm_and_ignores_ctrl_c():
    """Those of a data set inherit the handler; Ctrl-C reaches the whole process group."""
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
    assert hook._heard.received == 0


def test_without_a_signal_nothing_happens(tmp_path):
    made = Runner.from_cfg(config(tmp_path))
    made.train()
    assert files(tmp_path) == ['iter_2.pth', 'iter_4.pth']
