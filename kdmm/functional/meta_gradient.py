"""Gradient of a loss after some steps of SGD, with respect to what the steps' losses depend on.

The meta-optimisation of L-MCL (arXiv 2207.11518, section 3.4), after arXiv 1905.05901.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .collective import mean_over_ranks

#: Loss of a step: parameters and meta-parameters -> a scalar.
StepLoss = Callable[[list[Tensor], list[Tensor]], Tensor]

FORMS = ('adjoint', 'unrolled')


class MetaGradient(NamedTuple):
    """Result of :func:`meta_gradient`.

    Attributes:
        value: J, the objective after the steps, on this rank.
        grads: dJ/dphi, of the mean over ranks, shaped like the meta-parameters.
    """

    value: Tensor
    grads: list[Tensor]


class _Descent(NamedTuple):
    """SGD's step: ``v <- momentum v + g + decay theta``, ``theta <- theta - lr v``."""

    lr: list[float]
    decay: list[float]
    momentum: float

    def move(
        self, theta: list[Tensor], velocity: list[Tensor], grads: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return parameters and velocities after a step."""
        velocity = [
            self.momentum * v + g + decay * x
            for v, g, decay, x in zip(velocity, grads, self.decay, theta, strict=True)
        ]
        moved = [x - lr * v for x, lr, v in zip(theta, self.lr, velocity, strict=True)]
        return moved, velocity


def meta_gradient(
    steps: Sequence[StepLoss],
    objective: Callable[[list[Tensor]], Tensor],
    theta: Sequence[Tensor],
    phi: Sequence[Tensor],
    lr: float | Sequence[float],
    weight_decay: float | Sequence[float] = 0.0,
    momentum: float = 0.9,
    form: str = 'adjoint',
    published_adjoint: bool = False,
) -> MetaGradient:
    """Differentiate ``objective(theta)`` after SGD steps by phi (arXiv 2207.11518, section 3.4).

    Each step is ``v <- momentum v + dL/dtheta + weight_decay theta`` and ``theta <- theta - lr v``,
    v 0 before the first. A parameter that a loss does not depend on has the gradient 0; weight
    decay and momentum still move it. Gradients are means over ranks, as DDP's, so that all ranks
    take the same steps.

    With A and B the derivatives of J by theta and v after a step, g and H the gradient and the
    Hessian of its loss, the adjoint form goes back through the steps by

    - ``C = B - lr A``,
    - ``dJ/dphi += (dg/dphi)^T C``,
    - ``A <- A (1 - lr weight_decay) + weight_decay B + H C``, ``B <- momentum C``.

    It computes a step's graph anew when it comes to it, but for the last, so one is held at a time;
    ``'unrolled'`` holds those of all steps and lets autograd do the rest. Both give the same
    numbers, if a step's loss is the same function whenever it is called: one that draws random
    numbers must draw the same ones again.

    Args:
        steps: Loss of each step, as a function of parameters and meta-parameters. It must be
            differentiable twice by the parameters.
        objective: J as a function of the parameters.
        theta: Parameters at the start; unchanged.
        phi: Meta-parameters; unchanged.
        lr: Learning rate of all parameters, or of each.
        weight_decay: Of all parameters, or of each.
        momentum: Of the steps; without Nesterov's look ahead.
        form: ``'adjoint'`` or ``'unrolled'``.
        published_adjoint: The recursion of the authors' code, which leaves out the factor
            ``weight_decay`` on B: ``A <- A (1 - lr weight_decay) + B + H C``.

    Raises:
        ValueError: If ``form`` is neither, or the published recursion is asked for unrolled.
    """
    if form not in FORMS or (published_adjoint and form != 'adjoint'):
        raise ValueError(f'form must be one of {FORMS}, the published one an adjoint, got {form!r}')
    descent = _Descent(_each(lr, theta), _each(weight_decay, theta), momentum)
    with torch.enable_grad():
        start, meta = _leaves(theta), _leaves(phi)
        if form == 'unrolled':
            return _unrolled(steps, objective, start, meta, descent)
        return _adjoint(steps, objective, start, meta, descent, published_adjoint)


def _unrolled(
    steps: Sequence[StepLoss],
    objective: Callable[[list[Tensor]], Tensor],
    theta: list[Tensor],
    phi: list[Tensor],
    descent: _Descent,
) -> MetaGradient:
    velocity = [torch.zeros_like(x) for x in theta]
    for step in steps:
        grads = _over_ranks(_grads(step(theta, phi), theta, create_graph=True))
        theta, velocity = descent.move(theta, velocity, grads)
    value = objective(theta)
    return MetaGradient(value.detach(), _over_ranks(_grads(value, phi)))


def _adjoint(
    steps: Sequence[StepLoss],
    objective: Callable[[list[Tensor]], Tensor],
    theta: list[Tensor],
    phi: list[Tensor],
    descent: _Descent,
    published: bool,
) -> MetaGradient:
    before, velocity = [], [torch.zeros_like(x) for x in theta]
    for step in steps:
        before.append(theta)
        last = len(before) == len(steps)
        local = _grads(step(theta, phi), theta, create_graph=last)
        with torch.no_grad():
            theta, velocity = descent.move(theta, velocity, _over_ranks(local))
        theta = _leaves(theta)
    value = objective(theta)
    by_theta = _over_ranks(_grads(value, theta))  # A
    by_velocity = [torch.zeros_like(x) for x in theta]  # B
    total = [torch.zeros_like(x) for x in phi]
    for number, (step, theta) in reversed(list(enumerate(zip(steps, before, strict=True)))):
        # C, the derivative of J by this step's velocity after it
        moved = [b - lr * a for a, b, lr in zip(by_theta, by_velocity, descent.lr, strict=True)]
        if number + 1 < len(steps):
            local = _grads(step(theta, phi), theta, create_graph=True)
        curved, mixed = _second_order(local, theta, phi, moved, number > 0)
        del local
        total = [t + m for t, m in zip(total, mixed, strict=True)]
        by_theta = [
            a * (1 - lr * decay) + (1 if published else decay) * b + h
            for a, b, h, lr, decay in zip(
                by_theta, by_velocity, curved, descent.lr, descent.decay, strict=True
            )
        ]
        by_velocity = [descent.momentum * c for c in moved]
    return MetaGradient(value.detach(), total)


def _second_order(
    grads: list[Tensor],
    theta: list[Tensor],
    phi: list[Tensor],
    along: list[Tensor],
    by_theta: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Products of a step's second derivatives with C: ``H C`` and ``(dg/dphi)^T C``.

    Before the first step there is nothing that ``H C`` would be needed for: without ``by_theta`` it
    is 0.
    """
    product = torch.stack([(g * c).sum() for g, c in zip(grads, along, strict=True)]).sum()
    if not by_theta:
        return [torch.zeros_like(x) for x in theta], _over_ranks(_grads(product, phi))
    found = _over_ranks(_grads(product, [*theta, *phi]))
    return found[: len(theta)], found[len(theta) :]


def _grads(loss: Tensor, inputs: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients of a loss; zeros for what it does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _over_ranks(grads: list[Tensor]) -> list[Tensor]:
    """Means over ranks, by one collective."""
    flat = mean_over_ranks(torch.cat([grad.flatten() for grad in grads]))  # n tensors -> (P,)
    parts = flat.split([grad.numel() for grad in grads])
    return [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]


def _leaves(values: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in values]


def _each(value: float | Sequence[float], theta: Sequence[Tensor]) -> list[float]:
    return [float(value)] * len(theta) if isinstance(value, int | float) else list(value)
