"""L-MCL's terms against a loop over pairs of stages, and numbers of the authors' public code.

The code is that of arXiv 2207.11518, computed in float64 with the same embeddings and weights.
"""

import itertools

import pytest
import torch
from torch import Tensor

from kdmm.functional import (
    layer_contrast,
    learned_matching,
    mutual_contrast,
    one_to_one_matching,
    pair_weights,
    uniform_matching,
)
from tests.errors import unfit
from tests.functional.test_mutual import CLOSE, LABELS, PAPER, UNEVEN, fix, gradients, unit
from tests.functional.test_mutual import second_derivatives as seconds
from tests.versions import cpu_autocast

#: Numbers of stages of the networks.
COHORTS = [(2, 2), (3, 3), (4, 4), (2, 2, 2), (3, 3, 3), (4, 4, 4), (2, 4), (4, 2, 3)]
FORMS = pytest.mark.parametrize('learns', [False, True], ids=['constant', 'learnt'])


def embeddings(stages, images=8) -> Tensor:
    rows = [unit(fix((images, 5), a + 1)) for a in range(sum(stages))]
    return torch.stack(rows).requires_grad_()


def ordered(stages, images=8) -> Tensor:
    """Weights (A, A, B) in (0, 1) that are not symmetric, also where they play no part."""
    return fix((sum(stages), sum(stages), images), 20).sigmoid()


def network_of(stages) -> list[int]:
    return [i for i, number in enumerate(stages) for _ in range(number)]


