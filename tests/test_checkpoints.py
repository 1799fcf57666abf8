import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import ImgDataPreprocessor
from torch import nn

from kdmm.checkpoints import (
    fingerprint,
    load_strictly,
    read_checkpoint,
    refuse_misfits,
    state_dict_of,
)
from kdmm.errors import ConfigError
from tests.errors import refused

X = torch.ones(2)


class Arbitrary:
    """Not a weight."""


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_file_is_read(tmp_path, net):
    torch.save(dict(state_dict=net.state_dict()), tmp_path / 'a.pth')
    state = state_dict_of(read_checkpoint(str(tmp_path / 'a.pth')))
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_what_mmengine_stores_is_weights_only(tmp_path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(message_hub=dict(log_scalars=OrderedDict(loss=log)), lr=np.float64(0.1),
                   count=np.int64(3), seeds=np.arange(3))  # fmt: skip
    torch.save(content, tmp_path / 'a.pth')
    read = read_checkpoint(str(tmp_path / 'a.pth'))
    assert read['message_hub']['log_scalars']['loss'].current() == 2.0 and read['lr'] == 0.1


def test_a_missing_file(tmp_path):
    with refused(key='kd.x', got=str(tmp_path / 'gone.pth'), problem='no such file'):
        read_checkpoint(str(tmp_path / 'gone.pth'), what='kd.x')
    with refused(key='checkpoint', got=str(tmp_path), problem='no such file'):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize('keep', [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_truncated_file(tmp_path, net, keep, zipped):
    path = tmp_path / 'a.pth'
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with refused(key='checkpoint', got=str(path), problem='damaged'):
        read_checkpoint(str(path))


@pytest.mark.parametrize('content', [b'<html>404</html>', b'junk', bytes(200), b'\x80\x02}q\x00.'])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / 'a.pth').write_bytes(content)
    with refused(key='checkpoint'):
        state_dict_of(read_checkpoint(str(tmp_path / 'a.pth')))


@pytest.mark.parametrize('content', [[1, 2], torch.ones(2), 3])
def test_a_file_without_a_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    with refused(got=str(tmp_path / 'a.pth'), problem='no weights'):
        state_dict_of(read_checkpoint(str(tmp_path / 'a.pth')))


def test_arbitrary_pickles_need_unsafe(tmp_path):
    torch.save(dict(state_dict={}, extra=Arbitrary()), tmp_path / 'a.pth')
    with refused(problem='holds more than weights', fix='unsafe=True'):
        read_checkpoint(str(tmp_path / 'a.pth'))
    assert isinstance(read_checkpoint(str(tmp_path / 'a.pth'), unsafe=True)['extra'], Arbitrary)


def test_code_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, (f'open({str(tmp_path / "ran")!r}, "w")',)

    (tmp_path / 'a.pth').write_bytes(pickle.dumps(dict(a=Bomb())))
    with refused(got=str(tmp_path / 'a.pth'), problem='more than weights'):
        read_checkpoint(str(tmp_path / 'a.pth'))
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('where', ['weight', 'pickle', 'index'])
@pytest.mark.parametrize('unsafe', [False, True])
def test_a_flipped_bit_is_never_loaded(tmp_path, where, unsafe):
    weight = torch.randn(500, generator=torch.Generator().manual_seed(1))
    torch.save(dict(state_dict=dict(w=weight)), tmp_path / 'a.pth')
    whole = (tmp_path / 'a.pth').read_bytes()
    first = dict(weight=whole.find(weight.numpy().tobytes()), pickle=whole.find(b'state_dict') - 20,
                 index=whole.find(b'PK\x01\x02'))[where]  # fmt: skip
    for step in range(40):
        damaged = bytearray(whole)
        damaged[first + 3 * step] ^= 1 << step % 8
        (tmp_path / 'a.pth').write_bytes(damaged)
        try:
            read = read_checkpoint(str(tmp_path / 'a.pth'), unsafe=unsafe)
        except ConfigError as error:
            assert error.got == str(tmp_path / 'a.pth')
        else:  # a date in the index, say
            assert where != 'weight' and torch.equal(read['state_dict']['w'], weight)


def test_a_damaged_record_is_named(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / 'a.pth')
    content = bytearray((tmp_path / 'a.pth').read_bytes())
    content[content.find(net[0].weight.detach().numpy().tobytes())] ^= 1
    (tmp_path / 'a.pth').write_bytes(content)
    with refused(got=str(tmp_path / 'a.pth'), problem=('is damaged', 'record a/data/0')):
        read_checkpoint(str(tmp_path / 'a.pth'))


@pytest.mark.parametrize('state', [None, [1, 2], 'x', 3.0, torch.ones(2), dict(a=1)])
def test_what_is_no_state_dict(state):
    with refused(key='kd.x', problem='its state_dict is'):
        state_dict_of(dict(state_dict=state, meta={}), 'kd.x')


def test_keys_must_be_names(net):
    for wrong in (dict(state_dict={0: X, 1: X}), {0: X}, dict(state_dict={None: X, 'a': X})):
        with refused(problem='keys that are no names: '):
            state_dict_of(wrong)
    for state in (None, [1], {0: X}):
        with refused(key='it'):
            load_strictly(net, state, 'it')


def test_the_entry_with_the_weights_can_be_named(net):
    state = {f'module.student.{key}': value for key, value in net.state_dict().items()}
    content = dict(model=state, ema={'a.x': X}, best=torch.tensor(7.0), epoch=3)
    flag = 'kd.teacher.container'
    found = state_dict_of(content, 'it', 'model', 'student', flag)
    assert set(found) == set(net.state_dict())
    told = f'no state_dict; its weights are in model, ema: name one with {flag}'
    with refused(key='it', problem=told):
        state_dict_of(content, 'it', flag=flag)
    with refused(key=flag, got='epoch', problem='it has no weights there; there are some in model'):
        state_dict_of(content, 'it', 'epoch', flag=flag)
    with refused(key='it', problem="under prefix='techer'; its keys start with student"):
        state_dict_of(content, 'it', 'model', 'techer')


def test_the_other_weights_of_an_averaging_hook(net):
    averaged = {f'module.{key}': value for key, value in net.state_dict().items()}
    content = dict(state_dict={'a.x': X}, ema_state_dict=averaged | dict(steps=torch.tensor(3)))
    assert set(state_dict_of(content, container='ema_state_dict')) == set(net.state_dict())
    assert set(state_dict_of(content)) == {'a.x'}


def test_the_prefix_of_a_wrapper_goes(net):
    wrapped = {f'module.{key}': value for key, value in net.state_dict().items()}
    assert set(state_dict_of(dict(state_dict=wrapped))) == set(net.state_dict())
    assert set(state_dict_of(wrapped)) == set(net.state_dict())


def test_a_child_called_module_keeps_its_name():
    net = nn.ModuleDict(dict(module=nn.Linear(1, 1), other=nn.Linear(1, 1)))
    assert set(state_dict_of(net.state_dict())) == set(net.state_dict())


def test_loading_strictly(net):
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_strictly(net, other.state_dict(), 'x')
    assert torch.equal(net[0].weight, other[0].weight)


def test_every_kind_of_misfit_is_listed_and_nothing_is_loaded(net):
    before = fingerprint(net.state_dict().values())
    state = dict(net.state_dict(), extra=torch.ones(1))
    state['0.weight'] = torch.ones(3, 5)
    state['0.bias'] = torch.ones(3)
    del state['1.running_mean']
    told = (
        'does not fit Sequential (7 entries)',
        '1 missing: 1.running_mean',
        '1 unexpected: extra',
        '1 wrong shape: 0.weight (3, 5) for (3, 2)',
    )
    with refused(key='kd.teacher.checkpoint', problem=told):
        load_strictly(net, state, 'kd.teacher.checkpoint')
    assert fingerprint(net.state_dict().values()) == before


def test_long_lists_are_cut(net):
    state = {f'k{index}': torch.ones(1) for index in range(20)}
    with refused(key='x', problem='20 unexpected: k0, k1, k2, k3, k4, k5, k6, k7 and 12 more'):
        load_strictly(net, state, 'x')


class Renames(nn.Linear):
    """As MMDetection's heads without anchors: takes what has no version for an old file's."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        self.seen = metadata.get('version')
        if self.seen is None:
            state[f'{prefix}weight_now'] = state.pop(f'{prefix}weight')
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize('wrap', ['', 'module.', '_orig_mod.', 'module._orig_mod.', 'a.b.'])
@pytest.mark.parametrize('version', [1, 2])
def test_modules_are_told_the_version_that_wrote_their_entries(wrap, version):
    net = nn.Sequential(nn.Sequential(Renames(2, 2)))
    net[0][0]._version = version
    whole = net
    for name in reversed(wrap.split('.')[:-1]):
        whole = nn.ModuleDict({name: whole})
    state = state_dict_of(
        dict(state_dict=whole.state_dict()), prefix='a.b' if 'a' in wrap else None
    )
    del net[0][0]._version
    load_strictly(net, state, 'x')
    assert net[0][0].seen == version


def test_a_state_without_versions_that_fits_is_of_this_release():
    """As `kdmm` writes beside the student: a plain dict."""
    net = nn.Sequential(Renames(2, 2))
    load_strictly(net, dict(net.state_dict()), 'x')
    assert net[0].seen == 2


def test_versions_of_a_part_that_is_compiled_on_one_side():
    part, state = Renames(2, 2), nn.Sequential(Renames(2, 2)).state_dict()
    load_strictly(nn.Sequential(nn.ModuleDict(dict(_orig_mod=part))), state, 'x')
    assert part.seen == 2


@pytest.mark.parametrize(
    'key, change, message',
    [
        ('0.bias', lambda x: 'text', r'no tensor: 0\.bias \(str\)'),
        ('0.bias', lambda x: None, r'no tensor: 0\.bias \(NoneType\)'),
        ('0.bias', lambda x: x.numpy(), r'no tensor: 0\.bias \(ndarray\)'),
        ('1.num_batches_tracked', int, r'no tensor: 1\.num_batches_tracked \(int\)'),
        ('0.bias', lambda x: x.to('meta'), r'no plain tensor: 0\.bias \(on no device\)'),
        ('0.weight', lambda x: x.to_sparse(), r'no plain tensor: 0\.weight \(torch\.sparse'),
        ('0.bias', lambda x: x.long(), r'wrong dtype: 0\.bias torch\.int64 for torch\.float32'),
        ('0.bias', lambda x: x.byte(), 'wrong dtype'),
        ('0.bias', lambda x: x > 0, 'wrong dtype: .*bool'),
        ('0.bias', lambda x: x.to(torch.complex64), 'wrong dtype: .*complex64'),
        ('1.num_batches_tracked', lambda x: x.float(), 'wrong dtype: .*float32 for torch.int64'),
        ('1.num_batches_tracked', lambda x: x > 0, 'wrong dtype'),
        ('0.weight', lambda x: x * torch.nan, r'not finite: 0\.weight \(6 of 6 values\)'),
        ('1.running_mean', lambda x: x + torch.tensor([0, torch.inf, 0]), r'not finite: .*1 of 3'),
        ('0.bias', lambda x: x.double() + 1e300, 'not finite: 0.bias'),
        ('1.running_var', lambda x: x - 1.5, 'negative variance: 1.running_var'),
    ],
)  # fmt: skip
def test_what_is_no_weight(net, key, change, message):
    before = fingerprint(net.state_dict().values())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        load_strictly(net, {**state, key: change(state[key])}, 'it')
    if 'no tensor' not in message:
        told = '^it: cannot be loaded into Sequential: 1 ' + message
        with pytest.raises(ConfigError, match=told):
            refuse_misfits(net, {key: change(state[key])}, 'it')
    assert fingerprint(net.state_dict().values()) == before


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_any_width_is_a_weight(net, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value.int() + 7
             for key, value in net.state_dict().items()}  # fmt: skip
    load_strictly(net, state, 'x')
    assert torch.equal(net[0].weight, state['0.weight'].float()) and net[1].num_batches_tracked == 7
    load_strictly(net.to(dtype), state, 'x')


def test_integers_must_fit():
    net = nn.Module()
    net.register_buffer('count', torch.zeros(2, dtype=torch.uint8))
    load_strictly(net, dict(count=torch.tensor([3, 255])), 'x')
    assert net.count.tolist() == [3, 255]
    with refused(key='x', problem='1 too large: count torch.int64 for torch.uint8'):
        load_strictly(net, dict(count=torch.tensor([3, 256])), 'x')


def test_a_buffer_may_be_infinite_where_the_network_starts_so():
    net = nn.Module()
    mask = torch.tensor([0.0, -torch.inf, torch.nan])
    net.register_buffer('mask', mask.clone())
    load_strictly(net, dict(mask=mask), 'x')
    load_strictly(net, dict(mask=torch.zeros(3)), 'x')
    for other in (-mask, mask.flip(0)):
        net.mask.copy_(mask)
        with refused(key='x', problem='1 not finite: mask'):
            load_strictly(net, dict(mask=other), 'x')
    net = nn.Module()
    net.weight = nn.Parameter(mask.clone())
    with refused(key='x', problem='1 not finite: weight'):
        load_strictly(net, dict(weight=mask), 'x')


def preprocessed(**options: list[float]) -> nn.Module:
    return nn.ModuleDict(
        dict(data_preprocessor=ImgDataPreprocessor(**options), conv=nn.Linear(1, 1))
    )


MEAN = [123.675, 116.28, 103.53]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float64])
def test_buffers_that_a_network_does_not_save_must_be_equal(dtype):
    net = preprocessed(mean=MEAN, std=[58.395, 57.12, 57.375])
    own = {f'data_preprocessor.{name}': torch.tensor(values, dtype=dtype).view(3, 1, 1)
           for name, values in dict(mean=MEAN, std=[58.395, 57.12, 57.375]).items()}  # fmt: skip
    load_strictly(net, {**net.state_dict(), **own}, 'zoo file')
    key = 'data_preprocessor.mean'
    told = f'1 of another value: {key} [0, 0, 0] for [123.675, 116.28, 103.53]'
    with refused(key='zoo file', problem=told):
        load_strictly(net, {**net.state_dict(), **own, key: own[key] * 0}, 'zoo file')
    for odd in ('text', own[key].to('meta'), own[key].view(3), own[key].long()):
        with refused(problem='of another value: data_preprocessor.mean'):
            load_strictly(net, {**net.state_dict(), **own, key: odd}, 'zoo file')


def test_a_network_that_does_not_normalise():
    net = preprocessed()
    state = {**net.state_dict(), 'data_preprocessor.mean': torch.tensor(MEAN)}
    with refused(key='x', problem=('data_preprocessor.mean [123', '] for none')):
        load_strictly(net, state, 'x')


@pytest.mark.parametrize('wrap', ['module.', '_orig_mod.', 'module._orig_mod.', 'module.module.'])
def test_wrappers_are_no_reason_to_refuse(net, wrap):
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {f'{wrap}{key}': value for key, value in other.state_dict().items()}
    load_strictly(net, state, 'x')
    assert torch.equal(net[0].weight, other[0].weight)
    assert set(state_dict_of(state)) == set(net.state_dict())


def test_a_part_may_be_compiled_on_either_side(net):
    def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key.replace('1.', '1._orig_mod.'): value for key, value in state.items()}

    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_strictly(net, renamed(other.state_dict()), 'x')
    assert torch.equal(net[0].weight, other[0].weight)
    compiled = nn.Sequential(net[0], nn.ModuleDict(dict(_orig_mod=net[1])))
    for state in (other.state_dict(), renamed(other.state_dict())):
        load_strictly(compiled, state, 'x')
    only = nn.ModuleDict(dict(module=nn.Linear(1, 1)))
    load_strictly(only, only.state_dict(), 'x')


def test_the_fingerprint_sees_every_bit(net):
    def digest() -> str:
        return fingerprint(net.state_dict().values())

    before = digest()
    assert digest() == before
    with torch.no_grad():
        net[0].bias[2] = torch.nextafter(net[0].bias[2], torch.tensor(9.0))
    assert digest() != before
    before = digest()
    net[1].num_batches_tracked += 1
    assert digest() != before


@pytest.mark.parametrize('value', [torch.ones(2, 2).bfloat16(), torch.tensor(True),
                                   torch.ones(0), torch.ones(2, 3).t()])  # fmt: skip
def test_the_fingerprint_takes_any_tensor(value):
    assert len(fingerprint([value])) == 64
