import random

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmengine.model import BaseModule
from torch import nn

from kdmm.errors import ConfigError
from kdmm.transfer.architecture import Architecture, below

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
    with pytest.raises(ConfigError, match='^--config x: ResNet cannot be built .*depth 19'):
        Architecture('mmdet', ResNet, '--config x', dict(depth=19)).build()
    with pytest.raises(ConfigError, match='is no network'):
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


def test_below():
    assert below(dict(state_dict={'a.x': 1, 'b.x': 2}), 'a.') == {'x': 1}
    assert below({'x': 1}, '') == {'x': 1}
