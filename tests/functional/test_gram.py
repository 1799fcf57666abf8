import pytest
import torch
import torch.nn.functional as F
from oracles import gen, gen_plus, unit, value_and_grad
from saved import Largest, saved_bytes

from kdmm.functional import channel_map_mmd, gram, pairwise_similarity_mse
from tests.versions import cpu_autocast, needs

FORMS = [('naive', None), ('streamed', 1), ('streamed', 4), ('streamed', None), ('gram', None)]


def features(make=gen_plus, size=(5, 7)):
    return make((2, 6, *size), 0.3).requires_grad_(), make((2, 10, *size), 1.1)


def naive(student, teacher, patch=2):
    """Windows, pixels and pairs one by one; incomplete windows at the border included."""
    batch, _, height, width = student.shape
    total = 0.0
    for b in range(batch):
        nodes = []
        for x in (student[b], teacher[b]):
            windows = [
                x[:, i : i + patch, j : j + patch].flatten(1).max(1).values
                for i in range(0, height, patch)
                for j in range(0, width, patch)
            ]
            nodes.append([unit(window, 0) for window in windows])
        for p, q in zip(*nodes, strict=True):
            for p2, q2 in zip(*nodes, strict=True):
                total = total + ((p * p2).sum() - (q * q2).sum()) ** 2
    return total / (batch * len(nodes[0]) ** 2)


@pytest.mark.parametrize('form, chunk', FORMS)
@pytest.mark.parametrize('make', [gen, gen_plus])
def test_every_form_equals_the_naive_loop(form, chunk, make):
    student, teacher = features(make)
    got = value_and_grad(pairwise_similarity_mse(student, teacher, form=form, chunk=chunk), student)
    expected = value_and_grad(naive(student, teacher), student)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('form, chunk', FORMS)
def test_forms_agree_on_a_real_block_structure(form, chunk):
    student, teacher = features(size=(24, 40))
    got, reference = (
        value_and_grad(pairwise_similarity_mse(student, teacher, 1, form=f, chunk=c), student)
        for f, c in ((form, chunk and 53 * chunk), ('naive', None))
    )
    torch.testing.assert_close(got, reference, rtol=1e-12, atol=1e-16)


def test_streaming_starts_above_4096_nodes(monkeypatch):
    used = []
    naive_form, streamed = gram._naive, gram._Streamed.apply
    monkeypatch.setattr(gram, '_naive', lambda *a: used.append('naive') or naive_form(*a))
    monkeypatch.setattr(gram._Streamed, 'apply', lambda *a: used.append('streamed') or streamed(*a))
    for width in (64, 65):
        pairwise_similarity_mse(torch.rand(1, 2, 64, width), torch.rand(1, 2, 64, width), 1)
    assert used == ['naive', 'streamed']


def test_streamed_keeps_nothing_of_nodes_by_nodes():
    student, teacher = torch.rand(2, 8, 32, 32).requires_grad_(), torch.rand(2, 8, 32, 32)
    kept = {
        form: saved_bytes(lambda form=form: pairwise_similarity_mse(student, teacher, 1, form=form))
        for form in ('naive', 'streamed')
    }
    assert kept['streamed'] <= 2 * student.numel() * 4  # input and gradient
    assert kept['naive'] >= 2 * 1024**2 * 4


def test_streamed_refuses_second_derivatives_and_skips_unneeded_gradients():
    student, teacher = features()
    loss = pairwise_similarity_mse(student, teacher, form='streamed')
    with pytest.raises(RuntimeError, match='first derivatives only'):
        torch.autograd.grad(loss, student, create_graph=True)
    with torch.no_grad():
        assert pairwise_similarity_mse(student, teacher, form='streamed') == loss


def test_scale_is_a_share_of_the_side():
    student, teacher = features()
    pooled = (F.max_pool2d(x, (2, 3), (2, 3), ceil_mode=True) for x in (student, teacher))
    expected = pairwise_similarity_mse(*pooled, patch=1)
    torch.testing.assert_close(pairwise_similarity_mse(student, teacher, scale=0.5), expected)


def test_detached_norm_has_a_radial_gradient():
    student, teacher = features(gen)
    loose, tight = (
        value_and_grad(pairwise_similarity_mse(student, teacher, 1, detach_norm=flag), student)
        for flag in (True, False)
    )
    torch.testing.assert_close(loose[0], tight[0], rtol=1e-6, atol=0)
    radial = [(unit(student.detach()) * grad).sum(1).abs().max() for grad in (loose[1], tight[1])]
    assert radial[0] > 1e-4 and radial[1] < 1e-15


@pytest.mark.parametrize('detach_norm', [False, True])
def test_zero_nodes_have_finite_gradients_in_half_precision(detach_norm):
    needs('torch', '2.2', 'max-pooling of float16 on the CPU')
    student, teacher = torch.rand(1, 4, 4, 4).half(), torch.rand(1, 4, 4, 4).half()
    student[..., :2] = 0
    student.requires_grad_()
    loss = pairwise_similarity_mse(student, teacher, detach_norm=detach_norm)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('form', ['naive', 'streamed', 'gram'])
def test_invariances_bound_and_zero(form):
    student, teacher = features()
    loss = pairwise_similarity_mse(student, teacher, 1, form=form)
    turn = torch.linalg.qr(gen((6, 6), 0.4))[0]
    turned = torch.einsum('dc,bchw->bdhw', turn, student)
    factor = 1 + gen_plus((2, 1, 5, 7), 0.2)
    for changed in (turned, student * factor):
        torch.testing.assert_close(
            pairwise_similarity_mse(changed, teacher, 1, form=form), loss, rtol=1e-10, atol=0
        )
    assert loss <= 1
    same = pairwise_similarity_mse(turned.detach(), student.detach() * factor, 1, form=form)
    assert same.abs() < 1e-15


