"""What can be seen to be wrong before anything is built."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from kdmm.errors import ConfigError


def check_data(cfg: Config, stages: tuple[str, ...] = ('train', 'val')) -> None:
    """Every local path that the data sets of ``stages`` name must exist.

    Raises:
        ConfigError: Names the key, the path, and how to give another.
    """
    for stage in stages:
        loader = cfg.get(f'{stage}_dataloader')
        if loader:
            for key, dataset in _datasets(loader.get('dataset'), f'{stage}_dataloader.dataset'):
                _check_dataset(key, dataset)


def _datasets(dataset: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The innermost data sets of wrappers and concatenations."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('dataset'), Mapping):
        yield from _datasets(dataset['dataset'], f'{key}.dataset')
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for index, item in enumerate(dataset['datasets']):
            yield from _datasets(item, f'{key}.datasets[{index}]')
    else:
        yield key, dataset


def _check_dataset(key: str, dataset: Mapping[str, Any]) -> None:
    root = dataset.get('data_root') or ''
    places = {f'{key}.data_root': root} if root else {}
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):  # mmpretrain's data sets have one
        prefixes = {'': prefixes}
    for name, prefix in prefixes.items():
        if isinstance(prefix, str) and prefix:
            places[f'{key}.data_prefix.{name}'.rstrip('.')] = os.path.join(root, prefix)
    annotations = dataset.get('ann_file')
    if isinstance(annotations, str) and annotations:
        places[f'{key}.ann_file'] = os.path.join(root, annotations)
    for place, path in places.items():
        if '://' not in path and not os.path.exists(path):
            raise ConfigError(
                f'{place}: there is no {path!r} (seen from {os.getcwd()!r}). Put or link the data '
                f'set there, or name its place: --cfg-options {key}.data_root=...'
            )
