"""Small models of all libraries with zero filters, made without the code under test."""

import copy
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from tests.transfer.nets import hrnet

SMALL = dict(base_channels=8, stem_channels=8)
#: Of basic blocks and bottlenecks, from every library, with stems, strides, dilations, shortcuts.
BACKBONES: dict[str, dict[str, Any]] = dict(
    cls_basic=dict(type='mmpretrain.ResNet', depth=18, drop_path_rate=0.1, **SMALL),
    cls_bottleneck=dict(type='mmpretrain.ResNetV1d', depth=50, **SMALL),
    seg_basic=dict(
        type='mmseg.ResNetV1c', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), **SMALL
    ),
    seg_bottleneck=dict(
        type='mmseg.ResNetV1c', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), **SMALL
    ),
    det_bottleneck=dict(type='mmdet.ResNet', depth=50, style='caffe', **SMALL),
    pose_basic=dict(type='mmpose.ResNet', depth=18, **SMALL),
    pose_hrnet=dict(hrnet(), type='mmpose.HRNet'),
    cifar_basic=dict(type='kdmm.CIFARResNet', depth=14, block='basic', widths=(8, 8, 16, 24)),
    cifar_bottleneck=dict(
        type='kdmm.CIFARResNet', depth=20, block='bottleneck', widths=(8, 8, 12, 16)
    ),
)
CLASSIFIER: dict[str, Any] = dict(
    type='mmpretrain.ImageClassifier',
    backbone=BACKBONES['cifar_basic'],
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=24),
)
SEGMENTOR: dict[str, Any] = dict(
    type='mmseg.EncoderDecoder',
    backbone=BACKBONES['seg_basic'],
    decode_head=dict(
        type='mmseg.ASPPHead', in_channels=64, channels=16, num_classes=4, in_index=3,
        dilations=(1, 3),
    ),
)  # fmt: skip
DETECTOR: dict[str, Any] = dict(
    type='mmdet.RetinaNet',
    backbone=BACKBONES['det_bottleneck'],
    neck=dict(
        type='mmdet.FPN', in_channels=[32, 64, 128, 256], out_channels=8, num_outs=5, start_level=1
    ),
    bbox_head=dict(
        type='mmdet.RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='mmdet.AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
        ),
    ),
)  # fmt: skip
ESTIMATOR: dict[str, Any] = dict(
    type='mmpose.TopdownPoseEstimator',
    backbone=BACKBONES['pose_basic'],
    head=dict(
        type='mmpose.HeatmapHead', in_channels=64, out_channels=5, deconv_out_channels=(8,),
        deconv_kernel_sizes=(4,), loss=dict(type='mmpose.KeypointMSELoss'),
    ),
)  # fmt: skip


class Bare(nn.Module):
    """A backbone and nothing else."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> Any:
        """The backbone's outputs."""
        return self.backbone(x)


def build(config: dict[str, Any]) -> nn.Module:
    """The model of a config, with BatchNorm that has a history."""
    net = MODELS.build(ConfigDict(copy.deepcopy(config), _scope_=config['type'].split('.')[0]))
    net.eval()  # which some networks do not return
    shake(net)
    return net


def shake(net: nn.Module, seed: int = 0) -> None:
    """Random scales and statistics, positive and negative shifts."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for value, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 1.5),
            ):
                noise = torch.rand(value.shape, generator=generator)
                value.data.copy_(low + (high - low) * noise)


def bare(name: str) -> Bare:
    """One of `BACKBONES`, in eval mode."""
    return Bare(build(BACKBONES[name])).eval()


def prune(net: nn.Module, rate: float = 0.4, decay_bn: bool = False) -> dict[str, torch.Tensor]:
    """Set the filters of lowest norm to 0 in every convolution that is on no shortcut.

    Returns:
        Path of the convolution to the places of those that stay.
    """
    kept = {}
    norm: Any
    layers = list(net.named_modules())
    for place, (name, conv) in enumerate(layers):
        if not isinstance(conv, nn.Conv2d) or 'downsample' in name or 'skip' in name:
            continue
        order = conv.weight.detach().flatten(1).norm(dim=1).argsort(stable=True)
        gone = order[: int(conv.out_channels * rate + 1e-9)]
        conv.weight.data[gone] = 0
        kept[name] = order[len(gone) :].sort().values
        if decay_bn:
            norm = norm_behind(net, layers, place)
            norm.weight.data[gone] = 0
            norm.bias.data[gone] = 0
    return kept


def norm_behind(net: nn.Module, layers: list[tuple[str, nn.Module]], place: int) -> Any:
    """BatchNorm of the same number, or the next module."""
    name = layers[place][0]
    start, _, last = name.rpartition('.')
    parent = net.get_submodule(start)
    if last.startswith('conv'):
        return getattr(parent, f'bn{last[4:]}')
    return layers[place + 1][1]


def images(height: int = 64, width: int = 64) -> torch.Tensor:
    """Two images of noise."""
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(7))


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """All maps of a backbone."""
    with torch.no_grad():
        return [value.clone() for value in model.backbone(x)]


def gap(wanted: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """Largest difference over the largest value."""
    pairs = list(zip(wanted, found, strict=True))
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)
