"""MCL's terms on MoCo against a double loop and reference numbers (docs/methods/mcl.md)."""

import itertools

import pytest
import torch
from torch import Tensor

from kdmm.functional import mutual_queue_contrast, queue_logits
from tests.errors import unfit
from tests.versions import cpu_autocast

from .test_mutual import CLOSE, fix, gradients, naive_kd, second_derivatives, unit


def problem(networks: int = 2, apart: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the reference numbers, also for more networks: queries, keys, queues."""
    shapes = ((4, 6), (4, 6), (16, 6))
    found = (
        torch.stack([unit(fix(shape, i + 1 + apart * kind)) for i in range(networks)])
        for kind, shape in enumerate(shapes)
    )
    queries, keys, queues = found
    return queries.requires_grad_(), keys, queues


def naive(q: Tensor, k: Tensor, queues: Tensor, tau=0.07, t=3.0) -> Tensor:
    rows = {}
    for i, j in itertools.product(range(len(q)), repeat=2):
        logits = [[q[i, b] @ x / tau for x in (k[j, b], *queues[j])] for b in range(q.shape[1])]
        rows[i, j] = torch.stack([torch.stack(row) for row in logits])
    total = [0, 0, 0, 0]
    for (i, j), logits in rows.items():
        entropy = -sum(row[0] - row.exp().sum().log() for row in logits) / len(logits)  # type: ignore[attr-defined]
        total[0 if i == j else 2] = total[0 if i == j else 2] + entropy
        if i != j:
            total[1] = total[1] + naive_kd(rows[i, i], rows[j, j], t, True)
            total[3] = total[3] + naive_kd(logits, rows[j, i], t, True)
    return torch.stack(total)


def test_oracle():
    terms = torch.stack(mutual_queue_contrast(*problem()))
    ours = torch.cat([terms, terms.sum()[None]])
    expected = [27.5015832134, 38.8692503707, 20.2268923639, 46.3925895755, 132.9903155234]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('networks', [2, 3, 4])
def test_value_and_gradient_of_each_term(networks):
    q, k, queues = problem(networks, 7)
    ours, loop = (
        torch.stack(tuple(form(q, k, queues, 0.2, 2.5))) for form in (mutual_queue_contrast, naive)
    )
    torch.testing.assert_close(ours, loop, **CLOSE)
    torch.testing.assert_close(gradients(ours, q), gradients(loop, q), **CLOSE)


def test_keys_and_queues_get_no_gradient():
    leaves = [x.detach().requires_grad_() for x in problem()]
    grads = torch.autograd.grad(sum(mutual_queue_contrast(*leaves)), leaves, allow_unused=True)
    assert grads[0].abs().max() > 0 and grads[1] is None and grads[2] is None


def test_keys_that_enter_before_the_backward_pass_are_refused():
    q, k, queues = problem()
    loss = sum(mutual_queue_contrast(q, k, queues))
    queues[:, :4] = k
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


def test_one_network_is_moco():
    q, k, queues = problem(1)
    terms = mutual_queue_contrast(q, k, queues)
    logits = queue_logits(q, k, queues)[0, 0]
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(terms.vcl, expected, **CLOSE)
    assert terms.icl == terms.soft_icl == 0 and terms.soft_vcl.abs() < 1e-14


def test_gradcheck():
    q, k, queues = problem()

    def hard(x):
        return tuple(mutual_queue_contrast(x, k, queues, 0.5)[::2])

    assert torch.autograd.gradcheck(hard, q) and torch.autograd.gradgradcheck(hard, q)


def test_second_derivatives_equal_those_of_the_loop():
    """In which the soft targets are constants, too."""
    v, keys, queues = problem(3, 7)
    ours, loop = (
        torch.stack(tuple(form(v, keys, queues, 0.2, 2.5)))
        for form in (mutual_queue_contrast, naive)
    )
    torch.testing.assert_close(second_derivatives(ours, v), second_derivatives(loop, v), **CLOSE)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_stays_near_float32(dtype):
    q, k, queues = (x.detach().to(dtype) for x in problem())
    k[0] = q[0]  # cosines of one
    q.requires_grad_()
    with cpu_autocast(dtype):
        terms = torch.stack(mutual_queue_contrast(q, k, queues))
        terms.sum().backward()
    exact = torch.stack(mutual_queue_contrast(q.detach().float(), k.float(), queues.float()))
    assert terms.dtype == torch.float32 and q.grad.isfinite().all()
    torch.testing.assert_close(terms.detach(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    'shapes',
    [
        ((4, 6), (4, 6), (16, 6)),
        ((2, 4, 6), (2, 3, 6), (2, 16, 6)),
        ((2, 4, 6), (2, 4, 6), (1, 16, 6)),
        ((2, 4, 6), (2, 4, 6), (2, 6, 16)),
    ],
)
def test_shapes(shapes):
    with unfit('form', **dict(zip(('queries', 'keys', 'queues'), shapes, strict=True))):
        mutual_queue_contrast(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize('key', ['tau', 'temperature'])
@pytest.mark.parametrize('value', [0, -1.0, float('nan')])
def test_temperatures(key, value):
    with pytest.raises(ValueError, match=f'{key} must be positive'):
        mutual_queue_contrast(*problem(), **{key: value})
