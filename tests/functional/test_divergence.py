import itertools
import math

import pytest
import torch
from oracles import gen, lab, value_and_grad

from kdmm.functional import (
    binary_kl_divergence,
    channel_kl,
    decoupled_kl,
    kl_divergence,
)
from tests.versions import cpu_autocast


def naive(student, teacher, temperature):
    total = 0.0
    for s, t in zip(
        student.movedim(1, -1).flatten(0, 2), teacher.movedim(1, -1).flatten(0, 2), strict=True
    ):
        s, t = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (s, t))
        total += sum((q * (math.log(q) - math.log(p))).item() for p, q in zip(s, t, strict=True))
    return total / (student.numel() / student.shape[1]) * temperature**2


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_naive_loop(temperature):
    student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
    assert kl_divergence(student, teacher, temperature).item() == pytest.approx(
        naive(student, teacher, temperature), rel=1e-12
    )
    assert abs(naive(student, teacher, temperature) - naive(teacher, student, temperature)) > 1e-4


def test_gradient_and_detach():
    student = gen((2, 5, 3, 4), 0.3).requires_grad_()
    teacher = gen((2, 5, 3, 4), 1.1).requires_grad_()
    kl_divergence(student, teacher, 2.0).backward()
    # d/dz of T^2 KL is T (p_s - p_t), over 24 pixels
    expected = 2 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / 24
    torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: kl_divergence(s, teacher, 2.0), student)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
class TestChannels:
    def test_equals_a_loop_over_channels(self, temperature):
        student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
        total = 0.0
        for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
            s, t = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (s, t))
            total += (t * (t.log() - s.log())).sum().item()
        expected = total / 10 * temperature**2
        assert channel_kl(student, teacher, temperature).item() == pytest.approx(
            expected, rel=1e-11
        )

    def test_is_logit_kd_with_classes_and_positions_exchanged(self, temperature):
        student, teacher = gen((2, 5, 3, 4), 0.3).requires_grad_(), gen((2, 5, 3, 4), 1.1)
        turned = (x.flatten(2).transpose(1, 2)[..., None] for x in (student, teacher))
        for loss in (
            channel_kl(student, teacher, temperature),
            kl_divergence(*turned, temperature),  # type: ignore[call-arg]
        ):
            (grad,) = torch.autograd.grad(loss, student)
            p_s, p_t = ((x / temperature).flatten(2).softmax(2) for x in (student, teacher))
            expected = (temperature / 10 * (p_s - p_t)).view_as(student)
            torch.testing.assert_close(grad, expected.detach())
        assert loss.item() == pytest.approx(
            channel_kl(student, teacher, temperature).item(), rel=1e-14
        )

    def test_constants_per_channel_and_permuted_positions_change_nothing(self, temperature):
        student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
        loss = channel_kl(student, teacher, temperature)
        constant = gen((2, 5, 1, 1), 0.7)
        for pair in ((student + constant, teacher), (student.flip(2, 3), teacher.flip(2, 3))):
            torch.testing.assert_close(channel_kl(*pair, temperature), loss)
        assert channel_kl(teacher + constant, teacher, temperature).abs() < 1e-14
        assert abs(channel_kl(student.flip(2), teacher, temperature) - loss) > 1e-4

    def test_gradcheck_and_detached_teacher(self, temperature):
        student, teacher = gen((1, 2, 3, 4), 0.3).requires_grad_(), gen((1, 2, 3, 4), 1.1)
        teacher.requires_grad_()
        assert torch.autograd.gradcheck(lambda s: channel_kl(s, teacher, temperature), student)
        channel_kl(student, teacher, temperature).backward()
        assert teacher.grad is None


def test_constants_per_pixel_change_nothing():
    student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
    constant = gen((2, 1, 3, 4), 0.7)
    torch.testing.assert_close(
        kl_divergence(student + constant, teacher), kl_divergence(student, teacher)
    )
    assert kl_divergence(teacher + constant, teacher).abs() < 1e-14


