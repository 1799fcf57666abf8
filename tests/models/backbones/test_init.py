"""The initialisation of each family."""

import pytest
import torch
from torch import nn

from tests.models.backbones.networks import backbone

KAIMING = ['resnet20', 'resnet8x4', 'wrn16_2', 'vgg8', 'mobilenetv2_stride1', 'densenet40_12']
TORCH = ['shufflenetv1', 'shufflenetv2_1x1']


def convs(name: str) -> list[nn.Conv2d]:
    network = backbone(name)
    network.init_weights()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize('name', KAIMING)
def test_normal_by_outputs_not_divided_by_groups(name):
    standard = []
    for conv in convs(name):
        area = conv.kernel_size[0] * conv.kernel_size[1]
        standard.append(conv.weight.flatten() / (2 / (area * conv.out_channels)) ** 0.5)
        spread = 4 / (2 * standard[-1].numel()) ** 0.5  # four standard errors
        assert standard[-1].std().item() == pytest.approx(1, abs=spread)
        assert conv.bias is None or not conv.bias.any()
    together = torch.cat(standard)
    assert together.pow(4).mean().item() == pytest.approx(3, abs=0.1)  # a normal distribution's


@pytest.mark.parametrize('name', TORCH)
def test_shufflenets_keep_torchs(name):
    for conv in convs(name):
        bound = conv.weight[0].numel() ** -0.5
        largest = conv.weight.abs().max().item()
        assert 0.9 * bound < largest <= bound


def test_init_cfg_replaces_the_familys():
    network = backbone('resnet20', init_cfg=dict(type='Constant', val=0.5, layer='Conv2d'))
    network.init_weights()
    assert (network.stages[1][0].branch[0].weight == 0.5).all()
