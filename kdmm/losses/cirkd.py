"""CIRKD: cross-image relational distillation (arXiv 2204.06986)."""

from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError

from ..functional import (
    map_to_rows,
    normalize_rows,
    pixel_to_pixel_kl,
    resize_labels,
    sum_over_ranks,
    valid_labels,
    world_size,
)
from ..functional.relation import memory_kl
from ..memory import ClassQueues
from ..registry import MODELS
from ..renamed import renamed
from .base import DistillLoss
from .checks import (
    LabelGuard,
    as_queue_dtype,
    check_channels,
    check_choice,
    check_directions,
    check_label_map,
    check_maps,
    check_positions,
    check_positive,
)
from .projector import build_projector


@MODELS.register_module()
class CIRKDMiniBatchLoss(DistillLoss):
    """Pixel-to-pixel relations within and across the images of a batch.

    Ignored pixels count and there is no factor ``tau^2``, as in the authors' code. See
    :func:`kdmm.functional.pixel_to_pixel_kl`.

    Args:
        tau: Temperature of the similarities.
        pool: Average-pool both maps first; 2 for SegFormer students in the authors' code.
        chunk: Rows of similarity map held at once; None: automatic.
        scope: ``'local'``: pairs of one process's images, as in the authors' code. ``'global'``:
            pairs of all processes' images with exact gradients; sensible with one image a process.
        valid_only: Leave ignored pixels out, as anchors and as keys.
        ignore_index: The ignored label.
    """

    blockwise = True

    def __init__(
        self,
        tau: float = 0.1,
        pool: int = 1,
        chunk: int | None = None,
        scope: str = 'local',
        valid_only: bool = False,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        check_choice('scope', scope, ('local', 'global'))
        check_positive(tau=tau)
        self.tau, self.pool, self.chunk, self.scope = tau, pool, chunk, scope
        self.valid_only, self.ignore_index = valid_only, ignore_index
        self.needs = ('labels',) if valid_only else ()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features (B, C_s, h, w) and (B, C_t, h, w) that cannot be compared.

        Raises:
            ValueError: If batch sizes or resolutions differ, or nothing could change the relations:
                the pooled maps have one pixel, or the student one channel.
        """
        check_maps('CIRKDMiniBatchLoss', student, teacher)
        check_directions('CIRKDMiniBatchLoss', student, teacher, student.shape[1])
        check_positions('CIRKDMiniBatchLoss', student, teacher, (self.pool, self.pool))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features (B, C_s, h, w) and (B, C_t, h, w), labels (B, H, W) -> a scalar.

        Raises:
            ValueError: As `check`, or if ``valid_only`` and labels do not fit.
        """
        self.check(student, teacher)
        valid = None
        if self.valid_only:
            labels = check_label_map('CIRKDMiniBatchLoss', labels, student)
            # (B, H, W) -> (B, h, w)
            valid = resize_labels(labels, student.shape) != self.ignore_index
        return pixel_to_pixel_kl(
            student, teacher, self.tau, self.pool, self.chunk, self.scope, valid
        )


@MODELS.register_module()
@renamed(t_mem='temperature')
class CIRKDMemoryLoss(LabelGuard, DistillLoss):
    """Pixel-to-pixel and pixel-to-region relations to a memory of teacher features.

    The projected student and the teacher are compared with keys from per-class queues, which the
    current batch enters first. Only pixels with a label take part.

    Args:
        student_channels: Channels of the student's tap.
        teacher_channels: Channels of the teacher's tap.
        num_classes: K.
        ignore_index: The ignored label.
        tau: Temperature of the similarities.
        temperature: T, which softens the predictions, on top of ``tau``; the loss has the factor
            ``T^2``.
        pixel_size: Pixel rows stored per class.
        region_size: Region rows stored per class.
        pixel_keys: Pixel keys a step, ``pixel_keys // K + 1`` of each class.
        region_keys: Region keys a step, likewise.
        per_image: Pixels enqueued per image and class.
        queue: ``'class'`` or ``'legacy'``. The default departs from the authors' code, whose pixel
            queues mix classes; :class:`kdmm.memory.ClassQueues` says how.
        queue_dtype: Of the stored rows, e.g. ``'float16'`` for half the memory.
        denominator: ``'local'``: the mean over this process's labelled pixels, as in the authors'
            code. ``'global'``: over all processes' (independent of how images are dealt to
            processes).
        norm_cfg: Norm of the projector; ``'auto'``: SyncBN on several GPUs, else BN.
        chunk: Rows of similarity map held at once; None: automatic.
        seed: Of the queue's choices.
    """

    needs = ('labels',)
    parts = ('pixel', 'region')
    stateful = True
    blockwise = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        ignore_index: int = 255,
        tau: float = 0.1,
        temperature: float = 1.0,
        pixel_size: int = 20000,
        region_size: int = 2000,
        pixel_keys: int = 4096,
        region_keys: int = 1024,
        per_image: int = 16,
        queue: str = 'class',
        queue_dtype: str = 'float32',
        denominator: str = 'local',
        norm_cfg: dict[str, Any] | str | None = 'auto',
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice('queue', queue, ('class', 'legacy'))
        check_choice('denominator', denominator, ('local', 'global'))
        check_positive(tau=tau, temperature=temperature)
        self.channels = (student_channels, teacher_channels)
        self.num_classes, self.ignore_index, self.chunk = num_classes, ignore_index, chunk
        self.tau, self.temperature, self.denominator = tau, temperature, denominator
        self.keys_per_class = (pixel_keys // num_classes + 1, region_keys // num_classes + 1)
        for kind, drawn, size in zip(
            ('pixel', 'region'), self.keys_per_class, (pixel_size, region_size), strict=True
        ):
            if num_classes * min(drawn, size) == 1:
                raise ConfigError(
                    f'with one class, {drawn} of {kind}_keys a step and this size there is one '
                    'key, to which all similarities are alike',
                    key=f'{kind}_size',
                    got=size,
                    fix=f'Give at least {kind}_size=2 and {kind}_keys=1.',
                )
        self.projector = build_projector(student_channels, teacher_channels, norm_cfg)
        dtype = as_queue_dtype(queue_dtype)
        self.queues = ClassQueues(
            num_classes, teacher_channels, pixel_size, region_size, per_image, queue, dtype, seed
        )

    def memory_bytes(self) -> int:
        """Memory of the queues."""
        return self.queues.memory_bytes()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse features (B, C_s, h, w) and (B, C_t, h, w) that cannot be compared.

        Raises:
            ValueError: If batch sizes or resolutions differ, channels are not as declared, or the
                teacher has one channel, in which all unit rows are alike.
        """
        check_maps('CIRKDMemoryLoss', student, teacher)
        check_channels('CIRKDMemoryLoss', student, teacher, self.channels)
        check_directions('CIRKDMemoryLoss', student, teacher, teacher.shape[1])

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Features (B, C_s, h, w) and (B, C_t, h, w), labels (B, H, W) -> parts pixel and region.

        Without any labelled pixel both are exactly 0, with a zero gradient to the projector.

        Raises:
            ValueError: As `check`, or (on the first batch; on CPU on every batch) if a label is
                neither a class nor ignored.
        """
        self.check(student, teacher)
        labels = check_label_map('CIRKDMemoryLoss', labels, student)
        self._check_labels_once(labels)
        labels = resize_labels(labels, student.shape)  # (B, H, W) -> (B, h, w)
        valid = valid_labels(labels, self.num_classes, self.ignore_index)
        # (B, C_s, h, w) -> (B, C_t, h, w) -> (N, C_t), N = B * h * w
        rows = map_to_rows(normalize_rows(self.projector(student)))
        # (B, C_t, h, w) -> (N, C_t)
        targets = map_to_rows(normalize_rows(teacher.detach()))
        members = labels.masked_fill(~valid, self.num_classes).flatten(1)  # (B, h * w)
        # (N, C_t) -> (B, h * w, C_t)
        self.queues.enqueue(targets.unflatten(0, (len(teacher), -1)), members)
        keys = self.queues.draw(*self.keys_per_class)  # rows (M, C_t), mask (M,)
        pixel, region = memory_kl(
            rows,
            targets,
            keys.rows,
            self.tau,
            self.temperature,
            keys.sections,
            keys.mask,
            self._row_weight(valid.flatten().to(rows.dtype)),
            self.chunk,
        )
        return dict(pixel=pixel, region=region)

    def _row_weight(self, valid: Tensor) -> Tensor:
        """1 / N for labelled pixels, 0 for others; all rows stay, so shapes need no host sync."""
        number = valid.sum()
        if self.denominator == 'global':
            number = sum_over_ranks(number) / world_size()
        return torch.where(number > 0, valid / number.clamp_min(1 / world_size()), 0)
