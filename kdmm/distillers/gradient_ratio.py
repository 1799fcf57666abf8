"""Gradient ratio of a term: its gradient norm at its taps over the task's.

It is measured beside the backward pass, for measured weights and for the log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdmm.distillers.term import Term
from kdmm.errors import ConfigError
from kdmm.functional.collective import sum_over_ranks, world_size
from kdmm.functional.maps import full_precision
from kdmm.taps import source_of, trained

#: Losses are multiplied by these for the measurement, so that float16 activations get gradients
#: that do not underflow; norms are divided by them.
SCALE, HALF_SCALE = 2.0**15, 2.0**10


class UnmeasurableError(RuntimeError):
    """The graph between loss and tap supports ``backward()`` only."""


class Norms(NamedTuple):
    """Gradient norms of a loss at its own activations, and of the task's at the same.

    Attributes:
        loss: Scalar.
        task: Scalar.
        reached: Whether the task's loss depends on any of the activations.
    """

    loss: Tensor
    task: Tensor
    reached: bool


def task_loss(losses: Mapping[str, Any]) -> Tensor:
    """Sum of the student's own losses, as MMEngine forms it of entries called ``loss``."""
    items = [value for key, value in losses.items() if 'loss' in key]
    flat = [x for item in items for x in (item if isinstance(item, list | tuple) else [item])]
    return torch.stack([x.mean().float() for x in flat]).sum() if flat else torch.zeros(())


def gradient_norms(
    task: Tensor, losses: Sequence[Tensor], activations: Sequence[Sequence[Tensor]]
) -> list[Norms]:
    """L2 norms of the gradients of one step.

    With several processes they are those of the mean over processes, which is what DDP trains on:
    equal on all ranks, and equal to one process's with the whole batch where a loss is a mean over
    images. The graph stays, and nothing is written to ``.grad``.

    Args:
        task: The student's own loss.
        losses: n scalars.
        activations: For each of them the tensors, n sequences.

    Raises:
        UnmeasurableError: If a module between a tap and a loss is activation-checkpointed in the
            reentrant form, or compiled so that its graph can be walked only once.
    """
    every = {id(x): x for group in activations for x in group}
    try:
        # the task's graph continues from the originals
        sources = [source_of(x) for x in every.values()]
    except NotImplementedError as error:
        raise UnmeasurableError(str(error)) from error
    with full_precision(task):
        own = dict(zip(every, _squares(task, sources), strict=True))
        squares = [
            torch.stack([_total(_squares(loss, group), loss), _total(_entries(own, group), loss)])
            for loss, group in zip(losses, activations, strict=True)
        ]
    norms = sum_over_ranks(torch.stack(squares)).sqrt() / world_size()  # (n, 2)
    reached = [any(own[id(x)] is not None for x in group) for group in activations]
    return [Norms(row[0], row[1], r) for row, r in zip(norms, reached, strict=True)]


def _entries(squares: Mapping[int, Tensor | None], group: Sequence[Tensor]) -> list[Tensor | None]:
    """Select the entries of ``group`` from a table by identity."""
    return [squares[id(x)] for x in group]


