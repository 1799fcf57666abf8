import pytest
import torch
from oracles import gen

from kdmm.functional import hinge_discriminator, hinge_generator, wasserstein_discriminator

STUDENT, TEACHER = gen((2, 1, 3, 5), 0.3), gen((2, 1, 3, 5), 1.1)


@pytest.mark.parametrize(
    'value, expected',
    [
        (hinge_discriminator(STUDENT, TEACHER), 2.13681056086),
        (hinge_generator(STUDENT), -0.188108440548),
        (wasserstein_discriminator(STUDENT, TEACHER), 0.0921572850612),
    ],
    ids=['hinge D', 'hinge G', 'Wasserstein D'],
)
def test_oracle(value, expected):
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_hinge_is_flat_beyond_its_margins():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    grads = torch.autograd.grad(hinge_discriminator(student, teacher), (student, teacher))
    expected = (student > -1) / 30, -1.0 * (teacher < 1) / 30
    for grad, value in zip(grads, expected, strict=True):
        assert 0 < grad.count_nonzero() < 30
        torch.testing.assert_close(grad, value.double())
    assert hinge_discriminator(torch.tensor([-1.0, -5]), torch.tensor([1.0, 9])) == 0
