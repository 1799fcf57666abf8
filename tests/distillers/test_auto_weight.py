import copy

import pytest
import torch

from kdmm.distillers import distill
from kdmm.distillers.loss_weights import Auto, build_auto, is_auto
from tests.distillers.tiny_models import KD, TinyNet, images, samples, tiny
from tests.errors import refused
from tests.versions import cpu_autocast


@pytest.fixture
def messages(monkeypatch) -> list[tuple[str, object]]:
    found: list = []
    monkeypatch.setattr(
        'kdmm.distillers.loss_weights.print_log',
        lambda text, _, level=20: found.append((text, level)),
    )
    return found


def observe(auto: Auto, *pairs: tuple[float, float]) -> None:
    for task, term in pairs:
        auto.observe(torch.tensor(task), torch.tensor(term))


# the estimate


def test_it_is_the_share_of_the_ratio_of_sums():
    auto = Auto('w', 0.1, 3)
    assert auto.value() == 1  # nothing was measured
    observe(auto, (2.0, 4.0))
    assert auto.value() == pytest.approx(0.1 * 2 / 4)
    observe(auto, (4.0, 1.0))
    assert auto.value() == pytest.approx(0.1 * 6 / 5)
    assert auto.measuring


def test_it_is_frozen_with_one_line(messages):
    auto = Auto('kd.losses.x.weight', 0.1, 2)
    observe(auto, (2.0, 4.0), (4.0, 1.0))
    assert not auto.measuring and auto.frozen
    assert messages == [
        ("kd.losses.x.weight: frozen at 0.12 (share 0.1 of the task's gradient, 2 iterations)", 20)
    ]


@pytest.mark.parametrize(
    'bad', [(1.0, 0.0), (0.0, 1.0), (1.0, float('nan')), (float('inf'), 1.0), (1.0, float('inf'))]
)
def test_steps_without_a_measurement_do_not_count(messages, bad):
    auto = Auto('w', 0.5, 3)
    observe(auto, bad)
    assert auto.value() == 1
    observe(auto, (2.0, 1.0), bad)
    assert auto.value() == 1.0 and auto.count == 1 and not auto.measuring
    text, level = messages[1]
    assert 'zero or not finite in 2 of 3 measured iterations' in text and level == 30


def test_without_any_it_warns_and_goes_on(messages):
    auto = Auto('w', 0.5, 2)
    observe(auto, (1.0, 0.0), (1.0, 0.0))
    assert auto.measuring and len(messages) == 1 and messages[0][1] == 30
    assert 'stays 1' in messages[0][0]
    observe(auto, (1.0, 0.0), (4.0, 1.0))
    assert not auto.measuring and auto.value() == 2.0


def test_its_state_goes_on_in_another_process():
    first, second, third = (Auto('w', 0.1, 3) for _ in range(3))
    observe(first, (2.0, 4.0), (4.0, 3.0))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for auto in (first, second):
        observe(auto, (5.0, 0.7))
    assert torch.equal(first.value(), second.value()) and not second.measuring
    third.load_state_dict(first.state_dict())
    assert not third.measuring and torch.equal(third.value(), first.value())


# its notation


@pytest.mark.parametrize(
    'value, share, iterations',
    [
        ('auto:0.1', 0.1, 20),
        ('auto: 2', 2.0, 20),
        (dict(type='Auto', share=0.5), 0.5, 20),
        (dict(type='Auto', share=1, iterations=7), 1.0, 7),
    ],
)
def test_the_forms(value, share, iterations):
    assert is_auto(value)
    auto = build_auto(value, 'w')
    assert (auto.share, auto.iterations, auto.name) == (share, iterations, 'w')


@pytest.mark.parametrize('value', [0.1, 'automatic:1', dict(type='Linear'), '0.1', None])
def test_what_is_none(value):
    assert not is_auto(value)


@pytest.mark.parametrize(
    'value',
    [
        'auto', 'auto:', 'auto:much', 'auto:0', 'auto:-1', 'auto:inf', 'auto:nan',
        dict(type='Auto'), dict(type='Auto', share='0.1'), dict(type='Auto', share=0.1, shares=1),
        dict(type='Auto', share=0.1, iterations=0), dict(type='Auto', share=0.1, iterations=1.5),
    ],
)  # fmt: skip
@pytest.mark.parametrize('by_part', [False, True])
def test_what_cannot_be_right(value, by_part):
    losses = dict(p=dict(type='Parts', on='t', weight=dict(one=value) if by_part else value))
    key = 'kd.losses.p.weight.one' if by_part else 'kd.losses.p.weight'
    with refused(key=key):
        distill(tiny(), **{**KD, 'taps': dict(t='body.out'), 'losses': losses})


# in a distilled student


def student(losses: dict, **taps: str) -> torch.nn.Module:
    made = distill(tiny(), **{**KD, 'taps': taps or dict(t='body.out'), 'losses': losses}).train()
    made.stem[3].p = 0.0
    return made


