"""Backbones that torchvision and timm build by name."""

import importlib
from typing import Any

import torch
from torch import nn

from kdmm.errors import ConfigError, nearest
from kdmm.transfer.families import HEADS

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def check_name(library: str, name: str, what: str = '--arch') -> None:
    """Refuse a model that a library does not have.

    Raises:
        ConfigError: Names the nearest.
    """
    if name not in names(library):
        raise ConfigError(f'{what}: {library} has no model {name!r}; {_near(library, name)}')


def names(library: str) -> list[str]:
    """All models of a library."""
    if library == 'timm':
        return importlib.import_module('timm').list_models()
    return importlib.import_module('torchvision').models.list_models()


def build(library: str, name: str, **options: Any) -> nn.Module:
    """A model without its classifier."""
    if library == 'timm':
        return importlib.import_module('timm').create_model(name, **_arguments(name), **options)
    net = importlib.import_module('torchvision').models.get_model(name, weights=None)
    setattr(net, head_name(net), nn.Identity())
    return net


def load(library: str, name: str, path: str) -> nn.Module:
    """A model without its classifier, with the weights of a file."""
    if library == 'timm':
        return build(library, name, checkpoint_path=path)
    net = build(library, name)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net


def head_name(net: nn.Module) -> str:
    """What a torchvision model calls its classifier."""
    return next(name for name in HEADS if hasattr(net, name))


def inputs(library: str, name: str) -> dict[str, Any]:
    """The input that a library's own weights expect, as a data preprocessor."""
    if library == 'torchvision':
        return IMAGENET
    config = importlib.import_module('timm').get_pretrained_cfg(name)
    if config is None:
        return IMAGENET
    scaled = {key: [255 * value for value in getattr(config, key)] for key in ('mean', 'std')}
    return dict(**scaled, bgr_to_rgb=True)


def code(library: str, name: str, path: str) -> str:
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


def _arguments(name: str) -> dict[str, Any]:
    """What leaves the classifier away in timm; its HRNets have a second part of it."""
    if name.startswith('hrnet'):
        return dict(features_only=True, feature_location='')
    return dict(num_classes=0)


def _near(library: str, name: str) -> str:
    return nearest(name, names(library))
