import pytest
import torch
from oracles import gen, gen_plus, value_and_grad
from torch import nn

from kdmm.functional import channel_mse, channel_relation_kl, channel_rows, memory_kl
from kdmm.losses import CIRKDChannelLoss
from kdmm.registry import MODELS
from tests.errors import refused, unfit
from tests.versions import cpu_autocast

SMALL = dict(queue_size=20, per_step=8, keys=9)


def channel_loss(**options):
    return CIRKDChannelLoss(6, 10, **{**SMALL, **options}).double()


def batch(size=(9, 10)):
    return gen((2, 6, *size), 0.3).requires_grad_(), gen((2, 10, *size), 1.1)


def test_registered():
    config = dict(type='kdmm.CIRKDChannelLoss', student_channels=6, teacher_channels=10)
    built = MODELS.build(config)
    assert built.needs == () and built.stateful
    assert (built.queue.size, built.queue.per_step, built.keys) == (10000, 256, 2048)
    assert (built.tau, built.pool) == (0.1, 4)


def test_parts_are_those_of_the_pooled_projected_maps():
    student, teacher = batch()
    loss = channel_loss(queue_dtype='float64')
    loss.projector.eval()
    pool = nn.AvgPool2d(4, ceil_mode=True)
    for step in range(3):
        parts = loss(student, teacher)
        assert loss.queue.step == step + 1 and loss.queue.length == 9
        keys, mask = loss.queue.draw(9)  # after the batch has entered
        rows, targets = channel_rows(loss.projector(pool(student))), channel_rows(pool(teacher))
        assert mask.all()
        distance = torch.cdist(keys, targets.flatten(0, 1)).amin(1)
        assert distance.max() < 1e-7  # every remembered row is one of the teacher's
        expected = dict(
            batch=channel_relation_kl(rows, targets),
            mse=channel_mse(rows, targets),
            memory=memory_kl(rows.flatten(0, 1), targets.flatten(0, 1), keys)[0],
        )
        for name, part in parts.items():
            leaves = (student, *loss.projector.parameters())
            got = (part.detach(), *torch.autograd.grad(part, leaves, retain_graph=True))
            want = expected[name]
            want = (want.detach(), *torch.autograd.grad(want, leaves, retain_graph=True))
            torch.testing.assert_close(got, want)


def test_vanishes_for_equal_features():
    _, teacher = batch()
    loss = CIRKDChannelLoss(10, 10, **SMALL).double()
    loss.projector = nn.Identity()
    student = (3 * teacher).requires_grad_()
    value, grad = value_and_grad(sum(loss(student, teacher).values()), student)
    assert value.abs() < 1e-12 and grad.norm() < 1e-10


def test_teacher_and_queue_carry_no_gradient():
    student, teacher = batch()
    loss = channel_loss()
    sum(loss(student, teacher.requires_grad_()).values()).backward()
    assert teacher.grad is None and student.grad.norm() > 0
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_the_crop_may_not_change():
    loss = channel_loss()
    loss(*batch())
    loss(*batch((12, 11)))  # pooled to 3 x 3 as well
    for call in (loss, loss.check):
        with unfit('row length', problem=('length 9', 'pooled to 3 x 4')):
            call(*batch((9, 13)))


def test_check_changes_nothing_and_refuses_what_forward_does():
    loss, (student, teacher) = channel_loss(), batch()
    loss.check(student[:1], teacher[:1])
    assert loss.queue.length == 0 and loss.queue.step == 0
    for call in (loss, loss.check):
        with unfit('resolution', teacher=(2, 10, 2, 10)):
            call(student, teacher[:, :, :2])
        with unfit('declared channels', teacher=(2, 4, 9, 10), problem='teacher_channels=10'):
            call(student, teacher[:, :4])
    for bad in (dict(queue_dtype='int8'), dict(pool=0), dict(keys=1), dict(queue_size=1)):
        ((key, value),) = bad.items()
        with refused(key=key, got=value):
            channel_loss(**bad)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 16, 16, 16).relu(), torch.randn(2, 32, 16, 16).relu()
    student[0, 3], teacher[1, 5] = 0, 0
    losses = []
    for enabled in (False, True):
        torch.manual_seed(1)
        loss = CIRKDChannelLoss(16, 32, **SMALL)
        leaf = student.clone().requires_grad_()
        with cpu_autocast(dtype, enabled=enabled):
            parts = loss(leaf, teacher)
        sum(parts.values()).backward()
        assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
        assert all(p.grad.isfinite().all() for p in (leaf, *loss.projector.parameters()))
        assert loss.queue.ring.rows.dtype == torch.float32
        losses.append(parts)
    for name, part in losses[1].items():
        torch.testing.assert_close(part, losses[0][name], rtol=2e-2, atol=0)


def test_resume_is_bit_exact_with_the_projector():
    def steps(loss, number):
        optimizer = torch.optim.SGD(loss.projector.parameters(), 0.1)
        for _ in range(number):
            optimizer.zero_grad()
            sum(loss(*batch()).values()).backward()
            optimizer.step()

    whole, half, resumed = channel_loss(), channel_loss(), channel_loss()
    half.load_state_dict(whole.state_dict())
    steps(whole, 4)
    steps(half, 2)
    resumed.load_state_dict(half.state_dict())
    steps(resumed, 2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert whole.memory_bytes() == 21 * 9 * 8


def test_no_host_sync():
    """On 'meta' tensors anything that reads a value fails."""
    loss = channel_loss().to('meta')
    student = torch.empty(2, 6, 9, 10, device='meta', dtype=torch.double, requires_grad=True)
    teacher = torch.empty(2, 10, 9, 10, device='meta', dtype=torch.double)
    sum(loss(student, teacher).values()).backward()
    assert student.grad.shape == student.shape


def test_bounds_for_non_negative_maps():
    student, teacher = gen_plus((2, 6, 9, 10), 0.3), gen_plus((2, 10, 9, 10), 1.1)
    parts = channel_loss()(student, teacher)
    assert 0 < parts['batch'] <= 30 and 0 < parts['memory'] <= 30 and 0 < parts['mse'] <= 4 / 9
