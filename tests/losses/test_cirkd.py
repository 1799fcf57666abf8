import pytest
import torch
from oracles import gen, gen_plus, lab, naive_memory, naive_p2p, unit, value_and_grad
from torch import nn

from kdmm.losses import CIRKDMemoryLoss, CIRKDMiniBatchLoss, projector
from kdmm.memory import Keys
from kdmm.registry import MODELS
from tests.errors import refused, unfit
from tests.versions import cpu_autocast

SMALL = dict(pixel_size=40, region_size=6, pixel_keys=12, region_keys=5)


def memory_loss(**options):
    options = {**SMALL, **options}
    return CIRKDMemoryLoss(6, 10, 3, **options).double()


def batch():
    student = gen((2, 6, 4, 6), 0.3).requires_grad_()
    return student, gen((2, 10, 4, 6), 1.1), lab(2, 8, 12, 3)


class TestMiniBatch:
    def test_equals_oracle_and_counts_ignored_pixels(self):
        student, teacher = gen((2, 6, 4, 6), 0.3).requires_grad_(), gen((2, 10, 4, 6), 1.1)
        loss = CIRKDMiniBatchLoss(tau=0.2)(student, teacher, labels=lab(2, 8, 12, 3))
        torch.testing.assert_close(loss, naive_p2p(student, teacher, 0.2))

    def test_valid_only(self):
        student, teacher, labels = batch()
        module = CIRKDMiniBatchLoss(valid_only=True, chunk=5)
        assert module.needs == ('labels',) and CIRKDMiniBatchLoss().needs == ()
        expected = naive_p2p(student, teacher, valid=labels[:, ::2, ::2] != 255)
        torch.testing.assert_close(module(student, teacher, labels), expected)

    def test_global_without_a_group_is_local(self):
        student, teacher, _ = batch()
        loss = CIRKDMiniBatchLoss(scope='global')(student, teacher)
        assert torch.equal(loss, CIRKDMiniBatchLoss()(student, teacher))

    def test_refusals(self):
        student, teacher, _ = batch()
        with unfit('resolution', teacher=(2, 10, 2, 6)):
            CIRKDMiniBatchLoss()(student, teacher[:, :, :2])
        with refused(key='scope', got='all', expected="'local' or 'global'"):
            CIRKDMiniBatchLoss(scope='all')


