import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdmm.distillers import Taps
from kdmm.distillers.gradient_ratio import UnmeasurableError, gradient_norms, task_loss
from kdmm.functional import pixel_to_pixel_kl
from tests.versions import needs


@pytest.fixture
def graph() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) * 1.0
    y = x.square() @ torch.randn(4, 4, dtype=torch.float64)
    return x, y


def test_norms_are_those_of_the_whole_derivative(graph):
    """Also through the second tap, which depends on the first."""
    x, y = graph
    task, loss = y.sin().mean(), (x * y).abs().mean()
    norms = gradient_norms(task, [loss, 3 * loss, y.mean()], [[x], [x, y], [y]])
    for row, value, taps in ((0, loss, [x]), (1, 3 * loss, [x, y]), (2, y.mean(), [y])):
        for found, of in ((norms[row].loss, value), (norms[row].task, task)):
            grads = torch.autograd.grad(of, taps, retain_graph=True)
            expected = torch.cat([grad.flatten() for grad in grads]).norm()
            torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_what_a_loss_does_not_depend_on(graph):
    x, y = graph
    z = torch.zeros(3, requires_grad=True) + 1
    norms = gradient_norms(z.sum(), [y.sum(), z.sum(), torch.ones(())], [[y], [y, z], [y]])
    assert [row.reached for row in norms] == [False, True, False]
    assert [float(row.task) for row in norms] == pytest.approx([0, 3**0.5, 0])
    assert norms[1].loss == norms[1].task and norms[2].loss == 0 and norms[0].loss > 0


def test_nothing_but_the_norms_is_left(graph):
    x, y = graph
    leaf = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = (leaf * y).mean()
    (norms,) = gradient_norms(loss, [loss], [[y]])
    assert leaf.grad is None and not norms.loss.requires_grad
    loss.backward()  # the graph is still there
    torch.testing.assert_close(leaf.grad, y.detach().mean())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_small_gradients_of_half_precision_taps_do_not_vanish(dtype):
    """The mean over 8 x 65 x 65 positions, times 3e-5: 1e-9 in each of them."""
    values = torch.randn(8, 3, 65, 65)
    x = values.to(dtype).requires_grad_() * 1
    loss = 3e-5 * x.float().square().sum(1).mean()
    (norms,) = gradient_norms(loss, [loss], [[x]])
    expected = 6e-5 * x.detach().float().norm() / (8 * 65 * 65)
    torch.testing.assert_close(norms.loss, expected, rtol=1e-2, atol=0)
    if dtype is torch.float16:
        (plain,) = torch.autograd.grad(loss, x)
        assert (plain.float().norm() / expected - 1).abs() > 0.05


def test_no_autocast_rounds_the_backward_pass():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(w)
            return (x @ w).sum()

        @staticmethod
        def backward(ctx, grad):
            (w,) = ctx.saved_tensors
            return grad * (torch.ones(4, 4) @ w.T), None

    x, w = torch.randn(4, 4, requires_grad=True) * 1, torch.randn(4, 4)
    loss = Product.apply(x, w)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (norms,) = gradient_norms(loss, [loss], [[x]])
    torch.testing.assert_close(norms.loss, (torch.ones(4, 4) @ w.T).norm(), rtol=1e-6, atol=0)


def test_a_head_checkpointed_in_the_reentrant_form():
    layer, x = nn.Linear(4, 4), torch.randn(2, 4, requires_grad=True) * 1
    loss = checkpoint(layer, x, use_reentrant=True).sum()
    with pytest.raises(UnmeasurableError):
        gradient_norms(loss, [x.sum()], [[x]])
    loss.backward()
    assert layer.weight.grad is not None
    loss = checkpoint(layer, x, use_reentrant=False).sum()
    assert gradient_norms(loss, [x.sum()], [[x]])[0].task > 0


def test_other_errors_pass():
    x = torch.ones(2, requires_grad=True) * 1
    loss = x.exp().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match='second time'):
        gradient_norms(loss, [x.sum()], [[x]])


def test_the_task_is_what_mmengine_adds_up():
    x = torch.tensor([1.0, 3.0])
    losses = dict(loss_ce=x, aux=dict(), acc=x, **{'d.loss': [x, 2 * x]})
    assert task_loss(losses) == 2 + 2 + 4
    assert task_loss(dict(acc=x)) == 0


def test_a_loss_in_half_precision_does_not_overflow():
    x = torch.randn(2, 3, 4, 4).half().requires_grad_() * 1
    loss = (4 * x).square().mean()
    assert loss.dtype is torch.float16
    (norms,) = gradient_norms(loss, [loss], [[x]])
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(norms.loss, grad.float().norm(), rtol=1e-2, atol=0)


def test_an_activation_that_is_overwritten_later_counts_as_it_was():
    """The task's norm at a copy is that of a network that does not work in place."""
    needs('torch', '2.2', 'gradient at an overwritten activation')
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 1, 1, requires_grad=True)
    norms = []
    for in_place in (True, False):
        net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(inplace=in_place))
        net[0].weight = nn.Parameter(weight.detach().clone())
        with Taps(net, dict(t='0.out'), 'student').record() as found:
            task = net(x).square().sum()
        loss = (found['t'] - 1).square().sum()
        norms += gradient_norms(task, [loss], [[found['t']]])
    assert norms[0].reached and float(norms[0].task) > 0
    assert norms[0].loss == norms[1].loss and norms[0].task == norms[1].task


def test_where_torch_takes_no_gradient_at_a_copy_that_is_said(monkeypatch):
    monkeypatch.delattr(torch.autograd.graph, 'GradientEdge', raising=False)  # as before 2.2
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True))
    with Taps(net, dict(t='0.out'), 'student').record() as found:
        task = net(torch.randn(2, 3, 4, 4)).square().sum()
    with pytest.raises(UnmeasurableError, match=r'overwrites a tapped .* torch before 2\.2'):
        gradient_norms(task, [found['t'].sum()], [[found['t']]])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_a_pixel_behind_a_relu_that_is_silent_does_not_make_a_share_large(dtype):
    """Its norm is 0: a quotient by the floor of norms would give the loss a norm of 1e4."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.rand(2, 64, 16, 16, generator=generator)
    found = []
    for dead in (False, True):
        x = torch.randn(2, 24, 16, 16, generator=generator)
        x[0, :, 0, 0] = -1.0 if dead else 1.0
        tap = x.to(dtype).requires_grad_().relu()
        task = tap.float().square().mean()
        (norms,) = gradient_norms(task, [pixel_to_pixel_kl(tap, teacher)], [[tap]])
        found.append(float(norms.loss / norms.task))
    assert found[1] == pytest.approx(found[0], rel=0.1)
