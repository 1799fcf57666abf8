"""Families of networks: names of keys, stages, heads, traits, and recognition by weights.

A family is found by the names of a network's classes. A network that is in no row of the table is
converted where keys and shapes fit by name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

HEADS = ('fc', 'head', 'heads', 'classifier')

#: Blocks a stage, bottlenecks or not, to depth.
DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
RESNET_KEY = re.compile(r'layer\d\.\d+\.(?:(?:conv|bn)\d|downsample\.\d)\.\w+')


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
    """None, for an unknown network: the comparison of features decides alone."""
    return {}


def any_traits(net: nn.Module) -> dict[str, Any]:
    """Traits of a network of convolutions: they change its features and not its weights."""
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
    """Traits of the libraries' ResNets; torchvision and timm have the pytorch style."""
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


def _norm(layer: nn.Module) -> str:
    if isinstance(layer, _BatchNorm):
        return f'BatchNorm eps {layer.eps:g}'  # synchronised or not: the same in eval mode
    if isinstance(layer, nn.GroupNorm):
        return f'GroupNorm({layer.num_groups}) eps {layer.eps:g}'
    return f'LayerNorm eps {layer.eps:g}' if isinstance(layer, nn.LayerNorm) else ''


def _listed(names: set[str]) -> str:
    return ', '.join(sorted(names)) or 'none'


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
        """True for a key of a classifier, among those that the network has no place for."""
        return key.split('.')[0] in self.heads

    def is_surplus(self, key: str) -> bool:
        """True for a key of outputs that a target may lack."""
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


@dataclass(frozen=True)
class Recognised:
    """A network of a well-known form.

    Attributes:
        phrase: For sentences, 'a ResNet of depth 50'.
        title: Short, 'ResNet-50'.
        model_name: What timm and torchvision call it.
        args: Its config in the OpenMMLab libraries, with ``type``.
        certain: Whether nothing that changes the features is open. A bottleneck may have its
            stride in either of two convolutions, an HRNet may scale up in more than one way.
    """

    phrase: str
    title: str
    model_name: str
    args: dict[str, Any]
    certain: bool


def recognise(state: Mapping[str, Tensor]) -> Recognised | None:
    """The network that ``state`` belongs to, if it is a plain ResNet or HRNet."""
    return _resnet(state) or _hrnet(state)


def count(state: Mapping[str, Tensor], stem: str) -> int:
    """Number of consecutive ``<stem>.0.``, ``<stem>.1.``, ... that have weights."""
    pattern = re.compile(re.escape(stem) + r'\.(\d+)\.')
    found = {int(match[1]) for key in state if (match := pattern.match(key))}
    return len(found) if found == set(range(len(found))) else 0


def _resnet(state: Mapping[str, Tensor]) -> Recognised | None:
    blocks = tuple(count(state, f'layer{stage}') for stage in (1, 2, 3, 4))
    bottleneck = 'layer1.0.conv3.weight' in state
    depth = DEPTHS.get((blocks, bottleneck))
    layers = [key for key in state if key.startswith('layer')]
    if depth is None or not all(RESNET_KEY.fullmatch(key) for key in layers):
        return None
    first, inner = (state.get(f'layer1.0.conv{index}.weight') for index in (1, 2))
    width = 0 if first is None else first.shape[0]
    if inner is None or inner.shape[:2] != (width, width):
        return None  # grouped or wide: of other families
    if bottleneck and state['layer1.0.conv3.weight'].shape[0] != 4 * width:
        return None
    return _named_resnet(depth, width, *_variant(state), bottleneck)


def _variant(state: Mapping[str, Tensor]) -> tuple[bool, bool]:
    """Find a deep stem, and pooling shortcuts, behind which weights come second, in a ResNet."""
    deep = any(key in state for key in ('stem.0.weight', 'stem.0.conv.weight', 'conv1.0.weight'))
    second = [key for key in state if key.endswith('.downsample.1.weight')]
    return deep, any(state[key].dim() == 4 for key in second)


def _named_resnet(depth: int, width: int, deep: bool, pooled: bool, hidden: bool) -> Recognised:
    letter = {(True, False): 'c', (True, True): 'd'}.get((deep, pooled), '')
    wide = '' if width == 64 else f' and width {width}'
    args: dict[str, Any] = dict(type='ResNet', depth=depth)
    if wide:
        args.update(base_channels=width, stem_channels=width)
    return Recognised(
        phrase=f'a ResNet of depth {depth}{wide}',
        title=f'ResNet{letter and "V1"}{letter}-{depth}{wide}',
        model_name=f'resnet{depth}{letter}',
        args=args | ({'deep_stem': True} if deep else {}) | ({'avg_down': True} if pooled else {}),
        certain=not (hidden or deep or pooled or wide),
    )


def _hrnet(state: Mapping[str, Tensor]) -> Recognised | None:
    first = state.get('stage4.0.branches.0.0.conv1.weight')
    modules = tuple(count(state, f'stage{stage}') for stage in (2, 3, 4))
    blocks = {count(state, f'stage{stage}.0.branches.0') for stage in (2, 3, 4)}
    if first is None or modules != (1, 4, 3) or blocks != {4} or count(state, 'layer1') != 4:
        return None
    width = first.shape[0]
    extra = dict(stage1=_stage(1, 1, 'BOTTLENECK', 64))
    for branches, number in zip((2, 3, 4), modules, strict=True):
        extra[f'stage{branches}'] = _stage(number, branches, 'BASIC', width)
    return Recognised(
        phrase=f'an HRNet of width {width}',
        title=f'HRNet-W{width}',
        model_name=f'hrnet_w{width}',
        args=dict(type='HRNet', extra=extra),
        certain=False,
    )


def _stage(modules: int, branches: int, block: str, width: int) -> dict[str, Any]:
    return dict(
        num_modules=modules,
        num_branches=branches,
        block=block,
        num_blocks=(4,) * branches,
        num_channels=tuple(width * 2**branch for branch in range(branches)),
    )
