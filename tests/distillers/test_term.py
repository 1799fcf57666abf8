from typing import Any

import pytest
import torch

from kdmm.distillers import Calls, Progress
from kdmm.distillers.term import Term
from kdmm.losses import DistillLoss
from kdmm.registry import MODELS
from tests.distillers.tiny_models import Distance
from tests.errors import refused

PAIRS = {
    't': (torch.zeros(1, 4, 8, 8), torch.zeros(1, 6, 8, 8)),
    'logits': (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)),
}
RAMP = dict(type='Linear', start=1.0, stop=3.0, end=10)


def term(config: dict, **facts: int) -> Term:
    return Term('x', {'on': 't', **config}, {'t': 't.out', 'logits': 'l.out'}, facts, PAIRS)


def pair(channels: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, channels, 3, 3), torch.randn(2, channels, 3, 3)


def labels() -> torch.Tensor:
    return torch.zeros(2, 3, 3).long()


WRONG: list[tuple[dict, str, dict]] = [
    (dict(type='Distanse'), '.type', dict(got='Distanse', problem=('no such loss', 'Distance'))),
    (dict(type='Distance', scal=2.0), '', dict(problem="unknown key 'scal'; nearest: scale")),
    (dict(type='Distance', on='lgits'), '.on', dict(got='lgits', problem='nearest: logits')),
    (dict(type='Distance', on=None), '.on', dict(got=None)),
    (dict(type='Distance', on=['t', 'lgits']), '.on', dict(got='lgits', problem='nearest: logits')),
    (dict(type='Distance', on=[]), '.on',
     dict(got=[], expected='a tap or a list of different taps')),
    (dict(type='Distance', on=['t', 't']), '.on', dict(got=['t', 't'], expected='different taps')),
    (dict(type='Distance', on=dict(a='t')), '.on', dict(got={'a': 't'})),
    (dict(type='Distance', weight={}), '.weight', dict(got={}, expected='a number, or a dict')),
    (dict(type='Distance', weight=dict(type='Liner')), '.weight.type',
     dict(got='Liner', problem='nearest: Linear')),
    (dict(type='Distance', weight='1'), '.weight', dict(got='1', expected='a number')),
    (dict(type='Distance', weight=-0.1), '.weight', dict(got=-0.1, expected='0 or more')),
    (dict(type='SKDLoss', on='t', patch=9), '',
     dict(problem=("on tap 't', SKDLoss", '9 x 9 windows', '(1, 4, 8, 8)'), fix='larger maps')),
    (dict(type='Distance', weight=dict(a='b')), '.weight.a', dict(got='b', expected='a number')),
    (dict(type='Distance', connector=dict(type='Resise')), '.connector.type',
     dict(got='Resise', problem=('no such connector', 'Resize'))),
    (dict(type='Distance', connector=dict(type='Resize', a=1)), '.connector', dict(problem="'a'")),
    (dict(type='Distance', connector=dict(type='Resize', to='a')), '.connector.to', dict(got='a')),
    (dict(type='CIRKDMemoryLoss'), '', dict(problem='CIRKDMemoryLoss: missing num_classes')),
    (dict(type='CIRKDMemoryLoss', num_classes=3, pixel_size=9, weight=dict(pixle=0.1)), '.weight',
     dict(problem="'pixle'; nearest: pixel")),
]  # fmt: skip


@pytest.mark.parametrize(('config', 'key', 'fields'), WRONG)
def test_what_cannot_be_right(config, key, fields):
    with refused(key=f'kd.losses.x{key}', **fields):
        term(config)


@pytest.mark.parametrize(
    'config, key',
    [
        (dict(type='CIRKDMiniBatchLoss', scope='world'), '.scope'),
        (dict(type='CIRKDMemoryLoss', num_classes=3, queue='none'), '.queue'),
        (dict(type='CIRKDMemoryLoss', num_classes=3, queue_dtype='int8'), '.queue_dtype'),
        (dict(type='CIRKDMemoryLoss', num_classes='three'), ''),
    ],
)
def test_what_a_loss_refuses_is_a_config_error_that_names_the_key(config, key):
    with refused(key=f'kd.losses.x{key}'):
        term(config)


