"""The weights of a backbone in a file of any kind."""

from pathlib import Path

import pytest
import torch

from kdmm.checkpoints import without_wrappers
from kdmm.pretrained.checkpoint import (
    branches,
    in_branch,
    listed,
    read_weights,
    starts,
    tensors_of,
    under_prefix,
)
from tests.errors import refused

X, Y = torch.zeros(2), torch.ones(3)


def write(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'content',
    [
        dict(state_dict={'backbone.x': X, 'head.y': Y}, meta=dict(epoch=1), optimizer={}),
        {'backbone.x': X, 'head.y': Y},
        dict(state_dict={'module.backbone.x': X, 'module.head.y': Y}),
        {'module.module.backbone.x': X, 'module.module.head.y': Y, 'n_averaged': torch.tensor(3)},
        {'module.backbone.x': X, 'module.head.y': Y, 'steps': torch.tensor(3)},
    ],
)
def test_finds_the_backbone(tmp_path, content):
    weights = read_weights(write(tmp_path, content))
    assert list(weights.tensors) == ['x'] and weights.prefix == 'backbone.'
    assert weights.unused_keys == ['head.y']


def test_without_a_backbone_everything_is_one(tmp_path):
    weights = read_weights(write(tmp_path, {'conv1.weight': X, 'fc.weight': Y, 'epoch': 3}))
    assert list(weights.tensors) == ['conv1.weight', 'fc.weight'] and weights.prefix == ''
    assert weights.unused_keys == [] and weights.meta == {}


@pytest.mark.parametrize('prefix', ['student.backbone', 'student.backbone.'])
def test_a_prefix_may_be_named(tmp_path, prefix):
    path = write(tmp_path, {'student.backbone.x': X, 'teacher.backbone.x': Y, 'head.y': Y})
    weights = read_weights(path, prefix)
    assert weights.tensors['x'].shape == (2,)
    assert weights.unused_keys == ['teacher.backbone.x', 'head.y']
    told = (
        'no key under it: its keys start with head. (1), student. (1), teacher. (1); '
        'try --prefix student.backbone. or --prefix teacher.backbone.'
    )
    with refused(key='--prefix', got='foo.', problem=told):
        read_weights(path, 'foo')


def test_a_container_may_be_named_and_is_not_guessed(tmp_path):
    path = write(tmp_path, dict(net={'a.x': X}, ema={'a.x': Y}, epoch=3, opt=dict(lr=1)))
    assert read_weights(path, container='ema').tensors['a.x'].shape == (3,)
    with refused(key='checkpoint', got=path, problem='its weights are in net, ema: name one'):
        read_weights(path)
    with refused(key='--container', got='epoch', problem='no weights there; there are some in net'):
        read_weights(path, container='epoch')


def test_a_number_beside_the_container_is_no_weight(tmp_path):
    path = write(tmp_path, dict(model={'a.x': X}, best_acc=torch.tensor(70.0)))
    with refused(problem='its weights are in model: name one with --container'):
        read_weights(path)
    assert list(read_weights(path, container='model').tensors) == ['a.x']
    beside = write(tmp_path, {'a.x': X, 'extra': {'y': Y}})  # named as a module names it
    assert list(read_weights(beside).tensors) == ['a.x']


@pytest.mark.parametrize('wrap', ['_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'])
def test_prefixes_of_compiled_networks_go(tmp_path, wrap):
    weights = read_weights(write(tmp_path, {f'{wrap}backbone.x': X, f'{wrap}head.y': Y}))
    assert list(weights.tensors) == ['x'] and weights.unused_keys == ['head.y']


def test_parts_can_be_dropped(tmp_path):
    state = {'x': X, 'prototypes.weight': Y, 'projection_head.0.weight': Y, 'pro': Y}
    path = write(tmp_path, {f'backbone.{key}': value for key, value in state.items()})
    weights = read_weights(path, drop=('projection_head', 'prototypes.weight'))
    assert list(weights.tensors) == ['x', 'pro']
    assert weights.unused_keys == [
        'backbone.prototypes.weight',
        'backbone.projection_head.0.weight',
    ]
    with refused(key='--drop', problem="has no key proj under 'backbone.': pro"):
        read_weights(path, drop=('x', 'proj'))
    with refused(key='--drop', problem='has no other keys'):
        read_weights(path, drop=tuple(state))


