"""Ctrl-C and SIGTERM: write a checkpoint to resume from, then end."""

import os
import signal
from typing import Any

import torch
from mmengine.dist import all_reduce, get_comm_device, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from kdmm.datasets.workers import SIGNALS, SignalEchoFilter, keep_through_signals
from kdmm.hooks.checkpoint import agree_to_save, has_stepped, remember
from kdmm.registry import HOOKS

#: What a loop that can go on within an epoch keeps in the message hub: (batches done, of how many).
BATCHES_DONE = 'batches_done'


class Interrupted(SystemExit):
    """Training ended early on request; the exit code is the shell's, 128 + signal."""


def end_at_once(number: int, frame: Any) -> None:
    """Handle a signal as Python does Ctrl-C; the exception says which it was."""
    raise KeyboardInterrupt(number)


@HOOKS.register_module()
class InterruptHook(Hook):
    """Finishes the running iteration, saves, and ends the process.

    All ranks agree through one small reduction an iteration, so that none waits for another that
    has left. With gradient accumulation the iterations up to the optimizer's step are finished,
    too. A second signal ends at once, unless it follows within seconds: a terminal and torchrun
    both pass Ctrl-C on. Workers of data loaders, which get the signal with the process group, go on
    until their loader is closed; see `kdmm.datasets.workers`.

    The run goes on exactly where it ended, also in the middle of an epoch. An epoch-based loop that
    does not keep its place within the epoch can only begin one anew: its file holds what was
    trained, but the checkpoint to go on from is still the one before.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._heard = SignalEchoFilter()
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Install the signal handlers."""
        self._keep_workers(runner)
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def before_train_epoch(self, runner: Any) -> None:
        """Shelter the workers of a loader that a hook has put in place."""
        self._keep_workers(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Shelter the workers of a loader that a hook has put in place."""
        self._keep_workers(runner)

    def after_train(self, runner: Any) -> None:
        """Restore the signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and end if any rank has received a signal."""
        self._keep_workers(runner)
        number = self._agreed()
        if not number or not has_stepped(runner.optim_wrapper):
            return
        self.after_train(runner)
        name = signal.Signals(number).name
        runner.logger.warning(f'{name} at iteration {runner.iter + 1}: {self._save(runner)}')
        raise Interrupted(128 + number)

    @staticmethod
    def _keep_workers(runner: Any) -> None:
        """Keep signals from the workers of loaders that the Runner has not built itself."""
        for loop in (runner.train_loop, runner.val_loop):
            keep_through_signals(getattr(loop, 'dataloader', None))

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:  # a process that was forked, and inherited this handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._heard.again(number):
            end_at_once(number, frame)

    def _agreed(self) -> int:
        """The highest signal number that any rank received, 0 for none."""
        if not is_distributed():
            return self._heard.received
        flag = torch.tensor(self._heard.received, device=get_comm_device())
        all_reduce(flag, 'max')
        return int(flag)

    @staticmethod
    def _save(runner: Any) -> str:
        """Save, and return a line for the log."""
        done = runner.iter + 1
        name = f'iter_{done}.pth'
        path = os.path.join(runner.work_dir, name)
        agree_to_save(runner, name)
        meta = dict(epoch=runner.epoch, iter=done)
        runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
        loop = runner.train_loop
        placed = BATCHES_DONE in runner.message_hub.runtime_info
        if isinstance(loop, EpochBasedTrainLoop) and not placed:
            return (
                f'saved {path}. {type(loop).__name__} can begin an epoch anew but not go on within '
                'one, so --resume starts from the checkpoint before, if there is one; to begin '
                'with the weights in this file use load_from'
            )
        remember(runner.work_dir, path)
        return f'saved {path}. Repeat the command with --resume to go on'