@pytest.mark.parametrize(('kind', 'fix'), [('RKDLoss', "scope='global'"), ('SPLoss', 'batch_size')])
def test_too_few_images_are_told_the_remedies_of_the_loss(kind, fix):
    alone = torch.ones(1, 4)
    with refused(key='kd.losses.x', problem=kind, fix=fix) as caught:
        term(dict(type=kind))(alone, alone)
    assert 'MCL' not in caught.value.fix


def test_the_least_batch_is_that_of_the_smallest_level():
    """An image has a single pixel in one call, and 16 in the others."""
    levels = Calls(torch.zeros(1, 3, side, side) for side in (4, 1, 4))
    made = Term('x', dict(type='DISTLoss', on='t'), {'t': 't.out'}, {}, {'t': (levels, levels)})
    with refused(key='train_dataloader.batch_size', got=1, expected='at least 2'):
        made.check_batch(1)
    made.check_batch(2)


def test_the_weight_multiplies():
    student, teacher = pair()
    plain = term(dict(type='Distance'))(student, teacher)
    assert set(plain) == {'kd.loss_x'}
    doubled = term(dict(type='Distance', weight=2.0))(student, teacher)
    assert doubled['kd.loss_x'] == 2 * plain['kd.loss_x'] != 0


@pytest.mark.parametrize('weight, expected', [
    (3.0, dict(one=3, two=6)),
    (dict(one=0.5, two=2.0), dict(one=0.5, two=4)),
    (dict(two=2.0), dict(two=4)),
])  # fmt: skip
def test_the_parts_of_a_loss(weight, expected):
    made = term(dict(type='Parts', weight=weight))
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3)
    unit = term(dict(type='Parts'))
    unit.load_state_dict(made.state_dict())
    base = unit(student, teacher, labels=labels())['kd.loss_x_one']
    for _ in range(2):
        found = made(student, teacher, labels=labels())
        assert set(found) == {f'kd.loss_x_{part}' for part in expected}
        for part, factor in expected.items():
            torch.testing.assert_close(found[f'kd.loss_x_{part}'], factor * base)


def test_an_unknown_part_of_a_weight():
    with refused(key='kd.losses.x.weight', problem="unknown key 'tow'; nearest: two"):
        term(dict(type='Parts', weight=dict(one=1.0, tow=1.0)))


def test_parts_of_a_loss_that_has_none():
    with refused(key='kd.losses.x.weight', problem='no parts'):
        term(dict(type='Distance', weight=dict(pixel=1.0)))


@MODELS.register_module(force=True)
class Undeclared(DistillLoss):
    """Gives parts and says that it is a scalar."""

    def forward(self, student, teacher) -> dict:
        return dict(one=student.mean(), two=teacher.mean())


def test_parts_that_are_not_declared_are_named():
    told = dict(problem='Undeclared', fix="parts = ('one', 'two')")
    with refused(key='kd.losses.x.type', **told):
        term(dict(type='Undeclared'))(*pair())


@MODELS.register_module(force=True)
class Foreign(torch.nn.Module):
    """A class that version 0.1 accepted as a loss."""

    def forward(self, student, teacher) -> torch.Tensor:
        return (student - teacher).mean()


@MODELS.register_module(force=True)
class Curious(DistillLoss):
    """Asks for what nobody provides."""

    needs = ('label',)

    def forward(self, student, teacher, label) -> torch.Tensor:
        return student.sum()


@MODELS.register_module(force=True)
class Formless(DistillLoss):
    """Computes nothing."""


def test_a_loss_must_be_one():
    told = dict(problem='Foreign is no DistillLoss', fix='kdmm.losses.DistillLoss')
    with refused(key='kd.losses.x.type', **told):
        term(dict(type='Foreign'))
    with refused(key='kd.losses.x.type', problem='Formless', fix='Define forward'):
        term(dict(type='Formless'))
    told = dict(problem="unknown key 'label'; nearest: labels")
    with refused(key='kd.losses.x: needs of Curious', **told):
        term(dict(type='Curious'))


