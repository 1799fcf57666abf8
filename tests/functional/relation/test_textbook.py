"""The textbook forms against oracles that share no code with them, and their second derivatives."""

import pytest
import torch
from oracles import gen, gen_plus, naive_memory, naive_p2p, unit, value_and_grad

from kdmm.functional.relation import memory_kl, pixel_to_pixel_kl, textbook

CLOSE = dict(rtol=1e-10, atol=1e-12)


def maps(batch, make=gen, size=(3, 4)):
    student = make((batch, 5, *size), 0.3).requires_grad_()
    return student, make((batch, 7, *size), 1.1)


def rows(x):
    """Unit rows of the pixels, one by one, (B, C, h, w) -> (B * h * w, C)."""
    return torch.stack([unit(pixel, 0) for image in x for pixel in image.flatten(1).T])


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('tau', [0.1, 1.0])
def test_pixels_equal_the_oracle(batch, tau):
    student, teacher = maps(batch)
    book = value_and_grad(textbook.pixel_to_pixel_kl(student, teacher, tau), student)
    torch.testing.assert_close(
        book, value_and_grad(naive_p2p(student, teacher, tau), student), **CLOSE
    )


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_memory_equals_the_oracle(temperature):
    student, teacher = (gen((2, 7, 3, 4), phi).requires_grad_() for phi in (0.3, 1.1))
    keys, labels = unit(gen((9, 7), 2.0)), torch.zeros(2, 3, 4)
    book = textbook.memory_kl(rows(student), rows(teacher), keys, 0.1, temperature, [6, 3])
    assert book.shape == (2,)
    for value, part in zip(book, (keys[:6], keys[6:]), strict=True):
        naive = naive_memory(student, teacher, part, labels, 0.1, temperature)
        (grad,) = torch.autograd.grad(value, student, retain_graph=True)
        torch.testing.assert_close((value.detach(), grad), value_and_grad(naive, student), **CLOSE)
    alone = textbook.memory_kl(rows(student), rows(teacher), keys)
    torch.testing.assert_close(
        alone[0], naive_memory(student, teacher, keys, labels, 0.1, 1.0), **CLOSE
    )


def test_teacher_and_keys_get_no_gradient():
    student, teacher = maps(2)
    teacher.requires_grad_()
    textbook.pixel_to_pixel_kl(student, teacher).backward()
    one, two, keys = (unit(gen((9, 7), phi)).requires_grad_() for phi in (0.3, 1.1, 2.0))
    textbook.memory_kl(one, two, keys).sum().backward()
    assert teacher.grad is two.grad is keys.grad is None
    assert student.grad.any() and one.grad.any()


def test_the_functions_that_losses_call_give_its_numbers():
    """Arguments of both have the same names, order and defaults."""
    student, teacher = maps(2, gen_plus)
    one, two, keys = (unit(gen((9, 7), phi)) for phi in (0.3, 1.1, 2.0))
    one.requires_grad_()
    for ours, book, arguments, leaf in (
        (pixel_to_pixel_kl, textbook.pixel_to_pixel_kl, (student, teacher, 0.2), student),
        (pixel_to_pixel_kl, textbook.pixel_to_pixel_kl, (student, teacher), student),
        (memory_kl, textbook.memory_kl, (one, two, keys, 0.2, 3.0, [4, 5]), one),
        (memory_kl, textbook.memory_kl, (one, two, keys), one),
    ):
        found = [value_and_grad(form(*arguments).sum(), leaf) for form in (ours, book)]
        torch.testing.assert_close(*found, **CLOSE)


def test_second_derivatives():
    student, teacher = maps(2, gen, (2, 2))
    assert torch.autograd.gradgradcheck(lambda s: textbook.pixel_to_pixel_kl(s, teacher), student)
    one, two, keys = (unit(gen((5, 4), phi)) for phi in (0.3, 1.1, 2.0))
    assert torch.autograd.gradgradcheck(
        lambda s: textbook.memory_kl(s, two, keys, sections=[2, 3]), one.requires_grad_()
    )
