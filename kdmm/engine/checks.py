"""Checks of a config's data before anything is built."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from kdmm.datasets.coco_files import check_coco_file
from kdmm.engine.checks_cifar import ARCHIVED, check_archive
from kdmm.engine.checks_folders import FOLDERS, check_class_folders, layout
from kdmm.errors import ConfigError, nearest


def check_data(cfg: Config, stages: tuple[str, ...] = ('train', 'val')) -> None:
    """Every local path that the data sets and metrics of ``stages`` name must exist.

    The archive of CIFAR must be unpacked where it is looked for, folders of classes must agree with
    each other and with the head, ids in COCO's files must be unique, and classes that are chosen
    from a data set's own must be among them.

    Raises:
        ConfigError: Names the key, the path, and how to give another.
    """
    folders, variables = [], variables_in(cfg)
    for stage in stages:
        loader = cfg.get(f'{stage}_dataloader') or {}
        for key, dataset in _datasets(loader.get('dataset'), f'{stage}_dataloader.dataset'):
            kind = _type_name(dataset)
            if kind in ARCHIVED:
                check_archive(key, dataset, kind)
                continue
            in_folders = kind in FOLDERS
            _check_places(key, dataset, variables, layout(dataset) if in_folders else '')
            if in_folders:
                folders.append((key, dataset, _chooses(loader.get('dataset'))))
            check_coco_file(_joined(dataset, dataset.get('ann_file')))
            _check_class_names(key, dataset, cfg.get('default_scope'))
        for key, metric in _metrics(cfg, stage):
            place = {f'{key}.ann_file': metric.get('ann_file')}
            _check_paths(place, f'{key}.ann_file', variables)
    check_class_folders(folders, _num_classes(cfg))


def variables_in(cfg: Config) -> dict[str, str]:
    """Environment variables that a config reads, with the values that it uses."""
    read = re.findall(r'\{\{\W*\$(\w+)\s*:\s*(\S*?)\W*\}\}', cfg.text)
    return {name: os.environ.get(name, default) for name, default in read}


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


def _chooses(dataset: Any) -> bool:
    """Return whether a wrapper around the innermost data set keeps some of its classes."""
    if not isinstance(dataset, Mapping):
        return False
    inner = [dataset.get('dataset'), *(dataset.get('datasets') or ())]
    return _type_name(dataset) == 'ClassSubset' or any(map(_chooses, inner))


def _metrics(cfg: Config, stage: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Metrics of an evaluator with their keys, in the form of ``--cfg-options``."""
    key = f'{stage}_evaluator'
    found = cfg.get(key)
    if isinstance(found, Mapping):
        yield key, found
    elif isinstance(found, (list, tuple)):
        yield from ((f'{key}.{i}', x) for i, x in enumerate(found) if isinstance(x, Mapping))


def _type_name(dataset: Mapping[str, Any]) -> str:
    """``type`` without the scope; it may be the class itself."""
    kind = dataset.get('type')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _check_class_names(key: str, dataset: Mapping[str, Any], scope: str | None) -> None:
    """Check chosen classes of MMSegmentation's data sets; MMDetection's are in their files."""
    classes, kind = (dataset.get('metainfo') or {}).get('classes'), dataset.get('type')
    if not isinstance(classes, (list, tuple)):
        return
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_', scope)) as registry:
            kind = registry.get(kind)
    known = getattr(kind, 'METAINFO', {}).get('classes') if hasattr(kind, 'get_label_map') else None
    wrong = [name for name in classes if name not in (known or classes)]
    if known and wrong:
        near = '; '.join(f'{name!r}: {nearest(str(name), known)}' for name in wrong[:5])
        raise ConfigError(
            f'{len(wrong)} of {len(classes)} names are no class of {_type_name(dataset)}: {near}',
            key=f'{key}.metainfo.classes',
        )


def _joined(dataset: Mapping[str, Any], path: Any) -> str:
    """``path`` below ``data_root``; empty if there is none."""
    root = _root(dataset)
    return os.path.join(root, path) if isinstance(path, str) and path else ''


def _root(dataset: Mapping[str, Any], key: str = 'dataset') -> str:
    root = dataset.get('data_root') or ''
    if not isinstance(root, str):
        raise ConfigError(key=f'{key}.data_root', got=root, expected='a path')
    return root


def _num_classes(cfg: Config) -> int | None:
    head = (cfg.get('model') or {}).get('head')
    return head.get('num_classes') if isinstance(head, Mapping) else None


def _check_places(
    key: str, dataset: Mapping[str, Any], variables: Mapping[str, str], expected: str
) -> None:
    """Check the paths of a data set; ``expected`` is its layout, for errors."""
    root = _root(dataset, key)
    places = {f'{key}.data_root': root} if root else {}
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):  # mmpretrain's data sets have one
        prefixes = {'': prefixes}
    for name, prefix in prefixes.items():
        if isinstance(prefix, str) and prefix:
            places[f'{key}.data_prefix.{name}'.rstrip('.')] = os.path.join(root, prefix)
    annotations = _joined(dataset, dataset.get('ann_file'))
    if annotations:
        places[f'{key}.ann_file'] = annotations
    _check_paths(places, f'{key}.data_root', variables, expected)


def _check_paths(
    places: Mapping[str, Any], option: str, variables: Mapping[str, str], expected: str = ''
) -> None:
    """Refuse missing local paths; the message names ``option`` and variables that change them."""
    for place, path in places.items():
        if isinstance(path, str) and path and '://' not in path and not os.path.exists(path):
            read = [name for name, root in variables.items() if root and path.startswith(root)]
            option = option.replace('[', '.').replace(']', '')  # as --cfg-options takes it
            raise ConfigError(
                f'there is no such file or folder (seen from {os.getcwd()!r})',
                key=place,
                got=path,
                expected=expected,
                fix='Put or link the data set there, or name its place: '
                f'--cfg-options {option}=...'
                + ''.join(f', or the environment variable {name}' for name in read)
                + '.',
            )
