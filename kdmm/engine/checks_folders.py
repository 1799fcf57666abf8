"""Checks of data sets with a folder a class, numbered in the order of the alphabet.

A missing folder, or an extra one such as ``.ipynb_checkpoints``, shifts all later labels.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.fileio import list_dir_or_file

from kdmm.errors import ConfigError, listed

FOLDERS = ('CustomDataset', 'ImageNet')


def layout(dataset: Mapping[str, Any]) -> str:
    """Describe the expected layout; empty where an annotation file lists the images."""
    folder = class_root(dataset)
    return os.path.join(folder, '<class>', '<image>') if folder else ''


def class_root(dataset: Mapping[str, Any]) -> str:
    """Local folder that holds the class folders; empty where there is none."""
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
    datasets: Sequence[tuple[str, Mapping[str, Any], bool]], num_classes: int | None
) -> None:
    """All data sets must have the same class folders, as many as the head has classes.

    Those that name their classes are left to MMPretrain, which counts; so are single empty
    folders, of which it warns.

    Args:
        datasets: Of each its key, its config, and whether a wrapper keeps some of its classes: then
            the head may have fewer.
        num_classes: Of the head, if it says so.

    Raises:
        ConfigError: Names the key and the folders, and what was expected.
    """
    first: tuple[str, set[str]] | None = None
    for key, dataset, chosen in datasets:
        folder = class_root(dataset)
        if not folder:
            continue
        found = _class_folders(folder)
        if not found:
            raise ConfigError(
                'no class folder with images', key=key, got=folder, expected=layout(dataset)
            )
        if dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes'):
            continue
        first = first or (folder, found)
        _compare(key, folder, found, *first)
        if num_classes not in (None, len(found)) and not chosen:
            raise ConfigError(
                f'{len(found)} class folders ({listed(sorted(found), 5)}) for '
                f'model.head.num_classes={num_classes}',
                key=key,
                got=folder,
                expected=layout(dataset),
                fix='Is one missing, or is the folder a level too high or too low?',
            )


def _class_folders(folder: str) -> set[str]:
    """Class folders as MMPretrain lists them; none if all are empty."""
    if not os.path.isdir(folder):
        return set()
    found = set(list_dir_or_file(folder, list_file=False))
    return found if any(os.listdir(os.path.join(folder, name)) for name in found) else set()


def _compare(key: str, folder: str, found: set[str], other: str, expected: set[str]) -> None:
    """Refuse different lists of folders: the place in the list is the label."""
    lacking, extra = expected - found, found - expected
    if lacking or extra:
        said = [
            f'{verb} {listed(sorted(names), 5)}'
            for verb, names in (('lacks', lacking), ('adds', extra))
            if names
        ]
        raise ConfigError(
            f'it {" and ".join(said)}, compared with {other!r}; labels are the places of the class '
            'folders in the alphabet, so both must have the same',
            key=key,
            got=folder,
            fix='Add or remove folders (an empty one counts), or, if only their names differ, give '
            'metainfo=dict(classes=...).',
        )
