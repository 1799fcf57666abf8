"""SP and PKT: the formulas pair by pair, invariances, bounds, samples of length 0."""

import math

import pytest
import torch
from oracles import gen, gen_plus, value_and_grad

from kdmm.functional import batch_probability_kl, batch_similarity_mse
from tests.versions import cpu_autocast

CLOSE = dict(rtol=1e-11, atol=1e-15)
LOSSES = {'sp': batch_similarity_mse, 'pkt': batch_probability_kl}


def features(make=gen_plus):
    return make((5, 3, 2, 2), 0.3).requires_grad_(), make((5, 7), 1.1)


def naive_sp(student, teacher, rows=False):
    maps = []
    for x in (student.flatten(1), teacher.flatten(1)):
        products = [[(a * b).sum() for b in x] for a in x]
        maps.append([[p / sum(q**2 for q in row) ** 0.5 for p in row] for row in products])
    pairs = [(a - b) ** 2 for mine, theirs in zip(*maps, strict=True)
             for a, b in zip(mine, theirs, strict=True)]  # fmt: skip
    return sum(pairs) / (len(student) if rows else len(student) ** 2)


def naive_pkt(student, teacher, rows=False):
    """With 1e-7 added to lengths and probabilities (arXiv 1803.10837, its authors' code)."""
    maps = []
    for x in (student.flatten(1), teacher.flatten(1)):
        unit = [row / ((row**2).sum() ** 0.5 + 1e-7) for row in x]
        raw = [[((a * b).sum() + 1) / 2 for b in unit] for a in unit]
        maps.append([[value / sum(row) for value in row] for row in raw])
    terms = [q * ((q + 1e-7) / (p + 1e-7)).log() for mine, theirs in zip(*maps, strict=True)
             for p, q in zip(mine, theirs, strict=True)]  # fmt: skip
    return sum(terms) / (len(student) if rows else len(student) ** 2)


@pytest.mark.parametrize('make', [gen, gen_plus])
@pytest.mark.parametrize('name, naive', [('sp', naive_sp), ('pkt', naive_pkt)])
@pytest.mark.parametrize('reduction', ['mean', 'rows'])
def test_equals_the_naive_loop(name, naive, reduction, make):
    student, teacher = features(make)
    got = value_and_grad(LOSSES[name](student, teacher, reduction), student)
    expected = value_and_grad(naive(student, teacher, reduction == 'rows'), student)
    torch.testing.assert_close(got, expected, **CLOSE)
    swapped = naive(teacher, student.detach(), reduction == 'rows')
    assert name == 'sp' or abs(swapped / expected[0] - 1) > 1e-3  # a squared difference has none


