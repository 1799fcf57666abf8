"""The exponential form: its range and its sums."""

import pytest
import torch
from oracles import gen, naive_p2p, unit

from kdmm.functional import memory_kl, pixel_to_pixel_kl
from kdmm.functional.relation.streamed import divergence, exponent_dtype, inverse


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
