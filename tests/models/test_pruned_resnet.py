"""`PrunedResNet`: backbones of the libraries with a width for every convolution."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from kdmm.models import ConstantInputConv, PrunedBlock, narrow
from tests.errors import refused
from tests.pruning.nets import BACKBONES, build, images

WIDTHS = {'layer1.0.conv1': 3, 'layer2.1.conv2': 5}


def pruned(name: str = 'cls_basic', widths=WIDTHS, ones=()) -> nn.Module:
    return MODELS.build(
        dict(
            type='kdmm.PrunedResNet',
            backbone=BACKBONES[name],
            widths=dict(widths),
            constant_inputs=list(ones),
        )
    )


def test_it_is_the_librarys_own_network():
    net, plain = pruned(), build(BACKBONES['cls_basic'])
    assert type(net) is type(plain)
    net.init_weights()
    net.train()
    assert net(images())[-1].shape == plain(images())[-1].shape
    own, others = net.state_dict(), plain.state_dict()
    buffers = {'layer2.1.kept', 'layer2.1.constants'}
    assert own.keys() - others.keys() == buffers and not others.keys() - own.keys()
    changed = {key for key in others if own[key].shape != others[key].shape}
    norms = ('weight', 'bias', 'running_mean', 'running_var')
    assert changed == {
        'layer1.0.conv1.weight',
        'layer1.0.conv2.weight',
        'layer2.1.conv2.weight',
        *(f'layer1.0.bn1.{key}' for key in norms),
        *(f'layer2.1.bn2.{key}' for key in norms),
    }
    assert own['layer1.0.conv2.weight'].shape == (8, 3, 3, 3)
    assert net.layer1[0].bn1.num_features == 3  # read where BatchNorm is converted
    assert own['layer2.1.kept'].tolist() == [0, 1, 2, 3, 4]
    assert own['layer2.1.constants'].shape == (1, 16, 1, 1)


def test_geometry_stays():
    net, plain = (f('seg_bottleneck') for f in (_all_narrowed, lambda n: build(BACKBONES[n])))
    for name, conv in plain.named_modules():
        if isinstance(conv, nn.Conv2d):
            other = net.get_submodule(name)
            for key in ('stride', 'padding', 'dilation', 'kernel_size', 'bias'):
                assert getattr(other, key) == getattr(conv, key), (name, key)
    net.eval()
    shapes = [[y.shape for y in each(images(33, 57))] for each in (net, plain)]
    assert shapes[0] == shapes[1]


def _all_narrowed(name: str) -> nn.Module:
    plain = build(BACKBONES[name])
    names = [n for n, m in plain.named_modules() if isinstance(m, nn.Conv2d) and '.conv' in n]
    return narrow(plain, dict.fromkeys(names, 2), [n for n in names if n.endswith('conv2')])


def test_a_block_adds_to_its_places():
    block = pruned().layer2[1].eval()
    assert isinstance(block, PrunedBlock)
    with torch.no_grad():
        block.kept.copy_(torch.tensor([1, 2, 5, 8, 15]))
        block.constants[0, 3] = -0.5
        x = torch.randn(2, 16, 6, 6)
        y = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        wanted = x.clone()
        for place, channel in enumerate(block.kept.tolist()):
            wanted[:, channel] += y[:, place]
        wanted[:, 3] -= 0.5
        torch.testing.assert_close(block(x), wanted.relu())


def test_an_input_of_ones_is_padded_as_the_others_are():
    conv = ConstantInputConv(3, 4, 3, padding=1, bias=False)
    x = torch.randn(2, 2, 5, 5)
    wanted = nn.functional.conv2d(torch.cat([x, torch.ones(2, 1, 5, 5)], 1), conv.weight, padding=1)
    torch.testing.assert_close(conv(x), wanted)


@pytest.mark.parametrize(
    'widths, ones, key, got',
    [
        ({'layer1.0.conv3': 2}, (), 'PrunedResNet.widths', 'layer1.0.conv3'),
        ({'conv1': 2}, (), 'PrunedResNet.widths', 'conv1'),
        ({}, ['layer1.0.conv1'], 'PrunedResNet.constant_inputs', 'layer1.0.conv1'),
        ({'layer1.0.conv1': 9}, (), "PrunedResNet.widths['layer1.0.conv1']", 9),
        ({'layer1.0.conv1': 0}, (), "PrunedResNet.widths['layer1.0.conv1']", 0),
        ({'layer1.0.conv1': 2.5}, (), "PrunedResNet.widths['layer1.0.conv1']", 2.5),
    ],
)
def test_wrong_widths(widths, ones, key, got):
    with refused(key=key, got=got):
        pruned(widths=widths, ones=ones)


def test_networks_without_known_blocks():
    with refused(key='model.backbone', got='CIFARVGG', expected='ResNetV1c'):
        narrow(build(dict(type='kdmm.CIFARVGG', depth=8)), {})
