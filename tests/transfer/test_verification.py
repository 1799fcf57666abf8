"""Verification: features of two networks, with their weights and with noise."""

from collections import OrderedDict

import pytest
import torch
from mmdet.models.backbones import ResNet
from torch import nn

from kdmm.pretrained.architecture import Architecture
from kdmm.pretrained.families import OTHER, Family, family_of
from kdmm.pretrained.mapping import map_keys
from kdmm.transfer.verification import (
    Proof,
    ProofError,
    Side,
    difference,
    features,
    noise_like,
    plain,
    prove,
    same_number,
)
from tests.errors import refused
from tests.transfer.nets import build, hrnet, maps, shake

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


SMALL = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
NET = shake(build('mmdet', SMALL))


@pytest.mark.parametrize('size', [(64, 64), (96, 32)])
def test_all_stages_are_compared(size):
    found = features(NET, family_of(NET), size)
    assert [x.shape[1] for x in found] == [8, 16, 32, 64]
    assert found[0].shape[2:] == (size[0] // 4, size[1] // 4)


def test_stages_that_are_not_returned_are_compared_too():
    last = build('mmdet', SMALL | dict(out_indices=(3,)))
    assert len(features(last, family_of(last), (64, 64))) == 4


def test_what_the_next_stage_does_in_place_is_not_seen():
    net = nn.Sequential(OrderedDict(layer1=nn.Conv2d(3, 4, 1), layer2=nn.ReLU(inplace=True)))
    first, second = features(net, Family(stages=('layer1', 'layer2')), (8, 8))
    assert first.min() < 0 and second.min() == 0


def test_features_are_of_eval_mode_and_leave_no_hook():
    net = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Dropout())
    first, second = features(net, OTHER, (8, 8)), features(net, OTHER, (8, 8))
    assert torch.equal(first[0], second[0]) and first[0].shape == (2, 2, 8, 8)
    assert not net.training and not net._forward_hooks


def test_an_input_that_does_not_fit():
    with refused(key='--size', got=(8, 8), problem='Sequential does not take it'):
        features(nn.Sequential(nn.Conv2d(3, 2, 9)), OTHER, (8, 8))


def test_the_maps_that_both_have():
    a, b, c = (torch.zeros(1, n) for n in (1, 2, 3))
    assert same_number([a, b], [a, b]) == ([a, b], [a, b])
    assert same_number([a, b, c], [c]) == ([c], [c])  # the last stage alone
    assert same_number([a, b, c], [a]) == ([a], [a])  # the first output alone
    for source, target in (([a], [b]), ([], []), ([a, b], [a, c])):
        with pytest.raises(ProofError, match='cannot be compared'):
            same_number(source, target)


def test_difference_is_relative_and_does_not_hide_nan():
    x = torch.tensor([1.0, -4.0])
    assert difference(x, x) == 0
    assert difference(x, x + torch.tensor([0.0, 0.4])) == pytest.approx(0.1)
    assert difference(x, x * torch.nan) == torch.inf
    with pytest.raises(ProofError, match='not finite'):
        difference(x * torch.nan, x * torch.nan)


def test_is_always_the_same_and_leaves_no_weight_out():
    state = build('mmdet', dict(type='ResNet', depth=18, base_channels=8)).state_dict()
    first, second = noise_like(state), noise_like(state)
    for key, value in first.items():
        assert torch.equal(value, second[key]) and value.shape == state[key].shape
        if value.is_floating_point():
            assert not torch.equal(value, state[key]) and (value != 0).all()
        else:
            assert torch.equal(value, state[key])
        if key.endswith('running_var'):
            assert value.min() > 0


def test_deep_networks_stay_finite():
    for config in (dict(type='ResNet', depth=152, base_channels=8, stem_channels=8), hrnet()):
        net = build('mmdet', config)
        net.load_state_dict(noise_like(net.state_dict()))
        assert all(x.isfinite().all() and x.abs().max() > 0 for x in maps(net, (32, 32)))
