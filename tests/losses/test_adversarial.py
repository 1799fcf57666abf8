import copy
import io

import pytest
import torch
import torch.nn.functional as F
from oracles import gen

from kdmm.losses import AdversarialLoss, Batch
from kdmm.losses.discriminator import Discriminator
from kdmm.registry import MODELS
from tests.errors import unfit
from tests.versions import cpu_autocast

NO_BATCH = Batch(None, ())
STUDENT, TEACHER = gen((2, 5, 64, 64), 0.3), 2 * gen((2, 5, 64, 64), 1.1)


def build(seed=0, **kwargs):
    """A small D in float64, its attention switched on."""
    torch.manual_seed(seed)
    loss = AdversarialLoss(5, width=8, **kwargs).double()
    for index in (7, 10):
        loss.discriminator.layers[index].gamma.data.fill_(0.5)
    return loss


def step(loss, student=STUDENT, teacher=TEACHER):
    value = loss(student, teacher)
    loss.after_step(NO_BATCH)
    return value


def naive_discriminator(state, x, gamma=None):
    """D from its state dict: sigma from the stored vectors, attention as loops over positions."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    x = (x - mean) / (var + 1e-5).sqrt()
    x = x * state['layers.0.weight'][:, None, None] + state['layers.0.bias'][:, None, None]
    for conv, attention in ((1, None), (3, None), (5, 7), (8, 10)):
        name = f'layers.{conv}.parametrizations.weight'
        weight = state[f'{name}.original']
        sigma = state[f'{name}.0._u'] @ weight.flatten(1) @ state[f'{name}.0._v']
        x = F.conv2d(x, weight / sigma, state[f'layers.{conv}.bias'], stride=2, padding=1)
        x = torch.where(x > 0, x, 0.1 * x)
        if attention is not None and gamma != 0:
            x = naive_attention(state, f'layers.{attention}', x)
    return F.conv2d(x, state['layers.11.weight'], state['layers.11.bias'])


def naive_attention(state, name, x):
    def linear(kind, vector):
        weight = state[f'{name}.{kind}.weight'][:, :, 0, 0]
        return weight @ vector + state[f'{name}.{kind}.bias']

    out = []
    places = [(i, j) for i in range(x.shape[2]) for j in range(x.shape[3])]
    for image in x:
        columns = [image[:, i, j] for i, j in places]
        keys = torch.stack([linear('key', column) for column in columns])
        values = torch.stack([linear('value', column) for column in columns])
        for column in columns:
            share = (keys @ linear('query', column)).softmax(0)
            out.append(column + state[f'{name}.gamma'] * (share @ values))
    return torch.stack(out).view(len(x), *x.shape[2:], -1).movedim(3, 1)


def test_registered_and_sizes():
    loss = MODELS.build(dict(type='kdmm.AdversarialLoss', student_channels=19))
    assert loss.needs == () and not loss.stateful
    assert sum(p.numel() for p in loss.discriminator.parameters()) == 3191721
    with torch.no_grad():
        assert loss.discriminator(torch.zeros(2, 19, 64, 128)).shape == (2, 1, 1, 5)
        assert loss.discriminator(torch.zeros(2, 19, 64, 64)).shape == (2, 1, 1, 1)


@pytest.mark.parametrize('shape', [(2, 5, 64, 64), (2, 5, 80, 97)])
def test_discriminator_is_sagans(shape):
    d = build().discriminator.eval()  # eval: no power iteration between the two
    x, state = gen(shape, 0.3), d.state_dict()
    expected = naive_discriminator(state, x)
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(d(x), expected)
    without = naive_discriminator(state, x, gamma=0)
    assert (without - expected).abs().min() > 1e-6
    for index in (7, 10):
        d.layers[index].gamma.data.zero_()
    torch.testing.assert_close(d(x), without)


def test_a_new_discriminator_has_no_attention_yet():
    torch.manual_seed(0)
    d = Discriminator(5, width=8).double().eval()
    torch.testing.assert_close(d(STUDENT), naive_discriminator(d.state_dict(), STUDENT, gamma=0))


def test_spectral_norm_is_one_after_some_forwards():
    d = build().discriminator
    for _ in range(100):
        d(STUDENT)
    for index in (1, 3, 5, 8):
        assert torch.linalg.matrix_norm(d.layers[index].weight.flatten(1), 2) == pytest.approx(
            1, rel=1e-4
        )


def test_students_value_and_gradient():
    loss = build()
    loss.eval()
    student = STUDENT.clone().requires_grad_()
    teacher = TEACHER.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert teacher.grad is None
    expected = -naive_discriminator(loss.discriminator.state_dict(), student).mean()
    torch.testing.assert_close(value, expected)
    (grad,) = torch.autograd.grad(expected, student)
    assert grad.norm() > 1e-4
    torch.testing.assert_close(student.grad, grad)
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_freezing_does_not_change_the_students_gradient():
    grads = []
    for free in (False, True):
        loss = build()
        loss.discriminator.requires_grad_(free)
        student = STUDENT.clone().requires_grad_()
        loss(student, TEACHER).backward()
        grads.append(student.grad)
        assert free == any(p.grad is not None for p in loss.parameters())
    assert torch.equal(*grads)


def test_discriminator_follows_torchs_adam_on_the_hinge_loss():
    loss, oracle = build(), build()
    reference = oracle.discriminator
    adam = torch.optim.Adam(reference.requires_grad_(True).parameters(), 4e-4, (0.9, 0.99))
    for index in range(3):
        student, teacher = gen((2, 5, 64, 64), index), 2 * gen((2, 5, 64, 64), index + 9)
        step(loss, student, teacher)
        with torch.no_grad():
            reference(student)  # the student's own pass: one power iteration
        real, fake = reference(teacher), reference(student)
        d = 0.1 * ((1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean())
        adam.zero_grad()
        d.backward()
        adam.step()
        torch.testing.assert_close(loss.logged['d'], d.detach())
        torch.testing.assert_close(loss.logged['real'], real.detach().mean())
        torch.testing.assert_close(loss.logged['fake'], fake.detach().mean())
    for ours, expected in zip(loss.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert not any('loss' in key for key in loss.logged)


def test_discriminator_learns():
    loss = build(lr=2e-3)
    values = []
    for _ in range(25):
        step(loss)
        values.append(loss.logged['d'].item())
    assert values[0] > 0.15 and values[-1] < 0.5 * values[0]
    assert loss.logged['real'] > loss.logged['fake']


def test_resume_is_exact_to_the_bit():
    whole = build()
    for _ in range(4):
        expected = step(whole)
    first = build()
    for _ in range(2):
        step(first)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build(seed=1)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        value = step(second)
    assert torch.equal(value, expected)
    expected, found = whole.state_dict(), second.state_dict()
    adam, again = (state.pop('optimizer._extra_state')['state'] for state in (expected, found))
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    assert len(adam) == len(list(whole.discriminator.parameters()))
    for index, moments in adam.items():
        assert moments['step'] == 4
        assert all(torch.equal(again[index][key], value) for key, value in moments.items())


def test_the_state_of_an_earlier_version_goes_on():
    """kdmm 0.1 kept the moments of all parameters as one vector each, in the same order."""
    whole = build()
    for _ in range(2):
        step(whole)
    state = copy.deepcopy(whole.state_dict())
    adam = state.pop('optimizer._extra_state')['state']
    state['steps'] = torch.tensor(2)
    for old, new in (('moment', 'exp_avg'), ('square', 'exp_avg_sq')):
        state[old] = torch.cat([adam[index][new].flatten() for index in range(len(adam))])
    state = {f'terms.adv.loss.{key}': value for key, value in state.items()}
    other = build(seed=1)
    other.upgrade(state, 'terms.adv.loss.')
    other.load_state_dict({key.removeprefix('terms.adv.loss.'): x for key, x in state.items()})
    assert torch.equal(step(other), step(whole))
    for mine, theirs in zip(other.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_state_of_an_earlier_version_before_its_first_step():
    loss = build()
    state = dict(moment=torch.zeros(3), square=torch.zeros(3), steps=torch.tensor(0))
    loss.upgrade(state, '')
    assert set(state) == {'optimizer._extra_state'} and not state['optimizer._extra_state']['state']


def test_all_state_moves_with_the_module():
    loss = build()
    step(loss)
    loss.to(torch.float32)
    state = loss.state_dict()
    moments = state.pop('optimizer._extra_state')['state']
    tensors = [*state.values(), *(m['exp_avg'] for m in moments.values())]
    assert len(tensors) > 20 and all(tensor.dtype == torch.float32 for tensor in tensors)
    assert all(tensor.is_meta for tensor in build().to('meta').discriminator.state_dict().values())


def test_a_forgotten_hook_is_an_error_in_training_only():
    loss = build()
    loss(STUDENT, TEACHER)
    with pytest.raises(RuntimeError, match='never learn.*DistillHook'):
        loss(STUDENT, TEACHER)
    loss = build()
    before = {key: value.clone() for key, value in loss.discriminator.state_dict().items()}
    loss.eval()
    for _ in range(2):
        loss(STUDENT, TEACHER)
    loss.after_step(NO_BATCH)
    assert all(
        torch.equal(before[key], value) for key, value in loss.discriminator.state_dict().items()
    )
    assert not loss.optimizer.optimizer.state
    loss.train()
    with torch.no_grad():
        for _ in range(2):
            loss(STUDENT, TEACHER)
    loss(STUDENT, TEACHER)


def test_the_kept_pair_holds_no_graph():
    loss = build()
    loss(STUDENT.clone().requires_grad_() * 2, TEACHER.clone().requires_grad_() * 2)
    assert not any(kept.requires_grad for kept in loss._pair)


def test_settings_are_read_at_each_step():
    still, fast = build(lr=1.0), build()
    still.lr = 0.0
    before = [p.clone() for p in still.parameters()]
    step(still)
    assert all(torch.equal(*pair) for pair in zip(before, still.parameters(), strict=True))
    fast.d_weight = 0.2
    step(fast)
    torch.testing.assert_close(fast.logged['d'], 2 * still.logged['d'])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_float32_under_autocast(dtype):
    torch.manual_seed(0)
    loss = AdversarialLoss(5, width=8)
    student, teacher = ((60000 * gen((2, 5, 64, 64), phi).sin()).to(dtype) for phi in (0.3, 1.1))
    student.requires_grad_()
    with cpu_autocast(dtype):
        value = loss(student, teacher)
    value.backward()
    with cpu_autocast(dtype):
        loss.after_step(NO_BATCH)
    assert value.dtype == torch.float32 and value.isfinite() and student.grad.isfinite().all()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in loss.parameters())
    torch.manual_seed(0)
    plain = AdversarialLoss(5, width=8)
    assert torch.equal(plain(student.detach().float(), teacher.float()), value)


@pytest.mark.parametrize(
    'student, teacher, mismatch, text',
    [
        ((2, 5, 45, 45), (2, 5, 45, 45), 'small', 'at least 64 x 64'),
        ((2, 5, 64, 63), (2, 5, 64, 63), 'small', 'at least 64 x 64'),
        ((2, 5, 64, 64), (2, 6, 64, 64), 'classes', ''),
        ((2, 5, 64, 64), (2, 5, 128, 128), 'resolution', ''),
        ((2, 6, 64, 64), (2, 6, 64, 64), 'declared channels', 'student_channels=5'),
    ],
)
def test_refusals_show_both_shapes(student, teacher, mismatch, text):
    loss = build()
    for refuse in (loss.check, loss):
        with unfit(mismatch, student=student, teacher=teacher, problem=text):
            refuse(torch.zeros(student), torch.zeros(teacher))
    assert loss(STUDENT, TEACHER).isfinite()  # nothing was kept of the refused pairs
