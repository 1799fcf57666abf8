"""Read configs of the base libraries, with an optional section ``kd``.

MMEngine refuses a dict over what is no dict in a base, unless it says ``_delete_=True``. In the
section that dict has one meaning, so it is marked before MMEngine merges: a pair of paths takes the
place of a path, a schedule that of a number, one teacher that of several.
"""

import copy
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.config import DELETE_KEY
from mmengine.utils import import_modules_from_strings
from torch import nn

from kdmm.compat.packages import config_file, require_scopes
from kdmm.errors import ConfigError, nearest
from kdmm.registry import OBJECTIVES

SECTION = 'kd'
#: The kind of a section that does not say its type.
DISTILLER = 'Distiller'
#: Of what MMEngine looks at late, or never, if its type is another.
TYPES: dict[str, tuple[Any, ...]] = {
    'data_preprocessor': (Mapping,),
    'default_hooks': (Mapping,),
    'default_scope': (str,),
    'env_cfg': (Mapping,),
    'env_cfg.dist_cfg': (Mapping,),
    'find_unused_parameters': (bool,),
    'launcher': (str,),
    'load_from': (str,),
    'log_level': (str, int),
    'randomness': (Mapping,),
    'randomness.seed': (int,),
    'reproducible': (bool,),
    'resume': (bool,),
    'work_dir': (str,),
}
_NAMES = {Mapping: 'a dict', bool: 'True or False', int: 'a whole number', str: 'text'}


def load_config(
    path: str, overrides: Mapping[str, Any] | None = None, work_dir: str | None = None
) -> Config:
    """Read a config file and override it as ``--cfg-options`` does.

    Args:
        path: A file, or ``package::path`` such as ``kdmm::cirkd/segformer_b4_b0_cityscapes.py``.
        overrides: Dotted key to value.
        work_dir: Where the run writes; default the config's own, else ``work_dirs/<file name>``.

    Raises:
        ConfigError: If there is no such file, or it cannot be read or merged; if ``model`` or the
            section is no dict; if a base library that it names is missing.
    """
    with merged_errors('config', path, 'cannot be read'):
        file = str(config_file(path)) if '::' in path else path
    cfg = read_config(file)
    override(cfg, overrides or {})
    section_of(cfg)
    if 'model' in cfg and not isinstance(cfg.model, Mapping):
        raise ConfigError(key='model', got=cfg.model, expected='a dict')
    for key, kinds in TYPES.items():
        value = cfg.get(key) if '.' not in key else _below(cfg, key)
        if value is not None and value is not False and not isinstance(value, kinds):
            named = ' or '.join(_NAMES[kind] for kind in kinds)
            raise ConfigError(key=key, got=value, expected=named)
    require_scopes(cfg)
    _to_section(cfg)
    name = os.path.splitext(os.path.basename(path))[0]
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', name)
    return cfg


def _below(cfg: Config, key: str) -> Any:
    outer, _, inner = key.partition('.')
    return cfg[outer].get(inner) if isinstance(cfg.get(outer), Mapping) else None


def _to_section(cfg: Config) -> None:
    """Bring ``model=dict(type='kdmm.Distiller', student=..., **kd)`` into the usual form."""
    student, section = split_model(cfg.get('model'))
    if section is not None:
        if cfg.get(SECTION):
            raise ConfigError(
                'and there is a section kd, while one run has one objective',
                key='model.type',
                got=cfg.model.type,
                fix='Give either.',
            )
        cfg.model, cfg[SECTION] = student, section


def split_model(model: Any) -> tuple[Any, dict[str, Any] | None]:
    """Split a model config into student and section.

    ``data_preprocessor``, which MMEngine's Runner writes into the config of any model, goes to a
    student that has none.

    Returns:
        ``student`` and the rest of ``dict(type='kdmm.Distiller', student=..., **kd)``, whichever
        kind it is of; ``model`` itself and None for everything else.

    Raises:
        ConfigError: If there is no student.
    """
    if not isinstance(model, Mapping) or not is_wrapper(model.get('type')):
        return model, None
    section = dict(model)
    student = section.pop('student', None)
    if not isinstance(student, Mapping | nn.Module):
        raise ConfigError(
            key='model.student',
            got=student,
            expected=f'the config of the model that {model["type"]} trains',
        )
    preprocessor = section.pop('data_preprocessor', None)
    if isinstance(student, Mapping) and preprocessor is not None:
        student = copy.deepcopy(student)
        student.setdefault('data_preprocessor', preprocessor)  # type: ignore[attr-defined]
    if kind_of(section) == DISTILLER:
        del section['type']
    return student, section


