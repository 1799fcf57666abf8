import torch
from oracles import gen, lab, value_and_grad

from kdmm.functional import mean_squared_difference


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
