import math

import pytest
import torch
from oracles import gen, lab

from kdmm.functional import channel_kl, check_labels, kl_divergence, resize_labels


def naive(student, teacher, tau):
    total = 0.0
    for s, t in zip(
        student.movedim(1, -1).flatten(0, 2), teacher.movedim(1, -1).flatten(0, 2), strict=True
    ):
        s, t = ((x / tau).exp() / (x / tau).exp().sum() for x in (s, t))
        total += sum((q * (math.log(q) - math.log(p))).item() for p, q in zip(s, t, strict=True))
    return total / (student.numel() / student.shape[1]) * tau**2


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_equals_naive_loop(tau):
    student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
    assert kl_divergence(student, teacher, tau).item() == pytest.approx(
        naive(student, teacher, tau), rel=1e-12
    )
    assert abs(naive(student, teacher, tau) - naive(teacher, student, tau)) > 1e-4


def test_gradient_and_detach():
    student = gen((2, 5, 3, 4), 0.3).requires_grad_()
    teacher = gen((2, 5, 3, 4), 1.1).requires_grad_()
    kl_divergence(student, teacher, 2.0).backward()
    # d/dz of tau^2 KL is tau (p_s - p_t), over 24 pixels
    expected = 2 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / 24
    torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: kl_divergence(s, teacher, 2.0), student)


@pytest.mark.parametrize('tau', [1.0, 4.0])
class TestChannels:
    def test_equals_a_loop_over_channels(self, tau):
        student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
        total = 0.0
        for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
            s, t = ((x / tau).exp() / (x / tau).exp().sum() for x in (s, t))
            total += (t * (t.log() - s.log())).sum().item()
        expected = total / 10 * tau**2
        assert channel_kl(student, teacher, tau).item() == pytest.approx(expected, rel=1e-11)

    def test_is_logit_kd_with_classes_and_positions_exchanged(self, tau):
        student, teacher = gen((2, 5, 3, 4), 0.3).requires_grad_(), gen((2, 5, 3, 4), 1.1)
        turned = (x.flatten(2).transpose(1, 2)[..., None] for x in (student, teacher))
        for loss in (channel_kl(student, teacher, tau), kl_divergence(*turned, tau)):
            (grad,) = torch.autograd.grad(loss, student)
            p_s, p_t = ((x / tau).flatten(2).softmax(2) for x in (student, teacher))
            expected = (tau / 10 * (p_s - p_t)).view_as(student)
            torch.testing.assert_close(grad, expected.detach())
        assert loss.item() == pytest.approx(channel_kl(student, teacher, tau).item(), rel=1e-14)

    def test_constants_per_channel_and_permuted_positions_change_nothing(self, tau):
        student, teacher = gen((2, 5, 3, 4), 0.3), gen((2, 5, 3, 4), 1.1)
        loss = channel_kl(student, teacher, tau)
        constant = gen((2, 5, 1, 1), 0.7)
        for pair in ((student + constant, teacher), (student.flip(2, 3), teacher.flip(2, 3))):
            torch.testing.assert_close(channel_kl(*pair, tau), loss)
        assert channel_kl(teacher + constant, teacher, tau).abs() < 1e-14
        assert abs(channel_kl(student.flip(2), teacher, tau) - loss) > 1e-4

    def test_gradcheck_and_detached_teacher(self, tau):
        student, teacher = gen((1, 2, 3, 4), 0.3).requires_grad_(), gen((1, 2, 3, 4), 1.1)
        teacher.requires_grad_()
        assert torch.autograd.gradcheck(lambda s: channel_kl(s, teacher, tau), student)
        channel_kl(student, teacher, tau).backward()
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
    torch.testing.assert_close(kl_divergence(student, teacher, valid=valid), expected)
    assert kl_divergence(student, teacher, valid=torch.zeros_like(valid)) == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_promoted(dtype):
    student, teacher = (torch.randn(2, 19, 8, 8) * 30 for _ in range(2))
    with torch.autocast('cpu', dtype):
        loss = kl_divergence(student.to(dtype), teacher.to(dtype))
    assert loss.dtype == torch.float32 and loss.isfinite()
    torch.testing.assert_close(loss, kl_divergence(student, teacher), rtol=2e-2, atol=0)


@pytest.mark.parametrize('size', [(4, 6), (3, 5), (8, 12), (11, 13)])
def test_resize_labels_takes_the_floor(size):
    labels = lab(2, 8, 12, 5)
    out = resize_labels(labels, size)
    for i in range(size[0]):
        for j in range(size[1]):
            source = labels[:, i * 8 // size[0], j * 12 // size[1]]
            assert torch.equal(out[:, i, j], source)


def test_foreign_labels_are_named():
    labels = lab(1, 4, 6, 3)
    check_labels(labels, 3, 255)
    labels[0, 0, 1], labels[0, 2, 3] = 7, -1
    with pytest.raises(ValueError, match='-1, 7, but there are 3 classes'):
        check_labels(labels, 3, 255)