class TestMemory:
    def test_registered(self):
        config = dict(student_channels=6, teacher_channels=10, num_classes=3, **SMALL)
        for name in ('CIRKDMiniBatchLoss', 'KDLoss'):
            MODELS.build(dict(type=f'kdmm.{name}'))
        built = MODELS.build(dict(type='kdmm.CIRKDMemoryLoss', **config))
        assert built.needs == ('labels',) and built.keys_per_class == (5, 2)

    def test_projector(self):
        built = memory_loss().projector
        shapes = {k: tuple(v.shape) for k, v in built.named_parameters()}
        assert shapes == {
            '0.conv.weight': (10, 6, 1, 1),
            '0.bn.weight': (10,),
            '0.bn.bias': (10,),
            '1.conv.weight': (10, 10, 1, 1),
        }
        assert isinstance(built[0].bn, nn.BatchNorm2d)
        assert built[1](torch.randn(2, 10, 4, 4).double()).min() < 0  # signed output
        assert memory_loss(norm_cfg=None).projector[0].norm_cfg is None

    def test_norm_is_synchronised_on_gpus_only(self, monkeypatch):
        monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
        monkeypatch.setattr('torch.cuda.is_available', lambda: True)
        for backend, norm in (('nccl', 'SyncBN'), ('gloo', 'BN')):
            monkeypatch.setattr('torch.distributed.get_backend', lambda backend=backend: backend)
            assert projector.auto_norm()['type'] == norm
            assert projector.build_projector(4, 8)[0].norm_cfg['type'] == norm

    @pytest.mark.parametrize('temperature', [1.0, 2.0])
    def test_specified_value(self, temperature):
        """Identity projector and the given keys instead of the queues' own."""
        loss = CIRKDMemoryLoss(10, 10, 3, **SMALL, temperature=temperature).double()
        loss.projector = nn.Identity()
        keys = unit(gen((15, 10), 2.0))
        mask = torch.ones(30, dtype=torch.bool)
        loss.queues.draw = lambda *_: Keys(torch.cat([keys, keys]), mask, [15, 15])
        student = gen((2, 10, 4, 6), 0.3).requires_grad_()
        parts = loss(student, gen((2, 10, 4, 6), 1.1), lab(2, 4, 6, 3))
        value, norm = {1: (1.56900544413, 0.4884917764), 2: (2.12162522344, 0.673062836)}[
            temperature
        ]
        for name in ('pixel', 'region'):
            assert parts[name].item() == pytest.approx(value, rel=1e-9)
            (grad,) = torch.autograd.grad(parts[name], student, retain_graph=True)
            assert grad.norm().item() == pytest.approx(norm, rel=1e-9)

    @pytest.mark.parametrize('queue', ['class', 'legacy'])
    def test_equals_naive_loop_over_three_steps(self, queue):
        """Keys are drawn after the enqueue; gradients reach student and projector."""
        student, teacher, labels = batch()
        loss = memory_loss(queue=queue, queue_dtype='float64', tau=0.2)
        loss.projector.eval()
        nn.init.constant_(loss.projector[0].bn.bias, 2)  # the oracle divides by norms
        for _ in range(3):
            parts = loss(student, teacher, labels)
            keys = loss.queues.draw(*loss.keys_per_class)
            projected = loss.projector(student)
            weights = list(loss.projector.parameters())
            groups = zip(
                parts.values(),
                keys.rows.split(keys.sections),
                keys.mask.split(keys.sections),
                strict=True,
            )
            for part, rows, mask in groups:
                naive = naive_memory(projected, teacher, rows[mask], labels[:, ::2, ::2], 0.2, 1.0)
                assert naive > 0.01
                ours = (
                    part.detach(),
                    *torch.autograd.grad(part, (student, *weights), retain_graph=True),
                )
                expected = (
                    naive.detach(),
                    *torch.autograd.grad(naive, (student, *weights), retain_graph=True),
                )
                torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)

    def test_the_batch_enters_before_the_keys_are_drawn(self):
        student, teacher, labels = batch()
        loss = memory_loss()
        parts = loss(student, teacher, labels)
        assert loss.queues.step == 1 and loss.queues.pixel.count.sum() > 0
        assert parts['pixel'] > 0.01 and parts['region'] > 0.01

    def test_absent_class_has_no_influence(self):
        student, teacher, labels = batch()
        labels[labels == 1] = 255
        loss = memory_loss()
        parts = loss(student, teacher, labels)
        before = [part.item() for part in parts.values()]
        keys = loss.queues.draw(*loss.keys_per_class)
        assert not keys.mask[: keys.sections[0]].view(3, -1)[1].any()
        assert all(0 < value <= 30 for value in before)

    @pytest.mark.parametrize('denominator', ['local', 'global'])
    def test_all_ignored_is_exactly_zero_and_connected(self, denominator):
        student, teacher, labels = batch()
        loss = memory_loss(denominator=denominator)
        for _ in range(2):  # with empty and with filled queues
            parts = loss(student, teacher, torch.full_like(labels, 255))
            assert parts['pixel'] == 0 and parts['region'] == 0
            grads = torch.autograd.grad(sum(parts.values()), list(loss.projector.parameters()))
            assert all(grad.abs().max() == 0 for grad in grads)
            loss(student, teacher, labels)

    def test_vanishes_for_equal_features(self):
        _, teacher, labels = batch()
        loss = CIRKDMemoryLoss(10, 10, 3, **SMALL).double()
        loss.projector = nn.Identity()
        student = (teacher * 3).requires_grad_()
        parts = loss(student, teacher, labels)
        value, grad = value_and_grad(sum(parts.values()), student)
        assert value.abs() < 1e-12 and grad.norm() < 1e-10

    def test_teacher_and_queues_carry_no_gradient(self):
        student, teacher, labels = batch()
        loss = memory_loss()
        sum(loss(student, teacher.requires_grad_(), labels).values()).backward()
        assert teacher.grad is None and student.grad.norm() > 0
        assert not any(buffer.requires_grad for buffer in loss.buffers())

    @pytest.mark.parametrize('ignore_index', [255, 3, 0])
    def test_ignore_index_may_lie_inside_or_outside_the_classes(self, ignore_index):
        student, teacher, labels = batch()
        labels[labels == 255] = ignore_index
        loss = memory_loss(ignore_index=ignore_index)
        loss(student, teacher, labels)
        ignored = loss.queues.pixel.count[ignore_index] if ignore_index < 3 else 0
        assert ignored == 0

    def test_foreign_label_is_refused(self):
        student, teacher, labels = batch()
        labels[0, 3, 3] = 5
        with pytest.raises(ValueError, match='value 5, but there are 3 classes'):
            memory_loss()(student, teacher, labels)

    def test_refusals(self):
        student, teacher, labels = batch()
        with unfit('resolution', teacher=(2, 10, 2, 6)):
            memory_loss()(student, teacher[:, :, :2], labels)
        with unfit('labels', labels=(1, 8, 12)):
            memory_loss()(student, teacher, labels[:1])
        with unfit('declared channels', student=(2, 5, 4, 6), problem='student_channels=6'):
            memory_loss()(student[:, :5], teacher, labels)
        for bad in (dict(queue='fifo'), dict(queue_dtype='int8'), dict(denominator='all')):
            ((key, value),) = bad.items()
            with refused(key=key, got=value):
                memory_loss(**bad)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_autocast(self, dtype):
        torch.manual_seed(0)
        student, teacher = torch.randn(2, 128, 16, 16).relu(), torch.randn(2, 256, 16, 16).relu()
        student[0, :, 3, 3] = 0
        labels = lab(2, 32, 32, 19)
        losses = []
        for enabled in (False, True):
            torch.manual_seed(1)
            loss = CIRKDMemoryLoss(128, 256, 19, pixel_size=100, region_size=20)
            leaf = student.clone().requires_grad_()
            with cpu_autocast(dtype, enabled=enabled):
                parts = loss(leaf, teacher, labels)
            sum(parts.values()).backward()
            assert all(part.dtype == torch.float32 for part in parts.values())
            assert all(p.grad.isfinite().all() for p in (leaf, *loss.projector.parameters()))
            losses.append(parts)
        # the projector itself rounds: bfloat16 keeps 8 bits
        rtol = 1e-3 if dtype == torch.float16 else 5e-3
        for name in ('pixel', 'region'):
            torch.testing.assert_close(losses[1][name], losses[0][name], rtol=rtol, atol=0)

    @pytest.mark.parametrize('denominator', ['local', 'global'])
    def test_no_host_sync_after_the_label_check(self, denominator):
        """On 'meta' tensors anything that reads a value fails."""
        labels = torch.empty(2, 8, 12, device='meta').long()
        with pytest.raises((RuntimeError, NotImplementedError)):
            labels[labels > 0]  # the probe itself: boolean indexing would be seen
        loss = memory_loss(denominator=denominator).to('meta')
        loss._check_labels_once = lambda _: None
        student = torch.empty(2, 6, 4, 6, device='meta', dtype=torch.double, requires_grad=True)
        teacher = torch.empty(2, 10, 4, 6, device='meta', dtype=torch.double)
        sum(loss(student, teacher, labels).values()).backward()
        assert student.grad.shape == student.shape

    def test_resume_is_bit_exact_with_the_projector(self):
        def steps(loss, number):
            optimizer = torch.optim.SGD(loss.projector.parameters(), 0.1)
            for _ in range(number):
                student, teacher, labels = batch()
                optimizer.zero_grad()
                sum(loss(student, teacher, labels).values()).backward()
                optimizer.step()

        torch.manual_seed(0)
        whole = memory_loss()
        half, resumed = memory_loss(), memory_loss()
        half.load_state_dict(whole.state_dict())
        steps(whole, 4)
        steps(half, 2)
        resumed.load_state_dict(half.state_dict())
        steps(resumed, 2)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name

    def test_saved_for_backward_is_linear_in_rows(self):
        """No map of rows by keys survives the forward pass."""
        loss = CIRKDMemoryLoss(8, 8, 3, pixel_size=50, region_size=20)
        student, teacher = torch.randn(2, 8, 16, 16).requires_grad_(), torch.randn(2, 8, 16, 16)
        sizes = {}

        def pack(x):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss(student, teacher, lab(2, 16, 16, 3))
        assert sum(sizes.values()) <= 8 * student.numel() * 4
        assert max(sizes.values()) <= student.numel() * 4


def test_gen_plus_is_what_the_taps_look_like():
    student, teacher = gen_plus((2, 6, 4, 6), 0.3), gen_plus((2, 10, 4, 6), 1.1)
    assert 0 < CIRKDMiniBatchLoss()(student, teacher) <= 20
