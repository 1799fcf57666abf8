"""Refused arguments of the constructors, and differences of networks of one name."""

import pytest
import torch

from kdmm.models import (
    CIFARVGG,
    CIFARDenseNet,
    CIFARMobileNetV2,
    CIFARResNet,
    CIFARShuffleNetV2,
    CIFARWideResNet,
)
from tests.errors import refused
from tests.models.backbones.networks import backbone

RESNET = dict(depth=8, block='basic')
DENSENET = dict(depth=40, growth=12, bottleneck=False)


@pytest.mark.parametrize(
    ('network', 'options', 'key', 'expected'),
    [
        (CIFARResNet, dict(depth=20, block=None), 'block', "one of 'basic', 'bottleneck'"),
        (CIFARResNet, dict(depth=20, block='wide'), 'block', "'basic'"),
        (CIFARResNet, RESNET | dict(depth=21), 'depth', ('6n+2', '20 or 26')),
        (CIFARResNet, RESNET | dict(depth=2), 'depth', ('6n+2', '8 or 14')),
        (CIFARResNet, dict(depth=32, block='bottleneck'), 'depth', '9n+2'),
        (CIFARResNet, RESNET | dict(widths=(16, 32, 64)), 'widths', '4 positive'),
        (CIFARResNet, RESNET | dict(widths=(0, 16, 32, 64)), 'widths', '4 positive'),
        (CIFARResNet, RESNET | dict(shortcut='B'), 'shortcut', "'pad'"),
        (CIFARResNet, RESNET | dict(shortcut='pad', widths=(9, 8, 8, 8)), 'widths', 'not shrink'),
        (CIFARResNet, RESNET | dict(widths=64), 'widths', '4 positive'),
        (CIFARWideResNet, dict(depth=20, widen_factor=2), 'depth', '6n+4'),
        (CIFARWideResNet, dict(depth=16, widen_factor=0.5), 'widen_factor', 'positive whole'),
        (CIFARVGG, dict(depth=11), 'depth', 'one of 8, 13, 16'),
        (CIFARDenseNet, DENSENET | dict(bottleneck=None), 'bottleneck', 'one of False, True'),
        (CIFARDenseNet, DENSENET | dict(depth=41), 'depth', ('3n+4', '40 or 43')),
        (CIFARDenseNet, DENSENET | dict(depth=43, bottleneck=True), 'depth', '6n+4'),
        (CIFARDenseNet, DENSENET | dict(growth=0.5), 'growth', 'positive whole'),
        (CIFARMobileNetV2, dict(stem_stride=None), 'stem_stride', 'one of 1, 2'),
        (CIFARMobileNetV2, dict(stem_stride=4), 'stem_stride', 'one of 1, 2'),
        (CIFARMobileNetV2, dict(stem_stride=1, widen_factor=0.01), 'widen_factor', '1/16'),
        (CIFARShuffleNetV2, dict(stem_kernel=None), 'stem_kernel', 'one of 1, 3'),
        (CIFARShuffleNetV2, dict(stem_kernel=5), 'stem_kernel', 'one of 1, 3'),
        (CIFARShuffleNetV2, dict(stem_kernel=1, widen_factor=3), 'widen_factor', 'one of '),
    ],
)
def test_refused(network, options, key, expected):
    got = [0.5] if options[key] == 0.5 else options[key]
    problem = 'it is required' if got is None else ''
    with refused(key=f'{network.__name__}.{key}', got=got, expected=expected, problem=problem):
        network(**options)


def test_both_forms_of_mobilenet_take_each_others_weights():
    dense, coarse = backbone('mobilenetv2_stride1').eval(), backbone('mobilenetv2_stride2').eval()
    coarse.load_state_dict(dense.state_dict())
    x = torch.randn(1, 3, 32, 32)
    first, second = (network(x)[0].mean((2, 3)) for network in (dense, coarse))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(('factor', 'last'), [(0.25, 1280), (1.0, 1280), (1.5, 1920)])
def test_mobilenet_widens_its_tail_only_above_one(factor, last):
    network = CIFARMobileNetV2(1, factor)
    assert network.tail_channels == last
    assert network.stage_channels == tuple(int(c * factor) for c in (24, 32, 96, 320))


@pytest.mark.parametrize('kernel', [1, 3])
def test_stem_of_shufflenet(kernel):
    assert CIFARShuffleNetV2(kernel).stem[0].kernel_size == (kernel, kernel)


@pytest.mark.parametrize(
    ('network', 'options', 'key'),
    [
        (CIFARResNet, dict(depth=20), 'block'),
        (CIFARDenseNet, dict(depth=40, growth=12), 'bottleneck'),
        (CIFARMobileNetV2, {}, 'stem_stride'),
        (CIFARShuffleNetV2, {}, 'stem_kernel'),
    ],
)
def test_arguments_without_a_default(network, options, key):
    with refused(key=f'{network.__name__}.{key}', got=None, problem='it is required'):
        network(**options)
