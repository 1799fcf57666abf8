"""Normalization of images: read off a preprocessor or its config, compared, put into words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from torch import nn

#: Relative difference of numbers that configs write with other digits.
DIGITS = 1e-4


@dataclass(frozen=True)
class Normalization:
    """Normalization of images of 0 to 255 by a data preprocessor.

    Attributes:
        mean, std: Of each channel, in the order of the network's channels; or one for all channels;
            or empty, which leaves the values as they are.
        reverse: Whether the channels of the files are reversed: BGR files are turned into RGB.
        pad: Value of padded pixels, after normalization.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    reverse: bool = False
    pad: float = 0.0

    @classmethod
    def of(cls, preprocessor: nn.Module) -> 'Normalization':
        """Read it off a preprocessor of mmseg, mmdet, mmpose, mmpretrain or MMEngine."""
        mean, std = (
            () if value is None else tuple(value.detach().flatten().cpu().float().tolist())
            for value in (getattr(preprocessor, name, None) for name in ('mean', 'std'))
        )
        reverse = any(
            bool(getattr(preprocessor, name, False))
            for name in ('_channel_conversion', 'channel_conversion', 'to_rgb')
        )
        pad = getattr(preprocessor, 'pad_val', getattr(preprocessor, 'pad_value', 0))
        return cls(mean, std, reverse, float(pad) if isinstance(pad, int | float) else 0.0)

    @classmethod
    def of_config(cls, preprocessor: Mapping[str, Any] | None) -> 'Normalization | None':
        """Read it off the config of a preprocessor, without `pad`; None if that does not say."""
        if not isinstance(preprocessor, Mapping):
            return None
        found = preprocessor
        if 'mean' not in found and isinstance(found.get('data_preprocessor'), Mapping):
            found = found['data_preprocessor']  # of a wrapper around the real one
        rgb = any(found.get(key) is True for key in ('bgr_to_rgb', 'to_rgb'))
        try:
            mean, std = (_numbers(found.get(key)) for key in ('mean', 'std'))
        except (TypeError, ValueError):
            return None
        return cls(mean, std, rgb)

    @property
    def order(self) -> str:
        """RGB or BGR, of a network that reads BGR files."""
        return 'RGB' if self.reverse else 'BGR'

    def same_as(self, other: 'Normalization', tolerance: float = 0.0) -> bool:
        """Return whether both give the same values for the same image.

        Args:
            other: To compare with.
            tolerance: Relative difference of means and deviations that counts as none.
        """
        return (
            self.reverse == other.reverse
            and self.pad == other.pad
            and _alike(self.mean or (0.0,), other.mean or (0.0,), tolerance)
            and _alike(self.std or (1.0,), other.std or (1.0,), tolerance)
        )

    def as_config(self) -> dict[str, Any]:
        """Return a data preprocessor that `of_config` reads."""
        return dict(mean=[*self.mean], std=[*self.std], bgr_to_rgb=self.reverse)

    def __str__(self) -> str:
        if not self.mean:
            return f'{self.order}, 0 to 255'
        mean, std = (', '.join(f'{x:g}' for x in values) for values in (self.mean, self.std))
        return f'{self.order}, mean ({mean}), std ({std})'


def _alike(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> bool:
    """Compare channel by channel; one number stands for all channels."""
    if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
        return False
    length = max(len(ours), len(theirs))
    pairs = zip(range(length), cycle(ours), cycle(theirs), strict=False)
    return all(math.isclose(a, b, rel_tol=tolerance) for _, a, b in pairs)


def _numbers(values: Sequence[Any] | float | None) -> tuple[float, ...]:
    if isinstance(values, int | float):
        values = (values,)
    return tuple(float(value) for value in values or ())
