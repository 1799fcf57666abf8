"""Logit distillation for softmax heads (`KDLoss`) and sigmoid heads (`BinaryKDLoss`)."""

from typing import Any

from torch import Tensor

from kdmm.errors import ConfigError, ShapeError

from ..functional import promote, resize_labels
from ..functional.divergence import binary_kl_divergence, kl_divergence
from ..registry import MODELS
from ..renamed import renamed
from .base import DistillLoss
from .checks import check_choice, check_label_map, check_maps, check_positive

Pair = tuple[Tensor, Tensor]


class _Logits(DistillLoss):
    """Base of losses of logits: accepted shapes, and positions that labels leave out."""

    def __init__(self, temperature: float, valid_only: bool, ignore_index: int, dim: int) -> None:
        super().__init__()
        self.name = type(self).__name__
        check_positive(temperature=temperature)
        check_choice('dim', dim, (1, -1))
        if valid_only and dim == -1:
            raise ConfigError(
                'it reads label maps, and logits with the classes last (dim=-1) are no maps',
                key='valid_only',
                got=valid_only,
                fix='Leave one of them out.',
            )
        self.temperature, self.dim = temperature, dim
        self.valid_only, self.ignore_index = valid_only, ignore_index
        self.needs = ('labels',) if valid_only else ()

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits that cannot be compared.

        Raises:
            ValueError: With both shapes.
        """
        pair: dict[str, Any] = dict(student=student, teacher=teacher)
        if self.dim == 1 and student.ndim == teacher.ndim == 3:
            raise ShapeError(
                f'{self.name} takes maps (B, C, h, w) or vectors (B, C)',
                'form',
                'Logits with the classes last, as those of SimCC heads (B, K, W), need dim=-1.',
                **pair,
            )
        if self.dim == 1:
            check_maps(self.name, *self._maps(student, teacher), channels=True)
        elif student.ndim < 2 or student.shape != teacher.shape:
            raise ShapeError(
                f'{self.name} with dim=-1 takes logits (B, ..., C) of one shape',
                'form',
                'Heads of SimCC need one input size and one simcc_split_ratio.',
                **pair,
            )

    def _maps(self, student: Tensor, teacher: Tensor) -> Pair:
        if self.dim == 1 and student.ndim == teacher.ndim == 2:  # a classifier's: one pixel
            # (B, C) -> (B, C, 1, 1)
            return student[..., None, None], teacher[..., None, None]
        return student, teacher

    def _valid(self, student: Tensor, labels: Tensor | None) -> Tensor | None:
        if not self.valid_only:
            return None
        labels = check_label_map(self.name, labels, student)
        # (B, H, W) -> (B, h, w)
        return resize_labels(labels, student.shape) != self.ignore_index


@MODELS.register_module()
@renamed(tau='temperature')
class KDLoss(_Logits):
    """Per-pixel KL(teacher || student) of the logits, times ``T^2`` (arXiv 1503.02531).

    The mean is over all B * h * w pixels, ignored and padded ones included, as CIRKD's code does;
    ``valid_only`` leaves ignored pixels out of the sum and the mean.

    With ``dim=-1`` the classes are the last dimension: the W bins of a SimCC head's K keypoints
    (B, K, W), or the classes of queries (B, Q, C). The mean is over all B * K keypoints, labelled
    or not, as in DWPose (arXiv 2307.15880), whose ``beta`` is ``1 / T`` and which leaves out the
    factor ``T^2``: its weight 0.1 at beta 10 is ``temperature=0.1, weight=10`` for each axis.

    Args:
        temperature: T.
        valid_only: Count only pixels whose label is not ``ignore_index``.
        ignore_index: The ignored label.
        dim: The class dimension, 1 or -1.
        visible_only: Of logits (B, K, W): count each keypoint with its weight in the data sample, 0
            where it is not labelled, and divide by the sum of the weights.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        valid_only: bool = False,
        ignore_index: int = 255,
        dim: int = 1,
        visible_only: bool = False,
    ) -> None:
        super().__init__(temperature, valid_only, ignore_index, dim)
        if visible_only and dim != -1:
            raise ConfigError(
                'it weighs the keypoints of logits (B, K, W)',
                key='visible_only',
                got=visible_only,
                fix='Set dim=-1, too.',
            )
        self.visible_only = visible_only
        if visible_only:
            self.needs = ('keypoint_weights',)

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits (B, K, h, w) or (B, K), with ``dim=-1`` (B, ..., K), of different kinds.

        Raises:
            ValueError: If class counts or resolutions differ, or there is only one class, whose
                softmax is constant (a binary head with sigmoid).
        """
        super().check(student, teacher)
        if student.shape[self.dim] == 1:
            raise ShapeError(
                'KDLoss compares softmax distributions over classes, but the logits have one '
                'channel',
                'one class',
                'Give the head out_channels=2, or take BinaryKDLoss for a sigmoid.',
                student=student,
                teacher=teacher,
            )
        if self.visible_only and student.ndim != 3:
            raise ShapeError(
                'KDLoss: visible_only takes logits (B, K, W)',
                'form',
                student=student,
                teacher=teacher,
            )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor | None = None,
        keypoint_weights: Tensor | None = None,
    ) -> Tensor:
        """Student and teacher logits -> a scalar.

        Args:
            student: (B, K, h, w) or (B, K); with ``dim=-1`` (B, ..., K).
            teacher: The same shape.
            labels: (B, H, W), with ``valid_only``.
            keypoint_weights: (B, K), with ``visible_only``.

        Raises:
            ValueError: As `check`, or if the labels or weights that are asked for do not fit.
        """
        self.check(student, teacher)
        student, teacher = self._maps(student, teacher)
        weight = self._valid(student, labels)
        if self.visible_only:
            weight = keypoint_weights
            if weight is None or weight.shape != student.shape[:2]:
                raise ShapeError(
                    f'KDLoss: visible_only needs keypoint_weights {tuple(student.shape[:2])}, one '
                    'for each keypoint',
                    'labels',
                    student=student,
                    keypoint_weights=weight,
                )
        return kl_divergence(student, teacher, self.temperature, self.dim, weight)


@MODELS.register_module()
@renamed(tau='temperature')
class BinaryKDLoss(_Logits):
    """Logit distillation of heads that classify with a sigmoid (arXiv 2308.14286).

    ``T^2 KL(sigmoid(teacher / T) || sigmoid(student / T))`` of each class as a distribution
    over yes and no, summed over classes, mean over positions: the images of a multi-label
    classifier (B, C), the pixels of a binary segmentor (B, 1, h, w), the anchors of a detector
    (B, A * C, h, w), the queries of a DETR (B, Q, C) with ``dim=-1``.

    A dense detector has few objects among its positions. ``positions`` says which count, by the
    teacher's highest probability c of a class there (at temperature 1): ``'all'``;
    ``'foreground'``, those with ``c >= threshold``; ``'confidence'``, each with weight c. The sum
    is divided by the sum of the weights; if nothing counts the loss is exactly 0.

    Args:
        temperature: T.
        valid_only: Count only pixels whose label is not ``ignore_index``.
        ignore_index: The ignored label.
        dim: The class dimension, 1 or -1.
        positions: ``'all'``, ``'foreground'`` or ``'confidence'``.
        threshold: Least probability of the foreground.
        num_classes: C of each of the A anchors of maps (B, A * C, h, w), anchors first as in
            MMDetection. None: the map has one position a pixel. Filled in by the Distiller where
            the student's head has it.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        valid_only: bool = False,
        ignore_index: int = 255,
        dim: int = 1,
        positions: str = 'all',
        threshold: float = 0.05,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(temperature, valid_only, ignore_index, dim)
        check_choice('positions', positions, ('all', 'foreground', 'confidence'))
        if not 0 <= threshold < 1:
            raise ConfigError(key='threshold', got=threshold, expected='a number in [0, 1)')
        self.positions, self.threshold, self.num_classes = positions, threshold, num_classes

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits (B, A * C, h, w) or (B, C), with ``dim=-1`` (B, ..., C), of other kinds.

        Raises:
            ValueError: If class counts or resolutions differ, or the channels are no multiple of
                ``num_classes``, as those of a softmax with a background class.
        """
        super().check(student, teacher)
        channels, classes = student.shape[self.dim], self.num_classes
        if classes is not None and channels != 1 and channels % classes:
            raise ShapeError(
                f'BinaryKDLoss: {channels} channels are no multiple of num_classes={classes}',
                'declared channels',
                'Correct num_classes, or take KDLoss if the head classifies with a softmax.',
                student=student,
                teacher=teacher,
            )

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Student and teacher logits -> a scalar.

        Args:
            student: (B, A * C, h, w) or (B, C); with ``dim=-1`` (B, ..., C).
            teacher: The same shape.
            labels: (B, H, W), with ``valid_only``.

        Raises:
            ValueError: As `check`, or if ``valid_only`` and labels do not fit.
        """
        self.check(student, teacher)
        student, teacher = self._maps(student, teacher)
        valid = self._valid(student, labels)
        if self.dim == -1:
            return binary_kl_divergence(
                student, teacher, self.temperature, -1, self._weight(teacher, -1, None)
            )
        # (B, A * C, h, w) -> (B, A, C, h, w)
        channels = student.shape[1]
        anchors = (-1, min(self.num_classes or channels, channels))
        student, teacher = student.unflatten(1, anchors), teacher.unflatten(1, anchors)
        # (B, h, w) -> (B, A, h, w)
        valid = None if valid is None else valid[:, None].expand(-1, student.shape[1], -1, -1)
        return binary_kl_divergence(
            student, teacher, self.temperature, 2, self._weight(teacher, 2, valid)
        )

    def _weight(self, teacher: Tensor, dim: int, valid: Tensor | None) -> Tensor | None:
        """Weight of each position, in the logits' shape without ``dim``; None if all are equal."""
        if self.positions == 'all':
            return valid
        weight = promote(teacher.detach()).amax(dim).sigmoid()  # without the classes
        if self.positions == 'foreground':
            weight = weight >= self.threshold
        return weight if valid is None else weight * valid
