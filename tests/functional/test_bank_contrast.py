"""MCL's terms with banks against a double loop and reference numbers (docs/methods/mcl.md)."""

import itertools

import pytest
import torch
from torch import Tensor

from kdmm.functional import mutual_bank_contrast
from tests.versions import cpu_autocast

from .test_mutual import CLOSE, PAPER, fix, gradients, naive_kd, second_derivatives, unit


def problem(networks: int = 2, dim: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the reference numbers, also for more networks: anchors, banks, columns."""
    own = torch.arange(4) * 9
    columns = [own, own + 1, *(own + shift for shift in (4, 8, 12, 16, 20))]
    banks = torch.stack([unit(fix((32, dim), 10 + i)) for i in range(networks)])
    anchors = torch.stack([unit(fix((4, dim), 1 + i)) for i in range(networks)])
    return anchors.requires_grad_(), banks, torch.stack(columns, 1) % 32


def naive(v: Tensor, banks: Tensor, index: Tensor, tau=0.07, t=3.0, own_positive=True) -> Tensor:
    rows = {}
    for i, j in itertools.product(range(len(v)), repeat=2):
        scores = [[banks[i, c] @ v[j, b] / tau for c in index[b]] for b in range(len(index))]
        rows[i, j] = torch.stack([torch.stack(row) for row in scores])

    def hard(row, positives):
        return -sum(row[p] - row.exp().sum().log() for p in positives) / len(positives)

    total = [0, 0, 0, 0]
    for (i, j), scores in rows.items():
        if i == j:
            total[0] = total[0] + sum(hard(row[1:], [0]) for row in scores) / len(scores)
            continue
        total[1] = total[1] + naive_kd(rows[i, i][:, 1:], rows[j, j][:, 1:], t, True)
        for row in scores:
            item = hard(row, [0, 1]) if own_positive else hard(row[1:], [0])
            total[2] = total[2] + item / len(scores)
        total[3] = total[3] + naive_kd(scores, rows[j, i], t, True)
    return torch.stack(total)


@pytest.mark.parametrize('whole', [True, False, None])
def test_oracle(whole):
    terms = torch.stack(mutual_bank_contrast(*problem(), whole=whole))
    ours = torch.cat([terms, (PAPER * terms).sum()[None]])
    expected = [22.0107005215, 30.1171035430, 22.0565055012, 46.3045321086, 80.8283562538]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('own_positive', [True, False])
@pytest.mark.parametrize('networks', [2, 3, 4])
def test_value_and_gradient_of_each_term(networks, own_positive):
    v, banks, index = problem(networks)
    index[0, 1] = index[0, 0]  # a positive may be the image itself
    index[1, 2] = index[1, 3]  # and negatives may repeat
    banks = banks * 0.7  # rows need not be of unit length
    loop = naive(v, banks, index, 0.2, 2.5, own_positive)
    for whole in (True, False):
        options = dict(tau=0.2, temperature=2.5, icl_self_positive=own_positive, whole=whole)
        ours = torch.stack(mutual_bank_contrast(v, banks, index, **options))
        torch.testing.assert_close(ours, loop, **CLOSE)
        torch.testing.assert_close(gradients(ours, v), gradients(loop, v), **CLOSE)


def test_both_forms_agree():
    found = []
    for whole in (True, False):
        v, banks, index = problem(3)
        terms = torch.stack(mutual_bank_contrast(v, banks, index, whole=whole))
        found.append([terms, *gradients(terms, v)])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_only_anchors_get_gradients():
    v, banks, index = problem()
    banks.requires_grad_()
    loss = sum(mutual_bank_contrast(v, banks, index))
    grads = torch.autograd.grad(loss, (v, banks), allow_unused=True)
    assert grads[0].abs().max() > 0 and grads[1] is None


def test_one_network_has_its_own_contrast_only():
    v, banks, index = problem(1)
    terms = mutual_bank_contrast(v, banks, index)
    assert terms.vcl > 0 and terms.icl == terms.soft_icl == 0 and terms.soft_vcl.abs() < 1e-14


def test_equal_networks_and_banks_have_nothing_to_teach():
    v, banks, index = problem(1)
    v = v.detach().expand(4, -1, -1).clone().requires_grad_()
    terms = mutual_bank_contrast(v, banks.expand(4, -1, -1), index)
    assert terms.soft_vcl.abs() < 1e-13 and terms.soft_icl.abs() < 1e-13
    for grad in gradients((terms.soft_vcl, terms.soft_icl), v):
        assert grad.abs().max() < 1e-13


def test_second_derivatives():
    v, banks, index = problem(2)

    def hard(x):  # the soft terms' targets are detached, which no difference quotient knows
        return tuple(mutual_bank_contrast(x, banks, index, 0.5)[::2])

    assert torch.autograd.gradcheck(hard, v) and torch.autograd.gradgradcheck(hard, v)


def test_second_derivatives_equal_those_of_the_loop():
    """In which the soft targets are constants, too."""
    v, banks, index = problem(3)
    ours, loop = (
        torch.stack(tuple(form(v, banks, index, 0.2, 2.5)))
        for form in (mutual_bank_contrast, naive)
    )
    torch.testing.assert_close(second_derivatives(ours, v), second_derivatives(loop, v), **CLOSE)


@pytest.mark.parametrize('networks', [2, 6])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_with_cosines_of_one(dtype, networks):
    """exp(1 / 0.07) overflows float16."""
    sign = torch.tensor([1.0, -1.0])[torch.arange(16) % 2]
    row = torch.nn.functional.normalize(torch.ones(64), dim=0)
    banks = (sign[:, None] * row).expand(networks, -1, -1).to(dtype)
    v = (sign[:4, None] * row).expand(networks, -1, -1).clone().requires_grad_()
    index = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(0))
    with cpu_autocast(dtype):
        terms = torch.stack(mutual_bank_contrast(v, banks, index))
        terms.sum().backward()
    assert terms.dtype == torch.float32 and terms.isfinite().all() and v.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_anchors_are_rounded_once(dtype):
    v, banks, index = problem()
    half, banks = v.detach().to(dtype), banks.float()
    with cpu_autocast(dtype):
        ours = torch.stack(mutual_bank_contrast(half, banks, index))
    exact = torch.stack(mutual_bank_contrast(half.float(), banks, index))
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize('key', ['tau', 'temperature'])
@pytest.mark.parametrize('value', [0, -1.0, float('nan')])
def test_temperatures(key, value):
    with pytest.raises(ValueError, match=f'{key} must be positive'):
        mutual_bank_contrast(*problem(), **{key: value})


def test_a_bank_for_each_network():
    v, banks, index = problem(3)
    with pytest.raises(ValueError, match='2 banks for the anchors of 3 networks'):
        mutual_bank_contrast(v, banks[:2], index)
