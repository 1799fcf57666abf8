"""Telling a network by the names and shapes of its weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: Blocks a stage, bottlenecks or not, to depth.
DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


RESNET_KEY = re.compile(r'layer\d\.\d+\.(?:(?:conv|bn)\d|downsample\.\d)\.\w+')


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
    """Whether a ResNet has a deep stem, and pooling shortcuts, behind which weights come second."""
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