def test_a_scheduled_weight_moves():
    made = term(dict(type='Distance', weight=RAMP))
    student, teacher = pair()
    base = made(student, teacher)['kd.loss_x']  # before any progress: iteration 0
    made.set_progress(Progress(10))
    assert made(student, teacher)['kd.loss_x'] == 3 * base
    assert made.describe_weight() == '3'


def test_scheduled_parts_move_on_their_own():
    made = term(dict(type='Parts', weight=dict(one=RAMP, two=1.0)))
    assert made.describe_weight() == 'one 1, two 1'
    made.set_progress(Progress(5))
    assert made.describe_weight() == 'one 2, two 1'


def test_a_scheduled_argument_moves():
    made = term(dict(type='Distance', scale=RAMP))
    assert made.loss.scale == 1.0
    made.set_progress(Progress(5))
    assert made.loss.scale == 2.0
    assert made.describe_weight() == '1'


def test_a_scheduled_temperature_reaches_the_loss():
    student, teacher = pair(3)
    made = term(dict(type='KDLoss', on='logits', temperature=dict(RAMP, start=2.0, stop=4.0)))
    for iteration, temperature in ((0, 2.0), (10, 4.0)):
        made.set_progress(Progress(iteration))
        expected = term(dict(type='KDLoss', on='logits', temperature=temperature))(
            student, teacher
        )['kd.loss_x']
        assert made(student, teacher)['kd.loss_x'] == expected


def test_two_terms_do_not_share_their_progress():
    first, second = (term(dict(type='Distance', weight=RAMP)) for _ in range(2))
    first.set_progress(Progress(10))
    assert second.describe_weight() == '1'


def test_a_schedule_that_would_change_nothing_is_refused():
    """The loss does not keep this argument under its name."""
    with refused(key='kd.losses.x.constructed', problem='cannot be a schedule'):
        term(dict(type='Distance', constructed=RAMP))


def test_facts_fill_in_what_the_config_leaves_out():
    made = term(dict(type='Parts'), num_classes=5, ignore_index=255)
    assert made.loss.projector.weight.shape == (6, 4, 1, 1) and made.loss.num_classes == 5
    assert term(dict(type='Parts', num_classes=2), num_classes=5).loss.num_classes == 2
    assert term(dict(type='Parts')).loss.needs == ('labels',)


def test_a_class_works_in_place_of_its_name():
    assert isinstance(term(dict(type=Distance)).loss, Distance)


def test_the_config_is_left_as_it_was():
    config = dict(type='Distance', scale=RAMP, weight=2.0)
    before = repr(config)
    term(config)
    assert repr(config) == before


@MODELS.register_module(force=True)
class Several(DistillLoss):
    """Reads tuples; says what it was built with and what it was checked with."""

    def __init__(self, student_channels, teacher_channels, tap_channels) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels, tap_channels)

    def check(self, student, teacher) -> None:
        self.checked = [[tuple(x.shape) for x in side] for side in (student, teacher)]
        if len(student) == 1:
            raise ValueError(f'one map is not enough: {self.checked}')

    def forward(self, student, teacher) -> torch.Tensor:
        assert isinstance(student, tuple) and isinstance(teacher, tuple)
        first, second = ((s - t).square().mean() for s, t in zip(student, teacher, strict=True))
        return first + 10 * second


def test_a_term_on_several_taps_gets_tuples_in_their_order():
    made = term(dict(type='Several', on=['logits', 't']))
    assert made.loss.channels == ((3, 4), (3, 6), (3, 4))
    assert made.loss.checked == [[(1, 3, 8, 8), (1, 4, 8, 8)], [(1, 3, 8, 8), (1, 6, 8, 8)]]
    a, b, zero = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    picked = made.pick(dict(t=b, logits=a, other=None))
    assert picked == (a, b) and made.on == 'logits, t'
    expected = a.square().mean() + 10 * b.square().mean()
    torch.testing.assert_close(made((a, b), (zero, zero))['kd.loss_x'], expected)