def test_normalising_before_pooling_is_another_thing():
    student, teacher = features()
    mistake = pairwise_similarity_mse(unit(student + 1e-9), unit(teacher + 1e-9))
    assert abs(mistake / pairwise_similarity_mse(student, teacher) - 1) > 0.01


def test_order_of_magnitude_at_the_usual_shapes():
    torch.manual_seed(0)
    pair = [torch.randn(1, c, 64, 128).relu() for c in (128, 256)]
    values = [pairwise_similarity_mse(*pair, form=f).item() for f in ('naive', 'streamed', 'gram')]
    assert values[0] == pytest.approx(1.6e-3, rel=0.1)
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[2] == pytest.approx(values[0], rel=1e-3)


def test_gram_form_sums_in_double_precision():
    torch.manual_seed(0)
    teacher = torch.randn(1, 256, 48, 48, dtype=torch.double).relu()
    student = (teacher + 0.05 * torch.randn_like(teacher)).relu()
    exact = pairwise_similarity_mse(student, teacher, 1).item()
    got = pairwise_similarity_mse(student.float(), teacher.float(), 1, form='gram').item()
    assert got == pytest.approx(exact, rel=8e-6)  # sums in float32: 3e-5


@pytest.mark.parametrize('form', ['naive', 'streamed', 'gram'])
def test_gradcheck_and_detached_teacher(form):
    student, teacher = (x[:, :3, :3, :3].detach().requires_grad_() for x in features(gen))
    assert torch.autograd.gradcheck(
        lambda s: pairwise_similarity_mse(s, teacher, 1, form=form, chunk=4), student
    )
    pairwise_similarity_mse(student, teacher, 1, form=form).backward()
    assert teacher.grad is None


def test_unknown_form():
    with pytest.raises(ValueError, match="not 'fast'"):
        pairwise_similarity_mse(*features(), form='fast')


def naive_mmd(student, teacher):
    """Kernel by kernel (arXiv 1707.01219, equation 6, with the polynomial kernel of degree 2)."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        mine, theirs = ([unit(channel.flatten(), 0) for channel in x] for x in (s, t))
        for first, second, sign in ((mine, mine, 1), (theirs, theirs, 1), (mine, theirs, -2)):
            kernels = [(a * b).sum() ** 2 for a in first for b in second]
            total = total + sign * sum(kernels) / len(kernels)
    return total / len(student)


class TestChannelMaps:
    """NST; 7 x 5 = 35 positions are more than the channels, 2 x 3 are fewer."""

    @pytest.mark.parametrize('size', [(5, 7), (2, 3)])
    @pytest.mark.parametrize('make', [gen, gen_plus])
    def test_equals_the_naive_loop(self, make, size):
        student, teacher = features(make, size)
        got = value_and_grad(channel_map_mmd(student, teacher), student)
        expected = value_and_grad(naive_mmd(student, teacher), student)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)

    @pytest.mark.parametrize('size', [(3, 3), (1, 2)])
    def test_gradcheck_detached_teacher_and_zero(self, size):
        student, teacher = (x[:, :3].detach().requires_grad_() for x in features(gen, size))
        assert torch.autograd.gradcheck(lambda s: channel_map_mmd(s, teacher), student)
        channel_map_mmd(student, teacher).backward()
        assert teacher.grad is None
        same = channel_map_mmd(student, student.detach()[:, [2, 0, 1]] * 3)
        value, grad = value_and_grad(same, student)
        assert value.abs() < 1e-15 and grad.norm() < 1e-14

    @pytest.mark.parametrize('size', [(5, 7), (2, 3)])
    def test_order_and_scale_of_channels_and_order_of_positions_change_nothing(self, size):
        student, teacher = features(gen, size)
        expected = channel_map_mmd(student, teacher)
        scale = 1 + gen_plus((1, 6, 1, 1), 0.2)
        for mine, theirs in (
            ((student * scale)[:, [3, 1, 0, 2, 5, 4]], teacher),
            (student, -2 * teacher.flip(1)),
            (student.flip(2, 3), teacher.flip(2, 3)),
        ):
            torch.testing.assert_close(channel_map_mmd(mine, theirs), expected)
        assert 0 < expected < 2

    def test_memory(self):
        """Nothing of B * C * C * n, whichever is the larger of channels and positions."""
        for channels, side, most in ((16, 3, 9 * 9), (4, 12, 4 * 4)):
            student = torch.rand(2, channels, side, side).requires_grad_()
            teacher = torch.rand(2, channels, side, side)
            with Largest() as largest:
                channel_map_mmd(student, teacher).backward()
            assert largest.elements == max(student.numel(), 2 * most)
            kept = saved_bytes(lambda s=student, t=teacher: channel_map_mmd(s, t))
            assert kept <= 8 * (6 * student.numel() + 8 * 2 * most)
            assert kept < 4 * student.numel() * channels

    @pytest.mark.parametrize('size', [(5, 7), (2, 3)])
    def test_half_precision_with_a_channel_of_zeros(self, size):
        student, teacher = (60000 * x.float() / x.max() for x in features(size=size))
        student = student.detach().clone()
        student[:, 2], teacher[0, 5] = 0, 0
        for dtype in (torch.float16, torch.bfloat16):
            x = student.to(dtype).requires_grad_()
            with cpu_autocast(dtype):
                value = channel_map_mmd(x, teacher.to(dtype))
            value.backward()
            exact = channel_map_mmd(x.detach().double(), teacher.to(dtype).double())
            assert value.dtype == torch.float32 and x.grad.isfinite().all()
            torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)
