"""Ctrl-C and SIGTERM leave a checkpoint to resume from."""

import os
import signal
import time
from typing import Any

import torch
from mmengine.dist import all_reduce, get_comm_device, is_distributed, master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from kdmm.registry import HOOKS

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds within which another signal is taken for an echo of the first.
ECHO = 3.0


class Interrupted(SystemExit):
    """Training ended early on request; the exit code is the shell's, 128 + signal."""


@HOOKS.register_module()
class InterruptHook(Hook):
    """Finishes the running iteration, saves, and ends the process.

    All ranks agree through one small reduction an iteration, so that none waits for another that
    has left. A second signal ends at once, unless it follows within seconds: a terminal and
    torchrun both pass Ctrl-C on. In an epoch-based loop the checkpoint resumes at the beginning of
    the interrupted epoch.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._received, self._received_at = 0, 0.0
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Listen."""
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def after_train(self, runner: Any) -> None:
        """Stop listening."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Leave if any rank was told to."""
        number = self._agreed()
        if not number:
            return
        self.after_train(runner)
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch or runner.iter + 1 < runner.max_iters:
            path = self._save(runner)
            runner.logger.warning(
                f'{signal.Signals(number).name} at iteration {runner.iter + 1}: saved {path}. '
                'Repeat the command with --resume to go on'
            )
        raise Interrupted(128 + number)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:  # a data loader worker inherited this handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        now = time.monotonic()
        if self._received and now - self._received_at > ECHO:
            raise KeyboardInterrupt
        self._received, self._received_at = number, now

    def _agreed(self) -> int:
        """The highest signal number that any rank received, 0 for none."""
        if not is_distributed():
            return self._received
        flag = torch.tensor(self._received, device=get_comm_device())
        all_reduce(flag, 'max')
        return int(flag)

    @staticmethod
    def _save(runner: Any) -> str:
        done = runner.iter + 1
        epoch = runner.epoch
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        resume_at = epoch * len(runner.train_dataloader) if by_epoch else done
        name = f'iter_{done}.pth'
        meta = dict(epoch=epoch, iter=resume_at)
        runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
        path = os.path.join(runner.work_dir, name)
        _remember(runner, path)
        return path


@master_only
def _remember(runner: Any, path: str) -> None:
    with open(os.path.join(runner.work_dir, 'last_checkpoint'), 'w') as file:
        file.write(path)
