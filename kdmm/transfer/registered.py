"""Finding libraries, and classes by the ``type`` of a config."""

import importlib
import inspect
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from mmengine.logging import MMLogger
from mmengine.registry import MODELS, Registry

from kdmm.compat.packages import DISTRIBUTION
from kdmm.errors import ConfigError, nearest
from kdmm.transfer.literal import Unread

MM = ('mmpose', 'mmseg', 'mmdet', 'mmpretrain')
ZOO = ('torchvision', 'timm')
ROOT = ('mmengine', 'mmcv')  # register in MMEngine's own registry
KNOWN = (*MM, *ROOT, 'kdmm')


def installed(library: str) -> bool:
    """Whether ``library`` can be imported."""
    return find_spec(library) is not None


def require(library: str, why: str) -> None:
    """Refuse a library that is not there.

    Raises:
        ConfigError: With the name that pip knows.
    """
    if not installed(library):
        pip = DISTRIBUTION.get(library, library)
        raise ConfigError(f'{why}: {library} is not installed: pip install {pip}')
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(f'{why}: {library} cannot be imported ({error})') from error


def find_class(kind: str, library: str, trusted: bool) -> Any:
    """The class of a config's ``type``, seen from ``library``.

    Args:
        kind: ``Name``, ``scope.Name``, or ``module.path.Name`` of a registered class.
        library: Default scope.
        trusted: Whether the config may name any importable class, as MMEngine allows, and not
            only registered ones of the known libraries.

    Raises:
        ConfigError: If there is none; names the nearest.
    """
    scope, name = kind.split('.')[0] if '.' in kind else library, kind.split('.')[-1]
    if scope not in KNOWN and not trusted:
        raise ConfigError(
            f'the config in the checkpoint names {kind!r}, of no library that is imported on the '
            'word of a checkpoint: give --source-config'
        )
    with _registry(scope if installed(scope) else library) as registry:
        found = registry.module_dict.get(name)
        if found is None and scope == library and registry.parent:
            found = registry.parent.module_dict.get(name)
        names = list(registry.module_dict)
        if found is None and trusted:
            found = _imported(registry, kind)
    if found is None:
        raise ConfigError(f'{library} has no {kind!r}; {nearest(name, names)}')
    return found


def check_types(node: Any, library: str, where: str) -> None:
    """Refuse, in a config from a checkpoint, every ``type`` that is not registered.

    Raises:
        ConfigError: Names it, or a value that is no literal.
    """
    if isinstance(node, Unread):
        raise ConfigError(
            f'the config in the checkpoint has {where}={node}, which is no literal and is not run: '
            'give --source-config'
        )
    if isinstance(node, Mapping):
        if isinstance(node.get('type'), str):
            find_class(node['type'], library, trusted=False)
        for key, value in node.items():
            check_types(value, library, f'{where}.{key}')
    elif isinstance(node, list | tuple):
        for value in node:
            check_types(value, library, where)


def parameters_of(cls: type) -> set[str]:
    """Arguments of a class, those that it hands on to its base included."""
    found: set[str] = set()
    for base in cls.__mro__:
        if '__init__' in vars(base):
            parameters = inspect.signature(vars(base)['__init__']).parameters.values()
            found |= {parameter.name for parameter in parameters}
            if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
                break
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """MMEngine says nothing below an error, in its log or by printing."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _registry(scope: str) -> Iterator[Registry]:
    if scope in ROOT:
        importlib.import_module('mmcv.cnn')
        yield MODELS
        return
    with quiet(), MODELS.switch_scope_and_registry(scope) as registry:
        registry.import_from_location()
        yield registry


def _imported(registry: Registry, kind: str) -> Any:
    try:
        return registry.get(kind)
    except (KeyError, RuntimeError):
        return None