def _squares(loss: Tensor, activations: Sequence[Any]) -> list[Tensor | None]:
    """Squared norm of the gradient at each; None where ``loss`` does not depend on it."""
    if not loss.requires_grad or not activations:
        return [None] * len(activations)
    scale = HALF_SCALE if loss.dtype is torch.float16 else SCALE
    start = torch.full_like(loss, scale)
    try:
        grads = torch.autograd.grad(loss, activations, start, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        # reentrant checkpoints; graphs of torch.compile that give their buffers away
        if ('heckpoint' in str(error) and '.grad()' in str(error)) or 'donated' in str(error):
            raise UnmeasurableError(str(error)) from error
        raise
    return [None if grad is None else (_norm(grad) / scale).square() for grad in grads]


def _norm(grad: Tensor) -> Tensor:
    half = grad.dtype in (torch.float16, torch.bfloat16)
    norm = torch.linalg.vector_norm(grad, dtype=torch.float32 if half else None)
    return norm.float()


def _total(squares: Sequence[Tensor | None], like: Tensor) -> Tensor:
    known = [square for square in squares if square is not None]
    return torch.stack(known).sum() if known else like.new_zeros((), dtype=torch.float32)


#: Term and part.
Key = tuple[str, str]
#: Term name to its unweighted losses by part.
Values = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Share:
    """Gradient ratio of one part of a term, for the log.

    Attributes:
        label: ``<term>`` or ``<term>_<part>``.
        taps: The taps that the term reads.
        loss: The weighted loss.
        weight: Its weight.
        share: Norm of the weighted loss's gradient at the taps over that of the task's.
        wanted: Whether the weight is measured or not 0.
    """

    label: str
    taps: str
    loss: Tensor | float
    weight: Tensor | float
    share: Tensor | float
    wanted: bool


def measure_shares(
    terms: Sequence[Term],
    values: Values,
    taps: Mapping[str, Any],
    losses: Mapping[str, Any],
    line: bool,
) -> list[Share]:
    """Update measured weights by this step's gradients; return the entries of the log if wanted.

    Args:
        terms: All terms.
        values: The losses of the terms that are not idle.
        taps: Tap name to the student's activation.
        losses: The student's own losses.
        line: Whether the shares of all terms are wanted.

    Returns:
        The shares, or nothing.

    Raises:
        ConfigError: If a weight is to be measured at taps that the student's own loss does not
            depend on.
    """
    busy = [term for term in terms if term.name in values]
    wanted = {(term.name, part): term for term in busy for part in _wanted(term, line)}
    found = _norms(wanted, values, taps, losses) if wanted else {}
    for term in busy:
        for part, auto in term.weights.measuring().items():
            norms = found[term.name, part]
            if not norms.reached:
                raise ConfigError(
                    f"the student's own loss does not depend on {term.called}, so there is no "
                    'gradient to take a share of',
                    key=auto.name,
                    fix='Give a number.',
                )
            auto.observe(norms.task, norms.loss)
    if not line:
        return []
    return [_share(term, part, values, found) for term in terms for part in term.parts]


def _wanted(term: Term, line: bool) -> list[str]:
    """The parts (`WHOLE`: their sum) whose gradient is needed."""
    autos = list(term.weights.measuring())
    weighted = [part for part in term.parts if line and not _is_zero_now(term, part)]
    return list(dict.fromkeys(autos + weighted))


def _is_zero_now(term: Term, part: str) -> bool:
    return term.weights.auto(part) is None and float(term.weights.now(part)) == 0


def _norms(
    wanted: Mapping[Key, Term], values: Values, taps: Mapping[str, Any], losses: Mapping[str, Any]
) -> dict[Key, Norms]:
    """Norms of the unweighted losses and of the task's."""
    factors: list[Tensor | float] = []
    scalars, activations = [], []
    for (name, part), term in wanted.items():
        parts = values[name]
        value = parts[part] if part in parts else torch.stack(list(parts.values())).sum()
        factors.append(_size(term, part, value))
        scalars.append(factors[-1] * value)
        activations.append(list(trained(term.pick(taps))))
    norms = gradient_norms(task_loss(losses), scalars, activations)
    return {
        key: Norms(row.loss / factor, row.task, row.reached)
        for key, row, factor in zip(wanted, norms, factors, strict=True)
    }


def _size(term: Term, part: str, value: Tensor) -> Tensor | float:
    """Factor by which a loss is scaled for the measurement, so that gradients have a fit size."""
    if _is_zero_now(term, part) or value.dtype is torch.float16:
        return 1.0
    return _absolute(term.weights.now(part))


def _absolute(weight: Tensor | float) -> Tensor | float:
    return weight.abs() if isinstance(weight, Tensor) else abs(weight)


def _share(term: Term, part: str, values: Values, found: Mapping[Key, Norms]) -> Share:
    key = (term.name, part)
    weight = term.weights.now(part)  # this step's measurement has moved it
    loss: Tensor | float = 0.0
    share: Tensor | float = 0.0
    if term.name in values:
        loss = (weight * values[term.name][part]).detach()
    if key in found:
        share = _absolute(weight) * found[key].loss / found[key].task
    return Share(term.label(part), term.on, loss, weight, share, not _is_zero_now(term, part))