def test_a_list_of_one_tap_is_a_tuple_too():
    with refused(key='kd.losses.x', problem="on taps 't', one map is not enough"):
        term(dict(type='Several', on=['t']))
    assert term(dict(type='Distance', on=['t'])).pick(dict(t=1)) == (1,)


def test_what_check_refuses_is_refused_when_the_model_is_built():
    told = "on tap 't', KDLoss: the numbers of classes differ: "
    shapes = 'student (1, 4, 8, 8), teacher (1, 6, 8, 8) for a crop'
    with refused(key='kd.losses.x', problem=told + shapes, fix='ClassMap'):
        Term('x', dict(type='KDLoss', on='t'), PAIRS, {}, PAIRS, 'for a crop')


def test_a_loss_behind_connectors_is_checked_behind_them():
    made = term(dict(type='KDLoss', connector=dict(type='Projection')))
    assert set(made(torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3))) == {'kd.loss_x'}


def test_channel_counts_are_told_behind_the_connectors_and_before_them():
    made = term(dict(type='Several', on=['t', 'logits'], connector=dict(type='Projection')))
    assert made.loss.channels == ((6, 3), (6, 3), (4, 3))


class Counting(Distance):
    calls = 0

    def forward(self, *args: torch.Tensor, **_: object) -> torch.Tensor:
        self.calls += 1
        return super().forward(*args)


STOP = dict(type='StopAt', value=1.0, end=5)


def test_what_is_scheduled_to_zero_is_idle_unless_it_keeps_a_memory():
    made = term(dict(type=Counting, weight=STOP))
    assert not made.idle
    made.set_progress(Progress(5))
    assert made.idle
    made.loss.stateful = True
    assert not made.idle
    both = term(dict(type='Parts', weight=dict(one=STOP, two=1.0)))
    both.set_progress(Progress(5))
    assert not both.idle
    assert not term(dict(type=Counting, weight='auto:0.1')).idle


def test_the_zero_of_an_idle_term_reaches_parameters_and_taps():
    made = term(dict(type='Parts', weight=dict(one=STOP, two=STOP)))
    student = torch.full((2, 4, 3, 3), float('inf'), requires_grad=True)
    found = made.zero_losses((student, torch.zeros(1)))
    assert set(found) == {'kd.loss_x_one', 'kd.loss_x_two'}
    sum(found.values()).backward()
    for x in (student, *made.loss.projector.parameters()):
        assert x.grad is not None and not x.grad.any()
    assert all(value == 0 for value in found.values())


@pytest.mark.parametrize('kind, names', [('Parts', {'kd.loss_x_one', 'kd.loss_x_two'}),
                                         ('Distance', {'kd.loss_x'})])  # fmt: skip
def test_the_names_of_an_idle_term(kind, names):
    made = term(dict(type=kind, weight=STOP))
    student = torch.randn(2, 4, 3, 3)
    assert set(made.zero_losses(student)) == names
    teacher, context = torch.randn(2, 6 if kind == 'Parts' else 4, 3, 3), {}
    if made.loss.needs:
        context['labels'] = labels()
    assert set(made(student, teacher, **context)) == names


def test_diagnostics_of_a_loss():
    made = term(dict(type='Distance'))
    assert made.diagnostics() == {}
    made.loss.logged = dict(real=1.5)
    assert made.diagnostics() == {'kd.x_real': 1.5}


# a module that runs several times gives a term several activations


def calls(*sides: int, channels: int = 4) -> Calls:
    return Calls(torch.randn(2, channels, side, side) for side in sides)


def leveled(config: dict, student: Any, teacher: Any) -> Term:
    return Term('x', {'on': 't', **config}, {'t': 't.out'}, {}, {'t': (student, teacher)})


