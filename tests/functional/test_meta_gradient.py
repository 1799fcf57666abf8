"""The meta-gradient: toys with numbers by hand of autograd, both forms, finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kdmm.functional import meta_gradient

WD, MOMENTUM = 5e-4, 0.9
EXACT = torch.float64


def bilinear(lr: float, decay: float, steps: int, **options: Any) -> list[float]:
    """Steps along ``mean(v1^2) + sum(phi v2^2)``, then ``mean(v1 v2)``; v2 is (2, 2)."""
    theta = [torch.tensor([1.0, 3.0]), torch.tensor([[-1.0, -2.0], [1.0, 0.0]])]
    theta = [x.double() for x in theta]

    def step(now: list[Tensor], phi: list[Tensor]) -> Tensor:
        return now[0].square().mean() + (phi[0] * now[1].square()).sum()

    found = meta_gradient(
        [step] * steps,
        lambda now: (now[0] * now[1]).mean(),
        theta,
        [torch.zeros(2, 2).double()],
        lr,
        decay,
        **options,
    )
    return found.grads[0].flatten().tolist()


# of autograd through the unrolled steps, and for the published recursion of the authors' code
@pytest.mark.parametrize('form', ['adjoint', 'unrolled'])
@pytest.mark.parametrize(
    ('lr', 'decay', 'steps', 'expected'),
    [
        (0.1, 0.01, 10, (-1.195207385, -7.171244308, 1.195207385, 0)),
        (0.1, 5e-4, 3, (0.136245708, 0.817474248, -0.136245708, 0)),
        (0.01, 5e-4, 3, (0.026488831, 0.158932986, -0.026488831, 0)),
    ],
)
def test_steps_along_one_loss(form, lr, decay, steps, expected):
    assert bilinear(lr, decay, steps, form=form) == pytest.approx(expected, abs=1e-8)


def test_the_published_recursion_gives_the_published_numbers():
    expected = (-0.629019883, -3.774119297, 0.629019883, 0)
    found = bilinear(0.1, 0.01, 10, published_adjoint=True)
    assert found == pytest.approx(expected, abs=1e-8)
    right, published = (bilinear(0.1, 5e-4, 3, published_adjoint=p)[0] for p in (False, True))
    assert published / right == pytest.approx(0.984, abs=1e-3)  # 1.6 % off


@pytest.mark.parametrize('form', ['adjoint', 'unrolled'])
def test_two_steps_along_one_loss_and_one_along_another(form):
    """Also J, by its value after the steps."""
    theta, phi = (
        torch.tensor([1, -2, 0.5], dtype=EXACT),
        torch.tensor([0.2, -0.4, 0.1], dtype=EXACT),
    )
    place = torch.tensor([0.0, 1.0, 2.0]).double()

    def inner(now: list[Tensor], matching: list[Tensor]) -> Tensor:
        return (matching[0].sigmoid() * now[0].square()).sum()

    def outer(now: list[Tensor], _: Any = None) -> Tensor:
        return 0.5 * (now[0] - place).square().sum()

    found = meta_gradient([inner, inner, outer], outer, [theta], [phi], 0.1, WD, form=form)
    assert found.value.item() == pytest.approx(3.3863078185, abs=1e-9)
    expected = (-0.086724780, -0.786070519, 0.154029294)
    assert found.grads[0].tolist() == pytest.approx(expected, abs=1e-8)
    assert theta.tolist() == [1.0, -2.0, 0.5] and theta.grad is None and phi.grad is None


class Tiny(nn.Module):
    """Convolution, BN, and two classifiers, of which each loss uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, x: Tensor, head: str) -> Tensor:
        pooled = F.softplus(self.bn(self.conv(x))).mean((2, 3))
        return getattr(self, head)(pooled)


@pytest.fixture
def problem() -> dict[str, Any]:
    """Arguments of `meta_gradient`, of parameters with different rates."""
    torch.manual_seed(0)
    net = Tiny().double()
    x, labels = torch.randn(6, 2, 6, 6).double(), torch.tensor([0, 1, 0, 1, 1, 0])
    names = [name for name, _ in net.named_parameters()]

    def run(theta: list[Tensor], head: str) -> Tensor:
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        weights = dict(zip(names, theta, strict=True))
        return functional_call(net, {**weights, **buffers}, (x, head))

    def inner(theta: list[Tensor], phi: list[Tensor]) -> Tensor:
        return (phi[0].sigmoid() * run(theta, 'first').square().mean(1)).mean() + phi[1].sin()

    def outer(theta: list[Tensor], _: Any = None) -> Tensor:
        return F.cross_entropy(run(theta, 'second'), labels)

    return dict(
        steps=[inner, inner, outer],
        objective=outer,
        theta=list(net.parameters()),
        phi=[torch.randn(6).double(), torch.tensor(0.3).double()],
        lr=[0.05 * (1 + i) for i in range(len(names))],
        weight_decay=[0.01 * (i % 3) for i in range(len(names))],
        momentum=MOMENTUM,
    )


def test_forms_agree_and_leave_all_as_it_was(problem):
    before = [x.clone() for x in problem['theta']]
    found = [meta_gradient(**problem, form=form) for form in ('adjoint', 'unrolled')]
    for ours, theirs in zip(found[0].grads, found[1].grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    assert found[0].grads[0].abs().min() > 1e-9 and not found[0].grads[1]  # theta never sees it
    assert found[0].value == found[1].value and not found[0].value.requires_grad
    for now, was in zip(problem['theta'], before, strict=True):
        assert torch.equal(now, was) and now.grad is None


def test_agrees_with_finite_differences(problem):
    grads = meta_gradient(**problem).grads[0]
    phi, h = problem['phi'][0], 1e-4
    for place in range(len(phi)):
        values = []
        for sign in (1, -1):
            moved = phi.clone()
            moved[place] += sign * h
            values.append(meta_gradient(**{**problem, 'phi': [moved, problem['phi'][1]]}).value)
        assert grads[place].item() == pytest.approx(
            ((values[0] - values[1]) / (2 * h)).item(), rel=1e-5
        )


def test_decay_moves_parameters_that_no_loss_uses():
    """With momentum: after two steps of lr 0.1 and decay 0.5, v = 0.5, then 0.9 * 0.5 + 0.475."""
    theta = [torch.tensor([1.0]).double(), torch.tensor([1.0]).double()]
    found = meta_gradient(
        [lambda now, phi: (now[0] * phi[0]).sum()] * 2,
        lambda now: now[1].sum(),
        theta,
        [torch.tensor([1.0]).double()],
        0.1,
        0.5,
    )
    assert found.value.item() == pytest.approx(1 - 0.05 - 0.1 * (0.45 + 0.475), abs=1e-12)
    assert found.grads[0].item() == 0


@pytest.mark.parametrize('form', ['adjoint', 'unrolled'])
def test_a_constant_step_moves_nothing(form):
    theta, phi = torch.tensor([2.0], dtype=EXACT), torch.tensor([1.0], dtype=EXACT)
    steps = [
        lambda now, phi: torch.zeros((), dtype=EXACT),
        lambda now, phi: (now[0] * phi[0]).sum(),
    ]
    found = meta_gradient(steps, lambda now: now[0].sum(), [theta], [phi], 0.1, form=form)
    assert (found.value.item(), found.grads[0].item()) == pytest.approx((1.9, -0.1))


@pytest.mark.parametrize(
    'options', [dict(form='both'), dict(form='unrolled', published_adjoint=True)]
)
def test_other_forms_are_refused(options):
    with pytest.raises(ValueError, match='form'):
        bilinear(0.1, 0, 1, **options)
