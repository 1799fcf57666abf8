from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdmm.distillers import Calls, TapPath, Taps
from kdmm.taps import require_gradient, source_of
from tests.errors import refused
from tests.versions import needs


class Net(nn.Module):
    """Counts what runs; `twice` runs twice and takes its input by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.pair = Pair()
        self.tail = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 4)
        self.tail_runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.twice(input=self.twice(input=x))
        x = self.pair(x)[0]
        self.tail_runs += 1
        return self.tail(x)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x + 2


def hooks_of(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 4)


@pytest.mark.parametrize(
    'text, expected',
    [
        ('a.b.in', TapPath('a.b', 'in')),
        ('a.out', TapPath('a', 'out')),
        ('a.0.out[2]', TapPath('a.0', 'out', 2)),
        ('a.in[-1]', TapPath('a', 'in', -1)),
        ('in.out', TapPath('in', 'out')),
        ('a.0.out#2', TapPath('a.0', 'out', None, 2)),
        ('a.out[1]#12', TapPath('a', 'out', 1, 12)),
    ],
)
def test_parse(text, expected):
    assert TapPath.parse(text) == expected


@pytest.mark.parametrize(
    'text', ['a.b', '', '.in', 'out', 'a.inn', 'a.out[x]', 'a[0].out', 'a.out ']
)
def test_a_malformed_path_is_quoted_with_an_example(text):
    with refused(key='tap', got=text, expected=('module path', 'decode_head.conv_seg.in')):
        TapPath.parse(text)


def test_an_unknown_module_names_the_nearest(net):
    with refused(key='kd.taps.t', problem=('the teacher (Net)', "'frist'", 'nearest: first')):
        Taps(net, dict(t='frist.out'), 'teacher')


def test_input_and_output(net, x):
    with Taps(net, dict(i='first.in', o='first.out', end='tail.out'), 's').record() as found:
        result = net(x)
    assert found['i'] is x
    assert torch.equal(found['o'], net.first(x))
    assert found['end'] is result


def test_an_item_of_a_tuple(net, x):
    with Taps(net, dict(a='pair.out[0]', b='pair.out[-1]', c='pair.out'), 's').record() as found:
        net(x)
    torch.testing.assert_close(found['b'], found['a'] + 1)
    assert found['c'][0] is found['a']


def test_a_module_that_runs_twice_gives_both_and_keyword_inputs_count(net, x):
    with Taps(net, dict(i='twice.in', o='twice.out'), 's').record() as found:
        net(x)
    assert isinstance(found['i'], tuple) and len(found['o']) == 2
    assert torch.equal(found['i'][0], net.first(x))
    assert torch.equal(found['i'][1], found['o'][0])


def test_a_module_that_does_not_run_is_an_error(net, x):
    taps = Taps(net, dict(t='unused.out'), 'student')
    with refused(key='kd.taps.t', problem="module 'unused' of the student did not run"):  # noqa: SIM117
        with taps.record():
            net(x)
    assert hooks_of(net) == 0


def test_no_hook_stays(net, x):
    taps = Taps(net, dict(a='first.in', b='tail.out'), 's')
    assert hooks_of(net) == 0
    with taps.record():
        assert hooks_of(net) == 2
        net(x)
    assert hooks_of(net) == 0
    with pytest.raises(ZeroDivisionError), taps.record():
        raise ZeroDivisionError
    assert hooks_of(net) == 0


def test_each_record_begins_anew(net, x):
    taps = Taps(net, dict(o='first.out'), 's')
    for scale in (1, 2):
        with taps.record() as found:
            net(scale * x)
        assert torch.equal(found['o'], net.first(scale * x))


def test_stop_early_skips_the_rest(net, x):
    with Taps(net, dict(a='first.out', b='pair.in'), 's').record(stop_early=True) as found:
        net(x)
    assert net.tail_runs == 0 and set(found) == {'a', 'b'}
    with Taps(net, dict(a='first.out', b='pair.in'), 's').record() as found:
        net(x)
    assert net.tail_runs == 1


def test_gradients_flow_through_what_was_read(net, x):
    with Taps(net, dict(o='first.out'), 's').record() as found:
        net(x)
    require_gradient(found)
    found['o'].sum().backward()
    assert net.first.weight.grad is not None and net.tail.weight.grad is None


def test_a_frozen_tap_is_refused(net, x):
    net.first.requires_grad_(False)
    with Taps(net, dict(o='first.out'), 's').record() as found:
        net(x)
    with refused(key='kd.taps.o', problem='the student activation carries no grad'):
        require_gradient(found)
    with torch.no_grad():
        require_gradient(found)


@pytest.mark.parametrize('reentrant', [True, False])
def test_a_tap_inside_a_checkpointed_block(net, x, reentrant):
    """The reentrant form computes without a graph: a loss there would train nothing."""
    x.requires_grad_()
    with Taps(net, dict(o='first.out'), 's').record() as found:
        checkpoint(net, x, use_reentrant=reentrant)
    if not reentrant:
        return require_gradient(found)
    with refused(problem='activation-checkpointed block', fix='Tap the block'):
        require_gradient(found)


@pytest.mark.parametrize('value', ['list', 'nested'])
def test_sequences_with_a_gradient_pass(value):
    tensor = torch.ones(1, requires_grad=True)
    require_gradient(dict(a=[tensor] if value == 'list' else ((tensor,), (tensor,))))


@pytest.mark.parametrize('path', ['pair.out[2]', 'tail.out[0]'])
def test_an_item_that_is_not_there_is_a_config_error(net, x, path):
    """Of a tensor, [i] would silently pick an image of the batch."""
    with refused(key='kd.taps.t'), Taps(net, dict(t=path), 's').record():
        net(x)


def test_a_shared_module_has_all_its_names(net, x):
    """As the convolutions that a detector's head shares over its levels."""
    net.alias = net.tail
    taps = Taps(net, dict(a='tail.out', b='alias.out'), 'student')
    with taps.record() as found:
        net(x)
    assert found['a'] is found['b']