def sup_rows(g: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the anchors that have a positive."""
    rows = []
    for a in range(len(labels)):
        others = [c for c in range(len(labels)) if c != a]
        positives = [c for c in others if labels[c] == labels[a]]
        if positives:
            rows.append(weight[a] * (g[a, others].exp().sum().log() - g[a, positives].mean()))
    return torch.stack(rows).mean() if rows else 0 * (g.sum() + weight.sum())


def kl_rows(student: Tensor, target: Tensor, weight: Tensor, t: float) -> Tensor:
    p, q = ((x / t).exp() for x in (student, target.detach()))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return t**2 * (weight[:, None] * q * (q.log() - p.log())).sum() / len(student)


def loop(v, labels, w, stages, tau=0.1, t=3.0, once=False) -> Tensor:
    """The authors' loop: ordered pairs of networks, pairs of their stages, both directions."""
    total, where = [0 * (v.sum() + w.sum())] * 4, network_of(stages)
    for a, c in itertools.product(range(len(v)), repeat=2):
        if where[a] == where[c] or (once and where[a] > where[c]):
            continue
        ac, ca, aa, cc = (v[x] @ v[y].T / tau for x, y in ((a, c), (c, a), (a, a), (c, c)))
        for k, (x, y) in enumerate(((aa, cc), (ac, ca))):
            hard = sup_rows(x, labels, w[a, c]) + sup_rows(y, labels, w[a, c])
            total[2 * k] = total[2 * k] + hard
            soft = kl_rows(x, y, w[a, c], t) + kl_rows(y, x, w[a, c], t)
            total[2 * k + 1] = total[2 * k + 1] + soft
    return torch.stack(total)


def ours(v, labels, w, stages, tau=0.1, t=3.0, once=False) -> Tensor:
    pairs = pair_weights(w, stages, not once)
    return torch.stack(layer_contrast(v, labels, pairs, stages, tau, t))


@FORMS
def test_numbers_of_the_authors_code(learns):
    """Two networks of two stages; weights in the order in which that code runs over them."""
    stages, forwards = (2, 2), list(itertools.product((0, 1), (2, 3)))
    order = forwards + list(itertools.product((2, 3), (0, 1)))
    w = torch.zeros(4, 4, 8, dtype=torch.float64)
    for item, pair in enumerate(order):
        w[pair] = fix((8,), 20 + item).sigmoid()
    terms = ours(embeddings(stages), LABELS, w.requires_grad_(learns), stages)
    expected = [36.6535174319, 27.8099042838, 56.0664187163, 82.4306125078]
    assert terms.tolist() == pytest.approx(expected, abs=1e-9)
    assert (PAPER * terms).sum().item() == pytest.approx(119.5125104064, abs=1e-9)


class TestPairLoop:
    @FORMS
    @pytest.mark.parametrize('stages', COHORTS, ids=str)
    def test_values_and_gradients(self, stages, learns):
        v, w = embeddings(stages), ordered(stages).requires_grad_(learns)
        given = dict(tau=0.2, t=2.5)
        found, expected = (f(v, UNEVEN, w, stages, **given) for f in (ours, loop))
        torch.testing.assert_close(found, expected, **CLOSE)
        torch.testing.assert_close(gradients(found, v), gradients(expected, v), **CLOSE)
        if learns:
            grads = gradients(found, w)
            torch.testing.assert_close(grads, gradients(expected, w), **CLOSE)
            assert all(grad[0, -1].abs().min() > 0 for grad in grads[1::2])

    @FORMS
    @pytest.mark.parametrize('stages', [(2, 2), (2, 3), (1, 2, 1)], ids=str)
    def test_second_derivatives(self, stages, learns):
        """In all of them the targets are constants."""
        v, w = embeddings(stages), ordered(stages).requires_grad_(learns)
        found, expected = (f(v, UNEVEN, w, stages, 0.3, 2.5) for f in (ours, loop))
        torch.testing.assert_close(seconds(found, v), seconds(expected, v), **CLOSE)

    @pytest.mark.parametrize('stages', [(2, 2), (2, 3)], ids=str)
    def test_mixed_derivatives(self, stages):
        """Of a step's gradient by the weights, what the meta-gradient is made of."""
        v, w = embeddings(stages), ordered(stages).requires_grad_()
        mixed = []
        for form in (ours, loop):
            terms = form(v, UNEVEN, w, stages, 0.3, 2.5)
            (first,) = torch.autograd.grad((PAPER * terms).sum(), v, create_graph=True)
            mixed += torch.autograd.grad((first * fix(tuple(v.shape), 9)).sum(), w)
        torch.testing.assert_close(*mixed, **CLOSE)
        assert mixed[0][0, -1].abs().min() > 0

    @pytest.mark.parametrize('stages', [(2, 2), (4, 2, 3)], ids=str)
    def test_each_pair_once(self, stages):
        v, w = embeddings(stages), ordered(stages)
        found, expected = (f(v, LABELS, w, stages, once=True) for f in (ours, loop))
        torch.testing.assert_close(found, expected, **CLOSE)

    def test_a_pair_counts_exactly_twice_if_weights_are_symmetric(self):
        stages = (2, 3)
        v, w = embeddings(stages), learned_matching(fix((5, 8, 6), 3), stages)
        assert torch.equal(w, w.transpose(0, 1))
        twice, once = (ours(v, LABELS, w, stages, once=once) for once in (False, True))
        torch.testing.assert_close(twice, 2 * once, rtol=1e-14, atol=0)


class TestForms:
    @pytest.mark.parametrize('stages', [(2, 2), (3, 2, 1)], ids=str)
    def test_a_recorded_backward_pass_gives_the_same_first_derivatives(self, stages):
        v, w = embeddings(stages), ordered(stages)
        terms = ours(v, UNEVEN, w, stages)
        plain, recorded = (
            torch.autograd.grad((PAPER * terms).sum(), v, retain_graph=True, create_graph=record)[0]
            for record in (False, True)
        )
        torch.testing.assert_close(plain, recorded, **CLOSE)
        assert recorded.requires_grad and not plain.requires_grad

    @pytest.mark.parametrize('learns', [False, True])
    def test_maps_that_are_kept(self, learns):
        """With constant weights two for each network pair of stages, and two for each stage."""
        kept = []

        def pack(x: Tensor) -> Tensor:
            if x.numel() >= 64:
                kept.append(x.numel() // 64)
            return x

        v, w = embeddings((3, 3)), ordered((3, 3)).requires_grad_(learns)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            ours(v, LABELS, w, (3, 3))
        small = 2 * v.numel() // 64 + 2 * w.numel() // 64
        assert (sum(kept) <= 2 * 9 + 2 * 6 + small) == (not learns)

    def test_equal_stages_one_to_one_are_mcl(self):
        """A network's own contrast counts once for each other network."""
        stages = (2, 2, 2)
        v = embeddings(stages)
        w = one_to_one_matching(stages, v.detach())
        found = ours(v, LABELS, w, stages, once=True)
        each = [torch.stack(mutual_contrast(v[s::2], LABELS)) for s in range(2)]
        expected = sum(each) * torch.tensor([2, 1, 1, 1])
        torch.testing.assert_close(found, expected, **CLOSE)


class TestDegenerate:
    @FORMS
    @pytest.mark.parametrize('images', [1, 8])
    def test_no_positives_at_all(self, images, learns):
        stages = (2, 2)
        v, w = embeddings(stages, images), ordered(stages, images).requires_grad_(learns)
        terms = ours(v, torch.arange(images), w, stages)
        assert terms[0] == terms[2] == 0
        hard, soft = gradients(terms[::2], v), gradients(terms[1::2], v)
        assert all((grad == 0).all() for grad in hard)
        assert all(grad.isfinite().all() for grad in soft)

    @FORMS
    def test_equal_stages_have_nothing_to_teach(self, learns):
        v = embeddings((1,)).detach().expand(4, -1, -1).clone().requires_grad_()
        terms = ours(v, LABELS, ordered((2, 2)).requires_grad_(learns), (2, 2))
        assert terms[1::2].abs().max() < 1e-12
        assert all(grad.abs().max() < 1e-12 for grad in gradients(terms[1::2], v))

    @FORMS
    def test_no_weight_gives_exactly_0(self, learns):
        v = embeddings((2, 2))
        terms = ours(v, LABELS, torch.zeros(4, 4, 8).requires_grad_(learns), (2, 2))
        assert (terms == 0).all() and all((grad == 0).all() for grad in gradients(terms, v))


def test_gradgradcheck():
    """Of the hard terms, and of all terms in the weights: soft targets stand still there."""
    stages, labels = (2, 1), UNEVEN[:3]
    v, w = embeddings(stages, 3), ordered(stages, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, y: tuple(ours(x, labels, y, stages, 0.5)[::2]), (v, w)
    )
    constant = w.detach()
    assert torch.autograd.gradgradcheck(
        lambda x: tuple(ours(x, labels, constant, stages, 0.5)[::2]), (v,)
    )
    assert torch.autograd.gradcheck(lambda y: ours(v.detach(), labels, y, stages, 0.5), (w,))
    projections = fix((3, 2, 4), 1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: learned_matching(x, stages), (projections,))


@FORMS
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_is_float32(dtype, learns):
    """Embeddings and weights arrive rounded; at tau 0.07 exp overflows float16."""
    torch.manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(4, 32, 64), dim=-1).to(dtype)
    w, labels = torch.rand(4, 4, 32).to(dtype), torch.arange(32) // 2

    def both(v: Tensor, w: Tensor) -> tuple[Tensor, list[Tensor]]:
        v, w = v.detach().requires_grad_(), w.detach().requires_grad_(learns)
        terms = torch.stack(layer_contrast(v, labels, pair_weights(w, (2, 2)), (2, 2), 0.07))
        return terms, gradients(terms, v)

    with cpu_autocast(dtype):
        terms, grads = both(v, w)
    exact, expected = both(v.float(), pair_weights(w, (2, 2)).float() / 2)
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, exact, rtol=1e-6, atol=0)
    for mine, theirs in zip(grads, expected, strict=True):
        assert mine.isfinite().all() and torch.equal(mine, theirs.to(dtype))


