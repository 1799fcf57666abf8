"""Projector of the student's features to the teacher's channels."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..compat.packages import require


def auto_norm() -> dict[str, Any]:
    """SyncBN where a process group uses GPUs, else BN (SyncBN refuses CPU tensors)."""
    group = dist.is_available() and dist.is_initialized()
    sync = group and torch.cuda.is_available() and 'nccl' in dist.get_backend()
    return dict(type='SyncBN' if sync else 'BN', requires_grad=True)


def build_projector(
    student_channels: int, teacher_channels: int, norm_cfg: dict[str, Any] | str | None = 'auto'
) -> nn.Sequential:
    """Conv1x1, norm, ReLU, Conv1x1, both without bias (CIRKD).

    Raises:
        ConfigError: mmcv is not installed.
    """
    conv_module = require('mmcv.cnn', 'the projector of a loss').ConvModule
    norm = auto_norm() if norm_cfg == 'auto' else norm_cfg
    return nn.Sequential(
        conv_module(student_channels, teacher_channels, 1, bias=False, norm_cfg=norm),
        conv_module(teacher_channels, teacher_channels, 1, bias=False, act_cfg=None),
    )
