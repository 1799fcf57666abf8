"""Maps as losses read them. No loss that compares directions may pull at a row without one."""

import pytest
import torch
from oracles import gen, lab

from kdmm.functional import (
    attention_transfer,
    centre_similarity_mse,
    channel_mse,
    channel_relation_kl,
    channel_rows,
    check_labels,
    normalize_rows,
    pairwise_similarity_mse,
    pixel_to_pixel_kl,
    resize_labels,
    valid_labels,
)
from kdmm.functional.maps import full_product

LABELS = lab(2, 4, 6, 3)
#: Losses of the student's and the teacher's maps (B, C, h, w).
OF_PIXELS = {
    'p2p': pixel_to_pixel_kl,
    'p2p, valid': lambda s, t: pixel_to_pixel_kl(s, t, valid=LABELS != 255),
    'skd': lambda s, t: pairwise_similarity_mse(s, t, 1),
    'skd, streamed': lambda s, t: pairwise_similarity_mse(s, t, 1, form='streamed', chunk=5),
    'skd, gram': lambda s, t: pairwise_similarity_mse(s, t, 1, form='gram'),
    'skd, original': lambda s, t: pairwise_similarity_mse(s, t, 1, detach_norm=True),
    'ifvd': lambda s, t: centre_similarity_mse(s, t, LABELS, 3),
    'at': attention_transfer,
}
OF_CHANNELS = {
    'relations': lambda s, t: channel_relation_kl(channel_rows(s), channel_rows(t)),
    'mse': lambda s, t: channel_mse(channel_rows(s), channel_rows(t)),
}


def maps():
    return gen((2, 6, 4, 6), 0.3), gen((2, 6, 4, 6), 1.1)


def gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(student, teacher), student)
    return grad


@pytest.mark.parametrize('size', [0.0, 1e-9, 3e-7])
def test_below_the_floor_the_value_is_divided_and_the_gradient_is_nothing(size):
    x, weight = gen((2, 4, 3), 0.3), gen((2, 4, 3), 1.0)
    x[0, :, 1] = size / 2  # of four entries: a row of length `size`
    x.requires_grad_()
    y = normalize_rows(x)
    expected = torch.nn.functional.normalize(x, eps=1e-6)
    assert torch.equal(y, expected)
    (grad,) = torch.autograd.grad((y * weight).sum(), x)
    (usual,) = torch.autograd.grad((expected * weight).sum(), x)
    assert usual[0, :, 1].norm() > 1e5
    assert not grad[0, :, 1].any()
    usual[0, :, 1] = 0
    torch.testing.assert_close(grad, usual, rtol=1e-12, atol=1e-14)


