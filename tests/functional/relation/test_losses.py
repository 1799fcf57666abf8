import pytest
import torch
from oracles import gen, gen_plus, lab, naive_memory, naive_p2p, unit, value_and_grad

from kdmm.functional import memory_kl, normalize_rows, pixel_to_pixel_kl
from kdmm.functional.relation.losses import half_products, kernels_serve
from tests.errors import unfit
from tests.versions import cpu_autocast

CLOSE = dict(rtol=1e-10, atol=1e-12)


def maps(batch=2, make=gen_plus, size=(3, 4)):
    student = make((batch, 5, *size), 0.3).requires_grad_()
    return student, make((batch, 7, *size), 1.1)


def rotation(channels):
    return torch.linalg.qr(gen((channels, channels), 0.9))[0]


class TestPixelToPixel:
    @pytest.mark.parametrize('batch', [1, 2, 3])
    @pytest.mark.parametrize('chunk', [1, 7, None])
    def test_equals_naive_loop(self, batch, chunk):
        student, teacher = maps(batch, gen)
        ours = value_and_grad(pixel_to_pixel_kl(student, teacher, chunk=chunk), student)
        naive = value_and_grad(naive_p2p(student, teacher), student)
        torch.testing.assert_close(ours, naive, **CLOSE)

    @pytest.mark.parametrize('chunk', [5, None])
    def test_valid_pixels_only(self, chunk):
        student, teacher = maps(3, gen)
        valid = lab(3, 3, 4, 3) != 255
        valid[1] = False
        ours = value_and_grad(
            pixel_to_pixel_kl(student, teacher, chunk=chunk, valid=valid), student
        )
        torch.testing.assert_close(
            ours, value_and_grad(naive_p2p(student, teacher, valid=valid), student), **CLOSE
        )
        nothing = pixel_to_pixel_kl(student, teacher, valid=torch.zeros_like(valid))
        value, grad = value_and_grad(nothing, student)
        assert value == 0 and grad.abs().max() == 0

    def test_pooled_valid_needs_the_whole_window(self):
        student, teacher = maps(1, gen, (4, 5))
        valid = torch.ones(1, 4, 5, dtype=torch.bool)
        valid[0, 0, 0] = False
        pooled = torch.ones(1, 2, 3, dtype=torch.bool)
        pooled[0, 0, 0] = False
        small = [
            torch.nn.functional.avg_pool2d(x, 2, 2, ceil_mode=True) for x in (student, teacher)
        ]
        torch.testing.assert_close(
            pixel_to_pixel_kl(student, teacher, pool=2, valid=valid),
            naive_p2p(*small, valid=pooled),
            **CLOSE,
        )

    def test_gradcheck(self):
        student, teacher = maps(2, gen, (2, 2))
        assert torch.autograd.gradcheck(lambda s: pixel_to_pixel_kl(s, teacher), student)

    def test_upstream_factor_and_repeated_backward(self):
        student, teacher = maps()
        loss = pixel_to_pixel_kl(student, teacher)
        (first,) = torch.autograd.grad(3 * loss, student, retain_graph=True)
        (second,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(first, 3 * second)

    def test_second_derivative_is_refused(self):
        student, teacher = maps()
        with pytest.raises(RuntimeError, match=r'first derivatives only.*textbook\.pixel_to'):
            torch.autograd.grad(pixel_to_pixel_kl(student, teacher), student, create_graph=True)

    def test_teacher_gets_no_gradient(self):
        student, teacher = maps()
        teacher.requires_grad_()
        pixel_to_pixel_kl(student, teacher).backward()
        assert teacher.grad is None
        frozen = pixel_to_pixel_kl(student.detach(), teacher)
        assert not frozen.requires_grad

    def test_invariances(self):
        student, teacher = maps(2, gen)
        loss = pixel_to_pixel_kl(student, teacher)
        factor = gen((2, 1, 3, 4), 0.5).abs() + 0.1
        torch.testing.assert_close(pixel_to_pixel_kl(student * factor, teacher), loss)
        turned = torch.einsum('dc,bchw->bdhw', rotation(5), student)
        torch.testing.assert_close(pixel_to_pixel_kl(turned, teacher), loss)
        turned = torch.einsum('dc,bchw->bdhw', rotation(7), teacher)
        torch.testing.assert_close(pixel_to_pixel_kl(student, turned), loss)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        mixed = [x.flatten(2)[:, :, order].unflatten(2, (3, 4)) for x in (student, teacher)]
        torch.testing.assert_close(pixel_to_pixel_kl(*mixed), loss)
        torch.testing.assert_close(pixel_to_pixel_kl(student.flip(0), teacher.flip(0)), loss)

    def test_vanishes_for_a_rotated_and_rescaled_teacher(self):
        _, teacher = maps(2, gen)
        student = torch.einsum('dc,bchw->bdhw', rotation(7), teacher) * 3.7
        student.requires_grad_()
        value, grad = value_and_grad(pixel_to_pixel_kl(student, teacher), student)
        assert value.abs() < 1e-14 and grad.norm() < 1e-14

    def test_bound_for_non_negative_features(self):
        student, teacher = (torch.eye(12, dtype=torch.float64)[None] for _ in range(2))
        teacher = teacher.view(1, 12, 3, 4)
        student = torch.ones_like(teacher).requires_grad_()
        assert 0 < pixel_to_pixel_kl(student, teacher) <= 20

    def test_saved_bytes(self):
        student = torch.randn(2, 32, 16, 32, requires_grad=True)
        sizes = {}

        def pack(x):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = pixel_to_pixel_kl(student, torch.randn(2, 48, 16, 32))
        assert loss.requires_grad
        assert sum(sizes.values()) <= 2 * student.numel() * 4 + 64 * 1024

    def test_no_full_map(self):
        """Peak of live tensors: a few blocks, not 2048 x 2048 maps."""
        student = torch.randn(2, 8, 32, 32, requires_grad=True)
        with torch.profiler.profile(profile_memory=True) as profile:
            pixel_to_pixel_kl(student, torch.randn(2, 8, 32, 32), chunk=16)
        largest = max(event.self_cpu_memory_usage for event in profile.events())
        assert largest < 2048 * 2048 * 4 / 8

    def test_unknown_scope(self):
        with pytest.raises(ValueError, match="'everywhere'"):
            pixel_to_pixel_kl(*maps(), scope='everywhere')


class TestMemory:
    keys = unit(gen((9, 7), 2.0))

    def rows(self):
        student = unit(gen((11, 7), 0.3)).requires_grad_()
        return student, unit(gen((11, 7), 1.1))

    @pytest.mark.parametrize('chunk', [1, 4, None])
    @pytest.mark.parametrize('temperature', [1.0, 2.0])
    def test_equals_naive_loop(self, chunk, temperature):
        labels = lab(2, 3, 4, 3)
        student, teacher = (gen((2, 7, 3, 4), phi).requires_grad_() for phi in (0.3, 1.1))
        valid = (labels != 255).flatten().double()
        rows = [normalize_rows(x).permute(0, 2, 3, 1).flatten(0, 2) for x in (student, teacher)]
        loss = memory_kl(  # type: ignore[call-arg]
            *rows, self.keys, 0.1, temperature, row_weight=valid / valid.sum(), chunk=chunk
        )
        naive = naive_memory(student, teacher, self.keys, labels, 0.1, temperature)
        ours = value_and_grad(loss.sum(), student)
        torch.testing.assert_close(ours, value_and_grad(naive, student), **CLOSE)

    def test_sections_are_separate_softmaxes_with_separate_gradients(self):
        student, teacher = self.rows()
        both = memory_kl(student, teacher, self.keys, sections=[6, 3])
        for i, part in enumerate((self.keys[:6], self.keys[6:])):
            alone = memory_kl(student, teacher, part)[0]
            torch.testing.assert_close(
                value_and_grad(both[i], student)
                if i
                else (both[0].detach(), *torch.autograd.grad(both[0], student, retain_graph=True)),
                value_and_grad(alone, student),
                **CLOSE,
            )

    def test_masked_keys_equal_removed_ones(self):
        student, teacher = self.rows()
        mask = torch.arange(9) % 3 > 0
        masked = memory_kl(student, teacher, self.keys, sections=[3, 6], key_mask=mask)
        removed = memory_kl(student, teacher, self.keys[mask], sections=[2, 4])
        torch.testing.assert_close(
            value_and_grad(masked @ torch.tensor([1.0, 2.0]).double(), student),
            value_and_grad(removed @ torch.tensor([1.0, 2.0]).double(), student),
            **CLOSE,
        )
        nothing = memory_kl(student, teacher, self.keys, key_mask=torch.zeros(9).bool())
        value, grad = value_and_grad(nothing[0], student)
        assert value == 0 and grad.abs().max() == 0

    def test_gradcheck(self):
        student, teacher = self.rows()
        mask = torch.arange(9) != 4
        assert torch.autograd.gradcheck(
            lambda s: memory_kl(s, teacher, self.keys, sections=[5, 4], key_mask=mask, chunk=4),
            student,
        )

    def test_vanishes_for_equal_rows_but_not_under_rotation(self):
        _, teacher = self.rows()
        student = teacher.clone().requires_grad_()
        value, grad = value_and_grad(memory_kl(student, teacher, self.keys)[0], student)
        assert value == 0 and grad.abs().max() == 0
        assert memory_kl(teacher @ rotation(7), teacher, self.keys) > 0.1

    def test_teacher_gets_no_gradient_and_bound(self):
        student, teacher = self.rows()
        keys = self.keys.clone().requires_grad_()
        loss = memory_kl(student, teacher.requires_grad_(), keys)
        loss.sum().backward()
        assert teacher.grad is None and keys.grad is None
        assert 0 < loss <= 40

    def test_second_derivative_is_refused(self):
        student, teacher = self.rows()
        loss = memory_kl(student, teacher, self.keys).sum()
        with pytest.raises(RuntimeError, match=r'first derivatives only.*textbook\.memory_kl'):
            torch.autograd.grad(loss, student, create_graph=True)

    @pytest.mark.parametrize('sections', [[4, 4], [9, 0], []])
    def test_wrong_sections(self, sections):
        with pytest.raises(ValueError, match='cover 9 keys'):
            memory_kl(*self.rows(), self.keys, sections=sections)  # type: ignore[call-arg]

    def test_wrong_channels(self):
        student, teacher = self.rows()
        with unfit('channels', teacher=(11, 6)):
            memory_kl(student, teacher[:, :6], self.keys)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_all_zero_maps_have_no_gradient(dtype):
    x = torch.zeros(1, 4, 3, 3, dtype=dtype, requires_grad=True)
    loss = pixel_to_pixel_kl(x, torch.rand(1, 6, 3, 3))
    loss.backward()
    assert loss.isfinite() and not x.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_stays_near_float32(dtype):
    """2048 pixels at the paper's channel counts; features arrive rounded, all else is float32."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 128, 32, 32, generator=generator).relu_()
    teacher = torch.randn(2, 256, 32, 32, generator=generator).relu_()
    exact = pixel_to_pixel_kl(student, teacher)
    half = student.to(dtype).requires_grad_()
    with cpu_autocast(dtype):
        loss = pixel_to_pixel_kl(half, teacher.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.isfinite().all()
    torch.testing.assert_close(loss, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize('half', [False, True])
def test_cpu_tensors_take_the_torch_form(half, monkeypatch):
    monkeypatch.setattr('kdmm.functional.relation.losses.agrees', lambda *_: True)
    monkeypatch.setattr('kdmm.functional.relation.losses.precision', lambda: 'tf32')
    assert not kernels_serve(torch.zeros(4, 8), torch.zeros(4, 8), half)
    assert not half_products(torch.zeros(1, dtype=torch.float16))