def test_valid_mask():
    student, teacher = gen((2, 5, 4, 6), 0.3), gen((2, 5, 4, 6), 1.1)
    valid = lab(2, 4, 6, 3) != 255
    expected = kl_divergence(student.movedim(1, -1)[valid], teacher.movedim(1, -1)[valid], dim=-1)
    torch.testing.assert_close(kl_divergence(student, teacher, weight=valid), expected)
    assert kl_divergence(student, teacher, weight=torch.zeros_like(valid)) == 0


def test_weights_of_positions_with_the_classes_last():
    """(B, K, W), a weight a row: weights are shares, their scale does not matter."""
    student, teacher = gen((2, 3, 7), 0.3), gen((2, 3, 7), 1.1)
    weight = torch.tensor([[1.0, 0.0, 0.25], [0.0, 0.5, 0.0]])
    total = 0.0
    for b in range(2):
        for k in range(3):
            s, t = ((x[b, k] / 0.1).softmax(0) for x in (student, teacher))
            total += weight[b, k].item() * (t * (t.log() - s.log())).sum().item()
    for scale in (1.0, 0.01, 100.0):
        loss = kl_divergence(student, teacher, 0.1, -1, weight * scale)
        assert loss.item() == pytest.approx(total / 1.75 * 0.1**2, rel=1e-6)
    assert kl_divergence(student, teacher, dim=-1, weight=weight * 0) == 0


class TestBinary:
    @staticmethod
    def naive(student, teacher, temperature, weight):
        """Class by class in Python's doubles; (B, C, n) and (B, n)."""
        total, counted = 0.0, 0.0
        for b, c, n in itertools.product(*map(range, student.shape)):
            p, q = (
                1 / (1 + math.exp(-x[b, c, n].item() / temperature)) for x in (student, teacher)
            )
            kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
            total += weight[b, n].item() * kl
            counted += weight[b, n].item() / student.shape[1]
        return total / counted * temperature**2

    @pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
    def test_equals_a_loop(self, temperature):
        student, teacher = gen((2, 3, 8), 0.3), gen((2, 3, 8), 1.1)
        weight = gen((2, 8), 0.9).clamp_min(0)
        for given in (None, weight, weight > 0):
            expected = torch.ones(2, 8) if given is None else given.double()
            expected = self.naive(student, teacher, temperature, expected)
            loss = binary_kl_divergence(student, teacher, temperature, weight=given)
            assert loss.item() == pytest.approx(expected, rel=1e-11)
        turned = (student.transpose(1, 2), teacher.transpose(1, 2), temperature, -1, weight)
        expected = self.naive(student, teacher, temperature, weight)
        assert binary_kl_divergence(*turned).item() == pytest.approx(expected, rel=1e-11)
        assert abs(self.naive(teacher, student, temperature, weight) / expected - 1) > 1e-4

    def test_gradient_and_detach(self):
        student, teacher = gen((2, 5, 12), 0.3).requires_grad_(), gen((2, 5, 12), 1.1)
        teacher.requires_grad_()
        binary_kl_divergence(student, teacher, 2.0).backward()
        # d/dz of T^2 KL is T (p - q), over 24 positions
        expected = 2 * ((student / 2).sigmoid() - (teacher / 2).sigmoid()) / 24
        torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-11, atol=1e-15)
        assert teacher.grad is None
        assert torch.autograd.gradcheck(lambda s: binary_kl_divergence(s, teacher, 2.0), student)

    def test_two_classes_of_a_softmax_are_one_of_a_sigmoid(self):
        student, teacher = gen((2, 1, 12), 0.3), gen((2, 1, 12), 1.1)
        both = (torch.cat([x, torch.zeros_like(x)], 1) for x in (student, teacher))
        torch.testing.assert_close(
            binary_kl_divergence(student, teacher, 3.0),
            kl_divergence(*both, 3.0),  # type: ignore[call-arg]
        )

    def test_nothing_between_equals_and_nothing_without_weight(self):
        x = (100 * gen((2, 5, 12), 0.3)).float().requires_grad_()
        loss = binary_kl_divergence(x, x)
        (grad,) = torch.autograd.grad(loss, x)
        assert loss == 0 and grad.abs().max() < 1e-7
        loss = binary_kl_divergence(x, x + 1, weight=torch.zeros(2, 12))
        (grad,) = torch.autograd.grad(loss, x)
        assert loss == 0 and not grad.any()

    @pytest.mark.parametrize('size', [30.0, 120.0, 60000.0])
    def test_far_from_zero(self, size):
        """float32 has no 1 - sigmoid(30); the divergence of confident opposites is their size."""
        student = torch.tensor([[size], [-size], [size]], requires_grad=True)
        teacher = torch.tensor([[-size], [size], [size + 1]])
        values = [
            binary_kl_divergence(s[None], t[None]) for s, t in zip(student, teacher, strict=True)
        ]
        assert [v.item() for v in values] == pytest.approx([size, size, 0], rel=1e-6, abs=1e-12)
        (grad,) = torch.autograd.grad(sum(values), student)
        assert grad.flatten().tolist() == pytest.approx([1, -1, 0], abs=1e-6)

    def test_confident_neighbours(self):
        """1 - sigmoid(12) is 6e-6, of which float32's difference keeps two digits."""
        student, teacher = torch.tensor([[[13.0], [-11.0]]]), torch.tensor([[[12.0], [-12.0]]])
        exact = binary_kl_divergence(student.double(), teacher.double())
        loss = binary_kl_divergence(student, teacher)
        assert loss.item() == pytest.approx(exact.item(), rel=1e-5)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_float32_under_autocast(self, dtype):
        torch.manual_seed(0)
        student, teacher = ((torch.randn(2, 80, 64) * 8 - 4).to(dtype) for _ in range(2))
        with cpu_autocast(dtype):
            loss = binary_kl_divergence(student, teacher, 2.0)
        assert loss.dtype == torch.float32
        exact = binary_kl_divergence(student.double(), teacher.double(), 2.0)
        torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_promoted(dtype):
    student, teacher = (torch.randn(2, 19, 8, 8) * 30 for _ in range(2))
    with cpu_autocast(dtype):
        loss = kl_divergence(student.to(dtype), teacher.to(dtype))
    assert loss.dtype == torch.float32 and loss.isfinite()
    torch.testing.assert_close(loss, kl_divergence(student, teacher), rtol=2e-2, atol=0)