@pytest.mark.parametrize('value', [X.to('meta'), X.to_sparse(), X.numpy()])
def test_weights_must_be_plain_tensors(tmp_path, value):
    with refused(key='it', expected='plain tensors', problem='others are x'):
        tensors_of(dict(state_dict={'x': value, 'y': Y, 'epoch': 3}), 'it')


@pytest.mark.parametrize(
    'prefix, inner',
    [('backbone.body.', 'layer1.0.conv1.weight'), ('encoder_q.', 'layer1.0.conv1.weight')],
)
def test_where_a_backbone_seems_to_be(tmp_path, prefix, inner):
    path = write(tmp_path, {f'{prefix}{inner}': X, f'{prefix}fc.x': X, 'head.y': Y})
    assert f'try --prefix {prefix}' in read_weights(path, 'head').describe()
    assert '--prefix' not in read_weights(path, prefix).describe()
    unknown = write(tmp_path, {'a.b.stem.x': X, 'a.b.norm.x': X, 'a.norm.x': X, 'head.y': Y})
    describe = read_weights(unknown).describe(['stem.x', 'norm.x', 'more.x'])
    assert describe.endswith('try --prefix a.b.')


def test_a_file_without_weights(tmp_path):
    with refused(key='checkpoint', problem='no state_dict, only epoch'):
        read_weights(write(tmp_path, dict(epoch=3)))


def test_a_missing_and_a_truncated_file(tmp_path):
    with refused(key='checkpoint', got=str(tmp_path / 'b.pth'), problem='no such file'):
        read_weights(str(tmp_path / 'b.pth'))
    whole = Path(write(tmp_path, {'x': torch.zeros(1000)}))
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(whole.read_bytes()[:2000])
    with refused(got=str(cut), problem='truncated'):
        read_weights(str(cut))
    for junk in (b'', b'junk', b'hello, there', b'PK'):
        cut.write_bytes(junk)
        with refused(got=str(cut), problem='damaged'):
            read_weights(str(cut))


class Harmful:
    def __reduce__(self):
        return print, ('harm',)


def test_code_is_run_only_on_demand(tmp_path, capsys):
    path = write(tmp_path, dict(state_dict={'x': X}, extra=Harmful()))
    with refused(key='checkpoint', problem='more than weights', fix='--unsafe'):
        read_weights(path)
    assert capsys.readouterr().out == ''
    assert list(read_weights(path, unsafe=True).tensors) == ['x']


def test_half_wrapped_is_not_wrapped():
    state = {'module.x': X, 'y': Y}
    assert without_wrappers(state) == state


def test_starts():
    assert (
        starts(['a.b.c', 'a.b.d', 'e', 'f.g'], 'a.b.') == 'a.b.c. (1), a.b.d. (1), e. (1), f. (1)'
    )


def test_below_a_prefix():
    assert under_prefix(dict(state_dict={'a.x': 1, 'b.x': 2}), 'a.') == {'x': 1}
    assert under_prefix({'x': 1}, '') == {'x': 1}


def test_lists_end_at_eight():
    assert listed(list('abcdefgh')) == 'a, b, c, d, e, f, g, h'
    assert listed(list('abcdefghij')).endswith('g, h and 2 more')


def test_names_of_branches():
    assert in_branch('layer3_1.0.bn1.bias', 1) == 'layer3.0.bn1.bias'
    assert in_branch('layer3_1.0.bn1.bias', 0) is None
    assert in_branch('layer3_1.0.bn1.bias', None) == 'layer3_1.0.bn1.bias'
    for key in ('layer2.0.conv1.weight', 'conv1.weight', 'encoder_q_0.conv1.weight'):
        assert in_branch(key, 0) == key
    assert branches(['layer3_10.x', 'layer3_2.x', 'layer4_2.y', 'conv1.weight']) == [2, 10]
