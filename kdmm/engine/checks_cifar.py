"""Check of the unpacked CIFAR archive that MMPretrain reads."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kdmm.errors import ConfigError

ARCHIVED = ('CIFAR10', 'CIFAR100')


def check_archive(key: str, dataset: Mapping[str, Any], kind: str) -> None:
    """The unpacked files must be there and whole, unless the config says ``download=True``.

    Without ``download`` MMPretrain would fetch them, and it reports damaged files as missing.

    Raises:
        ConfigError: Names the folder, the files, the archive and where it belongs.
    """
    root, prefix = (dataset.get(name) or '' for name in ('data_root', 'data_prefix'))
    folder = os.path.join(root, prefix) if prefix else root
    if dataset.get('download') or '://' in folder:
        return
    cls = getattr(import_module('mmpretrain.datasets'), kind)
    fault = _fault(os.path.join(folder, cls.base_folder), cls)
    if fault:
        names = [name for name, _ in (*cls.train_list, *cls.test_list)] + [cls.meta['filename']]
        place = f'{key}.data_root' if root or not prefix else f'{key}.data_prefix'
        raise ConfigError(
            f'seen from {os.getcwd()!r}, {fault}',
            key=place,
            got=folder,
            fix=f'Unpack the official archive {cls.filename} there, so that it holds '
            f'{cls.base_folder}/{{{",".join(names)}}}; or name the folder that does: '
            f'--cfg-options {place}=...; or let MMPretrain fetch it: {key}.download=True',
        )


def _fault(folder: str, cls: Any) -> str:
    """Describe a fault of the files that MMPretrain reads in ``folder``; empty if there is none."""
    check_md5 = import_module('mmpretrain.datasets.utils').check_md5
    files = dict([*cls.train_list, *cls.test_list])
    missing = [name for name in files if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        return f'there is no {", ".join(f"{cls.base_folder}/{name}" for name in missing)}'
    changed = [name for name, md5 in files.items() if not check_md5(f'{folder}/{name}', md5)]
    if changed:
        return f'damaged or changed is {", ".join(f"{cls.base_folder}/{n}" for n in changed)}'
    return ''
