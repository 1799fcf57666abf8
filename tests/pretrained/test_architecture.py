"""Backbones that are built from configs, and from the text in a checkpoint."""

import random

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import nn

from kdmm.pretrained import architecture, libraries
from kdmm.pretrained.architecture import (
    Architecture,
    Unread,
    check_types,
    from_text,
    read_literals,
)
from tests.errors import refused

SMALL = dict(depth=18, base_channels=8)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)


class Rigid(BaseModule):
    """Of MMEngine, without the argument that loads weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)


def test_building_leaves_arguments_and_randomness_alone():
    args = dict(**SMALL, norm_cfg=dict(type='BN'))
    architecture = Architecture('mmdet', ResNet, 'here', args)
    before = torch.get_rng_state(), random.getstate()
    first, second = architecture.build(), architecture.build()
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert args == dict(**SMALL, norm_cfg=dict(type='BN'))


def test_a_refusal_of_the_class_names_the_config():
    with refused(key='--config x', problem=('ResNet cannot be built', 'depth 19')):
        Architecture('mmdet', ResNet, '--config x', dict(depth=19)).build()
    with refused(key='x', problem='is no network'):
        Architecture('mmdet', dict, 'x').build()


def test_mmengine_loads_what_it_can(tmp_path):
    architecture = Architecture('mmdet', ResNet, 'x', SMALL)
    state = {key: value + 1 for key, value in architecture.build().state_dict().items()}
    torch.save(state, tmp_path / 'a.pth')
    torch.save(dict(state_dict={f'a.b.{key}': x for key, x in state.items()}), tmp_path / 'b.pth')
    for net in (
        architecture.load(str(tmp_path / 'a.pth')),
        architecture.load(str(tmp_path / 'b.pth'), 'a.b.'),
    ):
        assert architecture.by_init_cfg and net.init_cfg['type'] == 'Pretrained'
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize('kind', [Plain, Rigid])
def test_the_rest_loads_its_state_dict_strictly(tmp_path, kind):
    architecture = Architecture('mmdet', kind, 'x')
    state = {'body.weight': torch.ones(2, 2), 'body.bias': torch.ones(2)}
    torch.save(dict(state_dict={f'b.{key}': x for key, x in state.items()} | {'c': torch.ones(1)}),
               tmp_path / 'a.pth')  # fmt: skip
    assert not architecture.by_init_cfg
    assert architecture.load(str(tmp_path / 'a.pth'), 'b.').body.weight.sum() == 4
    torch.save(dict(state_dict={'b.body.weight': torch.ones(2, 2)}), tmp_path / 'c.pth')
    with pytest.raises(RuntimeError, match='body.bias'):
        architecture.load(str(tmp_path / 'c.pth'), 'b.')


def test_titles():
    architecture = Architecture('mmdet', ResNet, 'x', dict(depth=18))
    assert architecture.title(architecture.build().state_dict()) == 'mmdet ResNet-18'
    assert architecture.title({}) == 'mmdet ResNet'
    assert Architecture('timm', 'resnet18', 'x').title({}) == 'timm resnet18'


R18 = dict(type='ResNet', depth=18)


def text(scope='mmdet', **model):
    return Config(dict(default_scope=scope, model=dict(backbone=R18) | model)).pretty_text


def test_what_loads_weights_is_left_out():
    backbone = R18 | dict(init_cfg=dict(type='Pretrained', checkpoint='x'), pretrained='y')
    assert from_text(text(backbone=backbone), 'backbone.', 'mmdet').args == dict(depth=18)


@pytest.mark.parametrize('scope', [None, 'antigravity', 3])
def test_a_library_on_the_word_of_a_checkpoint_is_one_of_ours(scope):
    with refused(got=scope, expected='one of mmpose', fix='--source-config'):
        from_text(dict(default_scope=scope, model={}), 'backbone.', 'mmdet')


def test_a_source_library_that_is_not_there(monkeypatch):
    there = libraries.installed
    for module in (architecture, libraries):
        monkeypatch.setattr(module, 'installed', lambda x: x != 'mmpose' and there(x))
    found = from_text(text('mmpose'), 'backbone.', 'mmdet')
    assert found.library == 'mmdet' and found.kind.__module__.startswith('mmdet')
    assert 'mmpose is not installed, mmdet stands in' in found.provenance
    backbone = dict(type='HRNet', extra={})
    for to, model in (('timm', {}), ('mmdet', dict(backbone=backbone))):
        with refused(problem='mmpose is not installed: pip install --no-deps'):
            from_text(text('mmpose', **model), 'backbone.', to)


def test_several_backbones_need_a_prefix():
    cfg = dict(default_scope='mmdet', model=dict(
        teacher=dict(backbone=R18), student=dict(backbone=R18 | dict(depth=34))))  # fmt: skip
    with refused(problem='several backbones, teacher.backbone., student.b', fix='--prefix'):
        from_text(cfg, 'backbone.', 'mmdet')
    found = from_text(cfg, 'student.backbone.', 'mmdet')
    assert found.args == dict(depth=34) and found.path == 'student.backbone.'


@pytest.mark.parametrize('kind', ['Distiller', 'HSSAKD', 'HSSAKDTeacher', 'HSSAKDOnline'])
def test_a_distiller_is_its_student(kind):
    teacher = dict(model=dict(backbone=R18 | dict(depth=50)))
    model = dict(type=f'kdmm.{kind}', student=dict(backbone=R18), teacher=teacher)
    found = from_text(dict(default_scope='mmdet', model=model), 'backbone.', 'mmdet')
    assert found.args == dict(depth=18) and found.path == 'backbone.'


def test_a_config_without_a_backbone():
    with refused(problem='its model has no backbone'):
        from_text(dict(default_scope='mmdet', model=dict(type='x')), 'backbone.', 'mmdet')


@pytest.mark.parametrize(
    'node, told',
    [
        (dict(norm_cfg=dict(type='os.system')), dict(got='os.system')),
        (dict(plugins=[dict(cfg=dict(type='os.system'))]), dict(got='os.system')),
        (dict(depth=Unread('f()')), dict(problem='model.depth=f() is no literal and is not run')),
        (dict(stages=(1, Unread('f()'))), dict(problem='no literal')),
    ],
)
def test_every_type_of_a_checkpoint_is_checked(node, told):
    with refused(fix='--source-config', **told) as caught:
        check_types(node, 'mmdet', 'model')
    assert caught.value.key.removesuffix(': type') == 'the config in the checkpoint'


def test_registered_types_pass():
    check_types(dict(type='ResNet', norm_cfg=dict(type='BN'), depth=18), 'mmdet', 'model')


@pytest.mark.parametrize(
    'cfg',
    [
        5,
        'model = 3',
        "default_scope = 'mmdet'\nmodel = 'x'",
        "default_scope = 'mmdet'\nmodel = dict(backbone=dict(depth=3))",
        "default_scope = 'mmdet'\nmodel = dict(backbone=dict(type=3))",
        "default_scope = 'mmdet'\nmodel = dict(backbone='ResNet')",
        "default_scope = 'mmdet'\nmodel = dict(type='kdmm.Distiller')",
        dict(default_scope='mmdet', model=dict(backbone=dict(type=print))),
    ],
)
def test_nonsense_in_a_checkpoint(cfg):
    with refused() as caught:
        from_text(cfg, 'backbone.', 'mmdet')
    assert caught.value.key.startswith('the config in the checkpoint')


def test_reads_what_mmengine_writes():
    model = dict(
        type='A',
        backbone=dict(depth=18, ratio=-0.5, stages=(1, 2), names=['a', None, True], none=()),
        paramwise={'a.b': dict(lr=1e-3), '0': 2},
        nested=[dict(x=1), (dict(y=2),)],
    )
    text = Config(dict(model=model, default_scope='mmdet', other=3)).pretty_text
    found = read_literals(text, ('model', 'default_scope'))
    assert found == dict(model=model, default_scope='mmdet')


@pytest.mark.parametrize(
    'text',
    [
        "__import__('os').system('x')",
        '[x for x in range(3)]',
        'lambda: 1',
        'dict(**other)',
        "dict(['ab'])",
        'open',
        '1 if True else 2',
    ],
)
def test_runs_nothing(text):
    found = read_literals(f'a = dict(b={text})\nimport nowhere_at_all\nraise SystemExit', 'a')['a']
    assert isinstance(found['b'], Unread)


def test_a_class_is_its_name():
    assert read_literals('a = dict(type=mmdet.models.ResNet)', 'a') == dict(
        a=dict(type='mmdet.models.ResNet')
    )


@pytest.mark.parametrize('text', ['a = = 1', 'a = ' + '(' * 5000, 'a\0'])
def test_refuses_what_is_no_python(text):
    with refused(key='the config in the checkpoint', problem='no Py', fix='--source-config'):
        read_literals(text, 'a')
