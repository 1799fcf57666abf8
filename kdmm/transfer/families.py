"""What is particular to a family of networks: names of keys, stages, heads, and traits.

A family is found by the names of a network's classes. What is in no row of the table is converted
where keys and shapes fit by name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdmm.transfer.key_names import own_names, resnet_names
from kdmm.transfer.traits import any_traits, no_traits, resnet_traits

HEADS = ('fc', 'head', 'heads', 'classifier')


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
