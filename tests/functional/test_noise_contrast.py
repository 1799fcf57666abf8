"""The NCE of positive and negatives against loops and reference numbers (arXiv 1910.10699).

The numbers were computed in float64 with the authors' public code (their form, with eps) and with
the formula on unit rows of ``fix`` (docs/methods/README.md).
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from kdmm.functional import (
    cross_bank_scores,
    log_partition,
    mutual_noise_contrast,
    noise_contrast,
)
from tests.errors import unfit
from tests.versions import cpu_autocast

from .test_mutual import CLOSE, fix, unit

EXACT = dict(rtol=0, atol=1e-9)
TAU, SAMPLES = 0.07, 40
#: Columns of an image: itself, then so far behind it, mod 40.
SHIFTS = (0, 5, 6, 7, 8, 9, 14, 15)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def columns() -> Tensor:
    return (torch.tensor([3, 13, 23, 33])[:, None] + torch.tensor(SHIFTS)) % SAMPLES


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Anchors (2, 4, 6) and banks (2, 40, 6) of student and teacher, and columns."""
    anchors = torch.stack([unit(fix((4, 6), 1)), unit(fix((4, 6), 2))])
    banks = torch.stack([unit(fix((40, 6), 10)), unit(fix((40, 6), 11))])
    return anchors.requires_grad_(), banks, columns()


def random_scores(shape: tuple[int, ...]) -> Tensor:
    return fix(shape, 3).clone().requires_grad_()


def naive(scores: Tensor, z: float, samples: int, eps: float = 0.0) -> Tensor:
    """One batch (B, 1 + K) entry by entry, by the published formula."""
    total, noise = torch.zeros((), dtype=torch.float64), (scores.shape[1] - 1) / samples
    for row in scores:
        for column, score in enumerate(row):
            data = score.exp() / z
            share = data / (data + noise + eps) if column == 0 else noise / (data + noise + eps)
            total = total - share.log()
    return total / len(scores)


def test_reference_numbers():
    anchors, banks, index = problem()
    scores = cross_bank_scores(anchors, banks, index, TAU)
    log_z = log_partition(scores, SAMPLES)
    expected_z = numbers(129416.153645, 59046.067796)
    torch.testing.assert_close(log_z.exp(), expected_z, rtol=0, atol=5e-7)  # as many digits
    published = noise_contrast(scores, log_z, SAMPLES, eps=1e-7)
    torch.testing.assert_close(published, numbers(9.4938444476, 4.9160085836), **EXACT)
    exact = noise_contrast(scores, log_z, SAMPLES)
    torch.testing.assert_close(exact, numbers(9.4938400364, 4.9160043142), **EXACT)
    (grad,) = torch.autograd.grad(published.sum(), anchors)
    norms = grad.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, numbers(7.3370676048, 6.1884014778), **EXACT)


def four_networks() -> tuple[Tensor, Tensor]:
    """Anchors (4, 4, 6) and banks (4, 40, 6)."""
    anchors = torch.stack([unit(fix((4, 6), 1 + i)) for i in range(4)])
    banks = torch.stack([unit(fix((40, 6), 10 + i)) for i in range(4)])
    return anchors.requires_grad_(), banks


def test_twelve_ordered_pairs_at_once():
    """MCL-OKD (arXiv 2006.04093): each of four anchors in each other bank, a Z for each."""
    terms = mutual_noise_contrast(*four_networks(), columns(), eps=1e-7)
    assert terms.shape == (4, 3)
    # bank i with anchors of j > i, which are the others' number j - 1, then bank j with those of i
    found = torch.stack(
        [
            torch.stack([terms[i, j - 1], terms[j, i]])
            for i, j in itertools.combinations(range(4), 2)
        ]
    )
    expected = numbers(
        3.786970, 6.655607, 5.548015, 11.151337, 9.128034, 8.942250,
        6.068112, 11.318148, 6.745687, 10.648253, 3.938088, 6.880263,
    )  # fmt: skip
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=5e-7)
    torch.testing.assert_close(found.sum(), numbers(90.8107654092)[0], **EXACT)


@pytest.mark.parametrize('whole', [True, False])
@pytest.mark.parametrize('eps', [None, 0.1])
def test_gradient_of_all_pairs(whole, eps):
    anchors, banks = four_networks()
    index = columns()
    loop = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.permutations(range(4), 2):
        scores = torch.stack([banks[i][index[b]] @ anchors[j, b] for b in range(4)]) / 0.3
        z = scores.detach().exp().mean().item() * SAMPLES
        loop = loop + naive(scores, z, SAMPLES, eps or 0.0)
    ours = mutual_noise_contrast(anchors, banks, index, 0.3, eps, whole).sum()
    torch.testing.assert_close(ours, loop, **CLOSE)
    grads = [torch.autograd.grad(form, anchors)[0] for form in (ours, loop)]
    torch.testing.assert_close(*grads, **CLOSE)


