"""CIRKDv2: relations between channels (the authors' technical report of 2025)."""

from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError, ShapeError

from ..functional import channel_mse, channel_relation_kl, channel_rows, pool_ceil
from ..functional.relation import memory_kl
from ..memory import RowQueue
from ..registry import MODELS
from .base import DistillLoss
from .checks import as_queue_dtype, check_channels, check_maps, check_positions, check_positive
from .projector import build_projector


@MODELS.register_module()
class CIRKDChannelLoss(DistillLoss):
    """Channels as vectors over space, compared in three ways (CIRKDv2).

    Both taps are average-pooled, the student then passes its own projector, and every channel is
    scaled to unit length over space. Parts, with the authors' weights, to be given as
    ``weight=dict(batch=1.0, mse=100, memory=0.1)``:

    * ``batch``: relations to the channels of the batch's images, mean over ordered pairs of images
      and C_t channels; see :func:`kdmm.functional.channel_relation_kl`.
    * ``mse``: the mean squared difference over B * C_t * a entries.
    * ``memory``: relations to remembered channels of the teacher, mean over B * C_t channels. The
      current batch enters the queue first.

    The queue's rows have the length of the pooled map, so the crop must keep its size.

    Args:
        student_channels: Channels of the student's tap.
        teacher_channels: Channels of the teacher's tap.
        tau: Temperature of the similarities.
        pool: Window of the average pooling; incomplete windows at the border count.
        queue_size: Channel rows stored.
        per_step: Rows enqueued a step, of all processes together.
        keys: Rows drawn a step.
        queue_dtype: Of the stored rows, e.g. ``'float16'``.
        norm_cfg: Norm of the projector; ``'auto'``: SyncBN on several GPUs, else BN.
        chunk: Rows of similarity map held at once; None: automatic.
        seed: Of the queue's choices.
    """

    parts = ('batch', 'mse', 'memory')
    stateful = True
    blockwise = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        tau: float = 0.1,
        pool: int = 4,
        queue_size: int = 10000,
        per_step: int = 256,
        keys: int = 2048,
        queue_dtype: str | torch.dtype = 'float32',
        norm_cfg: dict[str, Any] | str | None = 'auto',
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(tau=tau)
        # the softmax over one remembered channel is a constant
        for name, value, least in (
            ('pool', pool, 1),
            ('keys', keys, 2),
            ('queue_size', queue_size, 2),
        ):
            if value < least:
                raise ConfigError(key=name, got=value, expected=f'at least {least}')
        self.channels = (student_channels, teacher_channels)
        self.tau, self.pool, self.keys, self.chunk = tau, pool, keys, chunk
        self.projector = build_projector(student_channels, teacher_channels, norm_cfg)
        self.queue = RowQueue(queue_size, per_step, as_queue_dtype(queue_dtype), seed)

    def memory_bytes(self) -> int:
        """Memory of the queue, 0 before the first step."""
        return self.queue.memory_bytes()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features (B, C_s, h, w) and (B, C_t, h, w) that cannot be compared.

        Raises:
            ValueError: If batch sizes or resolutions differ, channels are not as declared, nothing
                could change the relations (one channel, or a pooled map of one pixel), or the
                pooled map is not of the size that the queue's rows have.
        """
        check_maps('CIRKDChannelLoss', student, teacher)
        check_channels('CIRKDChannelLoss', student, teacher, self.channels)
        if teacher.shape[1] == 1:
            raise ShapeError(
                'CIRKDChannelLoss compares channels with each other, but the teacher has one',
                'one channel',
                'Give features of several channels.',
                student=student,
                teacher=teacher,
            )
        check_positions('CIRKDChannelLoss', student, teacher, (self.pool, self.pool))
        height, width = (-(-side // self.pool) for side in teacher.shape[2:])
        if self.queue.length not in (0, height * width):
            raise ShapeError(
                f'CIRKDChannelLoss: the queue holds rows of length {self.queue.length}, and the '
                f'maps are pooled to {height} x {width}',
                'row length',
                student=student,
                teacher=teacher,
            )

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Features (B, C_s, h, w) and (B, C_t, h, w) -> parts batch, mse and memory.

        Raises:
            ValueError: As `check`.
        """
        self.check(student, teacher)
        # (B, C_s, h, w) -> (B, C_s, h / pool, w / pool) -> (B, C_t, a), a pixels
        rows = channel_rows(self.projector(pool_ceil(student, self.pool)))
        # (B, C_t, h, w) -> (B, C_t, a)
        targets = channel_rows(pool_ceil(teacher.detach(), self.pool)).to(rows.dtype)
        self.queue.enqueue(targets)
        keys, mask = self.queue.draw(self.keys)  # (M, a), (M,)
        # (B, C_t, a) -> (B * C_t, a)
        pair = (rows.flatten(0, 1), targets.flatten(0, 1))
        (memory,) = memory_kl(*pair, keys, self.tau, key_mask=mask, chunk=self.chunk)
        return dict(
            batch=channel_relation_kl(rows, targets, self.tau, self.chunk),
            mse=channel_mse(rows, targets),
            memory=memory,
        )
