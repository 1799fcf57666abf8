"""Files that the libraries' transforms read: an error names the file that cannot be read."""

import functools
import os
from typing import Any

import numpy as np

from kdmm.datasets.label_maps import local
from kdmm.datasets.wrappers import leaf_datasets
from kdmm.errors import ConfigError

#: What a data set says of a sample's files.
PATHS = ('img_path', 'seg_map_path')
LIBRARIES = ('mmcv', 'mmdet', 'mmpose', 'mmpretrain', 'mmseg')


def name_files_in_errors(dataset: Any) -> None:
    """Let each transform ``Load...`` of the libraries name the picture that it fails on."""
    for leaf in leaf_datasets(dataset):
        steps = getattr(getattr(leaf, 'pipeline', None), 'transforms', None)
        for step in steps if isinstance(steps, list) else ():
            kind = type(step)
            library = kind.__module__.partition('.')[0]
            if library in LIBRARIES and kind.__name__.startswith('Load'):
                step.transform = functools.partial(_read, kind, step)


def _read(kind: type, step: Any, results: dict[str, Any]) -> Any:
    """The transform of ``kind``.

    Raises:
        ConfigError: If it fails and one of the sample's files is no picture; names the file.
    """
    try:
        return kind.transform(step, results)  # type: ignore[attr-defined]
    except ConfigError:
        raise
    except Exception as error:
        for key in PATHS:
            fault = fault_of(results.get(key))
            if fault:
                raise ConfigError(
                    fault,
                    key=results[key],
                    fix='Restore the file, or leave the sample out of the data set.',
                ) from error
        raise


def fault_of(path: Any) -> str:
    """Describe the fault of a local picture; empty if it can be read or is no local file."""
    import cv2  # a requirement of mmcv

    if not isinstance(path, str) or '://' in path:
        return ''
    if not local(path):
        return 'this is a folder, no picture' if os.path.isdir(path) else 'there is no such file'
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        return f'the file cannot be read ({error.strerror})'
    if not content.size:
        return 'the file is empty'
    if cv2.imdecode(content, cv2.IMREAD_UNCHANGED) is not None:
        return ''
    return f'the file ({content.size} bytes) is damaged or no picture'
