"""Networks that are trained beside the student and are results of the run, too."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from kdmm.errors import ConfigError
from kdmm.teachers.teacher import load_model_config
from kdmm.utils.normalization import Normalization


def build_peer(config: Mapping[str, Any]) -> Any:
    """Build a network of a base library with its own initial weights."""
    network = ROOT_MODELS.build(copy.deepcopy(dict(config)))
    network.init_weights()
    return network


def refuse_one_start(loaded: bool, resumed: bool) -> None:
    """Refuse ``load_from``, which names weights for the student alone.

    Raises:
        ConfigError: If the student's weights came from a checkpoint and the run is not resumed.
    """
    if loaded and not resumed:
        raise ConfigError(
            'its weights would reach the first of the peers only',
            key='load_from',
            fix="All of them read model.init_cfg=dict(type='Pretrained', checkpoint=...), and "
            'would start alike.',
        )


def other_configs(peers: Any, config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Model configs of the networks beside the student.

    Args:
        peers: How many networks with the student, or a list of the others: model dicts, or names of
            config files, also ``package::path``, whose models are meant. A config without a
            ``data_preprocessor`` takes the student's.
        config: The student's.

    Raises:
        ConfigError: If there would be fewer than two networks, or a config cannot be read.
    """
    if type(peers) is int and peers >= 2:
        return [config] * (peers - 1)
    if isinstance(peers, Sequence) and not isinstance(peers, str) and peers:
        same = {key: config[key] for key in ('data_preprocessor',) if key in config}
        return [{**same, **_model_of(item)} for item in peers]
    raise ConfigError(
        key='kd.peers',
        got=peers,
        expected='the number of networks, 2 or more, or a list of model configs of those beside '
        'the student',
    )


def build_others(
    configs: Sequence[Mapping[str, Any]], keep: int, student: nn.Module
) -> dict[str, nn.Module]:
    """Build the peers, ``peer<place>`` by name; the student has the place ``keep``.

    Raises:
        ConfigError: If ``keep`` is no place, or a peer prepares images otherwise than the student.
    """
    places = range(len(configs) + 1)
    if type(keep) is not int or keep not in places:
        raise ConfigError(key='kd.keep', got=keep, expected=f'a place from 0 to {len(configs)}')
    names = [f'peer{place}' for place in places if place != keep]
    others = {name: build_peer(config) for name, config in zip(names, configs, strict=True)}
    for name, peer in others.items():
        if not _normalization(peer).same_as(_normalization(student)):
            raise ConfigError(
                f'the data_preprocessor of {name} ({type(peer).__name__}) gives other values than '
                "the student's, and all peers see one batch",
                key='kd.peers',
                fix='Give them one mean, std, channel order and pad value.',
            )
    return others


def _normalization(network: nn.Module) -> Normalization:
    return Normalization.of(network.get_submodule('data_preprocessor'))


def _model_of(item: Any) -> Mapping[str, Any]:
    if isinstance(item, str):
        model, scope = load_model_config(item, 'kd.peers')
        return {**model, '_scope_': scope}
    if not isinstance(item, Mapping):
        raise ConfigError(key='kd.peers', got=item, expected='model dicts or names of configs')
    return item
