import pytest
import torch
from oracles import gen, value_and_grad

from kdmm.functional import class_correlation_mse


def naive(student, teacher, temperature=4.0):
    total = 0.0
    batch, classes, height, width = student.shape
    for b in range(batch):
        maps = []
        for x in (student[b], teacher[b]):
            pooled = torch.stack(
                [
                    x[:, i : i + 2, j : j + 2].flatten(1).mean(1)
                    for i in range(0, height, 2)
                    for j in range(0, width, 2)
                ],
                1,
            )
            weight = (pooled / temperature).exp()
            maps.append(weight / weight.sum(1, keepdim=True))
        for k in range(classes):
            for m in range(classes):
                s, t = ((x[k] * x[m]).sum() for x in maps)
                total = total + (s - t.detach()) ** 2
    return total / (batch * classes**2)


def logits():
    return (3 * gen((2, 5, 5, 7), 0.3)).requires_grad_(), 3 * gen((2, 5, 5, 7), 1.1)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_the_naive_loop(temperature):
    student, teacher = logits()
    got = value_and_grad(class_correlation_mse(student, teacher, temperature), student)
    expected = value_and_grad(naive(student, teacher, temperature), student)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-18)


def test_no_factor_of_the_temperature():
    """The softened maps alone: scaling logits and temperature together changes nothing."""
    student, teacher = logits()
    torch.testing.assert_close(
        class_correlation_mse(student, teacher, 1.0),
        class_correlation_mse(4 * student, 4 * teacher, 4.0),
    )


def test_constants_and_permutations_of_space_change_nothing():
    student, teacher = logits()
    loss = class_correlation_mse(student, teacher, pool=1)
    constant = gen((2, 5, 1, 1), 0.9)
    torch.testing.assert_close(class_correlation_mse(student + constant, teacher, pool=1), loss)
    flipped = class_correlation_mse(student.flip(2, 3), teacher, pool=1)
    torch.testing.assert_close(flipped, loss)


def test_zero_at_equality_and_detached_teacher():
    student, teacher = logits()
    value, grad = value_and_grad(class_correlation_mse(student, student), student)
    assert value == 0 and grad.abs().max() == 0
    class_correlation_mse(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None


def test_gradcheck():
    student, teacher = logits()
    assert torch.autograd.gradcheck(lambda s: class_correlation_mse(s, teacher, 1.0), student)


def test_orders_of_magnitude_at_the_usual_shapes():
    torch.manual_seed(0)
    shape = (2, 19, 64, 128)
    for std, value in ((1, 6e-14), (4, 2e-11), (10, 2e-8)):
        pair = (std * torch.randn(shape, dtype=torch.double) for _ in range(2))
        got = class_correlation_mse(*pair).item()
        assert value / 3 < got < value * 3