def is_wrapper(kind: Any) -> bool:
    """True for a model type that is written by hand around a student, ``kdmm.Distiller``."""
    scope, _, name = str(kind).rpartition('.')
    return scope == 'kdmm' and name in kinds()


def section_of(cfg: Mapping[str, Any] | Config | None) -> dict[str, Any] | None:
    """Return the section ``kd``; None, False and an empty one mean plain training.

    Raises:
        ConfigError: If it is no dict.
    """
    section = cfg.get(SECTION) if cfg is not None else None
    if not section:
        return None
    if not isinstance(section, Mapping):
        raise ConfigError(
            key=SECTION,
            got=section,
            expected='a section, dict(teacher=..., taps=..., losses=...)',
            fix='None or nothing at all means plain training.',
        )
    return dict(section)


def nearly_section(cfg: Mapping[str, Any] | Config) -> str | None:
    """Find a top-level key that was probably meant to be ``kd``, in a config without one.

    That is a dict whose type is a kind of section, one with a teacher and taps or losses, or one
    whose name is ``kd`` but for case, signs and one letter, or begins with ``distil``.
    """
    return next((key for key, value in cfg.items() if _is_nearly(str(key), value)), None)


def _is_nearly(key: str, value: Any) -> bool:
    if key == 'model' or not isinstance(value, Mapping) or not value:
        return False
    letters = ''.join(filter(str.isalpha, key.lower()))
    named = SequenceMatcher(None, SECTION, letters).ratio() >= 0.8 or letters.startswith('distil')
    kind = str(value.get('type', '')).removeprefix('kdmm.') in kinds()
    return key != SECTION and (named or kind or len({*value} & {'teacher', 'taps', 'losses'}) > 1)


def use_amp(cfg: Config, dtype: str | None) -> None:
    """Turn on mixed precision as ``--amp`` of the base libraries does; ``dtype`` is optional.

    Raises:
        ConfigError: If the config has an optimizer wrapper of its own.
    """
    if not cfg.get('optim_wrapper'):
        raise ConfigError('the config has no optim_wrapper', key='--amp')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError('--amp works with OptimWrapper alone', key='optim_wrapper.type', got=kind)
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if dtype:
        cfg.optim_wrapper.dtype = dtype


def kinds() -> Mapping[str, Any]:
    """Return the registered kinds of sections: ``kd.type`` to a subclass of `Objective`."""
    OBJECTIVES.import_from_location()
    return OBJECTIVES.module_dict


def kind_of(kd: Mapping[str, Any]) -> str:
    """Return ``kd.type`` without its scope.

    Raises:
        ConfigError: If no objective is registered under it.
    """
    kind = str(kd.get('type', DISTILLER)).removeprefix('kdmm.')
    if kind not in kinds():
        raise ConfigError(
            f'no such kind; {nearest(kind, kinds())}', key=f'{SECTION}.type', got=kd.get('type')
        )
    return kind


def objective_class(kd: Mapping[str, Any]) -> Any:
    """Return the subclass of `kdmm.distillers.Objective` that a section asks for.

    Raises:
        ConfigError: As `kind_of`.
    """
    return kinds()[kind_of(kd)]


def model_config(
    model: Any, kd: Mapping[str, Any] | None, size: tuple[int, int] | None = None
) -> Any:
    """Return the config that the Runner builds: the student, or a dict of it and its objective.

    Args:
        model: Config of the student, or the built student.
        kd: The section.
        size: (height, width) of training images, for objectives that want to know it.

    Raises:
        ConfigError: As `kind_of`.
    """
    student = model if isinstance(model, nn.Module) else dict(model)
    if not kd:
        return student
    section, kind = dict(kd), kind_of(kd)
    section.pop('type', None)
    if size is not None and 'crop_size' in kinds()[kind].section_keys():
        section.setdefault('crop_size', size)
    return dict(type=f'kdmm.{kind}', student=student, **section)


def image_size(cfg: Config) -> tuple[int, int] | None:
    """Return (height, width) of the training pipeline's images, if its config says so.

    The last transform that crops, resizes or pads decides; MMSegmentation crops to (h, w), all
    others are given (w, h). Where sides are chosen at random or kept in proportion, it is the
    largest that is asked for.
    """
    found = None
    for node in _transforms(cfg.get('train_dataloader')):
        kind = str(node.get('type')).rpartition('.')[2]
        size = node.get(_SIZES.get(kind, ''))
        if isinstance(size, int):
            size = (size, size)
        if isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int for n in size):
            found = (size[0], size[1]) if kind == 'RandomCrop' else (size[1], size[0])
    return found


