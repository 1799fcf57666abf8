"""The exponential form: its range, its sums, and the forms against each other."""

import pytest
import torch
from oracles import gen, naive_p2p, unit

from kdmm.functional import memory_kl, pixel_to_pixel_kl
from kdmm.functional.streaming import PairPlan, divergence, exponent_dtype, inverse, pair_kl
from kdmm.functional.symmetric import self_kl

CLOSE = dict(rtol=1e-10, atol=1e-12)


def rows(images, area, channels, phi):
    return unit(gen((images * area, channels), phi))


def plan(teacher, images, mask=None, chunk=None, tau=0.1, need_grad=True):
    weight = gen((len(teacher),), 0.7).abs()
    if mask is not None:
        weight = weight * mask
    return PairPlan(teacher, teacher, weight, images, mask, tau, chunk, need_grad)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('chunk', [1, 3, 11, None])
@pytest.mark.parametrize('images', [1, 3])
def test_half_the_tiles_equal_whole_rows(images, chunk, masked):
    """Tiles of a part of an image, of one image, of two and of all."""
    student, teacher = rows(images, 10, 5, 0.3).requires_grad_(), rows(images, 10, 7, 1.1)
    mask = torch.arange(images * 10) % 4 != 1 if masked else None
    common = plan(teacher, images, mask, chunk)
    half = self_kl(student, common)
    keys = student.detach().clone().requires_grad_()
    whole = pair_kl(student, keys, common._replace(chunk=4))
    torch.testing.assert_close(half, whole, **CLOSE)
    expected = torch.autograd.grad(whole, (student, keys))
    torch.testing.assert_close(torch.autograd.grad(half, student)[0], sum(expected), **CLOSE)


def test_without_a_gradient_only_the_sums_are_formed(monkeypatch):
    student, teacher = rows(2, 6, 5, 0.3), rows(2, 6, 7, 1.1)
    monkeypatch.setattr('kdmm.functional.symmetric._gradient', None)
    assert self_kl(student, plan(teacher, 2, need_grad=False)) > 0


def test_sharp_similarities_are_exponentiated_in_float64():
    assert exponent_dtype(torch.zeros(1), 0.1) == torch.float32
    assert exponent_dtype(torch.zeros(1), 0.02) == torch.float64
    student, teacher = (gen((1, c, 3, 4), phi) for c, phi in ((5, 0.3), (7, 1.1)))
    for tau in (0.025, 0.01, 1 / 290):  # float32's exp(1 / tau) would be infinite
        single = student.float().requires_grad_()
        loss = pixel_to_pixel_kl(single, teacher.float(), tau=tau)
        (grad,) = torch.autograd.grad(loss, single)
        double = student.clone().requires_grad_()
        naive = naive_p2p(double, teacher, tau)
        (expected,) = torch.autograd.grad(naive, double)
        assert loss.dtype == grad.dtype == torch.float32
        torch.testing.assert_close(loss.double(), naive, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad.double(), expected, rtol=1e-3, atol=1e-4)
    one = unit(gen((4, 5), 0.3)).float()
    assert memory_kl(one, one.flip(0), one, tau=0.01).isfinite().all()


@pytest.mark.parametrize('tau', [0.003, 0.0, -0.1, float('nan')])
def test_temperatures_that_nothing_can_hold_are_refused(tau):
    with pytest.raises(ValueError, match='at least 1/300'):
        pixel_to_pixel_kl(torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3), tau=tau)


def test_rows_without_keys_give_zero():
    nothing = torch.zeros(3)
    assert divergence(nothing, nothing, nothing).tolist() == [0, 0, 0]
    assert inverse(torch.ones(3), nothing).tolist() == [0, 0, 0]
