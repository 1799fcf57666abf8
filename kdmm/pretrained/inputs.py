"""Normalisation of the images that a backbone was trained on, and that its target will see."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of images of 0 to 255.

    Attributes:
        mean, std: In the order of the channels.
        order: RGB or BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str

    @classmethod
    def of(cls, preprocessor: Mapping[str, Any] | None) -> 'Normalisation | None':
        """Read it off the config of a data preprocessor; None if that does not say."""
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
        return cls(mean, std, 'RGB' if rgb else 'BGR')

    def same_as(self, other: 'Normalisation') -> bool:
        """True if an image becomes the same."""
        pairs = zip(self.mean + self.std, other.mean + other.std, strict=False)
        return (
            self.order == other.order
            and len(self.mean) == len(other.mean)
            and all(math.isclose(a, b, rel_tol=1e-4) for a, b in pairs)
        )

    def as_config(self) -> dict[str, Any]:
        """A data preprocessor that `of` reads."""
        return dict(mean=[*self.mean], std=[*self.std], bgr_to_rgb=self.order == 'RGB')

    def __str__(self) -> str:
        if not self.mean:
            return f'{self.order}, 0 to 255'
        mean, std = (', '.join(f'{x:g}' for x in values) for values in (self.mean, self.std))
        return f'{self.order}, mean ({mean}), std ({std})'


def compare_inputs(source: Normalisation | None, target: Normalisation | None, config: bool) -> str:
    """One line on the images of both; it starts with 'warning' if they differ.

    Args:
        source: What the weights were trained on.
        target: What the target's config prepares.
        config: Whether there is such a config.
    """
    if source is None:
        return 'input: the source does not say how its images were normalised; use the same'
    if not config:
        return f'input: trained on {source}; prepare the images of the target alike'
    if target is None:
        return f'warning: trained on {source}; the target config normalises in no known way'
    if source.same_as(target):
        return f'input: {source}, in source and target'
    return (
        f'warning: trained on {source}, but the target config prepares {target}; set its '
        'data_preprocessor, or the features are not those that were learned'
    )


def _numbers(values: Sequence[Any] | float | None) -> tuple[float, ...]:
    if isinstance(values, int | float):
        values = (values,)
    return tuple(float(value) for value in values or ())
