"""Published weights of the base libraries' configs, read from their installed metafiles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdmm.compat.packages import config_file, config_root


def zoo_config(config: str) -> str:
    """Path of an installed package's config, ``'mmseg::deeplabv3/x.py'``.

    Raises:
        ValueError: not of the form ``package::path``.
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: it has no such config; the message names the nearest ones.
    """
    return str(config_file(config))


def zoo_checkpoint(config: str) -> str:
    """Weights that the installed package's metafile names for a config.

    Only files are read: nothing is installed or downloaded.

    Args:
        config: ``'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'`` or the like.

    Returns:
        A URL, or the absolute path of a local file. The first where the metafile names several.

    Raises:
        ValueError: not of the form ``package::path``, or the config has no published weights.
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: it has no such config; the message names the nearest ones.
    """
    path = config_file(config)
    root = config_root(config.partition('::')[0])
    relative = path.relative_to(root).as_posix()
    for model in _models(root, relative):
        weights = model.get('Weights')
        weights = weights[0] if isinstance(weights, list) and weights else weights
        if weights:
            return weights if '://' in weights else str((root / weights).resolve())
    raise ValueError(
        f"no weights are published for {config!r}: checkpoint='zoo' cannot resolve, "
        'give the path or URL of a checkpoint'
    )


def _models(root: Path, config: str) -> Iterator[dict[str, Any]]:
    """Metafile entries of one config, in the order of the index."""
    for metafile in _metafiles(root):
        text = metafile.read_text(encoding='utf-8')
        if config not in text:  # parsing all of a library's metafiles takes seconds
            continue
        content = yaml.safe_load(text)
        for model in content.get('Models') or ():
            if model.get('Config') == config:
                yield model


def _metafiles(root: Path) -> list[Path]:
    """Metafiles that ``model-index.yml`` lists; all there are where it is missing."""
    index = root / 'model-index.yml'
    if not index.is_file():
        return sorted((root / 'configs').rglob('metafile.y*ml'))
    listed = yaml.safe_load(index.read_text(encoding='utf-8')) or {}
    files = [root / name for name in listed.get('Import') or ()]
    return [file for file in files if file.is_file()]