def test_from_the_floor_on_rows_learn_as_usual():
    x = torch.tensor([[2e-6, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(normalize_rows(x)[:, 1].sum(), x)
    torch.testing.assert_close(grad, torch.tensor([[0, 5e5], [-0.096, 0.072]]).double())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_half_types(dtype):
    x = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, :, 1], x[1, 0, 2], x[1, 1:, 2] = 0, 2e-7, 0  # nothing, and what float16 still holds
    x.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        y = normalize_rows(x)
        (y * 1000).sum().backward()
    assert y.dtype == torch.float32 and x.grad.dtype == dtype
    assert x.grad.isfinite().all() and 0 < x.grad.norm() < 1e5
    assert not x.grad[0, :, 1].any() and not x.grad[1, :, 2].any()


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_a_recorded_backward_pass_gives_the_same_numbers(dtype):
    x, weight = gen((2, 4, 3), 0.3), gen((2, 4, 3), 1.0)
    x[0, :, 1] = 0
    x = x.to(dtype).requires_grad_()
    loss = (normalize_rows(x) * weight).sum()
    plain, recorded = (
        torch.autograd.grad(loss, x, retain_graph=True, create_graph=record)[0]
        for record in (False, True)
    )
    assert torch.equal(plain, recorded) and not plain.requires_grad and recorded.requires_grad


def test_second_derivatives():
    x, grad = gen((2, 4, 3), 0.3).requires_grad_(), gen((2, 4, 3), 1.0).requires_grad_()
    assert torch.autograd.gradcheck(normalize_rows, x)
    assert torch.autograd.gradgradcheck(normalize_rows, x, grad)
    dead = x.detach().clone()
    dead[0, :, 1] = 0
    dead.requires_grad_()
    (first,) = torch.autograd.grad(normalize_rows(dead), dead, grad, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), (dead, grad))
    assert all(x.isfinite().all() and not x[0, :, 1].any() and x.any() for x in second)


@pytest.mark.parametrize('name', OF_PIXELS)
def test_a_dead_pixel_takes_no_part_of_the_gradient(name):
    student, teacher = maps()
    alive = gradient(OF_PIXELS[name], student, teacher)
    student[0, :, 1, 2] = 0
    grad = gradient(OF_PIXELS[name], student, teacher)
    # IFVD's gradient through the centre of the class, which is one for all its pixels, remains
    assert not grad[0, :, 1, 2].any() or (name == 'ifvd' and grad[0, :, 1, 2].norm() < 0.1)
    assert 0.3 < grad.norm() / alive.norm() < 3


@pytest.mark.parametrize('name', OF_CHANNELS)
def test_a_dead_channel_takes_no_part_of_the_gradient(name):
    student, teacher = maps()
    alive = gradient(OF_CHANNELS[name], student, teacher)
    student[1, 2] = 0
    grad = gradient(OF_CHANNELS[name], student, teacher)
    assert not grad[1, 2].any()
    assert 0.3 < grad.norm() / alive.norm() < 3


@pytest.mark.parametrize('name', OF_PIXELS)
def test_nor_does_a_dead_pixel_of_the_teacher_raise_it(name):
    student, teacher = maps()
    alive = gradient(OF_PIXELS[name], student, teacher)
    teacher[0, :, 1, 2] = 0
    assert 0.3 < gradient(OF_PIXELS[name], student, teacher).norm() / alive.norm() < 3


def test_a_class_whose_pixels_cancel_has_no_centre_to_move():
    student, teacher = maps()
    labels = torch.zeros(2, 4, 6, dtype=torch.long)
    student[0, :, 2:] = -student[0, :, :2]  # the centre of image 0 is 0
    grad = gradient(lambda s, t: centre_similarity_mse(s, t, labels, 1), student, teacher)
    assert grad.norm() < 10


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


def test_labels_that_count_are_classes_and_not_ignored():
    labels = torch.tensor([[-1, 0, 1, 2, 3, 255]])
    assert valid_labels(labels, 3, 255).tolist() == [[False, True, True, True, False, False]]
    assert valid_labels(labels, 3, 1).tolist() == [[False, True, False, True, False, False]]


class TestFullProduct:
    def test_derivatives_of_any_order(self):
        x, y = (torch.randn(2, *size, dtype=torch.float64) for size in ((3, 4), (4, 2)))
        inputs = (x.requires_grad_(), y.requires_grad_())
        torch.testing.assert_close(full_product(*inputs), x @ y)
        assert torch.autograd.gradcheck(full_product, inputs)
        assert torch.autograd.gradgradcheck(full_product, inputs)

    @pytest.mark.parametrize('order', [1, 2])
    def test_a_backward_pass_under_autocast_rounds_nothing(self, order):
        def derivatives() -> list[torch.Tensor]:
            torch.manual_seed(0)
            x, y = (torch.randn(2, *size).requires_grad_() for size in ((3, 40), (40, 2)))
            total = full_product(x, y).square().sum()
            found = torch.autograd.grad(total, (x, y), create_graph=True)
            if order == 2:
                total = torch.cat([g.flatten() for g in found]).square().sum()
                found = torch.autograd.grad(total, (x, y))
            return [g.detach() for g in found]

        expected = derivatives()
        with torch.autocast('cpu', torch.bfloat16):
            assert all(torch.equal(a, b) for a, b in zip(derivatives(), expected, strict=True))
