"""The base libraries: whether they are installed, their classes by ``type``, models by name."""

import importlib
import inspect
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, Registry
from torch import nn

from kdmm.compat import packages
from kdmm.errors import ConfigError, nearest
from kdmm.pretrained.families import HEADS

MM = ('mmpose', 'mmseg', 'mmdet', 'mmpretrain')
ZOO = ('torchvision', 'timm')
ROOT = ('mmengine', 'mmcv')  # register in MMEngine's own registry
KNOWN = (*MM, *ROOT, 'kdmm')
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def installed(library: str) -> bool:
    """True for a library that can be imported."""
    return find_spec(library) is not None


def require(library: str, why: str) -> None:
    """Refuse a library that is not there.

    Raises:
        ConfigError: With the name that pip knows.
    """
    if not installed(library):
        raise ConfigError(f'{library} is not installed: {packages.pip_install(library)}', key=why)
    packages.require(library, why)


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
            'of no library that is imported on the word of a checkpoint',
            key='the config in the checkpoint: type',
            got=kind,
            fix='Give --source-config.',
        )
    with _registry(scope if installed(scope) else library) as registry:
        found = registry.module_dict.get(name)
        if found is None and scope == library and registry.parent:
            found = registry.parent.module_dict.get(name)
        names = list(registry.module_dict)
        if found is None and trusted:
            found = _imported(registry, kind)
    if found is None:
        raise ConfigError(
            f'{library} has no such class; {nearest(name, names)}', key='type', got=kind
        )
    return found


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


def check_model_name(library: str, name: str, what: str = '--arch') -> None:
    """Refuse a model that a library does not have.

    Raises:
        ConfigError: Names the nearest.
    """
    if name not in model_names(library):
        near = nearest(name, model_names(library))
        raise ConfigError(f'{library} has no such model; {near}', key=what, got=name)


def model_names(library: str) -> list[str]:
    """All models of a library."""
    if library == 'timm':
        return importlib.import_module('timm').list_models()
    return importlib.import_module('torchvision').models.list_models()


def build_model(library: str, name: str, **options: Any) -> nn.Module:
    """A model without its classifier."""
    if library == 'timm':
        return importlib.import_module('timm').create_model(name, **_arguments(name), **options)
    net = importlib.import_module('torchvision').models.get_model(name, weights=None)
    setattr(net, head_name(net), nn.Identity())
    return net


def load_model(library: str, name: str, path: str) -> nn.Module:
    """A model without its classifier, with the weights of a file."""
    if library == 'timm':
        return build_model(library, name, checkpoint_path=path)
    net = build_model(library, name)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net


def head_name(net: nn.Module) -> str:
    """Name of the classifier of a torchvision model."""
    return next(name for name in HEADS if hasattr(net, name))


def model_inputs(library: str, name: str) -> dict[str, Any]:
    """The input that a library's own weights expect, as a data preprocessor."""
    if library == 'torchvision':
        return IMAGENET
    config = importlib.import_module('timm').get_pretrained_cfg(name)
    if config is None:
        return IMAGENET
    scaled = {key: [255 * value for value in getattr(config, key)] for key in ('mean', 'std')}
    return dict(**scaled, bgr_to_rgb=True)


def model_code(library: str, name: str, path: str) -> str:
    """Python that builds the model and loads the file."""
    if library == 'timm':
        options = ', '.join(f'{key}={value!r}' for key, value in _arguments(name).items())
        return f'import timm\n\nmodel = timm.create_model({name!r}, {options}, ' + (
            f'checkpoint_path={path!r})'
        )
    head = head_name(importlib.import_module('torchvision').models.get_model(name, weights=None))
    return '\n'.join(
        [
            'import torch, torchvision',
            '',
            f'model = torchvision.models.{name}()',
            f'model.{head} = torch.nn.Identity()  # put your own head here after loading',
            f'model.load_state_dict(torch.load({path!r}, weights_only=True))',
        ]
    )


@contextmanager
def silenced_logs() -> Iterator[None]:
    """Silence MMEngine below an error, in its log and on standard output."""
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
    with silenced_logs(), MODELS.switch_scope_and_registry(scope) as registry:
        registry.import_from_location()
        yield registry


def _imported(registry: Registry, kind: str) -> Any:
    try:
        return registry.get(kind)
    except (KeyError, RuntimeError):
        return None


def _arguments(name: str) -> dict[str, Any]:
    """Arguments that leave the classifier away in timm; its HRNets have a second part of it."""
    if name.startswith('hrnet'):
        return dict(features_only=True, feature_location='')
    return dict(num_classes=0)