class TestDecoupled:
    """DKD: the label against the rest, and the rest among themselves (arXiv 2203.08679)."""

    LABELS = torch.tensor([0, 3, 4, 3])

    def logits(self):
        return 2 * gen((4, 5), 0.3), 3 * gen((4, 5), 1.1)

    def naive(self, student, teacher, labels, temperature):
        """Both parts of one sample after another, from probabilities."""
        parts = []
        for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
            p, q = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (s, t))
            target = q[y] * (q[y] / p[y]).log() + (1 - q[y]) * ((1 - q[y]) / (1 - p[y])).log()
            rest = [k for k in range(len(s)) if k != y]
            p, q = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
            parts.append((target, (q * (q / p).log()).sum()))
        return [temperature**2 * sum(part) / len(part) for part in zip(*parts, strict=True)]

    @pytest.mark.parametrize('temperature', [1.0, 4.0])
    @pytest.mark.parametrize('part', [0, 1])
    def test_equals_the_naive_loop(self, part, temperature):
        student, teacher = self.logits()
        student.requires_grad_()
        got = value_and_grad(
            decoupled_kl(student, teacher, self.LABELS, temperature)[part], student
        )
        expected = self.naive(student, teacher, self.LABELS, temperature)[part]
        torch.testing.assert_close(got, value_and_grad(expected, student), rtol=1e-11, atol=1e-14)
        swapped = self.naive(teacher, student.detach(), self.LABELS, temperature)[part]
        assert abs(swapped / got[0] - 1) > 1e-3

    @pytest.mark.parametrize('temperature', [1.0, 4.0])
    def test_logit_kd_is_both_parts_sample_by_sample(self, temperature):
        """KL = target + (1 - p_t(label)) others (arXiv 2203.08679, equation 6)."""
        student, teacher = self.logits()
        for row, label in enumerate(self.LABELS):
            one = student[row : row + 1], teacher[row : row + 1]
            target, others = decoupled_kl(*one, label[None], temperature)
            left = 1 - (one[1] / temperature).softmax(1)[0, label]
            whole = kl_divergence(*one, temperature)
            torch.testing.assert_close(target + left * others, whole, rtol=1e-11, atol=1e-14)

    def test_gradcheck_detached_teacher_and_zero(self):
        student, teacher = (x.requires_grad_() for x in self.logits())
        for part in (0, 1):
            decoupled_kl(student, teacher, self.LABELS)[part].backward()
            assert teacher.grad is None
            assert torch.autograd.gradcheck(
                lambda s, part=part: decoupled_kl(s, teacher, self.LABELS, 2.0)[part], student
            )
            same = value_and_grad(decoupled_kl(student, student, self.LABELS)[part], student)
            assert same[0].abs() < 1e-15 and same[1].norm() < 1e-14

    def test_two_classes(self):
        """Nothing is left to compare among the others: 3/4 ln(3/2) + 1/4 ln(1/2)."""
        student = torch.zeros(1, 2, dtype=torch.float64)
        teacher = torch.tensor([[math.log(3), 0]], dtype=torch.float64)
        for label in (0, 1):
            target, others = decoupled_kl(student, teacher, torch.tensor([label]))
            expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
            assert expected == pytest.approx(0.130812035941, rel=1e-11)
            assert target.item() == pytest.approx(expected, rel=1e-12) and others == 0

    def test_ignored_labels_leave_the_mean(self):
        student, teacher = self.logits()
        student.requires_grad_()
        labels = torch.tensor([0, -1, 4, -1])
        for part in (0, 1):
            value, grad = value_and_grad(decoupled_kl(student, teacher, labels, 2.0)[part], student)
            kept = labels != -1
            expected = decoupled_kl(student[kept], teacher[kept], labels[kept], 2.0)[part]
            torch.testing.assert_close(value, expected.detach())
            assert grad[~kept].abs().max() == 0 < grad[kept].norm()
            nothing = decoupled_kl(student, teacher, torch.full((4,), -1))[part]
            value, grad = value_and_grad(nothing, student)
            assert value == 0 and grad.abs().max() == 0
        other = decoupled_kl(student, teacher, labels.masked_fill(labels == -1, 255), 2.0, 255)
        assert torch.equal(other[1], decoupled_kl(student, teacher, labels, 2.0)[1])

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    def test_gaps_of_any_size_are_finite(self, dtype):
        """A summed softmax rounds to 0 at a gap of 104, and a mask of 1000 is too small."""
        gap = 1e4
        rows = [[gap, 0, 0], [0, gap, 0], [-gap, gap, 0], [0, -gap, gap], [0, 0, 0]]
        student = torch.tensor(rows).repeat_interleave(5, 0).to(dtype).requires_grad_()
        teacher = torch.tensor(rows).repeat(5, 1).to(dtype)
        with cpu_autocast(torch.bfloat16 if dtype is torch.float32 else dtype):
            parts = decoupled_kl(student, teacher, torch.zeros(25).long())
        sum(parts).backward()
        assert all(part.isfinite() and part > 1000 for part in parts)
        assert parts[0].dtype == torch.float32 and student.grad.isfinite().all()
        assert student.grad.norm() > 0.1
        exact = [
            part.item()
            for part in decoupled_kl(
                student.detach().double(), teacher.double(), torch.zeros(25).long()
            )
        ]
        assert [part.item() for part in parts] == pytest.approx(exact, rel=1e-6)