def test_pairs_that_do_not_fit():
    anchors, banks = four_networks()
    for given in ((anchors, banks[:3]), (anchors[:1], banks[:1])):
        with unfit('form', anchors=tuple(given[0].shape), banks=tuple(given[1].shape)):
            mutual_noise_contrast(*given, columns())
    with pytest.raises(ValueError, match='tau must be positive, got 0'):
        mutual_noise_contrast(anchors, banks, columns(), 0)


@pytest.mark.parametrize('eps', [None, 1e-7, 0.1])
def test_value_and_gradient(eps):
    scores, z = random_scores((3, 5, 4)), numbers(0.5, 7.0, 300.0)
    ours = noise_contrast(scores, z.log(), 9, eps)
    loop = torch.stack(
        [naive(part, value, 9, eps or 0.0) for part, value in zip(scores, z.tolist(), strict=True)]
    )
    torch.testing.assert_close(ours, loop, **CLOSE)
    weight = numbers(1.0, -2.0, 0.3)
    grads = [torch.autograd.grad(weight @ form, scores)[0] for form in (ours, loop)]
    torch.testing.assert_close(*grads, **CLOSE)


def test_partition():
    scores = random_scores((2, 5, 4))
    each = scores.flatten(1).tolist()
    expected = numbers(*(sum(map(math.exp, entries)) / 20 * 9 for entries in each))
    torch.testing.assert_close(log_partition(scores, 9).exp(), expected, **CLOSE)


def test_any_leading_dimensions():
    scores = random_scores((2, 3, 5, 4))
    log_z = log_partition(scores, 9)
    whole = noise_contrast(scores, log_z, 9)
    assert whole.shape == log_z.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        part, constant = scores[i, j], log_partition(scores[i, j], 9)
        assert torch.equal(constant, log_z[i, j])
        assert torch.equal(noise_contrast(part, constant, 9), whole[i, j])
    one = noise_contrast(scores, log_z[0, 0], 9)  # a Z for all
    assert torch.equal(one[0, 0], whole[0, 0]) and not torch.equal(one[0, 1], whole[0, 1])


def test_nothing_else_gets_a_gradient():
    scores = random_scores((5, 4))
    assert not log_partition(scores, 9).requires_grad
    log_z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for eps in (None, 1e-7):
        loss = noise_contrast(scores, log_z, 9, eps)
        grads = torch.autograd.grad(loss, (scores, log_z), allow_unused=True)
        assert grads[0].abs().max() > 0 and grads[1] is None


@pytest.mark.parametrize('eps', [None, 1e-7])
def test_derivatives(eps):
    scores, log_z = random_scores((2, 3, 4)), numbers(0.4)[0]

    def loss(x):
        return noise_contrast(x, log_z, 9, eps)

    assert torch.autograd.gradcheck(loss, scores) and torch.autograd.gradgradcheck(loss, scores)


def test_what_is_certain_costs_nothing():
    scores = torch.full((2, 4), -1000.0, dtype=torch.float64)
    scores[:, 0] = 1000
    assert noise_contrast(scores, numbers(0.0)[0], 9) == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('cosine', [1.0, -1.0])
def test_autocast_with_cosines_of_one(dtype, cosine):
    """exp(1 / 0.07) overflows float16, and so does the sum of K terms."""
    scores = torch.full((4, 9001), cosine / TAU, dtype=dtype, requires_grad=True)
    with cpu_autocast(dtype):
        log_z = log_partition(scores, 50_000)
        loss = noise_contrast(scores, log_z, 50_000)
        loss.backward()
    exact = scores.detach().double()
    wanted = noise_contrast(exact, log_partition(exact, 50_000), 50_000)
    assert log_z.dtype == loss.dtype == torch.float32 and scores.grad.isfinite().all()
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize('shape', [(4,), (4, 1), (4, 0)])
def test_shapes(shape):
    scores = torch.zeros(shape)
    for call in (lambda: log_partition(scores, 9), lambda: noise_contrast(scores, scores, 9)):
        with unfit('form', scores=shape):
            call()


@pytest.mark.parametrize('samples', [0, -3])
def test_samples(samples):
    for call in (log_partition, lambda x, n: noise_contrast(x, torch.zeros(()), n)):
        with pytest.raises(ValueError, match=f'samples must be at least 1, got {samples}'):
            call(torch.zeros(2, 3), samples)
