"""Images in a folder a class: the number of a class is the place of its folder in the alphabet.

A folder too few, or ``.ipynb_checkpoints`` among them, moves all labels behind it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.fileio import list_dir_or_file

from kdmm.errors import ConfigError

FOLDERS = ('CustomDataset', 'ImageNet')


def layout(dataset: Mapping[str, Any]) -> str:
    """Describe the expected layout; empty where an annotation file lists the images."""
    folder = class_root(dataset)
    return f'Expected: {os.path.join(folder, "<class>", "<image>")}' if folder else ''


def class_root(dataset: Mapping[str, Any]) -> str:
    """The local folder of the class folders; empty where there is none."""
    root, split = (dataset.get(key) or '' for key in ('data_root', 'split'))
    prefix = dataset.get('data_prefix') or split
    if isinstance(prefix, Mapping):
        prefix = prefix.get('img_path') or ''
    folder = os.path.join(root, prefix) if prefix else root
    if '://' in folder or dataset.get('ann_file') or not dataset.get('with_label', True):
        return ''
    # ImageNet's test images have no labels, and the others may be listed in a file
    listed = split and os.path.exists(os.path.join(root, 'meta', f'{split}.txt'))
    return '' if listed or split == 'test' else folder


def check_class_folders(
    datasets: Sequence[tuple[str, Mapping[str, Any]]], num_classes: int | None
) -> None:
    """All data sets must have the same class folders, as many as the head has classes.

    Those that name their classes are left to MMPretrain, which counts; so are single empty
    folders, of which it warns.

    Raises:
        ConfigError: Names the key and the folders, and what was expected.
    """
    first: tuple[str, set[str]] | None = None
    for key, dataset in datasets:
        folder = class_root(dataset)
        if not folder:
            continue
        found = _class_folders(folder)
        if not found:
            raise ConfigError(f'{key}: no class folder with images. {layout(dataset)}')
        if dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes'):
            continue
        first = first or (folder, found)
        _compare(f'{key}: {folder!r}', found, *first)
        if num_classes not in (None, len(found)):
            raise ConfigError(
                f'{key}: {folder!r} has {len(found)} class folders ({_some(found)}), '
                f'model.head.num_classes is {num_classes}. Is one missing, or is the folder a '
                f'level too high or too low? {layout(dataset)}'
            )


def _class_folders(folder: str) -> set[str]:
    """As MMPretrain lists them; none if there is nothing in any."""
    if not os.path.isdir(folder):
        return set()
    found = set(list_dir_or_file(folder, list_file=False))
    return found if any(os.listdir(os.path.join(folder, name)) for name in found) else set()


def _compare(where: str, found: set[str], other: str, expected: set[str]) -> None:
    """A class is known by its folder's place in the list, so the lists must be equal."""
    lacking, extra = expected - found, found - expected
    if lacking or extra:
        parts = [f'lacks {_some(lacking)}'] * bool(lacking) + [f'adds {_some(extra)}'] * bool(extra)
        raise ConfigError(
            f'{where} {" and ".join(parts)}, compared with {other!r}: labels are the places of the '
            'class folders in the alphabet, so both must have the same. Add or remove folders (an '
            'empty one counts), or, if only their names differ, give metainfo=dict(classes=...)'
        )


def _some(names: set[str]) -> str:
    ordered = sorted(names)
    return ', '.join(ordered[:5]) + (f' and {len(ordered) - 5} more' if ordered[5:] else '')
