import pytest
import torch
from oracles import gen, gen_plus, unit, value_and_grad

from kdmm.functional import channel_mse, channel_relation_kl, channel_rows, pool_ceil


def maps():
    return gen((2, 6, 3, 5), 0.3).requires_grad_(), gen((2, 6, 3, 5), 1.1)


def rows(x):
    """Unit channels one by one, (B, C, a)."""
    return torch.stack([torch.stack([unit(c.flatten(), 0) for c in image]) for image in x])


def naive(student, teacher, tau):
    total = 0.0
    for i in range(len(student)):
        for j in range(len(student)):
            log_s, log_t = (
                torch.log_softmax(rows(x)[i] @ rows(x)[j].T / tau, 1) for x in (student, teacher)
            )
            total = total + (log_t.exp() * (log_t - log_s)).sum(1).mean()
    return total / len(student) ** 2


@pytest.mark.parametrize('tau, chunk', [(0.1, None), (0.3, 4)])
def test_relations_equal_the_naive_loop(tau, chunk):
    student, teacher = maps()
    loss = channel_relation_kl(channel_rows(student), channel_rows(teacher), tau, chunk)
    expected = value_and_grad(naive(student, teacher, tau), student)
    torch.testing.assert_close(value_and_grad(loss, student), expected, rtol=1e-10, atol=1e-13)


def test_mse_equals_the_naive_loop():
    student, teacher = maps()
    expected = sum(
        (p - q) ** 2
        for s, t in zip(rows(student).flatten(0, 1), rows(teacher).flatten(0, 1), strict=True)
        for p, q in zip(s, t, strict=True)
    ) / (2 * 6 * 15)
    loss = channel_mse(channel_rows(student), channel_rows(teacher))
    torch.testing.assert_close(value_and_grad(loss, student), value_and_grad(expected, student))


def test_incomplete_windows_count():
    x = gen((2, 3, 9, 10), 0.3)
    pooled = pool_ceil(x, 4)
    assert pooled.shape == (2, 3, 3, 3)
    torch.testing.assert_close(pooled[:, :, 2, 2], x[:, :, 8:, 8:].mean((2, 3)))
    assert pool_ceil(x[:, :, :3, :3], 4).shape == (2, 3, 1, 1)
    large = torch.full((1, 1, 4, 4), 60000.0, dtype=torch.float16)
    pooled = pool_ceil(large, 4)
    assert pooled.dtype == torch.float32 and pooled.item() == 60000


def test_positive_factors_per_channel_and_permuted_space_change_nothing():
    student, teacher = maps()
    factor = 1 + gen_plus((2, 6, 1, 1), 0.2)
    loss = channel_relation_kl(channel_rows(student), channel_rows(teacher))
    for changed in (student * factor, student.flip(2, 3)):
        other = channel_relation_kl(channel_rows(changed), channel_rows(teacher))
        torch.testing.assert_close(other, loss)


def test_zero_at_equality_and_detached_teacher():
    student, teacher = maps()
    for loss in (channel_relation_kl, channel_mse):
        pair = channel_rows(student), channel_rows(3 * student)
        value, grad = value_and_grad(loss(*pair), student)
        assert value.abs() < 1e-14 and grad.norm() < 1e-13
        teacher.grad, rowed = None, channel_rows(teacher.requires_grad_())
        loss(channel_rows(student), rowed).backward()
        assert teacher.grad is None


def test_gradcheck():
    student, teacher = maps()
    target = channel_rows(teacher)
    for loss in (channel_relation_kl, channel_mse):
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(channel_rows(s), target), student)
