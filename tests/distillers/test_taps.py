import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdmm.distillers import ConfigError, TapPath, Taps
from kdmm.distillers.taps import require_gradient


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
    ],
)
def test_parse(text, expected):
    assert TapPath.parse(text) == expected


@pytest.mark.parametrize(
    'text', ['a.b', '', '.in', 'out', 'a.inn', 'a.out[x]', 'a[0].out', 'a.out ']
)
def test_a_malformed_path_is_quoted_with_an_example(text):
    with pytest.raises(ConfigError, match=r'expected a module path.*decode_head\.conv_seg\.in'):
        TapPath.parse(text)


def test_an_unknown_module_names_the_nearest(net):
    with pytest.raises(ConfigError, match=r"kd\.taps\.t: the teacher \(Net\).*'frist'.*first"):
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
    with pytest.raises(ConfigError, match="kd.taps.t: module 'unused' of the student did not run"):  # noqa: SIM117
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
    with pytest.raises(ConfigError, match=r'kd\.taps\.o: the student activation carries no grad'):
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
    with pytest.raises(ConfigError, match='activation-checkpointed block'):
        require_gradient(found)


@pytest.mark.parametrize('value', ['list', 'nested'])
def test_sequences_with_a_gradient_pass(value):
    tensor = torch.ones(1, requires_grad=True)
    require_gradient(dict(a=[tensor] if value == 'list' else ((tensor,), (tensor,))))


@pytest.mark.parametrize('path', ['pair.out[2]', 'tail.out[0]'])
def test_an_item_that_is_not_there_is_a_config_error(net, x, path):
    """Of a tensor, [i] would silently pick an image of the batch."""
    with pytest.raises(ConfigError, match=r'kd\.taps\.t'), Taps(net, dict(t=path), 's').record():
        net(x)