class TestMatching:
    def test_learned_is_the_sigmoid_of_the_cosine(self):
        x = fix((3, 4, 6), 2)
        w = learned_matching(x, (2, 1))
        for a, c, b in itertools.product(range(3), range(3), range(4)):
            cosine = x[a, b] @ x[c, b] / (x[a, b] @ x[a, b] * (x[c, b] @ x[c, b])) ** 0.5
            expected = 0 if (a < 2) == (c < 2) else 1 / (1 + (-cosine).exp().item())
            assert w[a, c, b].item() == pytest.approx(expected, abs=1e-14)

    def test_uniform_is_learned_of_orthogonal_projections(self):
        x = torch.eye(5)[:, None]  # (A, 1, P)
        assert torch.equal(uniform_matching((2, 3), x), learned_matching(x, (2, 3)))

    def test_one_to_one(self):
        w = one_to_one_matching((2, 2, 2), torch.ones(()))[..., 0]
        expected = torch.zeros(6, 6)
        for a, c in itertools.permutations(range(6), 2):
            expected[a, c] = a % 2 == c % 2
        assert torch.equal(w, expected)
        with pytest.raises(ValueError, match=r'not \(2, 3\)'):
            one_to_one_matching((2, 3), torch.ones(()))

    def test_half_types(self):
        with cpu_autocast(torch.bfloat16):
            assert learned_matching(fix((4, 2, 3), 1).bfloat16(), (2, 2)).dtype == torch.float32


class TestErrors:
    def test_shapes(self):
        v, w = embeddings((2, 2)), ordered((2, 2))
        with unfit('form', embeddings=(8, 5)):
            layer_contrast(v[0], LABELS, w, (2, 2))
        with unfit('labels', labels=(7,)):
            layer_contrast(v, LABELS[:7], w, (2, 2))
        for bad in (w[:3], w[..., :7], w[..., 0]):
            with unfit('form', weights=tuple(bad.shape)):
                layer_contrast(v, LABELS, bad, (2, 2))
        with unfit('form', problem='[2, 1]'):
            layer_contrast(v, LABELS, w, (2, 1))

    @pytest.mark.parametrize('key', ['tau', 'temperature'])
    @pytest.mark.parametrize('value', [0, -1.0, float('nan')])
    def test_temperatures(self, key, value):
        with pytest.raises(ValueError, match=f'{key} must be positive'):
            layer_contrast(embeddings((2, 2)), LABELS, ordered((2, 2)), (2, 2), **{key: value})
