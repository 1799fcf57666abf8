"""Every term's share of the gradient: for weights that are measured, and for the running line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdmm.distillers.gradients import Norms, gradient_norms, task_loss
from kdmm.distillers.term import Term
from kdmm.errors import ConfigError
from kdmm.taps import trained

#: Term and part.
Key = tuple[str, str]
#: Term name to its unweighted losses by part.
Values = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Share:
    """One entry of the running line.

    Attributes:
        label: ``<term>`` or ``<term>_<part>``.
        taps: The taps that the term reads.
        loss: The weighted loss.
        weight: Its weight.
        share: Norm of the weighted loss's gradient at the taps over that of the task's.
        wanted: Whether a weight other than 0 asks for it.
    """

    label: str
    taps: str
    loss: Tensor | float
    weight: Tensor | float
    share: Tensor | float
    wanted: bool


def measure(
    terms: Sequence[Term],
    values: Values,
    taps: Mapping[str, Any],
    losses: Mapping[str, Any],
    line: bool,
) -> list[Share]:
    """Let weights that are measured see this step's gradients; the running line if asked for.

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
                    f"{auto.name}: the student's own loss does not depend on {term.called}, so "
                    'there is no gradient to take a share of; give a number'
                )
            auto.observe(norms.task, norms.loss)
    if not line:
        return []
    return [_share(term, part, values, found) for term in terms for part in term.parts]


def _wanted(term: Term, line: bool) -> list[str]:
    """The parts (`WHOLE`: their sum) whose gradient is needed."""
    autos = list(term.weights.measuring())
    weighted = [part for part in term.parts if line and not _known_zero(term, part)]
    return list(dict.fromkeys(autos + weighted))


def _known_zero(term: Term, part: str) -> bool:
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
    """The present weight's: losses are measured weighted, so that gradients are of a fit size."""
    if _known_zero(term, part) or value.dtype is torch.float16:
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
    return Share(term.label(part), term.on, loss, weight, share, not _known_zero(term, part))
