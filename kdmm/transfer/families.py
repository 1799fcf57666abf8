"""What is particular to a family of networks: names of keys, stages, heads, and traits.

A family is found by the names of a network's classes. What is in no row of the table is converted
where keys and shapes fit by name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

HEADS = ('fc', 'head', 'heads', 'classifier')


def own_names(keys: Iterable[str]) -> dict[str, str]:
    """Every key under its own name."""
    return {key: key for key in keys}


def resnet_names(keys: Iterable[str]) -> dict[str, str]:
    """Key to a name that all libraries share.

    Two parts are counted differently: a deep stem (``stem.3``, ``stem.1.conv``, ``conv1.3``; its
    last norm is ``stem.7``, ``stem.2.bn``, ``bn1``) and a shortcut (with or without a pooling
    layer in front). Here both are numbered by the layers that have weights.
    """
    parts = {key: key.split('.') for key in keys}
    deep = any(part[0] == 'stem' or part == ['conv1', '0', 'weight'] for part in parts.values())
    places = {key: _place(part, deep) for key, part in parts.items()}
    groups: dict[str, set[tuple[int, int]]] = {}
    for group, place in filter(None, places.values()):
        groups.setdefault(group, set()).add(place)
    return {
        key: f'{where[0]}.{sorted(groups[where[0]]).index(where[1])}.{parts[key][-1]}'
        if where
        else key
        for key, where in places.items()
    }


def _place(part: list[str], deep: bool) -> tuple[str, tuple[int, int]] | None:
    """The group that a key's layer is counted in, and what it is sorted by there."""
    if deep and part[0] in ('stem', 'conv1') and part[1].isdigit():
        return 'stem', (int(part[1]), int(len(part) == 4 and part[2] != 'conv'))
    if deep and part[0] == 'bn1':
        return 'stem', (1000, 0)  # behind all others
    if len(part) == 5 and part[2] == 'downsample' and part[3].isdigit():
        return '.'.join(part[:3]), (int(part[3]), 0)
    return None


def no_traits(net: nn.Module) -> dict[str, Any]:
    """Of a network that nothing is known of: the comparison of features decides alone."""
    return {}


def any_traits(net: nn.Module) -> dict[str, Any]:
    """What changes the features of a network of convolutions and not its weights."""
    layers = list(net.modules())
    return dict(
        norm=_listed({_norm(layer) for layer in layers} - {''}),
        activation=_listed(
            {
                type(layer).__name__
                for layer in layers
                if type(layer).__module__ == 'torch.nn.modules.activation'
            }
        ),
        convolution=_listed({type(x).__name__ for x in layers if isinstance(x, nn.Conv2d)}),
        upsample=_listed({str(x.mode) for x in layers if isinstance(x, nn.Upsample)
                          or type(x).__name__ == 'Upsample'}),
    )  # fmt: skip


def resnet_traits(net: nn.Module) -> dict[str, Any]:
    """Of the libraries' ResNets; torchvision and timm have the pytorch style."""
    pools = any('.downsample.' in name and isinstance(layer, nn.AvgPool2d)
                for name, layer in net.named_modules())  # fmt: skip
    deep = hasattr(net, 'stem') or isinstance(getattr(net, 'conv1', None), nn.Sequential)
    bottleneck = any(name == 'layer1.0.conv3' for name, _ in net.named_modules())
    return dict(
        deep_stem=bool(getattr(net, 'deep_stem', deep)),
        avg_down=bool(getattr(net, 'avg_down', pools)),
        **(dict(style=getattr(net, 'style', 'pytorch')) if bottleneck else {}),
        **any_traits(net),
    )


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        classes: A network belongs here if one of its classes has one of these names.
        names: Keys to names that all libraries share.
        stages: Children whose outputs are compared; none: what the network returns.
        heads: Parts of a classifier that a backbone lacks.
        surplus: Pattern of weights that a target may lack, because it has fewer outputs.
        plain: Arguments that are in no weight, with values that every library has.
        traits: Name to value of what changes the features and not the shapes.
    """

    classes: tuple[str, ...] = ()
    names: Callable[[Iterable[str]], dict[str, str]] = own_names
    stages: tuple[str, ...] = ()
    heads: tuple[str, ...] = HEADS
    surplus: str = r'(?!)'
    plain: Mapping[str, Any] = field(default_factory=dict)
    traits: Callable[[nn.Module], dict[str, Any]] = no_traits

    def is_head(self, key: str) -> bool:
        """Whether a key that the network has no place for belongs to a classifier."""
        return key.split('.')[0] in self.heads

    def is_surplus(self, key: str) -> bool:
        """Whether a key belongs to outputs that a target may lack."""
        return re.match(self.surplus, key) is not None


FAMILIES = (
    Family(
        classes=('ResNet',),
        names=resnet_names,
        stages=('layer1', 'layer2', 'layer3', 'layer4'),
        plain=dict(
            strides=(1, 2, 2, 2),
            dilations=(1, 1, 1, 1),
            contract_dilation=False,
            multi_grid=None,
        ),
        traits=resnet_traits,
    ),
    Family(
        classes=('HRNet', 'HighResolutionNet'),
        stages=('layer1', 'stage2', 'stage3', 'stage4'),
        heads=(*HEADS, 'incre_modules', 'downsamp_modules', 'final_layer'),
        surplus=r'stage4\.\d+\.fuse_layers\.[1-9]',
        traits=any_traits,
    ),
)
OTHER = Family()


def family_of(net: nn.Module) -> Family:
    """The row of the table for a network."""
    names = {cls.__name__ for cls in type(net).__mro__}
    return next((row for row in FAMILIES if names & set(row.classes)), OTHER)


def _norm(layer: nn.Module) -> str:
    if isinstance(layer, _BatchNorm):
        return f'BatchNorm eps {layer.eps:g}'  # synchronised or not: the same in eval mode
    if isinstance(layer, nn.GroupNorm):
        return f'GroupNorm({layer.num_groups}) eps {layer.eps:g}'
    return f'LayerNorm eps {layer.eps:g}' if isinstance(layer, nn.LayerNorm) else ''


def _listed(names: set[str]) -> str:
    return ', '.join(sorted(names)) or 'none'
