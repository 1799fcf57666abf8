"""Label maps as they are read: their size, channels and depth (MMSegmentation's pipelines)."""

import os
from typing import Any

import numpy as np

from kdmm.datasets.wrappers import leaf_datasets
from kdmm.errors import ConfigError

VOID = (-1, 2**16 - 1)
"""The cast to 8 bits makes 255 of them, which is ignored as they are meant to be."""


class LabelMapCheck:
    """Stands behind the transform that reads label maps, and changes nothing.

    A map of another size than its image would be cropped somewhere else, and MMSegmentation casts
    to 8 bits, so that the label 700 becomes 188.

    Args:
        eight_bits: Whether the transform makes 8 bits of whatever the file holds.

    Raises:
        ConfigError: Names the file, both sizes, the channels or the label.
    """

    def __init__(self, eight_bits: bool) -> None:
        self.eight_bits = eight_bits

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Look at ``gt_seg_map`` (H, W), ``ori_shape`` and the head of the file."""
        labels, path = results.get('gt_seg_map'), results.get('seg_map_path')
        if labels is None:
            return results
        if labels.ndim == 3 and labels.shape[2] in (2, 3, 4):
            raise ConfigError(
                f'the label map has {labels.shape[2]} channels',
                key=str(path),
                expected='one, of class numbers',
                fix='Write the numbers of the classes in place of their colours.',
            )
        image = results.get('ori_shape')
        if image is not None and labels.ndim == 2 and tuple(image[:2]) != labels.shape:
            raise ConfigError(
                f'the label map has {labels.shape[1]}x{labels.shape[0]} pixels (w x h), its image '
                f'{results.get("img_path")} has {image[1]}x{image[0]}: they would be cut at '
                'different places',
                key=str(path),
                fix='Is it the map of another image, or was one of them resized?',
            )
        if self.eight_bits and isinstance(path, str):
            check_depth(path)
        return results


def check_depth(path: str) -> None:
    """Refuse labels above 255 in a file of more than 8 bits; others are not opened beyond the head.

    Raises:
        ConfigError: Names the label and what 8 bits make of it.
    """
    from PIL import Image  # a requirement of mmcv

    try:
        with Image.open(path) as picture:
            if not picture.mode.startswith(('I', 'F')):
                return
            values = np.unique(np.asarray(picture))
    except OSError:  # no local file, or no picture for Pillow
        return
    wide = values[((values < 0) | (values > 255)) & ~np.isin(values, VOID)]
    if len(wide):
        raise ConfigError(
            f'label {wide[0]:g} in a label map of more than 8 bits; MMSegmentation reads 8 and '
            f'would make {int(wide[0]) % 256} of it',
            key=path,
            fix='Write labels of 0 to 255.',
        )


def reader_of(dataset: Any) -> tuple[list[Any], int]:
    """The transforms of a data set, and the place of the one that reads label maps, or -1."""
    found = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    transforms: list[Any] = found if isinstance(found, list) else []
    for index, transform in enumerate(transforms):
        named = 'LoadAnnotations' in type(transform).__name__
        if named and getattr(transform, 'with_seg', False):
            return transforms, index
    return [], -1


def add_label_map_checks(dataset: Any) -> None:
    """Put a `LabelMapCheck` behind each transform that reads label maps."""
    for leaf in leaf_datasets(dataset):
        transforms, index = reader_of(leaf)
        if index >= 0 and not any(isinstance(step, LabelMapCheck) for step in transforms):
            read = getattr(type(transforms[index]), '_load_seg_map', None)
            casts = getattr(read, '__module__', '').startswith('mmseg.')
            transforms.insert(index + 1, LabelMapCheck(casts))


def local(path: Any) -> bool:
    """Return whether ``path`` is a local file."""
    return isinstance(path, str) and os.path.isfile(path)
