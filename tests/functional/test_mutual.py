"""MCL's in-batch terms against a pair loop and reference numbers (docs/methods/mcl.md)."""

import itertools

import pytest
import torch
from torch import Tensor

from kdmm.functional import contrast_logits, mutual_contrast, mutual_hard, mutual_soft
from tests.errors import unfit
from tests.versions import cpu_autocast

CLOSE = dict(rtol=1e-10, atol=1e-12)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
UNEVEN = torch.tensor([0, 1, 0, 2, 0, 1, 3, 1])  # 2 and 3 have one image each
PAPER = torch.tensor([0.1, 1, 0.1, 1], dtype=torch.float64)
OPTIONS = [
    dict(soft_include_diag=diag, icl_self_positive=own)
    for diag, own in itertools.product((True, False), repeat=2)
]


def fix(shape: tuple[int, ...], s: int) -> Tensor:
    k = torch.arange(torch.Size(shape).numel()) + 100003 * s
    u = (7919 * k * k + 104729 * k + 12345) % 65537
    return (12**0.5 * (u.double() / 65537 - 0.5)).view(shape)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def cohort(networks: int) -> Tensor:
    stacked = torch.stack([unit(fix((8, 5), i + 1)) for i in range(networks)])
    return stacked.requires_grad_()


def naive_sup(g: Tensor, labels: Tensor, own: bool) -> Tensor:
    rows = []
    for a in range(len(labels)):
        columns = [c for c in range(len(labels)) if own or c != a]
        positives = [c for c in columns if labels[c] == labels[a]]
        if positives:
            log_sum = g[a, columns].exp().sum().log()
            rows.append(sum(log_sum - g[a, b] for b in positives) / len(positives))
    return torch.stack(rows).mean() if rows else 0 * g.sum()


def naive_kd(student: Tensor, teacher: Tensor, t: float, diag: bool) -> Tensor:
    total = student.new_zeros(())
    for a, (s, q) in enumerate(zip(student, teacher.detach(), strict=True)):
        keep = [c for c in range(len(s)) if diag or c != a]
        s, q = ((x[keep] / t).exp() / (x[keep] / t).exp().sum() for x in (s, q))
        total = total + (q * (q.log() - s.log())).sum()
    return t**2 * total / len(student)


def naive(
    v: Tensor, labels: Tensor, tau=0.1, temperature=3.0, soft_include_diag=True, **hard
) -> Tensor:
    own = hard.get('icl_self_positive', False)
    total = torch.zeros(4, dtype=torch.float64)
    grams = {(i, j): v[i] @ v[j].T / tau for i in range(len(v)) for j in range(len(v))}
    soft = temperature, soft_include_diag
    for (i, j), g in grams.items():
        if i == j:
            total[0] += naive_sup(g, labels, False)
            continue
        total[1] += naive_kd(grams[i, i], grams[j, j], *soft)
        total[2] += naive_sup(g, labels, own)
        total[3] += naive_kd(g, grams[j, i], *soft)
    return total


def gradients(terms: Tensor, v: Tensor) -> list[Tensor]:
    """The gradient of each term, apart."""
    return [torch.autograd.grad(x, v, retain_graph=True)[0] for x in terms]


def second_derivatives(terms: Tensor, v: Tensor) -> list[Tensor]:
    """Of each term, apart: its first derivative by autograd's recorded pass, and that one's."""
    found = []
    for term in terms:
        (first,) = torch.autograd.grad(term, v, create_graph=True)
        weight = fix(tuple(v.shape), 9)
        found += [first, *torch.autograd.grad((first * weight).sum(), v, retain_graph=True)]
    return found


class TestOracles:
    expected = {
        2: (9.6116808454, 10.2077999872, 7.0901667571, 24.8638070144, 36.7417917618),
        3: (14.4491683996, 23.6593587861, 35.8921894850, 56.7752475711, 85.4687421457),
    }

    @pytest.mark.parametrize('networks', [2, 3])
    def test_terms_and_weighted_total(self, networks):
        terms = torch.stack(mutual_contrast(cohort(networks), LABELS))
        ours = torch.cat([terms, (PAPER * terms).sum()[None]])
        torch.testing.assert_close(
            ours, torch.tensor(self.expected[networks], dtype=torch.float64), rtol=0, atol=1e-9
        )

    def test_gradient_norms(self):
        v = cohort(2)
        terms = torch.stack(mutual_contrast(v, LABELS))
        (grad,) = torch.autograd.grad((PAPER * terms).sum(), v)
        assert grad.flatten(1).norm(dim=1).tolist() == pytest.approx(
            [18.9029837982, 13.0172471807], abs=1e-9
        )

    def test_variants(self):
        terms = mutual_contrast(cohort(2), LABELS, soft_include_diag=False, icl_self_positive=True)
        assert terms.soft_vcl.item() == pytest.approx(19.2825357192, abs=1e-9)
        assert terms.icl.item() == pytest.approx(10.4507643002, abs=1e-9)


