"""Transforms for a sample of two images, such as colours and depth (needs mmcv)."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.wrappers import Compose

from kdmm.errors import ConfigError
from kdmm.registry import TRANSFORMS
from kdmm.utils.seeds import random_states, set_random_states

#: Transforms whose random numbers come from a generator of their own.
UNSHARED = ('Albu', 'Albumentations')


@TRANSFORMS.register_module()
class BothImages(BaseTransform):
    """Run transforms alike on the image of a sample and on its second one: same crop, flip, size.

    They run on the sample as it is, and then, from the same states of Python's, NumPy's and torch's
    generators, on a copy of it whose image is the second one; afterwards the generators are where
    one run leaves them. So all transforms of mmcv and the base libraries can be shared, whether or
    not they say which of their methods draw (mmcv's ``TransformBroadcaster`` shares only those that
    do, and lets others, as MMSegmentation's ``RandomRotFlip``, draw twice without a word). What a
    transform draws may depend on the size and the annotations of an image, not on its pixels.

    Required keys: ``img`` and ``key``, of equal height and width.

    Set: ``key``, and whatever the transforms set.

    Args:
        transforms: Of geometry. Those of colour go before or behind this one.
        key: Name of the second image.

    Raises:
        ConfigError: If a transform has random numbers of its own.
    """

    def __init__(self, transforms: Sequence[Any], key: str = 'img2') -> None:
        self.key, self.transforms = key, Compose(transforms)
        for transform in self.transforms:
            kind = type(transform).__name__
            if kind in UNSHARED:
                raise ConfigError(
                    'its random numbers come from a generator of its own, so that the two images '
                    'cannot be treated alike',
                    key='BothImages.transforms',
                    got=kind,
                    fix="Take transforms of mmcv or of the task's library.",
                )

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Transform both images; None if a transform gives up on the sample."""
        second = self._second(results)
        same = copy.deepcopy({key: value for key, value in results.items() if key != 'img'})
        before = random_states()
        first = self.transforms(results)
        after = random_states()
        set_random_states(before)
        other = self.transforms({**same, 'img': second})
        set_random_states(after)
        if first is None or other is None:
            return None
        self._compare(first, other)
        first[self.key] = other['img']
        return first

    def _second(self, results: dict[str, Any]) -> np.ndarray:
        """Take the second image out of the sample."""
        second = results.pop(self.key, None)
        if second is None:
            raise ConfigError(
                f'the sample has no {self.key!r} to treat like its image',
                key='BothImages.key',
                got=self.key,
                fix="Load it before: dict(type='KeyMapper', mapping=dict(img_path='img2_path'), "
                "remapping=dict(img='img2'), transforms=[dict(type='LoadImageFromFile')]).",
            )
        sizes = results['img'].shape[:2], second.shape[:2]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f'{results.get("img_path", "the image")} has {_text(sizes[0])} pixels (h x w), its '
                f'second image {self.key!r} {_text(sizes[1])}',
                key='BothImages',
                fix='Resize one of them to the size of the other before.',
            )
        return second

    def _compare(self, first: dict[str, Any], other: dict[str, Any]) -> None:
        """Refuse decisions that differ, as far as the sample shows them."""
        for key in first.keys() & other.keys():
            mine, theirs = first[key], other[key]
            if key == 'img':
                mine, theirs = mine.shape[:2], theirs.shape[:2]
            elif key.endswith('shape'):  # some have the channels behind height and width
                mine, theirs = tuple(mine)[:2], tuple(theirs)[:2]
            elif not isinstance(mine, bool | int | float | str | tuple):
                continue
            if mine != theirs:
                raise ConfigError(
                    f'after its transforms {key!r} is {mine} of the image and {theirs} of '
                    f'{self.key!r}: one of them draws by the pixels',
                    key='BothImages.transforms',
                    fix='Leave that transform out, or put it before or behind this one.',
                )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(key={self.key!r}, transforms={self.transforms})'


def _text(size: Sequence[int]) -> str:
    return ' x '.join(map(str, size))
