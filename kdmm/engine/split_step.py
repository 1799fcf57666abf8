"""One training step taken apart, so that its parts can be measured."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from kdmm.distillers.objective import set_aside
from kdmm.distillers.term import gather_context
from kdmm.losses import Batch
from kdmm.taps import map_leaves, trained
from kdmm.utils.models import unwrapped


class Parts(Protocol):
    """Measurement of blocks by name."""

    def part(self, name: str) -> AbstractContextManager:
        """Attribute the block to ``name``."""


def detached_leaves(value: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """Detach the tensors of a nested activation that carry a gradient.

    ``pairs`` collects (tap, leaf) of them.
    """

    def detach(x: Tensor) -> Tensor:
        if not x.requires_grad:
            return x
        pairs.append((x, x.detach().requires_grad_()))
        return pairs[-1][1]

    return map_leaves(detach, value)


def split_step(runner: Any, batch: Any, parts: Parts) -> None:
    """Take the step of ``model.train_step`` in parts.

    The gradients of the losses stop at the taps. One backward pass through the student continues
    them together with the task's, so nothing is computed twice; DDP exchanges gradients in it. The
    sum of the parts exceeds the whole step a little, since each border waits for the GPU.

    Args:
        runner: With model and optimizer wrapper.
        batch: Of the data loader.
        parts: Gets ``preprocessing``, ``student forward``, ``teacher forward``, ``<term> forward``,
            ``<term> backward``, ``student backward`` and ``optimizer``.
    """
    model, optim = runner.model, runner.optim_wrapper
    student = unwrapped(model)
    pairs: list[tuple[Tensor, Tensor]] = []
    with optim.optim_context(model):
        with parts.part('preprocessing'):
            data = student.data_preprocessor(batch, True)
        with set_aside(student) as objective, parts.part('student forward'):
            record = objective.student_taps.record() if objective else nullcontext({})
            with record as taps:
                task = own_loss(student, model, data, objective)
        values = {}
        if objective is not None:
            objective.batch = Batch(data['inputs'], data['data_samples'])
            leaves = detached_leaves(taps, pairs)
            values = _terms(objective, leaves, data['inputs'], data['data_samples'], parts)
    for name, value in values.items():
        with parts.part(f'{name} backward'):
            value.backward()
    total = task
    for tap, leaf in pairs:
        if leaf.grad is not None:
            total = total + (tap * leaf.grad).sum().to(total.dtype)
    with parts.part('student backward'):
        optim.backward(total)
    with parts.part('optimizer'):
        optim.step()
        optim.zero_grad()


def own_loss(student: Any, model: Any, data: Mapping[str, Any], objective: Any) -> Tensor:
    """Run the student, whose objective is set aside, as the objective would; return its loss.

    One that learns without labels has none: 0.
    """
    if objective is None:
        return student.parse_losses(model(**data, mode='loss'))[0]
    seen = {**data, 'inputs': objective.seen(data['inputs'], data['data_samples'])}
    losses = model(**seen, mode=objective.task.mode)
    if not objective.task.one:
        losses = objective.task.weigh(losses)
    return student.parse_losses(losses)[0] if losses else torch.zeros(())


def _terms(
    objective: Any, taps: Mapping[str, Any], inputs: Any, samples: Sequence[Any], parts: Parts
) -> dict[str, Tensor]:
    """The sum of each term's weighted losses."""
    with parts.part('teacher forward'):
        outputs = [teacher(inputs, samples) for teacher in objective.teachers]
    result = {}
    for name, term in objective.terms.items():
        context = gather_context(term.loss.needs, samples)
        with parts.part(f'{name} forward'):
            if term.idle:
                losses = term.zero_losses(term.pick(taps))
            else:
                losses = term(term.pick(taps), term.pick(outputs[term.teacher]), **context)
            result[name] = torch.stack([loss.float() for loss in losses.values()]).sum()
    return result


def teacher_step(runner: Any, batch: Any) -> None:
    """A plain training step of the student, and the teachers' forward pass."""
    model, optim = runner.model, runner.optim_wrapper
    student = unwrapped(model)
    with optim.optim_context(model), set_aside(student) as objective:
        data = student.data_preprocessor(batch, True)
        with objective.student_taps.record() as taps:
            task = own_loss(student, model, data, objective)
        if not task.requires_grad:  # a backward pass from the taps stands for the terms' own
            task = torch.stack([x.float().mean() for x in trained(taps)]).sum()
        outputs = [teacher(data['inputs'], data['data_samples']) for teacher in objective.teachers]
    optim.update_params(task)
    del outputs