#: Transforms that fix the size of an image, and the argument that says it.
_SIZES = dict(
    RandomCrop='crop_size',
    CenterCrop='crop_size',
    RandomResizedCrop='scale',
    Resize='scale',
    RandomResize='scale',
    ResizeEdge='scale',
    Pad='size',
    TopdownAffine='input_size',
)


def _transforms(node: Any) -> Iterator[Mapping[str, Any]]:
    """The dicts below ``node``, in order."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _transforms(child)


def read_config(path: str) -> Config:
    """Read a config file over its bases.

    Raises:
        ConfigError: For whatever its text raises, and a dict over what is none outside of ``kd``.
    """
    with merged_errors('config', path, 'cannot be read'), _section_replaces():
        return Config.fromfile(path)


def override(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge ``--cfg-options`` into ``cfg``.

    Raises:
        ConfigError: For a key below something that is neither dict nor list, and modules of
            ``custom_imports`` that are not there.
    """
    named = ' '.join(f'{key}={value}' for key, value in options.items())
    with merged_errors('--cfg-options', named, 'cannot be merged'), _section_replaces():
        cfg.merge_from_dict(dict(options))
        if any(key.partition('.')[0] == 'custom_imports' for key in options):
            import_modules_from_strings(**cfg['custom_imports'])  # MMEngine: of a file alone


@contextmanager
def merged_errors(key: str, value: str, problem: str) -> Iterator[None]:
    """Turn what reading or merging raises into one message; a config's text may raise anything."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f'{problem} ({_described(error)})', key=key, got=value) from error


def _described(error: BaseException) -> str:
    text = str(error)
    clash = re.match(r'(\S+?)=.* but is of type <class \W(\w+)\W> in base', text, re.DOTALL)
    if clash:
        key, kind = clash.groups()
        return (
            f'{key} is a dict here and {kind.replace("NoneType", "None")} in what it overrides: '
            f'{key}=dict({DELETE_KEY}=True, ...) takes its place'
        )
    if isinstance(error, (OSError, ImportError, SyntaxError, ValueError)):
        return text
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.name == '<module>']
    line = f'line {lines[-1]}: ' if lines else ''
    return f'{line}{type(error).__name__}: {text}'


@contextmanager
def _section_replaces() -> Iterator[None]:
    """Let MMEngine merge marked sections ``kd`` while configs are read inside."""
    merge = Config._merge_a_into_b

    def marked(a: dict, b: dict, allow_list_keys: bool = False) -> dict:
        if isinstance(a, dict) and isinstance(b, dict):
            a = {
                key: _mark(value, b[key], allow_list_keys) if _is_section(key, value, b) else value
                for key, value in a.items()
            }
        return merge(a, b, allow_list_keys)

    Config._merge_a_into_b = staticmethod(marked)
    try:
        yield
    finally:
        Config._merge_a_into_b = staticmethod(merge)


def _is_section(key: str, value: Any, base: Mapping[str, Any]) -> bool:
    """``kd``, or a model that is written as its wrapper."""
    if key not in base or not isinstance(value, dict):
        return False
    below = base[key]
    wrapped = isinstance(below, dict) and is_wrapper(below.get('type'))
    return key == SECTION or (key == 'model' and wrapped)


def _mark(over: dict[str, Any], base: Any, allow_list_keys: bool) -> dict[str, Any]:
    """``over`` with ``_delete_`` where it cannot be merged into ``base``, and not where it is new.

    The student is a model of the base library, whose configs are merged as they always were.
    """
    if over.get(DELETE_KEY):
        return {**_without_marks(over), DELETE_KEY: True}
    if not isinstance(base, dict):
        in_list = allow_list_keys and isinstance(base, list) and all(k.isdigit() for k in over)
        return over if in_list else ConfigDict({**_without_marks(over), DELETE_KEY: True})
    marked = ConfigDict(over)
    for key, value in over.items():
        if not isinstance(value, dict) or key == 'student':
            continue
        if key not in base:
            marked[key] = _without_marks(value)
        elif key == 'weight' and 'type' in value and not _has_type(base[key]):
            marked[key] = {**_without_marks(value), DELETE_KEY: True}  # a schedule over parts
        else:
            marked[key] = _mark(value, base[key], allow_list_keys)
    return marked


def _has_type(node: Any) -> bool:
    return isinstance(node, dict) and 'type' in node


def _without_marks(node: Any) -> Any:
    """Remove each ``_delete_`` that MMEngine leaves where there is nothing to delete."""
    if not isinstance(node, dict):
        return node
    return ConfigDict({k: _without_marks(v) for k, v in node.items() if k != DELETE_KEY})
