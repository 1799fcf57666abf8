"""Connectors bridge a declared mismatch between the two activations of a term.

A connector is a registered module with ``forward(student, teacher) -> (student, teacher)``; both
may change. Arguments called ``student_channels``, ``teacher_channels``, ``num_classes`` and
``ignore_index`` are filled in where the config leaves them out. A term has none, one, or several in
order, and that for each of its taps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdmm.distillers.builder import build_part
from kdmm.distillers.class_map import ClassMap
from kdmm.distillers.refusals import refusal
from kdmm.errors import ConfigError, ShapeError
from kdmm.losses.base import DistillLoss
from kdmm.registry import MODELS
from kdmm.taps import leaves

Pair = tuple[Any, Any]


@MODELS.register_module()
class Resize(nn.Module):
    """Bilinear resize to one height and width.

    For networks of different strides, for instance a CNN at stride 8 and a SegFormer at stride 4.
    An extension: the papers compare maps of one size.

    Args:
        to: ``'teacher'``: the student's map to the teacher's size. ``'student'``: the teacher's to
            the student's, which costs less where the teacher's is the larger. (h, w): both to it.
        align_corners: As in `torch.nn.functional.interpolate`.

    Raises:
        ValueError: If ``to`` is none of these.
    """

    def __init__(self, to: str | Sequence[int] = 'teacher', align_corners: bool = False) -> None:
        super().__init__()
        if to not in ('teacher', 'student') and not _is_size(to):
            raise ConfigError(
                key='to', got=to, expected="'teacher', 'student' or (h, w) in positive integers"
            )
        self.to_size = to if isinstance(to, str) else tuple(to)
        self.align_corners = align_corners

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, D, H, W) -> the same with equal sizes; a map that fits is not copied.

        Raises:
            ValueError: If one of them is no map; with both shapes.
        """
        if student.ndim != 4 or teacher.ndim != 4:
            problem = 'Resize takes maps (B, C, h, w)'
            raise ShapeError(problem, 'form', student=student, teacher=teacher)
        ends = dict(teacher=teacher.shape[-2:], student=student.shape[-2:])
        size = ends[self.to_size] if isinstance(self.to_size, str) else self.to_size
        return self._resize(student, size), self._resize(teacher, size)

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(x.shape[-2:]) == tuple(size):
            return x
        return F.interpolate(x, tuple(size), mode='bilinear', align_corners=self.align_corners)