@pytest.mark.parametrize('name', LOSSES)
class TestBoth:
    def test_teacher_is_detached_and_gradcheck(self, name):
        student, teacher = features(gen)
        teacher.requires_grad_()
        LOSSES[name](student, teacher).backward()
        assert teacher.grad is None
        assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher), student)

    def test_zero_at_equality_of_all_relations(self, name):
        """That is up to a turn, and to a scale of the batch."""
        student, _ = features(gen)
        turn = torch.linalg.qr(gen((12, 12), 0.4))[0]
        value, grad = value_and_grad(LOSSES[name](student, 3 * student.flatten(1) @ turn), student)
        assert value.abs() < 1e-8 and grad.norm() < 1e-7  # 1e-7 is added to lengths in PKT

    def test_a_turn_and_a_scale_of_either_side_change_nothing(self, name):
        student, teacher = features(gen)
        expected = LOSSES[name](student, teacher)
        turns = [torch.linalg.qr(gen((n, n), 0.4))[0] for n in (12, 7)]
        for mine, theirs in (
            (0.01 * student.flatten(1) @ turns[0], teacher),
            (student, 100 * teacher @ turns[1]),
        ):
            torch.testing.assert_close(LOSSES[name](mine, theirs), expected, rtol=1e-4, atol=0)

    def test_rows_do_not_depend_on_the_batch_size_alone(self, name):
        """Twice the same images: SP's rows have twice the entries, each 1 / sqrt(2) of before."""
        student, teacher = features()
        twice = [torch.cat([x, x]) for x in (student, teacher)]
        for reduction, factor in (('rows', 1), ('mean', 0.5)):
            once = LOSSES[name](student, teacher, reduction)
            again = LOSSES[name](twice[0], twice[1], reduction)
            torch.testing.assert_close(again, factor * once, rtol=1e-4, atol=0)

    def test_a_sample_of_zeros_leaves_all_gradients_finite_and_of_one_size(self, name):
        student, teacher = features()
        student, teacher = student.detach().clone(), teacher.clone()
        student[1] = 0
        for theirs in (teacher, teacher.index_fill(0, torch.tensor(3), 0)):
            for scale in (1.0, 1e-3, 1e3):
                x = (student * scale).requires_grad_()
                value, grad = value_and_grad(LOSSES[name](x, theirs), x)
                size = grad.flatten(1).norm(dim=1)
                others = size[torch.arange(5) != 1]
                assert value.isfinite() and size.isfinite().all() and others.min() > 0
                assert size[1] < 10 * others.max()

    def test_other_gradients_do_not_see_the_floor(self, name):
        """The same batch with a very short sample in the place of the zeros."""
        student, teacher = (x.detach().clone() for x in features())
        student[1] = 0
        short = student.clone()
        short[1, 0] = 1e-5
        found = []
        for x in (student, short):
            x.requires_grad_()
            found.append(value_and_grad(LOSSES[name](x, teacher), x)[1][2:])
        assert found[0].norm() > 0 and found[0].isfinite().all() and found[1].isfinite().all()

    def test_all_zeros(self, name):
        student = torch.zeros(4, 6).requires_grad_()
        value, grad = value_and_grad(LOSSES[name](student, torch.rand(4, 6)), student)
        assert value.isfinite() and grad.isfinite().all()

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision(self, name, dtype):
        torch.manual_seed(0)
        student, teacher = (60000 * torch.rand(6, 4, 8, 8) for _ in range(2))
        student[2], teacher[4] = 0, 0
        for storage in (dtype, torch.float32):
            x = student.to(storage).requires_grad_()
            with cpu_autocast(dtype):
                value = LOSSES[name](x, teacher.to(storage))
            value.backward()
            expected = LOSSES[name](x.detach().double(), teacher.to(storage).double())
            assert value.dtype == torch.float32 and x.grad.isfinite().all()
            torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-7)

    def test_one_sample_gives_zero(self, name):
        student = torch.rand(1, 6).requires_grad_()
        value, grad = value_and_grad(LOSSES[name](student, torch.rand(1, 4)), student)
        assert value == 0 and grad.abs().max() < 1e-12

    def test_channels_last_and_slices(self, name):
        student, teacher = features(gen)
        last = student.detach().contiguous(memory_format=torch.channels_last)
        sliced = torch.stack([teacher, -teacher], 2)[..., 0]
        assert not sliced.is_contiguous()
        torch.testing.assert_close(
            LOSSES[name](last, sliced), LOSSES[name](student.detach(), teacher)
        )

    def test_another_reduction(self, name):
        student, teacher = features()
        with pytest.raises(ValueError, match="not 'sum'"):
            LOSSES[name](student, teacher, 'sum')


@pytest.mark.parametrize('scale', [1e-9, 1e9])
def test_sp_takes_a_sample_for_zero_in_relation_to_the_others_only(scale):
    student, teacher = features()
    value, grad = value_and_grad(batch_similarity_mse(student, teacher), student)
    scaled = (student.detach() * scale).requires_grad_()
    found = value_and_grad(batch_similarity_mse(scaled, teacher * scale), scaled)
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1] * scale, grad)


def test_sp_is_bounded():
    """Non-negative unit rows are at most sqrt(2) apart: 2 a row."""
    student, teacher = torch.eye(4), torch.ones(4, 3)
    assert batch_similarity_mse(student, teacher, 'rows') == 2 * (1 - 1 / math.sqrt(4))
    torch.manual_seed(0)
    for _ in range(20):
        pair = [torch.rand(4, 8) ** 9 for _ in range(2)]
        assert batch_similarity_mse(*pair) <= 2 / 4


def test_pkt_of_independent_features_falls_as_the_batch_grows():
    """Hence 30000 at a batch of 64; KL of a row does not."""
    torch.manual_seed(0)
    found = {}
    for batch in (64, 256):
        student, teacher = torch.randn(batch, 64), torch.randn(batch, 64)
        found[batch] = [batch_probability_kl(student, teacher, r).item() for r in ('mean', 'rows')]
    assert found[64][0] / found[256][0] == pytest.approx(4, rel=0.35)
    assert found[64][1] / found[256][1] == pytest.approx(1, rel=0.35)
