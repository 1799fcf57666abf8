"""Networks that are trained beside the student and given back, too."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS

from kdmm.errors import ConfigError


def build_peer(config: Mapping[str, Any]) -> Any:
    """A network of a base library with initial weights of its own."""
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
            'load_from: its weights would reach the first of the peers only. All of them read '
            "model.init_cfg=dict(type='Pretrained', checkpoint=...), and would start alike"
        )