@pytest.mark.parametrize('loss', ['Distance', 'FitNetLoss', 'CWDLoss', 'KDLoss', 'ATLoss'])
def test_the_loss_is_the_sum_over_the_calls_times_the_weight(loss):
    student, teacher = calls(8, 4, 3), calls(8, 4, 3)
    found = leveled(dict(type=loss, weight=3.0), student, teacher)(student, teacher)
    single = leveled(dict(type=loss), student[0], teacher[0])
    expected = 3 * sum(single(s, t)['kd.loss_x'] for s, t in zip(student, teacher, strict=True))
    torch.testing.assert_close(found['kd.loss_x'], expected)
    assert float(found['kd.loss_x']) != 0


def test_one_connector_serves_all_calls():
    student, teacher = calls(8, 4), calls(8, 4, channels=6)
    made = leveled(dict(type='FitNetLoss', connector=dict(type='Projection')), student, teacher)
    assert [tuple(p.shape) for p in made.parameters()] == [(6, 4, 1, 1), (6,)]
    made(student, teacher)['kd.loss_x'].backward()
    assert made.connector.conv.weight.grad.abs().sum() > 0


def test_labels_are_remapped_once_for_all_calls():
    student, teacher = calls(4, 4, channels=3), calls(4, 4, channels=3)
    link = dict(type='ClassMap', classes=[1, 0, None])
    config = dict(type='KDLoss', valid_only=True, connector=link)
    labels = torch.tensor([0, 1, 2, 255]).repeat(2, 4, 1)
    made = leveled(config, student, teacher)
    one = leveled(config, student[0], teacher[0])
    expected = sum(
        one(s, t, labels=labels)['kd.loss_x'] for s, t in zip(student, teacher, strict=True)
    )
    torch.testing.assert_close(made(student, teacher, labels=labels)['kd.loss_x'], expected)


@pytest.mark.parametrize(
    'student, teacher, key, problem, fix',
    [
        (calls(8, 4), calls(8, 4, 2), '.on', '2 time(s) in the student and 3 time(s) in the', '#k'),
        (calls(8, 4), calls(8, 4)[0], '.on', '2 time(s) in the student and 1 time(s)', '#k'),
        (calls(8, 4), calls(8, 2), '', ("on tap 't', call #2, ", 'student (2, 4, 4, 4)'), 'Resize'),
        (
            calls(8, 4),
            Calls([calls(8)[0], calls(4, channels=5)[0]]),
            '',
            ("on tap 't', call #2, ", 'numbers of channels'),
            'Projection',
        ),
    ],
)
def test_calls_that_cannot_be_compared_are_refused(student, teacher, key, problem, fix):
    with refused(key=f'kd.losses.x{key}', problem=problem, fix=fix):
        leveled(dict(type='CWDLoss'), student, teacher)


def test_a_loss_with_a_memory_takes_one_call():
    config = dict(type='CIRKDMemoryLoss', num_classes=3, pixel_size=8, region_size=4)
    told = 'runs 2 times, and CIRKDMemoryLoss keeps a memory'
    with refused(key='kd.losses.x.on', problem=told, fix='#k'):
        leveled(config, calls(8, 4), calls(8, 4))


def test_several_taps_take_one_call_each():
    pairs = {'t': (calls(8, 4), calls(8, 4)), 'u': (calls(8)[0], calls(8)[0])}
    with refused(key='kd.losses.x.on', got='t', problem='runs several times', fix='#k'):
        Term('x', dict(type='PSDLoss', on=['t', 'u']), dict(t='t.out', u='u.out'), {}, pairs)


def test_a_number_of_calls_that_changes_is_refused():
    made = leveled(dict(type='Distance'), calls(8)[0], calls(8)[0])
    told = "tap 't' runs 2 time(s) in training and 1 time(s)"
    with refused(key='kd.losses.x.on', problem=told):
        made(calls(8, 4), calls(8, 4))


@pytest.mark.parametrize('loss', ['FitNetLoss', 'CWDLoss', 'ATLoss', 'KDLoss'])
def test_a_tuple_of_one_call_is_refused_with_a_way_out(loss):
    pair = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)
    told = f"on tap 't', {loss} compares tensors"
    with refused(key='kd.losses.x', problem=told, fix='Choose an item with [i]'):
        leveled(dict(type=loss), pair, pair)
