import pytest
import torch
from oracles import gen, gen_plus, lab, value_and_grad
from saved import Largest, saved_bytes

from kdmm.functional import centre_similarity_mse


def naive(student, teacher, labels, valid_only=False):
    """Images, classes and pixels one by one."""
    squares = []
    for b in range(len(labels)):
        for c in labels[b].unique().tolist():
            if c == 255:
                continue
            cosines = []
            for x in (student[b], teacher[b]):
                members = x[:, labels[b] == c].T
                centre = members.mean(0)
                cosines.append(members @ centre / members.norm(dim=1) / centre.norm())
            squares.append((cosines[0] - cosines[1].detach()) ** 2)
    total = torch.cat(squares)
    return total.mean() if valid_only else total.sum() / labels.numel()


def batch(make=gen):
    student, teacher = make((2, 6, 4, 6), 0.3), make((2, 10, 4, 6), 1.1)
    return student.requires_grad_(), teacher, lab(2, 4, 6, 3)


@pytest.mark.parametrize('valid_only', [False, True])
@pytest.mark.parametrize('make', [gen, gen_plus])
def test_equals_the_naive_loop(make, valid_only):
    student, teacher, labels = batch(make)
    loss = centre_similarity_mse(student, teacher, labels, 3, valid_only=valid_only)
    got = value_and_grad(loss, student)
    expected = value_and_grad(naive(student, teacher, labels, valid_only), student)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


def test_the_centre_has_a_gradient():
    """With a constant centre every pixel's gradient would depend on itself alone."""
    student, teacher, labels = batch()
    (one,) = torch.autograd.grad(centre_similarity_mse(student, teacher, labels, 3), student)
    changed = student.detach().clone()
    changed[0, :, 1, 1] *= 3  # same cosine, another centre
    changed.requires_grad_()
    (two,) = torch.autograd.grad(centre_similarity_mse(changed, teacher, labels, 3), changed)
    other = (labels[0] == labels[0, 1, 1]).nonzero()
    other = next(p for p in other.tolist() if p != [1, 1])
    assert not torch.allclose(one[0, :, other[0], other[1]], two[0, :, other[0], other[1]])


def test_invariances_and_bound():
    student, teacher, labels = batch(gen_plus)
    loss = centre_similarity_mse(student, teacher, labels, 3)
    assert 0 < loss <= 1
    turn = torch.linalg.qr(gen((6, 6), 0.4))[0]
    factor = torch.tensor([0.2, 30.0]).double()[:, None, None, None]
    renamed = torch.tensor([2, 0, 1])[labels.clamp_max(2)].masked_fill(labels == 255, 255)
    for args in (
        (torch.einsum('dc,bchw->bdhw', turn, student), teacher, labels, 3),
        (student * factor, teacher, labels, 3),
        (student, teacher, renamed, 3),
        (student, teacher, labels, 150),
    ):
        torch.testing.assert_close(centre_similarity_mse(*args), loss)


def test_per_image_and_not_per_batch():
    student, teacher, labels = batch()
    both = centre_similarity_mse(student, teacher, labels, 3)
    single = [
        centre_similarity_mse(student[b : b + 1], teacher[b : b + 1], labels[b : b + 1], 3)
        for b in range(2)
    ]
    torch.testing.assert_close(both, sum(single) / 2)


@pytest.mark.parametrize('valid_only', [False, True])
def test_ignored_pixels_have_no_say(valid_only):
    student, teacher, labels = batch()
    loss = centre_similarity_mse(student, teacher, labels, 3, valid_only=valid_only)
    (grad,) = torch.autograd.grad(loss, student)
    ignored = (labels == 255)[:, None]
    assert grad[ignored.expand_as(grad)].abs().max() == 0
    changed = [torch.where(ignored, x.detach() * -7 + 3, x.detach()) for x in (student, teacher)]
    assert centre_similarity_mse(*changed, labels, 3, valid_only=valid_only) == loss.detach()  # type: ignore[call-arg]
    for value in (-1, 3, 200):  # the name of the ignored label does not matter
        renamed = labels.masked_fill(labels == 255, value)
        other = centre_similarity_mse(student, teacher, renamed, 3, value, valid_only)
        assert other.item() == loss.item()


def test_a_class_that_is_the_ignored_label():
    student, teacher, labels = batch()
    without = labels.masked_fill(labels == 1, 255)
    inside = labels.masked_fill(labels == 255, 1)
    assert centre_similarity_mse(student, teacher, inside, 3, 1) == centre_similarity_mse(
        student, teacher, without, 3
    )


@pytest.mark.parametrize('valid_only', [False, True])
def test_all_ignored_is_exactly_zero_and_connected(valid_only):
    student, teacher, labels = batch()
    loss = centre_similarity_mse(
        student, teacher, torch.full_like(labels, 255), 3, valid_only=valid_only
    )
    value, grad = value_and_grad(loss, student)
    assert value == 0 and grad.abs().max() == 0


def test_a_class_of_one_pixel_adds_nothing():
    student, teacher, labels = batch()
    labels.fill_(255)
    labels[0, 1, 2] = 2
    assert centre_similarity_mse(student, teacher, labels, 3) < 1e-30


def test_zero_at_equality():
    student, _, labels = batch()
    value, grad = value_and_grad(centre_similarity_mse(student, 2 * student, labels, 3), student)
    assert value < 1e-28 and grad.norm() < 1e-14


def test_gradcheck_and_detached_teacher():
    student, teacher, labels = batch()
    student, teacher = student[:, :3].detach().requires_grad_(), teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: centre_similarity_mse(s, teacher, labels, 3), student)
    centre_similarity_mse(student, teacher, labels, 3).backward()
    assert teacher.grad is None


def test_memory_does_not_know_the_number_of_classes():
    student, teacher = torch.rand(2, 128, 64, 128).requires_grad_(), torch.rand(2, 256, 64, 128)
    kept, largest = {}, {}
    for classes in (19, 150):
        labels = lab(2, 64, 128, classes)
        args = (student, teacher, labels, classes)
        kept[classes] = saved_bytes(lambda args=args: centre_similarity_mse(*args))
        with Largest() as seen:
            centre_similarity_mse(*args).backward()
        largest[classes] = seen.elements
    table = (150 - 19) * 2 * 128 * 4  # sums per image and class, the one thing that grows
    assert 0 <= kept[150] - kept[19] <= 2 * table
    assert kept[150] <= 32 * 2**20
    assert largest[19] == largest[150] == teacher.numel()
