"""Reading a config: the base library's, with an optional section ``kd``."""

import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from kdmm.distillers.section import KEYS, KINDS, WRAPPERS
from kdmm.distillers.zoo import zoo_config
from kdmm.errors import ConfigError, nearest, refuse_unknown

SECTION = 'kd'


def load_config(
    path: str, overrides: Mapping[str, Any] | None = None, work_dir: str | None = None
) -> Config:
    """A config file, overridden as ``--cfg-options`` does.

    Args:
        path: A file, or ``package::path`` such as ``kdmm::cirkd/segformer_b4_b0_cityscapes.py``.
        overrides: Dotted key to value.
        work_dir: Where the run writes; default the config's own, else ``work_dirs/<file name>``.

    Raises:
        ConfigError: If there is no such file.
    """
    try:
        cfg = Config.fromfile(zoo_config(path) if '::' in path else path)
    except (OSError, ImportError, SyntaxError, ValueError) as error:
        raise ConfigError(f'config: {path!r} cannot be read ({error})') from error
    cfg.merge_from_dict(dict(overrides or {}))
    _to_section(cfg)
    name = os.path.splitext(os.path.basename(path))[0]
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', name)
    return cfg


def _to_section(cfg: Config) -> None:
    """Turn ``model=dict(type='kdmm.Distiller', student=..., **kd)`` into student and section."""
    if cfg.get('model', {}).get('type') in WRAPPERS:
        section = {key: value for key, value in cfg.model.items() if key != 'student'}
        if kind_of(section) == KINDS[0]:
            del section['type']
        cfg.model, cfg[SECTION] = cfg.model.student, section


def use_amp(cfg: Config, dtype: str | None) -> None:
    """Turn on mixed precision as ``--amp`` of the base libraries does; ``dtype`` is optional.

    Raises:
        ConfigError: If the config has an optimizer wrapper of its own.
    """
    if not cfg.get('optim_wrapper'):
        raise ConfigError('--amp: the config has no optim_wrapper')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(f'--amp works with OptimWrapper, the config has {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if dtype:
        cfg.optim_wrapper.dtype = dtype


def kind_of(kd: Mapping[str, Any]) -> str:
    """``kd.type`` without its scope.

    Raises:
        ConfigError: If it is none of `KINDS`.
    """
    kind = str(kd.get('type', KINDS[0])).removeprefix('kdmm.')
    if kind not in KINDS:
        raise ConfigError(f'kd.type: {kind!r} is not known; {nearest(kind, KINDS)}')
    return kind


def model_config(model: Mapping[str, Any], kd: Mapping[str, Any] | None) -> dict[str, Any]:
    """The model dict that the Runner builds: the student itself, or one with an objective.

    Raises:
        ConfigError: If ``kd.type`` is none of `KINDS`.
    """
    if not kd:
        return dict(model)
    section, kind = dict(kd), kind_of(kd)
    section.pop('type', None)
    if kind == KINDS[0]:
        refuse_unknown(SECTION, section, KEYS)
    return dict(type=f'kdmm.{kind}', student=dict(model), **section)
