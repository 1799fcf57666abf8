"""Hooks of the end-to-end configs: faults on request, through environment variables.

``E2E_BRIEF=1``: the process starts sooner, see brief.py.
"""

import errno
import os
import signal
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

if os.environ.get('E2E_BRIEF'):
    from brief import start_sooner

    start_sooner()


@HOOKS.register_module()
class AccidentHook(Hook):
    """One accident at iteration n.

    ``E2E_KILL_AT=n``: rank 0 gets SIGKILL after it. ``E2E_TERM_AT=n``: the last rank gets SIGTERM
    before it. ``E2E_NAN_AT=n``: a weight becomes NaN before it. ``E2E_FULL_DISK_AT=n``: the disk is
    full from it on.
    """

    priority = 'LOWEST'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if _due('E2E_NAN_AT', runner):
            next(runner.model.parameters()).data.fill_(torch.nan)
        if _due('E2E_FULL_DISK_AT', runner):
            os.fsync = _full
        if _due('E2E_TERM_AT', runner) and runner.rank == runner.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if _due('E2E_KILL_AT', runner) and runner.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _due(name: str, runner: Any) -> bool:
    return os.environ.get(name) == str(runner.iter + 1)