@MODELS.register_module()
class Pool(nn.Module):
    """Adaptive average pooling of the larger map to the smaller one's height and width.

    As the public comparisons of classifiers do where networks of different strides meet (SP, NST,
    VID). Height and width are treated each by itself.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, D, H, W) -> both of min(h, H) x min(w, W); one that fits is not copied.

        Raises:
            ShapeError: If one of them is no map; with both shapes.
        """
        if student.ndim != 4 or teacher.ndim != 4:
            problem = 'Pool takes maps (B, C, h, w)'
            raise ShapeError(problem, 'form', student=student, teacher=teacher)
        height, width = map(min, student.shape[-2:], teacher.shape[-2:])
        size = int(height), int(width)
        return _pooled(student, size), _pooled(teacher, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == size else F.adaptive_avg_pool2d(x, size)


@MODELS.register_module()
class Projection(nn.Module):
    """1x1 convolution of the student's map to the teacher's number of channels.

    Trained with the student; part of the run's state and of no student's file.

    Args:
        student_channels: Filled in by the Distiller.
        teacher_channels: Filled in by the Distiller.
        bias: Whether the convolution has one.
        norm: Put BN, by the statistics of the batch, and ReLU behind it, as FitNet in the public
            comparison of classifiers (RepDistiller): with its weight of 100 a convolution alone
            diverges at a learning rate of 0.05.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        bias: bool = True,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=bias)
        # no running statistics: it works in training only, and blank images must leave no trace
        self.norm = nn.BatchNorm2d(teacher_channels, track_running_stats=False) if norm else None

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, D, H, W) -> (B, D, h, w), (B, D, H, W).

        Raises:
            ValueError: If the student's activation is no map; with both shapes.
        """
        if student.ndim != 4:
            problem = 'Projection takes maps (B, C, h, w)'
            raise ShapeError(problem, 'form', student=student, teacher=teacher)
        projected = self.conv(student)  # (B, C, h, w) -> (B, D, h, w)
        if self.norm is not None:
            projected = self.norm(projected).relu()
        return projected, teacher


def _is_size(value: object) -> bool:
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    return pair and all(type(side) is int and side > 0 for side in value)  # type: ignore[attr-defined]


class Chain(nn.ModuleList):
    """Connectors applied in order."""

    def forward(self, student: Any, teacher: Any) -> Pair:
        """Apply the connectors to a pair."""
        for link in self:
            student, teacher = link(student, teacher)
        return student, teacher


class PerTap(nn.ModuleList):
    """A connector for each tap of a term that reads several."""

    def forward(self, student: Sequence[Any], teacher: Sequence[Any]) -> Pair:
        """Tuples of equal length, one pair after the other."""
        pairs = [link(s, t) for link, s, t in zip(self, student, teacher, strict=True)]
        return tuple(s for s, _ in pairs), tuple(t for _, t in pairs)


def build_connectors(
    where: str, config: Any, facts: dict[str, Any], pairs: Sequence[Pair], several: bool
) -> tuple[nn.Module | None, list[Pair]]:
    """Build the connectors of ``config``, each for the shapes that reach it.

    Args:
        where: The config key, for errors.
        config: None, ``dict(type=...)`` or a list of those.
        facts: Values for arguments; a `ClassMap` writes its ``num_classes`` into it.
        pairs: (student, teacher) activations of each tap.
        several: Whether the term reads its taps as tuples.

    Returns:
        The connector (None if none is declared) and the pairs behind it.

    Raises:
        ConfigError: If a connector cannot be built or refuses its activations.
    """
    if config is None:
        return None, list(pairs)
    built = [_chain(where, config, facts, pair) for pair in pairs]
    connectors = [connector for connector, _ in built]
    return PerTap(connectors) if several else connectors[0], [pair for _, pair in built]


def class_maps(connector: nn.Module | None) -> list[ClassMap]:
    """The class maps that labels go through, in order (those of the first tap: all are alike)."""
    first = connector[0] if isinstance(connector, PerTap) else connector
    return [] if first is None else [link for link in first.modules() if isinstance(link, ClassMap)]


def check_classes(where: str, connector: nn.Module | None, loss: DistillLoss) -> None:
    """Refuse a loss that would compare pixels of classes that the teacher does not know.

    Raises:
        ConfigError: If it reads no labels, or has ``valid_only`` and that is False.
    """
    absent = any(link.absent for link in class_maps(connector))
    if not absent:
        return
    reason = (
        'its ClassMap leaves out classes that the teacher does not know, whose pixels must not be '
        'compared'
    )
    if loss.valid_only is False:
        raise ConfigError(reason, key=where, fix='Set valid_only=True.')
    if 'labels' not in loss.needs:
        raise ConfigError(
            f'{reason}, but {type(loss).__name__} reads no labels and compares all', key=where
        )


def describe(connector: nn.Module | None) -> str:
    """Type names for the table at the start."""
    first = connector[0] if isinstance(connector, PerTap) else connector
    links = list(first) if isinstance(first, Chain) else [first]
    return ', '.join(type(link).__name__ for link in links if link is not None) or '-'


def _chain(where: str, config: Any, facts: dict[str, Any], pair: Pair) -> tuple[nn.Module, Pair]:
    if not isinstance(config, list | tuple):
        return _link(where, config, facts, pair)
    links = []
    for index, item in enumerate(config):
        link, pair = _link(f'{where}[{index}]', item, facts, pair)
        links.append(link)
    return Chain(links), pair


def _link(
    where: str, config: Mapping[str, Any], facts: dict[str, Any], pair: Pair
) -> tuple[nn.Module, Pair]:
    channels = dict(student_channels=channels_of(pair[0]), teacher_channels=channels_of(pair[1]))
    link = build_part(where, config, {**facts, **channels}, 'connector')
    try:
        pair = link(*pair)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise refusal(where, error) from error
    if isinstance(link, ClassMap):
        facts['num_classes'] = link.num_classes
    return link, pair


def channels_of(activation: Any) -> int:
    """C of (B, C, ...); of the first tensor where there are several, 0 where there is none."""
    first = next(leaves(activation), None)
    return 0 if first is None or first.ndim < 2 else first.shape[1]
