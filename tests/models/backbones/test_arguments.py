"""What the constructors refuse, and what distinguishes networks of one name."""

import pytest
import torch

from kdmm.errors import ConfigError
from kdmm.models import (
    CIFARVGG,
    CIFARMobileNetV2,
    CIFARResNet,
    CIFARShuffleNetV2,
    CIFARWideResNet,
)
from tests.models.backbones.networks import backbone


@pytest.mark.parametrize(
    ('network', 'options', 'message'),
    [
        (CIFARResNet, dict(depth=20), r"block is required; expected one of 'basic', 'bottleneck'"),
        (CIFARResNet, dict(depth=20, block='wide'), r"block 'wide' is not known; .*'basic'"),
        (CIFARResNet, dict(depth=21, block='basic'), r'depth=21: expected 6n\+2 .* 20 or 26'),
        (CIFARResNet, dict(depth=2, block='basic'), r'depth=2: expected 6n\+2 .* 8 or 14'),
        (CIFARResNet, dict(depth=32, block='bottleneck'), r'depth=32: expected 9n\+2'),
        (CIFARResNet, dict(depth=8, block='basic', widths=(16, 32, 64)), r'widths=.* 4 positive'),
        (CIFARResNet, dict(depth=8, block='basic', widths=(0, 16, 32, 64)), r'widths=\(0'),
        (CIFARResNet, dict(depth=8, block='basic', widths=64), r'widths=64'),
        (CIFARWideResNet, dict(depth=20, widen_factor=2), r'depth=20: expected 6n\+4'),
        (CIFARWideResNet, dict(depth=16, widen_factor=0.5), r'widen_factor=\[0\.5\]'),
        (CIFARVGG, dict(depth=16), r'depth 16 is not known; expected one of 8, 13'),
        (CIFARMobileNetV2, dict(), r'stem_stride is required; expected one of 1, 2'),
        (CIFARMobileNetV2, dict(stem_stride=4), r'stem_stride 4 is not known'),
        (CIFARMobileNetV2, dict(stem_stride=1, widen_factor=0.01), r'widen_factor=0\.01'),
        (CIFARShuffleNetV2, dict(), r'stem_kernel is required; expected one of 1, 3'),
        (CIFARShuffleNetV2, dict(stem_kernel=5), r'stem_kernel 5 is not known'),
        (CIFARShuffleNetV2, dict(stem_kernel=1, widen_factor=3), r'widen_factor 3 is not known'),
    ],
)
def test_refused(network, options, message):
    with pytest.raises(ConfigError, match=f'^{network.__name__}: {message}'):
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
