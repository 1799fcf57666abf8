import pytest
import torch
from oracles import gen, gen_plus, unit, value_and_grad

from kdmm.functional import attention_map, attention_transfer, path_differences


def naive_attention(x):
    energy = torch.stack([sum(channel**2 for channel in image) / len(image) for image in x])
    return unit(energy.flatten(1), 1)


def naive_paths(student, teacher):
    total, pairs = 0.0, 0
    for j in range(len(student)):
        for i in range(j):
            mine, theirs = (
                unit(naive_attention(maps[j]) - naive_attention(maps[i]), 1)
                for maps in (student, teacher)
            )
            total, pairs = total + ((mine - theirs) ** 2).mean(), pairs + 1
    return total / pairs


def features():
    return gen((2, 6, 4, 6), 0.3).requires_grad_(), gen((2, 10, 4, 6), 1.1)


def layers():
    student = [gen((2, c, 4, 6), 0.3 + c).requires_grad_() for c in (5, 6, 3)]
    return student, [gen((2, c, 4, 6), 1.1 + c) for c in (4, 10, 3)]


class TestTransfer:
    def test_equals_naive_form(self):
        student, teacher = features()
        expected = ((naive_attention(student) - naive_attention(teacher)) ** 2).mean()
        got = value_and_grad(attention_transfer(student, teacher), student)
        torch.testing.assert_close(got, value_and_grad(expected, student), rtol=1e-12, atol=1e-14)

    def test_image_reduction_is_the_sum_over_pixels(self):
        student, teacher = features()
        loss = attention_transfer(student, teacher, 'image')
        torch.testing.assert_close(loss, 24 * attention_transfer(student, teacher))
        with pytest.raises(ValueError, match="'mean' or 'image', not 'sum'"):
            attention_transfer(student, teacher, 'sum')

    def test_invariant_to_scale_per_image_and_rotation_of_channels(self):
        student, teacher = features()
        loss = attention_transfer(student, teacher)
        factor = torch.tensor([0.2, 30.0]).double()[:, None, None, None]
        turn = torch.linalg.qr(gen((6, 6), 0.4))[0]
        turned = torch.einsum('dc,bchw->bdhw', turn, student)
        for changed in (student * factor, turned):
            torch.testing.assert_close(attention_transfer(changed, teacher), loss)
        torch.testing.assert_close(attention_transfer(student, teacher * factor), loss)
        assert abs(attention_transfer(student + 1, teacher) - loss) > 1e-4

    def test_bound_is_reached_by_disjoint_energy(self):
        student, teacher = torch.zeros(1, 3, 1, 2), torch.zeros(1, 4, 1, 2)
        student[..., 0], teacher[..., 1] = 2, 5
        assert attention_transfer(student, teacher) == 1  # 2 / (h w)
        assert attention_transfer(student, teacher, 'image') == 2
        assert attention_transfer(*(x.detach() for x in features())) < 2 / 24

    def test_zero_for_rotated_rescaled_features(self):
        _, teacher = features()
        turn = torch.linalg.qr(gen((10, 10), 0.4))[0]
        student = (3 * torch.einsum('dc,bchw->bdhw', turn, teacher)).requires_grad_()
        value, grad = value_and_grad(attention_transfer(student, teacher), student)
        assert value < 1e-28 and grad.norm() < 1e-14

    def test_order_of_magnitude_at_the_usual_resolution(self):
        torch.manual_seed(0)
        pair = (torch.randn(2, c, 64, 128).relu() for c in (128, 256))
        assert attention_transfer(*pair).item() == pytest.approx(6.9e-6, rel=0.1)


class TestPaths:
    def test_equals_naive_form(self):
        student, teacher = layers()
        got = value_and_grad(path_differences(student, teacher), *student)
        expected = value_and_grad(naive_paths(student, teacher), *student)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)
        image = path_differences(student, teacher, 'image')
        torch.testing.assert_close(image, 24 * got[0])

    def test_bound(self):
        student, teacher = layers()
        assert 0 < path_differences(student, teacher) <= 4 / 24
        opposite = path_differences(student[:2], student[1::-1])
        torch.testing.assert_close(opposite.item(), 4 / 24)

    def test_zero_at_equality(self):
        student, _ = layers()
        value, *grads = value_and_grad(path_differences(student, student), *student)
        assert value == 0 and all(grad.abs().max() == 0 for grad in grads)

    def test_equal_layers_have_no_direction_to_learn(self):
        student, teacher = layers()
        student = [student[0], student[0].clone()]
        value, grad = value_and_grad(path_differences(student, teacher[:2]), student[0])
        assert value.item() == pytest.approx(1 / 24) and not grad.any()
        nearly = [student[0], student[0].detach() + 1e-9]
        _, grad = value_and_grad(path_differences(nearly, teacher[:2]), student[0])
        assert not grad.any()  # 2e7 with a floor of 1e-12


def test_gradcheck_and_detached_teacher():
    student, teacher = features()
    maps = [x.requires_grad_() for x in layers()[1]]
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: attention_transfer(s, teacher), student)
    leaves = tuple(x[:, :2, :2, :3].detach().requires_grad_() for x in layers()[0])
    small = [x[:, :, :2, :3] for x in maps]
    assert torch.autograd.gradcheck(lambda *s: path_differences(s, small), leaves)
    (attention_transfer(student, teacher) + path_differences(layers()[0], maps)).backward()
    assert teacher.grad is None and all(x.grad is None for x in maps)


def test_maps_are_unit_vectors_and_zero_stays_zero():
    maps = attention_map(torch.cat([gen_plus((1, 6, 4, 6), 0.3), torch.zeros(1, 6, 4, 6)]))
    torch.testing.assert_close(maps.norm(dim=1), torch.tensor([1.0, 0.0]).double())