# what a later operation overwrites


class InPlace(nn.Module):
    """Convolution, norm, then modules and an addition that work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)
        self.both, self.end = Both(), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm(self.conv(x)))
        y = self.drop(self.both(y)[0])
        y += 1
        return self.end(y)


class Both(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x * 2, x * 3]


PLACES = ('norm.out', 'act.in', 'act.out', 'both.out[0]', 'both.out', 'drop.in', 'drop.out')


def in_place() -> tuple[InPlace, torch.Tensor]:
    torch.manual_seed(0)
    return InPlace(), torch.randn(2, 3, 4, 4)


def values_then(net: nn.Module, path: str, x: torch.Tensor) -> list[torch.Tensor]:
    """Copies made by a plain hook at the moment of the call."""
    place, kept = TapPath.parse(path), []

    def keep(_: object, args: tuple, output: object = None) -> None:
        value = place.pick(args[0] if place.side == 'in' else output)
        kept.extend(x.clone() for x in (value if isinstance(value, list) else [value]))

    module = net.get_submodule(place.module)
    before = place.side == 'in'
    hook = (module.register_forward_pre_hook if before else module.register_forward_hook)(keep)
    net(x)
    hook.remove()
    return kept


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', PLACES)
def test_a_tap_gives_what_the_module_gave(path, training):
    """From the first pass on, and in the later ones, whose copies are fewer."""
    net, x = in_place()
    net.train(training)
    taps = Taps(net, dict(t=path, free='conv.in'), 's')
    for _ in range(3):
        torch.manual_seed(1)
        expected = values_then(net, path, x)
        torch.manual_seed(1)
        with taps.record() as found:
            net(x)
        value = found['t'] if isinstance(found['t'], tuple) else (found['t'],)
        assert all(map(torch.equal, value, expected))
        assert found['free'] is x


def test_only_what_is_overwritten_is_copied_once_that_is_known():
    net, x = in_place()
    taps = Taps(net, dict(a='conv.out', b='norm.out', c='end.in'), 's')
    copies = []
    for _ in range(2):
        with mock.patch('kdmm.taps._copy', side_effect=torch.clone) as copied:
            with taps.record():
                net(x)
            copies.append(copied.call_count)
    assert copies == [3, 1]


def test_a_teacher_that_stops_before_reads_the_same():
    net, x = in_place()
    with Taps(net, dict(t='norm.out'), 's').record() as whole:
        net(x)
    with Taps(net, dict(t='norm.out'), 's').record(stop_early=True) as part:
        net(x)
    assert torch.equal(whole['t'], part['t']) and whole['t'].min() < 0


def test_gradients_of_a_copy_are_those_of_the_value_before():
    net, x = in_place()
    with Taps(net, dict(t='norm.out'), 's').record() as found:
        net(x)
    require_gradient(found)
    got = torch.autograd.grad(found['t'].square().sum(), list(net.conv.parameters()))
    expected = torch.autograd.grad(net.norm(net.conv(x)).square().sum(), net.conv.parameters())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_source_of_a_copy_is_where_the_network_goes_on():
    """The task's gradient at the norm's output, that of a network that does not work in place."""
    needs('torch', '2.2', 'gradient at an overwritten activation')
    net, x = in_place()
    net.eval()
    taps = Taps(net, dict(t='norm.out', free='end.in'), 's')
    with taps.record() as found:
        loss = net(x).square().sum()
    (got,) = torch.autograd.grad(loss, source_of(found['t']), retain_graph=True)
    z = net.norm(net.conv(x)).detach().requires_grad_()
    plain = net.end(z.relu() * 2 + 1).square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(plain, z)[0])
    assert source_of(found['free']) is found['free']


def test_what_is_overwritten_in_a_later_pass_alone_is_refused():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.calls = nn.Conv2d(3, 2, 1), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, self.calls = self.conv(x), self.calls + 1
            return y.mul_(2) if self.calls > 1 else y * 2

    net, x = Moody(), torch.randn(1, 3, 2, 2)
    taps = Taps(net, dict(t='conv.out'), 'student')
    with taps.record():
        net(x)
    with refused(key='kd.taps.t', problem='conv.out of the student was overwritten'):  # noqa: SIM117
        with taps.record():
            net(x)


def past_autograd(y: torch.Tensor) -> None:
    y.data.mul_(2)


def past_torch(y: torch.Tensor) -> None:
    y.detach().numpy()[:] = 7


@pytest.mark.parametrize('write', [past_autograd, past_torch])
def test_writes_that_no_counter_shows(write):
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.end = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            write(y)
            return self.end(y)

    net, x = Sly(), torch.randn(1, 3, 2, 2)
    taps = Taps(net, dict(t='conv.out', end='end.out'), 'student')
    for _ in range(2):
        with taps.record() as found:
            net(x)
        assert torch.equal(found['t'], net.conv(x))
    assert list(taps._overwritten.values()) == [True, False]


# calls of a module that runs several times


def test_one_call_can_be_chosen(net, x):
    with Taps(net, dict(a='twice.out#1', b='twice.out#2', i='twice.in#2'), 's').record() as found:
        net(x)
    first = net.twice(net.first(x))
    assert torch.equal(found['a'], first) and torch.equal(found['b'], net.twice(first))
    assert found['i'] is found['a']


def test_all_calls_are_told_from_one_tuple(net, x):
    with Taps(net, dict(calls='twice.out', pair='pair.out'), 's').record() as found:
        net(x)
    assert type(found['calls']) is Calls and type(found['pair']) is tuple


def test_a_call_that_is_not_made_is_refused(net, x):
    taps = Taps(net, dict(t='twice.out#3'), 'student')
    with refused(problem=('ran 2 time(s)', 'there is no call #3')), taps.record():
        net(x)


@pytest.mark.parametrize('text', ['a.out#0', 'a.out#', 'a.out#x', 'a.out#1[0]', 'a#1.out'])
def test_a_malformed_call_is_refused(text):
    with refused(key='tap', got=text):
        TapPath.parse(text)


def test_stopping_early_waits_for_all_calls_once_their_number_is_known(net, x):
    taps = Taps(net, dict(t='twice.out'), 's')
    with taps.record():
        net(x)
    with taps.record(stop_early=True) as found:
        net(x)
    assert len(found['t']) == 2 and net.tail_runs == 1
    with Taps(net, dict(t='twice.out#1'), 's').record(stop_early=True) as found:
        net(x)
    assert isinstance(found['t'], torch.Tensor) and net.tail_runs == 1


def test_an_error_behind_the_last_tap_can_be_borne(net, x):
    taps = Taps(net, dict(t='first.out'), 's')
    with taps.record(tolerant=True) as found:
        net(x)
        raise TypeError('of the rest')
    assert torch.equal(found['t'], net.first(x))
    with pytest.raises(TypeError), taps.record(tolerant=True):
        raise TypeError('before a tap was read')


def test_stopping_early_is_no_error_that_a_network_could_catch(net, x):
    class Patient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.net(x)
            except Exception:
                return self.net(x)

    with Taps(Patient(), dict(t='net.first.out'), 's').record(stop_early=True) as found:
        Patient()(x)
    assert net.tail_runs == 0 and isinstance(found['t'], torch.Tensor)
