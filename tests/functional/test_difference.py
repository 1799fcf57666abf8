import math

import pytest
import torch
from oracles import gen, lab, value_and_grad

from kdmm.functional import gaussian_nll, mean_squared_difference
from tests.versions import cpu_autocast


def features():
    return gen((2, 5, 4, 6), 0.3).requires_grad_(), gen((2, 5, 4, 6), 1.1)


def test_equals_a_loop_with_all_or_the_valid_pixels():
    student, teacher = features()
    mask = lab(2, 4, 6, 3) != 255
    for valid in (None, mask):
        terms = [
            (student[b, c, i, j] - teacher[b, c, i, j]) ** 2
            for b in range(2)
            for c in range(5)
            for i in range(4)
            for j in range(6)
            if valid is None or valid[b, i, j]
        ]
        got = value_and_grad(mean_squared_difference(student, teacher, valid), student)
        torch.testing.assert_close(got, value_and_grad(sum(terms) / len(terms), student))


def test_no_valid_pixel_is_exactly_zero_and_connected():
    student, teacher = features()
    loss = mean_squared_difference(student, teacher, torch.zeros(2, 4, 6, dtype=torch.bool))
    value, grad = value_and_grad(loss, student)
    assert value == 0 and grad.abs().max() == 0


def test_gradcheck_zero_and_detached_teacher():
    student, teacher = features()
    teacher.requires_grad_()
    valid = lab(2, 4, 6, 3) != 255
    for mask in (None, valid):
        assert torch.autograd.gradcheck(
            lambda s, mask=mask: mean_squared_difference(s, teacher, mask), student
        )
    mean_squared_difference(student, teacher).backward()
    assert teacher.grad is None
    assert mean_squared_difference(student, student) == 0


def test_likelihood_equals_a_loop_and_that_of_a_normal_distribution():
    """Without the constant log(2 pi) / 2 (arXiv 1904.05835, equation 5)."""
    mean, teacher = features()
    variance = (0.5 + gen((5,), 0.9) ** 2).requires_grad_()
    terms = [
        (mean[b, c, i, j] - teacher[b, c, i, j]) ** 2 / (2 * variance[c]) + variance[c].log() / 2
        for b in range(2)
        for c in range(5)
        for i in range(4)
        for j in range(6)
    ]
    expected = value_and_grad(sum(terms) / len(terms), mean, variance)
    value = gaussian_nll(mean, teacher, variance)
    torch.testing.assert_close(value_and_grad(value, mean, variance), expected)
    normal = torch.distributions.Normal(mean, variance.sqrt()[:, None, None])
    surprise = -normal.log_prob(teacher).mean() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(value, surprise)
    assert torch.autograd.gradcheck(lambda m, v: gaussian_nll(m, teacher, v), (mean, variance))


def test_likelihood_detaches_the_teacher_and_is_least_at_it():
    mean, teacher = features()
    variance = torch.full((5,), 5.0, dtype=torch.float64)
    gaussian_nll(mean, teacher.requires_grad_(), variance).backward()
    assert teacher.grad is None and mean.grad.norm() > 0
    value, grad = value_and_grad(gaussian_nll(mean, mean, variance), mean)
    assert value.item() == pytest.approx(math.log(5) / 2, rel=1e-12) and grad.abs().max() == 0
    assert math.log(5) / 2 == pytest.approx(0.8047189562, rel=1e-9)
    assert gaussian_nll(mean, mean, variance / 50) < 0


def test_likelihood_in_half_precision():
    mean = (60000 * torch.ones(1, 2, 3, 3)).half().requires_grad_()
    with cpu_autocast(torch.bfloat16):
        value = gaussian_nll(mean, -mean.detach(), torch.full((2,), 1e-5).half())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
