"""Estimate of a training run's memory before its first step."""

from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from torch import nn

from kdmm.distillers import CHILD
from kdmm.engine.resources import MIB, ResourceMonitor
from kdmm.engine.saved_tensors import total_bytes
from kdmm.engine.small_passes import student_pass, teacher_pass, term_passes
from kdmm.utils.models import unwrapped
from kdmm.utils.tables import plain

#: Memory of a process on CPU besides tensors.
PROCESS = 'process and libraries'


@dataclass
class Estimate:
    """Bytes by purpose.

    Attributes:
        held: Memory in use when the backward pass begins.
        passing: Temporary memory on top of that; only the largest entry counts.
        notes: Terms that could not be estimated.
    """

    held: dict[str, int] = field(default_factory=dict)
    passing: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Bytes at the highest point."""
        return sum(self.held.values()) + max(self.passing.values(), default=0)

    def __str__(self) -> str:
        rows = [*self.held.items()]
        rows += [(f'{name} (the largest of these)', size) for name, size in self.passing.items()]
        rows.append(('estimate', self.total))
        cells = [(name, f'{size / MIB:.1f} MiB') for name, size in rows]
        lines = [plain(('memory', 'size'), cells, numbers=True)]
        return '\n'.join([*lines, *(f'not estimated: {note}' for note in self.notes)])


def estimate_memory(runner: Any, batch: Any) -> Estimate:
    """Estimate the peak of one rank.

    The networks run on small crops, and copies of the terms on one image of noise at full size. The
    memory that they keep for the backward pass is scaled to the batch.

    On CPU the figure is for the whole process, as `ResourceMonitor` measures it.

    Args:
        runner: Whose model and optimizer are built; its hooks have had their ``before_run``.
        batch: A batch of its data loader.
    """
    student = unwrapped(runner.model)
    device = next(student.parameters()).device
    there = {key: total_bytes(value) for key, value in _existing(runner, student).items()}
    result = Estimate({**there, **_step_bytes(runner, student)})
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices):
        _add_passes(runner, student, batch, result)
    if device.type == 'cpu':  # the passes have loaded all libraries
        monitor = ResourceMonitor(device)
        monitor.settle()
        base = max(monitor.used() - sum(there.values()), 0)
        result.held = {PROCESS: base, **result.held}
    result.held = {name: size for name, size in result.held.items() if size}
    return result


def _step_bytes(runner: Any, student: nn.Module) -> dict[str, int]:
    """Memory added by the first backward pass and the optimizer's first step."""
    trained = total_bytes(p for p in student.parameters() if p.requires_grad)
    buckets = is_model_wrapper(runner.model) and not runner.model.gradient_as_bucket_view
    state = optimizer_bytes(runner.optim_wrapper.optimizer)
    return {'gradients': trained * (2 if buckets else 1), 'optimizer state': state}


def _add_passes(runner: Any, student: Any, batch: Any, result: Estimate) -> None:
    """Add the memory that a batch needs to ``result``."""
    optim, objective = runner.optim_wrapper, getattr(student, CHILD, None)
    data = student.data_preprocessor(batch, True)
    inputs, samples = data['inputs'], data['data_samples']
    result.held['batch'] = 2 * total_bytes([inputs])  # as loaded and as prepared, with labels
    kept = student_pass(student, optim, inputs, samples)
    result.held['activations of the student'] = kept.bytes
    result.passing['its largest activation and its gradient'] = 2 * kept.largest
    if objective is None:
        return
    for buffer in objective.buffers():  # the system gives memory to a page when it is written
        if buffer.is_floating_point():
            buffer.mul_(1)
    teachers = teacher_pass(objective, optim, inputs, samples)
    result.held['taps of the teacher'] = teachers.bytes
    result.passing['forward pass of the teacher'] = teachers.largest
    work = term_passes(objective, optim, kept.taps, teachers.taps, samples)
    result.held['kept by the losses'] = work.bytes
    result.held['filled by the losses'] = work.state
    result.passing['blocks of the losses'] = work.largest
    result.notes = work.notes


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Memory that an optimizer will hold for its parameters, from a step on a small tensor."""
    total = 0
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != 'params'}
        for dtype in {p.dtype for p in group['params']}:
            probe = nn.Parameter(torch.zeros(8, 8, dtype=dtype))
            probe.grad = torch.zeros_like(probe)
            stand_in: Any = type(optimizer)([dict(options, params=[probe])], lr=0.0)  # type: ignore[call-arg]
            stand_in.step()
            state = [x for x in stand_in.state[probe].values() if isinstance(x, torch.Tensor)]
            copies = sum(x.numel() * x.element_size() for x in state if x.ndim) / probe.numel()
            total += sum(int(p.numel() * copies) for p in group['params'] if p.dtype == dtype)
    return total


def _existing(runner: Any, student: nn.Module) -> dict[str, list[Any]]:
    """Tensors that exist before the first step."""
    objective: Any = getattr(student, CHILD, None)
    averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    found: dict[str, list[Any]] = dict(parameters=list(student.parameters()))
    found['buffers'] = list(student.buffers())
    if objective is not None:
        own = set(map(id, objective.buffers()))
        found['buffers'] = [x for x in found['buffers'] if id(x) not in own]
        found['teacher'] = [
            x
            for teacher in objective.teachers
            for x in (*teacher.module.parameters(), *teacher.module.buffers())
        ]
        found['queues'] = list(objective.buffers())
    found['weight average'] = [x for a in averages for x in (*a.parameters(), *a.buffers())]
    return found
