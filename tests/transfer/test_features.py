from collections import OrderedDict

import pytest
import torch
from torch import nn

from kdmm.errors import ConfigError
from kdmm.transfer.families import OTHER, Family, family_of
from kdmm.transfer.features import ProofError, difference, features, same_number
from tests.transfer.nets import build, shake

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
    with pytest.raises(ConfigError, match='--size: Sequential does not take 8 x 8'):
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
