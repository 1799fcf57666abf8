"""Small classifiers and what they are shown."""

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from tests.models.backbones.networks import fix

CLASSES = 3


def classifier_config(classes: int = CLASSES, **backbone: Any) -> dict[str, Any]:
    """ResNet-8 of four-channel stages."""
    widths = backbone.setdefault('widths', (4, 4, 4, 8))
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='kdmm.CIFARResNet', **{'depth': 8, 'block': 'basic', **backbone}),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(
            type='mmpretrain.LinearClsHead',
            num_classes=classes,
            in_channels=widths[-1],
            init_cfg=None,
            loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        ),
    )


def eight_channels() -> dict[str, Any]:
    """For training in channels_last.

    On CPUs without AVX-512 torch 2.14 corrupts memory in the backward pass of a strided 1x1
    convolution of fewer channels: the process is aborted, also without kdmm.
    """
    return classifier_config(widths=(8, 8, 8, 12))


def build(kind: str = '', student: dict[str, Any] | None = None, **section: Any) -> nn.Module:
    """A classifier with the objective ``kd.type=kind``; a plain one without."""
    student = classifier_config() if student is None else student
    if not kind:
        return MODELS.build(student)
    return MODELS.build(dict(type=f'kdmm.{kind}', student=student, **section))


def random_teacher(**backbone: Any) -> dict[str, Any]:
    return dict(model=classifier_config(**backbone), random=True)


def samples(*labels: int) -> list[Any]:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(label) for label in labels]


def batch(*labels: int, size: int = 8) -> tuple[Tensor, list[Any]]:
    """Images (B, 3, size, size) and their samples."""
    return fix((len(labels), 3, size, size), 0).float(), samples(*labels)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The total that MMEngine adds up."""
    return torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()
