"""A small model of each base library, as a config and a checkpoint on the disk."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

import kdmm  # noqa: F401  (before the libraries)
from kdmm.registry import MODELS as OWN
from tests.distillers.tiny_models import TinyNet
from tests.transfer.nets import RGB, estimator, shake

RESNET = dict(type='ResNet', depth=18, base_channels=4, stem_channels=4)
BN = dict(type='BN')


def two_stages(**more: Any) -> dict[str, Any]:
    return dict(RESNET, num_stages=2, strides=(1, 2), dilations=(1, 1), **more)


CLASSIFIER = Config(
    dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=two_stages(out_indices=(1,)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', in_channels=8, num_classes=5),
        ),
        data_preprocessor=dict(mean=RGB['mean'], std=RGB['std'], to_rgb=True, num_classes=5),
    )
)
SEGMENTOR = Config(
    dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 48), **RGB),
            backbone=two_stages(out_indices=(0, 1), norm_cfg=BN),
            decode_head=dict(
                type='FCNHead', in_channels=8, in_index=1, channels=4, num_convs=1, num_classes=3,
                norm_cfg=BN,
            ),
            auxiliary_head=dict(
                type='FCNHead', in_channels=4, in_index=0, channels=4, num_convs=1, num_classes=3,
                norm_cfg=BN,
            ),
        ),
    )
)  # fmt: skip
POSE = estimator(two_stages(out_indices=(1,)), channels=8)
DETECTOR = Config(
    dict(
        default_scope='mmdet',
        model=dict(
            type='RetinaNet',
            data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32, **RGB),
            backbone=two_stages(out_indices=(0, 1), norm_cfg=BN),
            neck=dict(type='FPN', in_channels=[4, 8], out_channels=4, num_outs=2),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=2,
                in_channels=4,
                feat_channels=4,
                stacked_convs=1,
                anchor_generator=dict(
                    type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1,
                    strides=[4, 8],
                ),
            ),
        ),
    )
)  # fmt: skip


class Files(NamedTuple):
    """A config and a checkpoint on the disk, and the model that wrote it."""

    config: str
    checkpoint: str
    model: nn.Module

    def outputs(self, images: Tensor) -> Any:
        with torch.no_grad():
            return self.model(images, None, mode='tensor')


def write(folder: Path, cfg: Config, **more: Any) -> Files:
    """Write the config with ``more`` in it, and random weights, of statistics too."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(more)
    model = dict(cfg.model)
    model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    net = shake(MODELS.build(ConfigDict(model, _scope_=cfg.default_scope))).eval()
    cfg.dump(folder / 'config.py')
    torch.save(dict(state_dict=net.state_dict(), meta=dict(epoch=1)), folder / 'net.pth')
    return Files(str(folder / 'config.py'), str(folder / 'net.pth'), net)


@OWN.register_module(force=True)
class UnknownOperator(TinyNet):
    """With an operator that ONNX does not have."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        return torch.special.bessel_j0(super().forward(inputs, data_samples, mode))


@OWN.register_module(force=True)
class Deciding(TinyNet):
    """With a branch that depends on the values of the images."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        sign = -1 if inputs.sum().item() < 0 else 1
        return sign * super().forward(inputs, data_samples, mode)


@OWN.register_module(force=True)
class FixedBatch(TinyNet):
    """With a number in place of the size of the batch."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        logits = super().forward(inputs, data_samples, mode)
        return logits.reshape(int(inputs.shape[0]), -1).reshape(logits.shape)


@OWN.register_module(force=True)
class BatchSecond(TinyNet):
    """With outputs by name, of which one has two rows an image, and one the batch in the middle."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        logits = super().forward(inputs, data_samples, mode)
        return dict(rows=logits[:, :2].flatten(0, 1), layers=[logits.flatten(1)[None]])


def tiny(kind: type, **more: Any) -> Config:
    return Config(dict(default_scope='mmengine', model=dict(type=f'kdmm.{kind.__name__}', **more)))