def gradients(made: torch.nn.Module, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms at the tap, of the entries of that name and of the task, by hand."""
    with made.kd.student_taps.record() as taps:
        own = TinyNet.forward(made, images(), samples(), mode='loss')
    terms = made.kd.compute(taps, images(), samples())  # told of no task, it measures nothing
    wanted = [value for name, value in terms.items() if key in name]
    values = (sum(wanted), sum(own.values()))
    return tuple(torch.autograd.grad(v, taps['t'], retain_graph=True)[0].norm() for v in values)


@pytest.mark.parametrize('share', [0.1, 3.0])
@pytest.mark.parametrize('kind', ['CIRKDMiniBatchLoss', 'Parts'])
def test_the_weighted_gradient_is_that_share_of_the_tasks(kind, share):
    """From the first iteration on; of a loss with parts their sum."""
    losses = dict(p=dict(type=kind, on='t', weight=f'auto:{share}'))
    made = student(losses)
    made(images(), samples(), mode='loss')
    term, task = gradients(made, 'kd.loss_p')
    torch.testing.assert_close(term, share * task, rtol=1e-4, atol=0)


def test_parts_may_be_measured_one_by_one():
    made = student(dict(p=dict(type='Parts', on='t', weight=dict(one='auto:0.1', two=0.5))))
    made(images(), samples(), mode='loss')
    weights = made.kd.terms['p'].weights
    assert weights.now('two') == 0.5 and set(weights.measuring()) == {'one'}
    term, task = gradients(made, 'kd.loss_p_one')
    torch.testing.assert_close(term, 0.1 * task, rtol=1e-4, atol=0)
    assert weights.describe() == 'one auto:0.1, two 0.5'


def test_a_frozen_weight_is_a_number():
    auto = dict(type='Auto', share=0.1, iterations=2)
    made = student(dict(k=dict(type='KDLoss', on='l', weight=auto)), l='head.out')
    values = []
    for seed in range(4):
        made(images(seed=seed), samples(seed=seed), mode='loss')
        values.append(float(made.kd.terms['k'].weights.now('')))
    assert values[0] != values[1] == values[2] == values[3]
    state = made.kd.state_dict()
    assert {key.split('.')[-1] for key in state} == {
        'task_sum', 'term_sum', 'count', 'seen', 'frozen'
    }  # fmt: skip


def test_only_training_is_measured():
    made = student(dict(k=dict(type='KDLoss', on='l', weight='auto:0.1')), l='head.out')
    with torch.no_grad():
        made(images(), samples(), mode='loss')
    made.eval()(images(), samples(), mode='loss')
    assert made.kd.terms['k'].weights.auto('').seen == 0


def test_a_tap_that_the_task_does_not_depend_on():
    """Nothing to take a share of."""
    base = tiny()
    base['type'] = 'kdmm.SideNet'
    losses = dict(d=dict(type='Distance', on='t', weight='auto:0.1'))
    kd = {**KD, 'teacher': dict(model=dict(base, width=4), random=True), 'losses': losses}
    made = distill(base, **{**kd, 'taps': dict(t='side.out')}).train()
    told = "does not depend on tap 't'"
    with refused(key='kd.losses.d.weight', problem=told, fix='Give a number.'):
        made(images(), samples(), mode='loss')


def test_a_term_equal_to_the_teacher_leaves_the_weight_alone():
    losses = dict(d=dict(type='Distance', on='l', scale=0.0, weight='auto:0.1'))
    made = student(losses, l='head.out')
    found = made(images(), samples(), mode='loss')
    auto = made.kd.terms['d'].weights.auto('')
    assert found['kd.loss_d'] == 0 and auto.seen == 1 and auto.count == 0 and auto.value() == 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_same_weight(dtype):
    weights = []
    for autocast in (False, True):
        torch.manual_seed(0)  # teacher
        losses = dict(d=dict(type='Distance', on='t', scale=1e-3, weight='auto:0.1'))
        made = student(losses, t='head.out')
        with cpu_autocast(dtype, enabled=autocast):
            made(images(8, 64), samples(8, 64), mode='loss')
        weights.append(float(made.kd.terms['d'].weights.now('')))
    assert weights[1] == pytest.approx(weights[0], rel=0.05)


def test_a_reentrant_head_cannot_be_measured(monkeypatch):
    from torch.utils.checkpoint import checkpoint

    made = student(dict(d=dict(type='Distance', on='t', weight='auto:0.1')), t='head.out')
    line = student(dict(d=dict(type='Distance', on='t')), t='head.out')
    said = []
    monkeypatch.setattr('kdmm.distillers.distiller.print_log', lambda text, *_: said.append(text))
    cross_entropy = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        'torch.nn.functional.cross_entropy',
        lambda x, y, ignore_index: checkpoint(cross_entropy, x, y, use_reentrant=True),
    )
    with refused(key='kd.losses.d.weight', problem='cannot be measured', fix='Give a number.'):
        made(images(), samples(), mode='loss')
    line.kd.measure_next = True
    sum(line(images(), samples(), mode='loss').values()).backward()
    assert line.kd.measure is False and any('kd.measure: turned off' in text for text in said)