class TestPairLoop:
    @pytest.mark.parametrize('labels', [LABELS, UNEVEN], ids=['pairs', 'uneven'])
    @pytest.mark.parametrize('options', OPTIONS, ids=str)
    @pytest.mark.parametrize('networks', [2, 3, 4])
    def test_value_and_gradient_of_each_term(self, networks, options, labels):
        v = cohort(networks)
        options = dict(tau=0.2, temperature=2.5, **options)
        ours = torch.stack(mutual_contrast(v, labels, **options))
        loop = naive(v, labels, **options)
        torch.testing.assert_close(ours, loop, **CLOSE)
        torch.testing.assert_close(gradients(ours, v), gradients(loop, v), **CLOSE)

    def test_one_network_has_its_own_contrast_only(self):
        v = cohort(1)
        terms = mutual_contrast(v, LABELS)
        torch.testing.assert_close(terms.vcl, naive(v, LABELS)[0], **CLOSE)
        assert terms.icl == terms.soft_icl == 0 and terms.soft_vcl.abs() < 1e-14


class TestDetachment:
    def test_soft_targets_are_constants(self):
        logits = contrast_logits(cohort(2), 0.1).detach()
        student = logits.clone().requires_grad_()
        p = (logits / 3).softmax(-1)
        soft_vcl, soft_icl = mutual_soft(student)
        # d/dG of the mean over 8 rows of T^2 KL is T (p_s - p_t) / 8
        for term, target in (
            (soft_vcl, lambda i, j: p[1 - i, 1 - i] if i == j else p[i, j]),
            (soft_icl, lambda i, j: p[j, i]),
        ):
            (grad,) = torch.autograd.grad(term, student, retain_graph=True)
            for i, j in itertools.product(range(2), repeat=2):
                torch.testing.assert_close(grad[i, j], 3 * (p[i, j] - target(i, j)) / 8)

    def test_hard_terms_reach_both_sides(self):
        logits = contrast_logits(cohort(2), 0.1).detach().requires_grad_()
        vcl, icl = mutual_hard(logits, LABELS)
        (own,) = torch.autograd.grad(vcl, logits, retain_graph=True)
        assert own[0, 1].abs().max() == own[1, 0].abs().max() == 0
        assert own[0, 0].abs().max() > 0 and own[1, 1].abs().max() > 0
        (other,) = torch.autograd.grad(icl, logits)
        assert other[0, 0].abs().max() == other[1, 1].abs().max() == 0
        assert (other.diagonal(dim1=2, dim2=3) == 0).all()  # the own image plays no part


