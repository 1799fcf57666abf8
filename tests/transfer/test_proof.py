import pytest
from mmdet.models.backbones import ResNet

from kdmm.transfer.architecture import Architecture
from kdmm.transfer.families import OTHER, family_of
from kdmm.transfer.mapping import map_keys
from kdmm.transfer.proof import (
    Proof,
    ProofError,
    Side,
    plain,
    prove,
)
from tests.transfer.nets import shake

SMALL = dict(depth=18, base_channels=8, stem_channels=8)


def side(**more) -> Side:
    architecture = Architecture('mmdet', ResNet, 'x', SMALL | more)
    net = shake(architecture.build())
    return Side(architecture, net, {key: value.clone() for key, value in net.state_dict().items()})


def run(source: Side, target: Side, **more) -> Proof:
    family = family_of(source.net)
    mapping = map_keys(source.state, target.state, family, 'it')
    return prove(source, target, family, mapping, (64, 64), **more)


def test_the_same_network_in_another_geometry():
    other = side(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), frozen_stages=1)
    assert run(side(), other) == Proof(120, 4, 0.0)


def test_one_weight_that_differs_is_seen():
    source, target = side(), side()
    target.state['layer4.1.conv2.weight'][0] += 0.1
    with pytest.raises(ProofError, match='the features differ by'):
        run(source, target)
    assert run(source, target, accepted=True).difference > 1e-5


def test_what_the_arguments_say_is_named():
    with pytest.raises(ProofError, match=r'differ by .*\(other in their configs: avg_down\)'):
        run(side(), side(avg_down=True))


def test_geometry_is_made_plain_where_it_is_given():
    family = family_of(side().net)
    args = dict(depth=18, num_stages=3, strides=(1, 1, 1), multi_grid=(1, 2), style='caffe')
    assert plain(Architecture('mmseg', ResNet, 'x', args), family).args == dict(
        depth=18, num_stages=3, strides=(1, 2, 2), multi_grid=None, style='caffe'
    )
    assert plain(Architecture('mmseg', ResNet, 'x', args), OTHER).args == args


def test_what_is_said():
    assert str(Proof(120, 4, 0.0)) == '120 tensors loaded from the file, 4 feature maps bit-equal'
    assert str(Proof(1, 2, 3e-7)).endswith('equal up to rounding: max difference 3.0e-07')
    assert str(Proof(1, 2, 0.1)).endswith('NOT equal, as accepted: max difference 1.0e-01')
