"""One small file per run with what a comparison needs: time, memory, metrics."""

import json
import os
import resource
import statistics
import sys
import time
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_comm_device, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from kdmm.registry import HOOKS
from kdmm.utils.files import write_file

SUMMARY = 'run_summary.json'


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Writes ``run_summary.json`` into the work dir when training ends, if anything was trained or
    validated.

    Keys: ``seconds`` (training without validation), ``iterations`` (of this process),
    ``seconds_per_iteration`` (the median, so that neither validation nor a pause of the machine
    counts), ``peak_memory_mib`` (the highest of all ranks: device memory on CUDA,
    resident memory of the process on CPU), ``device``, ``world_size``, ``seed``, ``metrics`` (of
    the last validation) and ``metrics_at`` (its iteration).
    """

    priority = 'NORMAL'  # before the logger, which resets CUDA's peak

    def __init__(self) -> None:
        self._pause = self._peak = 0.0
        self._last: float | None = None
        self._steps: list[float] = []
        self._metrics: dict[str, float] = {}
        self._metrics_at, self._validated = 0, False

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self._first = runner.iter
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Any, batch_idx: int, *_: Any, **__: Any) -> None:
        """Record time and memory."""
        self._peak = max(self._peak, peak_memory_mib())
        now = time.perf_counter()
        if self._last is not None:
            self._steps.append(now - self._last)
        self._last = now

    def before_val(self, runner: Any) -> None:
        """Stop the clock."""
        self._last = None
        self._paused_at = time.perf_counter()

    def after_val(self, runner: Any) -> None:
        """Restart the clock."""
        self._pause += time.perf_counter() - self._paused_at

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the latest metrics."""
        self._metrics = {}
        for name, value in (metrics or {}).items():
            with suppress(TypeError, ValueError):  # class-wise lists, matrices, text
                self._metrics[name] = float(value)
        self._metrics_at, self._validated = runner.iter, True

    def after_train(self, runner: Any) -> None:
        """Write the file (first rank; memory is reduced over all)."""
        peak = torch.tensor(max(self._peak, peak_memory_mib()), device=get_comm_device())
        all_reduce(peak, 'max')
        done = runner.iter > self._first or self._validated
        if not is_main_process() or not done:  # a finished run was resumed
            return
        seconds = time.perf_counter() - self._start - self._pause
        iterations = runner.iter - self._first
        summary = dict(
            seconds=round(seconds, 3),
            iterations=iterations,
            seconds_per_iteration=round(statistics.median(self._steps), 5) if self._steps else None,
            peak_memory_mib=round(float(peak), 1),
            device='cuda' if torch.cuda.is_available() else 'cpu',
            world_size=runner.world_size,
            seed=runner.seed,
            metrics=self._metrics,
            metrics_at=self._metrics_at,
        )
        path = os.path.join(runner.work_dir, SUMMARY)
        try:
            write_file(path, json.dumps(summary, indent=2))
        except OSError as error:  # what was trained is saved
            runner.logger.warning(f'{path} cannot be written: {error}')


@HOOKS.register_module()
class FinalValidationHook(Hook):
    """Runs the last validation of a resumed run that was killed behind its last iteration."""

    priority = 'LOWEST'  # all others have begun

    def before_train(self, runner: Any) -> None:
        """Validate; the training loop then has nothing to do, and ends the run as usual."""
        runner.val_loop.run()


def lacks_final_validation(runner: Any, checkpoint: str) -> bool:
    """Return whether a finished run that is resumed still lacks its last validation.

    It has if its summary says so and is no older than the checkpoint. All ranks call this, and go
    by what the first finds.
    """
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    due = runner.val_loop is not None and done == last and done >= getattr(loop, 'val_begin', 1)
    found = False
    with suppress(OSError, ValueError, KeyError, TypeError):
        path = os.path.join(runner.work_dir, SUMMARY)
        with open(path) as file:
            validated = json.load(file)['metrics_at'] == runner.iter
        found = validated and os.path.getmtime(path) >= os.path.getmtime(checkpoint)
    return all_gather_object(due and not found)[0]


def peak_memory_mib() -> float:
    """Peak of this process so far: allocated device memory, or resident memory on CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)
