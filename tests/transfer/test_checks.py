import pytest
import torch

from kdmm.errors import ConfigError
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.checks import check_agreement, check_held, check_values, untrained
from kdmm.transfer.families import family_of
from tests.transfer.nets import build, shake

NET = build('mmdet', dict(type='ResNet', depth=18, base_channels=8, stem_channels=8))
STATE = NET.state_dict()
HERE = Architecture('mmdet', type(NET), '--source-config c.py')


def held(state, prefix='', everything=None):
    full = everything or {f'{prefix}{key}': value for key, value in state.items()}
    return check_held(Weights(state, prefix, full, {}), HERE, STATE, family_of(NET))


def test_a_checkpoint_is_what_it_is_said_to_be():
    assert held(STATE | {'fc.weight': torch.zeros(1)}).heads == ['fc.weight']
    other = build('mmdet', dict(type='ResNet', depth=34, base_channels=8)).state_dict()
    with pytest.raises(ConfigError, match='the checkpoint holds a ResNet of depth 34 and width 8, '
                       '--source-config c.py is a ResNet of depth 18'):  # fmt: skip
        held(other)
    less = {key: value for key, value in STATE.items() if key != 'layer1.0.conv1.weight'}
    with pytest.raises(ConfigError, match='does not fit --source-config c.py: 1 missing: layer1.0'):
        held(less)


def test_one_that_is_elsewhere():
    everything = {f'student.backbone.{key}': value for key, value in STATE.items()}
    with pytest.raises(ConfigError, match=r"no key of the backbone under '': its keys start with "
                       r'student\. \(120\); try --prefix student\.backbone\.'):  # fmt: skip
        held(everything, '', everything)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -1.0])
def test_weights_that_no_training_leaves(value):
    check_values(STATE)
    broken = STATE['bn1.running_var'].clone()
    broken[0] = value
    with pytest.raises(ConfigError, match='1 weights with NaN.*: bn1.running_var'):
        check_values(STATE | {'bn1.running_var': broken})
    negative = {'bn1.weight': -torch.ones(1), 'bn1.running_var': torch.zeros(1)}
    check_values(negative)


def test_statistics_as_they_are_initialised():
    assert untrained(STATE) and not untrained({})
    assert not untrained(shake(build('mmdet', dict(type='ResNet', depth=18))).state_dict())


def test_traits_must_agree_or_be_accepted():
    other = build('mmdet', dict(type='ResNet', depth=18, base_channels=8, stem_channels=8,
                                norm_cfg=dict(type='BN', eps=1e-3)))  # fmt: skip
    there = Architecture('mmdet', type(other), '--config d.py')
    assert check_agreement((HERE, NET), (there, NET), []) == []
    assert check_agreement((HERE, NET), (there, other), ['norm']) == ['norm']
    with pytest.raises(
        ConfigError,
        match=r'^norm: the source \(--source-config c.py\) has BatchNorm'
        r' eps 1e-05, the target \(--config d.py\) BatchNorm eps 0.001: .*--accept n',
    ):
        check_agreement((HERE, NET), (there, other), ['style'])
