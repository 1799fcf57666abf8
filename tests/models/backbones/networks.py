"""Reference figures for 100 classes and the fill under which they were computed.

Their origin is in docs/methods/cifar_networks.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from kdmm.models import StagedBackbone, cifar_backbone


class Counts(NamedTuple):
    """Of the network with its Linear; multiply-adds of one 3 x 32 x 32 image."""

    params: int
    macs: int
    tensors: int
    embedding: int


COUNTS = {
    'resnet20': Counts(278_324, 40_818_944, 128, 64),
    'resnet32': Counts(472_756, 69_130_496, 200, 64),
    'resnet56': Counts(861_620, 125_753_600, 344, 64),
    'resnet110_basic': Counts(1_736_564, 253_155_584, 668, 64),
    'resnet110_bottleneck': Counts(1_170_868, 167_453_696, 674, 256),
    'resnet8x4': Counts(1_233_540, 177_071_104, 62, 256),
    'resnet32x4': Counts(7_433_860, 1_083_040_768, 206, 256),
    'wrn16_2': Counts(703_284, 101_118_464, 83, 128),
    'wrn40_1': Counts(569_780, 83_286_272, 226, 64),
    'wrn40_2': Counts(2_255_156, 327_610_880, 227, 128),
    'wrn28_4': Counts(5_872_180, 845_620_224, 155, 256),
    'vgg8': Counts(3_965_028, 96_192_512, 37, 512),
    'vgg13': Counts(9_462_180, 284_936_192, 72, 512),
    # 13 convolutions 14,714,688 with biases, their BN 8,448, Linear 51,300; multiply-adds with five
    # poolings, 0.31 G as in the table of MCL-OKD's README (with three they would be 0.40 G)
    'vgg16': Counts(14_774_436, 313_247_744, 93, 512),
    'mobilenetv2_stride1': Counts(812_836, 25_710_592, 320, 1280),
    'mobilenetv2_stride2': Counts(812_836, 6_523_648, 320, 1280),
    'shufflenetv1': Counts(949_258, 38_691_456, 296, 960),
    'shufflenetv2_1x1': Counts(1_355_528, 44_504_448, 338, 1024),
    'shufflenetv2_3x3': Counts(1_356_104, 45_094_272, 338, 1024),
    'shufflenetv2_half_3x3': Counts(444_292, 10_994_176, 338, 1024),
    # The inputs of the 3 x 12 layers have 984, 2712 and 4440 channels in all, 110 parameters each
    # (2 of BN, 9 x 12 weights): 894,960. Stem 432, transitions 25,920 and 93,024, last BN 896,
    # Linear 449 for each class: 1,019,722 with 10 classes (1.0 M in arXiv 1608.06993, table 2).
    # 108 x (984 x 1024 + 2712 x 256 + 4440 x 64) multiply-adds, stem 442,368, transitions
    # 26,214,400 and 23,658,496, Linear 44,800.
    'densenet40_12': Counts(1_060_132, 264_853_248, 236, 448),
    # The inputs of 3 x 6 layers: 324, 468, 540, of 50 parameters each (BN, 48 weights); 96 + 5184
    # for each layer's second half: 161,640. Stem 648, transitions 4,800 and 7,440, last BN 264,
    # Linear 133 for each class: 176,122 with 10. Multiply-adds: 0.07 G in MCL-OKD's README.
    'densenet_bc40_12': Counts(188_092, 72_377_232, 236, 132),
    'resnet50': Counts(23_705_252, 1_298_014_208, 320, 2048),
}

#: Sum of the logits, sum of their absolute values, the first and the last logit.
ORACLES = {
    'resnet20': (-136.362656, 551.817684, -2.977310, -0.118255),
    'resnet32': (-213.703817, 871.908953, -5.135979, -0.276334),
    'resnet56': (-383.297935, 1556.226409, -8.976612, 0.496550),
    'resnet110_basic': (-763.415985, 3134.090466, -17.747774, -1.561559),
    'resnet110_bottleneck': (-314.199421, 1837.609496, -5.281542, -2.796339),
    'resnet8x4': (-45.262929, 253.036603, -0.574682, -0.333187),
    'resnet32x4': (-135.631990, 807.314472, -1.508748, -0.965384),
    'wrn16_2': (-7.003930, 197.199395, -0.790064, -0.119301),
    'wrn40_1': (-47.314186, 194.613103, -0.999711, 0.121794),
    'wrn40_2': (-7.652318, 196.244700, -0.665748, -0.143252),
    'wrn28_4': (-30.816638, 179.437460, -0.545422, -0.271590),
    'vgg8': (-30.254388, 173.350947, -0.432528, 0.456119),
    'vgg13': (-29.913238, 175.755425, -0.232103, 0.432801),
    'mobilenetv2_stride1': (-54.735259, 190.380982, 0.053926, 0.069330),
    'mobilenetv2_stride2': (-59.338535, 221.911988, -0.036618, -0.185346),
    'shufflenetv1': (-228.789846, 940.040410, 0.354926, -1.808694),
    'shufflenetv2_1x1': (-47.082391, 177.584759, 0.232421, 0.175536),
    'shufflenetv2_3x3': (-46.036504, 178.494286, -0.410426, 0.728813),
    'shufflenetv2_half_3x3': (-45.735179, 177.478494, -0.148552, 0.285320),
    'resnet50': (-201.057724, 546.953522, -0.318603, 0.705982),
}

#: One small network of each family, with the shapes of its stages on 32 x 32 pixels.
STAGE_SHAPES = {
    'resnet20': [(16, 32), (32, 16), (64, 8)],
    'wrn16_2': [(32, 32), (64, 16), (128, 8)],
    'vgg8': [(64, 32), (128, 16), (256, 8), (512, 4)],
    'mobilenetv2_stride1': [(12, 32), (16, 16), (48, 8), (160, 4)],
    'mobilenetv2_stride2': [(12, 16), (16, 8), (48, 4), (160, 2)],
    'shufflenetv1': [(240, 16), (480, 8), (960, 4)],
    'densenet_bc40_12': [(96, 32), (120, 16), (132, 8)],
    'shufflenetv2_1x1': [(116, 16), (232, 8), (464, 4)],
}
FAMILIES = list(STAGE_SHAPES)
_DRAWN: dict[int, Tensor] = {}


def backbone(name: str, **options) -> StagedBackbone:
    config = cifar_backbone(name, **options)
    if config['type'].startswith('mmpretrain.'):
        pytest.importorskip('mmpretrain')
    return MODELS.build(config)


class Classifier(nn.Module):
    """Backbone, pooling, Linear."""

    def __init__(self, trunk: nn.Module, channels: int, classes: int = 100) -> None:
        super().__init__()
        self.trunk, self.fc = trunk, nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.fc((x[-1] if isinstance(x, tuple) else x).mean((2, 3)))


def classifier(name: str) -> Classifier:
    return Classifier(backbone(name), COUNTS[name].embedding)


def fix(shape: Sequence[int], s: int) -> Tensor:
    """Quadratic residues, scaled to variance one: the first of one sequence for each ``s``."""
    count = torch.Size(shape).numel()
    if s not in _DRAWN or len(_DRAWN[s]) < count:
        _DRAWN[s] = _sequence(count, s)
    return _DRAWN[s][:count].reshape(tuple(shape)).clone()


def _sequence(count: int, s: int) -> Tensor:
    k = torch.arange(count, dtype=torch.int64) + 100003 * s
    u = (7919 * k * k + 104729 * k + 12345) % 65537
    return 12**0.5 * (u.double() / 65537 - 0.5)


def fill(network: nn.Module) -> nn.Module:
    """Give a network weights that depend on shapes only; double, train mode."""
    network.double().train()
    norms = {id(m.weight) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1:
                p.copy_(fix(p.shape, 0) * (2 / p[0].numel()) ** 0.5)
            else:
                p.fill_(float(id(p) in norms))
    return network


# independent forms of networks of which no reference was run, under the same fill


def _weighted(x: Tensor, channels: int, kernel: int) -> Tensor:
    """A convolution whose weights the fill gives by their shape; the bias is 0."""
    shape = (channels, x.shape[1], kernel, kernel)
    weight = fix(shape, 0) * (2 / (x.shape[1] * kernel * kernel)) ** 0.5
    return F.conv2d(x, weight, padding=kernel // 2)


def _norm_relu(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True).relu()


def _classify(x: Tensor) -> Tensor:
    width = x.shape[1]
    return x.mean((2, 3)) @ (fix((100, width), 0) * (2 / width) ** 0.5).T


def naive_vgg16(x: Tensor) -> Tensor:
    """Five blocks, each with a pooling behind it (arXiv 1409.1556, table 1, D, with BN)."""
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = _norm_relu(_weighted(x, width, 3))
        x = F.max_pool2d(x, 2)
    return _classify(x)


def naive_densenet(x: Tensor, units: int, bottleneck: bool) -> Tensor:
    """Growth 12 (arXiv 1608.06993, section 3)."""
    x = _weighted(x, 24 if bottleneck else 16, 3)
    for block in range(3):
        if block:
            channels = x.shape[1] // 2 if bottleneck else x.shape[1]
            x = F.avg_pool2d(_weighted(_norm_relu(x), channels, 1), 2)
        for _ in range(units):
            new = _norm_relu(x)
            if bottleneck:
                new = _norm_relu(_weighted(new, 48, 1))
            x = torch.cat([x, _weighted(new, 12, 3)], 1)
    return _classify(_norm_relu(x))


NAIVE: dict[str, Callable[[Tensor], Tensor]] = {
    'vgg16': naive_vgg16,
    'densenet40_12': partial(naive_densenet, units=12, bottleneck=False),
    'densenet_bc40_12': partial(naive_densenet, units=6, bottleneck=True),
}
