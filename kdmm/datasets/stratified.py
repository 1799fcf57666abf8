"""A fixed share of every class, for learning from few labels."""

from typing import Any

import numpy as np

from kdmm.datasets.subset import LabelledSubset
from kdmm.errors import ConfigError
from kdmm.registry import DATASETS

WHERE = 'StratifiedSubset'


@DATASETS.register_module()
class StratifiedSubset(LabelledSubset):
    """Wraps a data set of one label an image, and keeps the same share of every class.

    What is drawn depends on the data set and ``seed`` alone, so that all ranks and all runs learn
    from the same images; of two shares with one seed, the larger holds the smaller. The order is
    the data set's.

    Args:
        dataset: Data set or its config, wrappers included.
        fraction: Share of each class's images, in (0, 1]; rounded, and at least one image.
        per_class: Number of images of each class, in place of ``fraction``.
        seed: Of the draw, from 0 on.
        rest: Keep the images that are not drawn instead.
        lazy_init: Leave loading the annotations to the first use.

    Raises:
        ConfigError: Both or none of ``fraction`` and ``per_class``; a value out of range; a class
            of fewer than ``per_class`` images; images without one label; a ``rest`` of nothing.
    """

    def __init__(
        self,
        dataset: Any,
        fraction: float | None = None,
        per_class: int | None = None,
        seed: int = 0,
        rest: bool = False,
        lazy_init: bool = False,
    ) -> None:
        _check_arguments(fraction, per_class)
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ConfigError(key=f'{WHERE}.seed', got=seed, expected='a whole number from 0 on')
        self.fraction: float | None = fraction
        self.per_class: int | None = per_class
        self.seed, self.rest = seed, rest
        super().__init__(dataset, lazy_init)

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Draw the share of each class, or the rest."""
        drawn = np.zeros(len(labels), bool)
        for label in self._labels_to_draw(labels):
            members = np.flatnonzero(labels == label)
            # RandomState: NumPy keeps its stream the same for all versions
            order = np.random.RandomState([self.seed, label]).permutation(members)
            drawn[order[: self._count(label, len(members))]] = True
        return drawn != self.rest

    def _labels_to_draw(self, labels: np.ndarray) -> list[int]:
        """Those that occur; for ``per_class`` also those that should."""
        named = range(len(self.metainfo.get('classes') or ())) if self.per_class else ()
        return sorted({*np.unique(labels).tolist(), *named})

    def _count(self, label: int, available: int) -> int:
        if self.per_class is None:
            assert self.fraction is not None
            return max(1, int(self.fraction * available + 0.5))
        if self.per_class > available:
            classes = self.metainfo.get('classes') or ()
            name = classes[label] if label < len(classes) else label
            raise ConfigError(
                f'the data set has {available} image(s) of class {name!r}',
                key=f'{WHERE}.per_class',
                got=self.per_class,
                expected='no more than every class has',
            )
        return self.per_class


def _check_arguments(fraction: Any, per_class: Any) -> None:
    if (fraction is None) == (per_class is None):
        raise ConfigError(
            key=WHERE,
            got=dict(fraction=fraction, per_class=per_class),
            expected='either fraction or per_class',
        )
    if fraction is not None and not (isinstance(fraction, (int, float)) and 0 < fraction <= 1):
        raise ConfigError(key=f'{WHERE}.fraction', got=fraction, expected='a number in (0, 1]')
    if per_class is not None and not (isinstance(per_class, int) and per_class >= 1):
        raise ConfigError(
            key=f'{WHERE}.per_class', got=per_class, expected='a whole number from 1 on'
        )