class TestDegenerate:
    def test_equal_networks_have_nothing_to_teach(self):
        v = cohort(1).detach().expand(3, -1, -1).clone().requires_grad_()
        terms = mutual_contrast(v, LABELS)
        assert terms.soft_vcl.abs() < 1e-13 and terms.soft_icl.abs() < 1e-13
        for grad in gradients((terms.soft_vcl, terms.soft_icl), v):
            assert grad.abs().max() < 1e-13

    @pytest.mark.parametrize('options', OPTIONS, ids=str)
    def test_a_batch_of_one_class(self, options):
        v, labels = cohort(3), torch.zeros(8, dtype=torch.long)
        ours, loop = torch.stack(mutual_contrast(v, labels, **options)), naive(v, labels, **options)
        torch.testing.assert_close(ours, loop, **CLOSE)
        torch.testing.assert_close(gradients(ours, v), gradients(loop, v), **CLOSE)

    @pytest.mark.parametrize('images', [1, 8])
    @pytest.mark.parametrize('diag', [True, False])
    def test_no_positives_at_all(self, images, diag):
        v = cohort(2)[:, :images].detach().requires_grad_()
        terms = mutual_contrast(v, torch.arange(images), soft_include_diag=diag)
        assert terms.vcl == 0 and terms.icl == 0
        hard = gradients((terms.vcl, terms.icl), v)
        assert all((grad == 0).all() for grad in hard)
        soft = gradients((terms.soft_vcl, terms.soft_icl), v)
        assert all(grad.isfinite().all() for grad in soft)

    def test_lonely_anchor_does_not_change_the_mean(self):
        """Its column still repels, so it is moved to where it has no weight."""
        v = cohort(2).detach() * 0.1
        far = torch.cat([v, -50 * v.sum(1, keepdim=True)], 1)
        labels = torch.cat([torch.zeros(8), torch.ones(1)])
        logits = contrast_logits(far, 1e-3)
        logits[..., 8] = -1e6
        for with_it, without in zip(
            mutual_hard(logits, labels),
            mutual_hard(logits[..., :8, :8], labels[:8]),
            strict=True,
        ):
            torch.testing.assert_close(with_it, without, **CLOSE)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_gradcheck(options):
    logits = contrast_logits(cohort(3)[:, :4], 0.5).detach().requires_grad_()
    own = options['icl_self_positive']
    assert torch.autograd.gradcheck(lambda g: mutual_hard(g, UNEVEN[:4], own), logits)
    assert torch.autograd.gradgradcheck(lambda g: mutual_hard(g, UNEVEN[:4], own), logits)
    v = cohort(2)[:, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrast_logits(x, 0.5), v)
    assert torch.autograd.gradgradcheck(
        lambda x: tuple(mutual_contrast(x, UNEVEN[:3], 0.5, **options)[::2]), v
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_autocast_stays_near_float32(dtype, options):
    """Embeddings arrive rounded, all else is float32: at tau 0.07 exp overflows float16."""
    v = torch.nn.functional.normalize(
        torch.randn(3, 32, 128, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    labels = torch.arange(32) // 2
    half = v.to(dtype).requires_grad_()
    rounded = half.detach().float().requires_grad_()
    with cpu_autocast(dtype):
        terms = torch.stack(mutual_contrast(half, labels, tau=0.07, **options))
        grads = gradients(terms, half)
    exact = torch.stack(mutual_contrast(rounded, labels, tau=0.07, **options))
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        terms, torch.stack(mutual_contrast(v, labels, tau=0.07, **options)), rtol=1e-2, atol=0
    )
    for ours, theirs in zip(grads, gradients(exact, rounded), strict=True):
        assert ours.isfinite().all()
        # rounded once, where it is stored
        assert torch.equal(ours, theirs.to(dtype))


class TestErrors:
    def test_not_stacked(self):
        with unfit('form', embeddings=(8, 5)):
            contrast_logits(torch.zeros(8, 5))

    @pytest.mark.parametrize('labels', [LABELS[:7], LABELS[:, None]])
    def test_labels_of_another_batch(self, labels):
        with unfit('labels', labels=tuple(labels.shape), embeddings=tuple(cohort(2).shape)):
            mutual_contrast(cohort(2), labels)

    @pytest.mark.parametrize('key', ['tau', 'temperature'])
    @pytest.mark.parametrize('value', [0, -1.0, float('nan')])
    def test_temperatures(self, key, value):
        with pytest.raises(ValueError, match=f'{key} must be positive'):
            mutual_contrast(cohort(2), LABELS, **{key: value})


class TestSecondDerivatives:
    """In all of them the soft targets are constants, as in the first ones."""

    @pytest.mark.parametrize('options', OPTIONS, ids=str)
    @pytest.mark.parametrize('networks', [2, 3])
    def test_equal_those_of_the_pair_loop(self, networks, options):
        v = cohort(networks)
        options = dict(tau=0.2, temperature=2.5, **options)
        ours = torch.stack(mutual_contrast(v, UNEVEN, **options))
        loop = naive(v, UNEVEN, **options)
        torch.testing.assert_close(
            second_derivatives(ours, v), second_derivatives(loop, v), **CLOSE
        )

    @pytest.mark.parametrize('diag', [True, False])
    @pytest.mark.parametrize('networks', [2, 3])
    def test_gradgradcheck_of_pairs_that_learn_from_constant_ones(self, networks, diag):
        """Of (i, j) and (j, i) one moves, so its target stands still in a difference quotient."""
        logits = contrast_logits(cohort(networks)[:, :4], 0.5).detach()

        def moved(own: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            g = logits.clone()
            g[0, 0] = own
            for index, x in zip(itertools.combinations(range(networks), 2), upper, strict=True):
                g[index] = x
            return mutual_soft(g, 2.5, diag)

        pairs = list(itertools.combinations(range(networks), 2))
        upper = torch.stack([logits[index] for index in pairs]).requires_grad_()
        own = logits[0, 0].clone().requires_grad_()
        assert torch.autograd.gradgradcheck(moved, (own, upper))

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    @pytest.mark.parametrize('diag', [True, False])
    def test_a_recorded_backward_pass_gives_the_same_first_derivatives(self, diag, dtype):
        logits = contrast_logits(cohort(3)).detach().to(dtype).requires_grad_()
        soft_vcl, soft_icl = mutual_soft(logits, 3.0, diag)
        plain, recorded = (
            torch.autograd.grad(
                0.3 * soft_vcl + soft_icl, logits, retain_graph=True, create_graph=record
            )[0]
            for record in (False, True)
        )
        assert torch.equal(plain, recorded)
        assert recorded.requires_grad and not plain.requires_grad

    def test_weights_of_terms_can_be_learnt_through_a_step(self):
        """A student's step depends on the weights, whose gradient is that of the step's loss."""
        v = cohort(2)

        def after_step(weights: Tensor) -> Tensor:
            loss = (weights * torch.stack(mutual_contrast(v, LABELS, 0.5))).sum()
            (grad,) = torch.autograd.grad(loss, v, create_graph=True)
            return mutual_contrast(v - 0.1 * grad, LABELS, 0.5).vcl

        assert torch.autograd.gradcheck(after_step, PAPER.clone().requires_grad_())


def test_a_second_derivative_of_the_logits_is_right():
    assert torch.autograd.gradgradcheck(contrast_logits, (cohort(2),))
