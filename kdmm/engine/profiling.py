"""Training loop that measures the parts of a step instead of training."""

import os
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import is_distributed, is_main_process
from mmengine.runner import IterBasedTrainLoop

from kdmm.distillers import CHILD
from kdmm.engine.memory_estimate import Estimate, estimate_memory
from kdmm.engine.resources import PartStatistics, ResourceMonitor
from kdmm.engine.split_step import split_step, teacher_step
from kdmm.registry import LOOPS
from kdmm.utils.models import unwrapped

#: Names under which torch's profiler lists collectives of its backends.
COLLECTIVES = ('gloo:', 'nccl:', 'mpi:')


@LOOPS.register_module()
class ProfileLoop(IterBasedTrainLoop):
    """Estimate the memory, then measure whole steps, then split steps.

    Optimized weights do not change. BatchNorm statistics do, and so does a loss with its own
    optimizer.

    Attributes:
        estimate: Of the memory, made before the first step; None if not asked for.
        whole: Part to figures of complete steps: ``data wait``, ``hooks before``,
            ``step``, ``hooks after``.
        parts: Part to figures of split steps, see `split_step`; also ``communication``.
        seconds: Of every counted step, hooks included, waiting for data excluded.
        peak: Bytes at the highest point of the whole steps.
        added: ``peak`` without the bytes in use before the first.

    Args:
        runner: Given by the Runner.
        dataloader: Given by the Runner.
        warmup: Iterations that are not counted.
        iters: Iterations that are counted.
        apart: Whether to estimate the memory and to split steps.
        teacher_only: Take steps of the student with the teacher's forward pass, without terms.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        warmup: int = 3,
        iters: int = 10,
        apart: bool = True,
        teacher_only: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, max_iters=(2 * apart + 1) * (warmup + iters) + 1)
        self.warmup, self.iters, self.apart = warmup, iters, apart
        self.teacher_only = teacher_only
        self.estimate: Estimate | None = None
        self.parts: dict[str, dict[str, float]] = {}

    def run(self) -> Any:
        """Estimate and measure."""
        runner = self.runner
        torch.set_flush_denormal(True)  # random networks have them, trained ones do not
        _freeze(runner.optim_wrapper)
        if self.teacher_only:
            getattr(unwrapped(runner.model), CHILD).terms.clear()
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        runner.model.train()
        self.monitor = ResourceMonitor(next(runner.model.parameters()).device)
        if self.apart:
            self.estimate = estimate_memory(runner, next(self.dataloader_iterator))
            if is_main_process():
                print(f'before the first step\n\n{self.estimate}\n', flush=True)
        used, statistics = self.monitor.used(), self._repeat(self._whole)
        self.whole, self.peak = statistics.rows(self.warmup), statistics.peak
        self.added = max(statistics.peak - used, 0)
        work = [times for name, times in statistics.seconds.items() if name != 'data wait']
        self.seconds = [sum(times) for times in zip(*work, strict=True)][self.warmup :]
        if self.apart:
            self.parts = self._repeat(split_step).rows(self.warmup)
            self.parts['communication'] = dict(ms=self._communication() * 1e3)
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _repeat(self, step: Callable[[Any, Any, PartStatistics], None]) -> PartStatistics:
        statistics = PartStatistics(self.monitor)
        for _ in range(self.warmup + self.iters):
            with statistics.part('data wait'):
                batch = next(self.dataloader_iterator)
            with statistics.part('hooks before'):
                self._hook('before_train_iter', batch)
            step(self.runner, batch, statistics)
            with statistics.part('hooks after'):
                self._hook('after_train_iter', batch, outputs={})
            self._iter += 1
        return statistics

    def _whole(self, runner: Any, batch: Any, statistics: PartStatistics) -> None:
        with statistics.part('step'):
            if self.teacher_only:
                teacher_step(runner, batch)
            else:
                runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)

    def _hook(self, name: str, batch: Any, **given: Any) -> None:
        self.runner.call_hook(name, batch_idx=self._iter, data_batch=batch, **given)

    def _communication(self) -> float:
        """Seconds a step that collectives take, waiting for other ranks included."""
        if not is_distributed():
            return 0.0
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.monitor.device.type == 'cuda':
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        os.environ.setdefault('KINETO_LOG_LEVEL', '9')  # it reports on the error stream
        batches = [next(self.dataloader_iterator) for _ in range(self.iters)]
        with torch.profiler.profile(activities=activities) as profile:
            for batch in batches:
                self._hook('before_train_iter', batch)
                self._whole(self.runner, batch, PartStatistics(self.monitor))
                self._hook('after_train_iter', batch, outputs={})
                self._iter += 1
        spans = [e.time_range.elapsed_us() for e in profile.events() if _is_collective(e.name)]
        return sum(spans) * 1e-6 / self.iters


def _is_collective(name: str) -> bool:
    return name.lower().startswith(COLLECTIVES)


def _freeze(optim_wrapper: Any) -> None:
    """Set the learning rate to 0, so that random weights do not diverge."""
    for group in optim_wrapper.optimizer.param_groups:
        group['lr'] = 0.0
