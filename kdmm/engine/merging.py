"""Reading a config file over its bases, so that a section ``kd`` can be overridden part by part.

MMEngine refuses a dict over what is no dict in a base, unless it says ``_delete_=True``. In the
section that dict has one meaning, so it is marked before MMEngine merges: a pair of paths takes the
place of a path, a schedule that of a number, one teacher that of several.
"""

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.config import DELETE_KEY
from mmengine.utils import import_modules_from_strings

from kdmm.distillers.section import WRAPPERS
from kdmm.errors import ConfigError

SECTION = 'kd'


def read_config(path: str) -> Config:
    """A config file over its bases.

    Raises:
        ConfigError: For whatever its text raises, and a dict over what is none outside of ``kd``.
    """
    with merged_errors(f'config: {path!r} cannot be read'), _section_replaces():
        return Config.fromfile(path)


def override(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge ``--cfg-options`` into ``cfg``.

    Raises:
        ConfigError: For a key below something that is neither dict nor list, and modules of
            ``custom_imports`` that are not there.
    """
    named = ' '.join(f'{key}={value}' for key, value in options.items())
    with merged_errors(f'--cfg-options {named}: cannot be merged'), _section_replaces():
        cfg.merge_from_dict(dict(options))
        if any(key.partition('.')[0] == 'custom_imports' for key in options):
            import_modules_from_strings(**cfg['custom_imports'])  # MMEngine: of a file alone


@contextmanager
def merged_errors(where: str) -> Iterator[None]:
    """Turn what reading or merging raises into one message; a config's text may raise anything."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f'{where} ({_told(error)})') from error


def _told(error: BaseException) -> str:
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
    """While configs are read, MMEngine merges sections ``kd`` that have been marked."""
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
    wrapped = isinstance(below, dict) and below.get('type') in WRAPPERS
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
    """MMEngine leaves ``_delete_`` standing where there is nothing to delete."""
    if not isinstance(node, dict):
        return node
    return ConfigDict({k: _without_marks(v) for k, v in node.items() if k != DELETE_KEY})
