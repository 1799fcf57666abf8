"""Some classes of a data set, numbered anew: base and novel classes of few-shot learning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import force_full_init

from kdmm.datasets.subset import LabelledSubset
from kdmm.errors import ConfigError, nearest
from kdmm.registry import DATASETS

WHERE = 'ClassSubset'


@DATASETS.register_module()
class ClassSubset(LabelledSubset):
    """Wraps a data set of one label an image, and keeps the images of some classes.

    The classes that are kept are numbered from 0 on, in the order of ``classes_kept``, else in that
    of their old numbers. Images keep their order and their ``sample_idx``. With the same arguments,
    ``rest=False`` and ``rest=True`` are disjoint and together all: base classes to train on, and
    novel ones to evaluate with `kdmm.evaluation.FewShotMetric`.

    Args:
        dataset: Data set or its config, wrappers included.
        classes_kept: Names or numbers of classes.
        count: How many classes to draw, in place of ``classes_kept``.
        split: Which draw, from 0 on. It depends on ``seed``, this number, ``count`` and the number
            of classes alone. As many splits as there is room for share a permutation and have no
            class in common: 5 of 10 classes in split 0, the others in split 1, and again with
            another permutation in 2 and 3.
        seed: Of the draws, from 0 on.
        rest: Keep the other classes instead.
        lazy_init: Leave loading the annotations to the first use.

    Raises:
        ConfigError: Both or none of ``classes_kept`` and ``count``; a class that there is not, or
            that is named twice; a value out of range; images without one label; if all classes or
            none would be kept.
    """

    def __init__(
        self,
        dataset: Any,
        classes_kept: Sequence[str | int] | None = None,
        count: int | None = None,
        split: int = 0,
        seed: int = 0,
        rest: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if (classes_kept is None) == (count is None):
            raise ConfigError(
                key=WHERE,
                got=dict(classes_kept=classes_kept, count=count),
                expected='either classes_kept or count',
            )
        if isinstance(classes_kept, str | int):
            raise ConfigError(
                key=f'{WHERE}.classes_kept', got=classes_kept, expected='a list of names or numbers'
            )
        for name, value, least in (('count', count, 1), ('split', split, 0), ('seed', seed, 0)):
            if value is not None and not (type(value) is int and least <= value < 2**32):
                raise ConfigError(
                    key=f'{WHERE}.{name}', got=value, expected=f'a whole number from {least} on'
                )
        self.classes_kept, self.count, self.split = classes_kept, count, split
        self.seed, self.rest = seed, rest
        super().__init__(dataset, lazy_init)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The wrapped data set's, with the names of the kept classes."""
        self.full_init()  # some data sets know their classes from then on
        found = dict(self.dataset.metainfo)
        if found.get('classes'):
            found['classes'] = tuple(found['classes'][old] for old in self._new)
        return found

    def choose(self, labels: np.ndarray) -> np.ndarray:
        """Choose the images of the kept classes."""
        names = list(self.dataset.metainfo.get('classes') or ())
        total = len(names) or int(labels.max(initial=-1)) + 1
        listed = self._drawn(total) if self.classes_kept is None else self._listed(names, total)
        kept = [c for c in range(total) if c not in listed] if self.rest else listed
        if not 0 < len(kept) < total:
            raise ConfigError(
                f'{len(kept)} of {total} classes would be kept',
                key=f'{WHERE}.{"count" if self.classes_kept is None else "classes_kept"}',
                got=self.count if self.classes_kept is None else self.classes_kept,
                expected=f'1 to {total - 1} classes',
            )
        self._new = {old: new for new, old in enumerate(kept)}
        self._labels = labels
        return np.isin(labels, kept)

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The annotation of image ``idx`` of the subset, with the new label."""
        return {**super().get_data_info(idx), 'gt_label': self._label(idx)}

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        item = super().__getitem__(idx)
        if 'gt_label' in item:
            return {**item, 'gt_label': self._label(idx)}
        sample = item.get('data_samples')
        if sample is not None and 'gt_label' in sample:  # self-supervised views may have none
            sample.set_gt_label(self._label(idx))
        return item

    def _label(self, idx: int) -> int:
        return self._new[int(self._labels[self._indices[idx]])]

    def _drawn(self, total: int) -> list[int]:
        assert self.count is not None
        turn, place = divmod(self.split, max(total // self.count, 1))
        # RandomState: NumPy keeps its stream the same for all versions
        order = np.random.RandomState([self.seed, turn]).permutation(total)
        return sorted(order[place * self.count : (place + 1) * self.count].tolist())

    def _listed(self, names: list[str], total: int) -> list[int]:
        """The numbers of ``classes_kept``."""
        found: list[int] = []
        for item in self.classes_kept or ():
            number = names.index(item) if item in names else item
            if not isinstance(number, int) or not 0 <= number < total:
                known = nearest(str(item), names) if names else f'numbers up to {total - 1}'
                raise ConfigError(
                    f'no class {item!r}; {known}',
                    key=f'{WHERE}.classes_kept',
                    got=self.classes_kept,
                )
            found.append(number)
        if len(set(found)) < len(found):
            raise ConfigError(
                'a class is named twice', key=f'{WHERE}.classes_kept', got=self.classes_kept
            )
        return found
