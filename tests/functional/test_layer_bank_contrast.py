"""L-MCL against banks: a loop over pairs of stages and images."""

import itertools

import pytest
import torch
from torch import Tensor

from kdmm.functional import layer_bank_contrast, mutual_bank_contrast, pair_weights
from tests.errors import unfit
from tests.functional.test_layer_contrast import embeddings, network_of, ordered
from tests.functional.test_mutual import CLOSE, PAPER, fix, gradients, unit
from tests.functional.test_mutual import second_derivatives as seconds
from tests.versions import cpu_autocast

BATCH = 4
COHORTS = pytest.mark.parametrize('stages', [(2, 2), (2, 3), (2, 1, 2)], ids=str)
PUBLISHED = pytest.mark.parametrize('published', [False, True], ids=['own', 'published'])


def banks_of(stages) -> Tensor:
    return torch.stack([unit(fix((32, 5), 40 + i)) for i in range(len(stages))])


def index() -> Tensor:
    """Itself, one of its class, five of other classes; some twice."""
    own = torch.tensor([0, 9, 18, 27])
    return torch.stack([own, own + 1, *((own + k) % 32 for k in (4, 8, 12, 8, 20))], 1)


def hard_row(row: Tensor, positives: int) -> Tensor:
    return row.exp().sum().log() - row[:positives].mean()


def soft_row(student: Tensor, target: Tensor, t: float) -> Tensor:
    p, q = ((x / t).exp() / (x / t).exp().sum() for x in (student, target.detach()))
    return t**2 * (q * (q.log() - p.log())).sum()


def loop(v, banks, w, stages, published=False, tau=0.07, t=3.0) -> Tensor:
    total, where = [0 * (v.sum() + w.sum())] * 4, network_of(stages)
    for a, c in itertools.product(range(len(v)), repeat=2):
        i, j = where[a], where[c]
        if i == j:
            continue
        for b, columns in enumerate(index()):
            other = i if published else j  # the bank of the second row
            aa, cc = (banks[n][columns[1:]] @ v[x, b] / tau for n, x in ((i, a), (other, c)))
            ic, ja = (banks[n][columns] @ v[x, b] / tau for n, x in ((i, c), (j, a)))
            weight = w[a, c, b] / BATCH
            for k, (x, y, number) in enumerate(((aa, cc, 1), (ic, ja, 2))):
                hard = hard_row(x, number) + hard_row(y, number)
                total[2 * k] = total[2 * k] + weight * hard
                soft = soft_row(x, y, t) + soft_row(y, x, t)
                total[2 * k + 1] = total[2 * k + 1] + weight * soft
    return torch.stack(total)


def ours(v, banks, w, stages, published=False, tau=0.07, t=3.0, **options) -> Tensor:
    pairs = pair_weights(w, stages)
    terms = layer_bank_contrast(v, banks, index(), pairs, stages, tau, t, published, **options)
    return torch.stack(terms)


def symmetric(stages) -> Tensor:
    w = ordered(stages, BATCH)
    return (w + w.transpose(0, 1)) / 2


@PUBLISHED
@COHORTS
def test_values_and_gradients_of_the_loop(stages, published):
    v, w = embeddings(stages, BATCH), symmetric(stages).requires_grad_()
    given = dict(published=published, tau=0.2, t=2.5)
    found, expected = (f(v, banks_of(stages), w, stages, **given) for f in (ours, loop))
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(gradients(found, v), gradients(expected, v), **CLOSE)
    symmetrised = [x + x.transpose(0, 1) for x in gradients(found, w)]
    expected = [x + x.transpose(0, 1) for x in gradients(expected, w)]
    torch.testing.assert_close(symmetrised, expected, **CLOSE)


def test_weights_that_are_not_symmetric():
    stages = (2, 3)
    v, w = embeddings(stages, BATCH), ordered(stages, BATCH)
    torch.testing.assert_close(
        ours(v, banks_of(stages), w, stages), loop(v, banks_of(stages), w, stages), **CLOSE
    )


@PUBLISHED
def test_second_and_mixed_derivatives(published):
    stages = (2, 1)
    v, w = embeddings(stages, BATCH), symmetric(stages).requires_grad_()
    found, expected = (f(v, banks_of(stages), w, stages, published, 0.3) for f in (ours, loop))
    torch.testing.assert_close(seconds(found, v), seconds(expected, v), **CLOSE)
    mixed = []
    for terms in (found, expected):
        (first,) = torch.autograd.grad((PAPER * terms).sum(), v, create_graph=True)
        (of_w,) = torch.autograd.grad((first * fix(tuple(v.shape), 9)).sum(), w)
        mixed.append(of_w + of_w.transpose(0, 1))
    torch.testing.assert_close(*mixed, **CLOSE)


def test_published_differs_in_the_own_terms_only():
    stages = (2, 2)
    v, w = embeddings(stages, BATCH), symmetric(stages)
    own, published = (ours(v, banks_of(stages), w, stages, slip) for slip in (False, True))
    assert torch.equal(own[2:], published[2:])
    assert (own[:2] - published[:2]).abs().min() > 0.1


def test_single_stages_are_mcl():
    """Of two networks, with weights of 1 and each pair once."""
    v, w = embeddings((1, 1), BATCH), torch.ones(2, 2, 1)
    banks = banks_of((1, 1))
    terms = layer_bank_contrast(v, banks, index(), pair_weights(w, (1, 1), False), (1, 1))
    torch.testing.assert_close(terms, mutual_bank_contrast(v, banks, index()), **CLOSE)


@pytest.mark.parametrize('whole', [False, True])
def test_ways_of_scoring_agree(whole):
    stages = (2, 2)
    v, w = embeddings(stages, BATCH), symmetric(stages)
    torch.testing.assert_close(
        ours(v, banks_of(stages), w, stages, whole=whole),
        ours(v, banks_of(stages), w, stages),
        **CLOSE,
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_is_float32(dtype):
    stages = (2, 2)
    v = embeddings(stages, BATCH).detach().to(dtype).requires_grad_()
    w = pair_weights(symmetric(stages).to(dtype), stages).float() / 4
    with cpu_autocast(dtype):
        terms = ours(v, banks_of(stages).to(dtype), w, stages, tau=0.01)
        grads = gradients(terms, v)
    assert terms.dtype == torch.float32 and terms.isfinite().all()
    exact = v.detach().float().requires_grad_()
    expected = ours(exact, banks_of(stages).to(dtype).float(), w, stages, tau=0.01)
    torch.testing.assert_close(terms, expected, rtol=1e-6, atol=0)
    for mine, theirs in zip(grads, gradients(expected, exact), strict=True):
        assert mine.isfinite().all() and torch.equal(mine, theirs.to(dtype))


def test_shapes_are_refused():
    stages = (2, 2)
    v, w = embeddings(stages, BATCH), symmetric(stages)
    with pytest.raises(ValueError, match='3 banks for 2 networks'):
        layer_bank_contrast(v, banks_of((1, 1, 1)), index(), w, stages)
    with unfit('form', weights=(3, 4, BATCH)):
        layer_bank_contrast(v, banks_of(stages), index(), w[:3], stages)
    with pytest.raises(ValueError, match='temperature must be positive'):
        layer_bank_contrast(v, banks_of(stages), index(), w, stages, temperature=0)
