"""Extraction of a smaller network from one with filters that are zero.

A zero filter is no zero channel: through BatchNorm in eval mode it emits the constant
c = beta - gamma * mean / sqrt(var + eps) at every position. What reads the channel gets the
constant in another form, see `extract`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError
from kdmm.models.pruned_resnet import (
    SUPPORTED,
    Layout,
    PrunedBlock,
    check_parts,
    narrow,
    residual_blocks,
)
from kdmm.pruning.update import zero_filters

Mode = Literal['exact', 'fold', 'drop', 'interior']
MODES: tuple[Mode, ...] = get_args(Mode)
#: Modes whose network computes what the one with zeros does.
EXACT: tuple[Mode, ...] = ('exact', 'interior')
#: Where the models of all base libraries have it.
BACKBONE = 'backbone'


@dataclass(frozen=True)
class Extraction:
    """A smaller network.

    Attributes:
        model: The network, with its weights; its state dict is what a checkpoint holds.
        widths: Convolution of the backbone to filters that are left, where some are not: of
            `kdmm.models.narrow`.
        constant_inputs: Likewise of `kdmm.models.narrow`.
        kept: Every convolution of the backbone's residual blocks to (K,), the filters that are not
            zero, which are those that are left where ``widths`` has it.
        filters: The same convolutions to their number of filters.
        elsewhere: Convolutions outside of the residual blocks to their number of zero filters,
            which stay.
    """

    model: nn.Module
    widths: dict[str, int]
    constant_inputs: list[str]
    kept: dict[str, Tensor]
    filters: dict[str, int]
    elsewhere: dict[str, int]


def emitted(conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """The channels of BatchNorm in eval mode behind filters that are zero, (N,) in float64."""
    part: Any = norm
    mean, var = part.running_mean.double(), part.running_var.double()
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.detach().double()
    value = (bias - mean) / (var + part.eps).sqrt()
    if part.weight is not None:
        value = value * part.weight.detach().double() + part.bias.detach().double()
    return value


@torch.no_grad()
def extract(model: nn.Module, mode: Mode = 'exact') -> Extraction:
    """Build the network without the zero filters of the residual blocks of ``model.backbone``.

    Convolutions on shortcuts, the stem and all that follows the backbone stay as they are, and so
    does the width of the stream that the blocks add to.

    =========== ==================================== ===================================
    ``mode``    constants of channels inside blocks  zero filters at the end of a block
    =========== ==================================== ===================================
    exact       1x1: in the running mean behind it;  left out; their constants are added
                padded: an input channel of ones     to the stream
    interior    as ``exact``                         stay
    fold        in the running mean, as if there     as ``exact``
                were no border
    drop        left out                             as ``exact``
    =========== ==================================== ===================================

    ``exact`` and ``interior`` compute what ``model`` does in eval mode; ``fold`` and ``drop`` do so
    where the constants are 0. In a layer of nothing but zero filters the first one stays.

    Args:
        model: Of a base library, only read.
        mode: One of `MODES`.

    Raises:
        ConfigError: If the backbone is not known, has parts that are not, or has no filter that can
            go.
    """
    if mode not in MODES:
        raise ConfigError(key='mode', got=mode, expected=f'one of {", ".join(MODES)}')
    backbone = getattr(model, BACKBONE, None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError(
            f'{type(model).__name__} has none', key=f'model.{BACKBONE}', expected=SUPPORTED
        )
    blocks = list(residual_blocks(backbone))
    if any(isinstance(part, PrunedBlock) for part in backbone.modules()):
        raise ConfigError(
            'the network was extracted before', key=f'model.{BACKBONE}', got='kdmm.PrunedResNet'
        )
    if not blocks:
        raise ConfigError(key=f'model.{BACKBONE}', got=type(backbone).__name__, expected=SUPPORTED)
    found = Extraction(copy.deepcopy(model), {}, [], {}, {}, _elsewhere(model, blocks))
    state: dict[str, Tensor] = {}
    for path, block, layout in blocks:
        state.update(_narrowed(path, block, layout, mode, found))
    if not found.widths:
        raise ConfigError(_nothing(found, mode), key='checkpoint')
    small: Any = found.model
    narrow(small.backbone, found.widths, found.constant_inputs)
    own = small.backbone.state_dict()
    own.update({key: value.to(own[key].dtype) for key, value in state.items()})
    small.backbone.load_state_dict(own)
    return found


def _narrowed(
    path: str, block: nn.Module, layout: Layout, mode: Mode, found: Extraction
) -> Mapping[str, Tensor]:
    """Add a block's layers to ``found``, and return its new weights by their keys."""
    pairs: list[tuple[Any, Any]] = [
        (block.get_submodule(conv), block.get_submodule(norm))
        for conv, norm in zip(layout.convs, layout.norms, strict=True)
    ]
    names = [f'{path}.{conv}' for conv in layout.convs]
    kept = [_kept(conv) for conv, _ in pairs]
    for name, (conv, _), places in zip(names, pairs, kept, strict=True):
        found.kept[name], found.filters[name] = places, conv.out_channels
    if mode == 'interior':
        kept[-1] = torch.arange(pairs[-1][0].out_channels)
    fewer = [len(k) < conv.out_channels for k, (conv, _) in zip(kept, pairs, strict=True)]
    if not any(fewer):
        return {}
    check_parts(path, block, layout)
    found.widths.update({n: len(k) for n, k, less in zip(names, kept, fewer, strict=True) if less})
    state: dict[str, Tensor] = {}
    constants = torch.zeros(0)
    for number, (conv, norm) in enumerate(pairs):
        weight = conv.weight.detach()[kept[number]]
        if number:  # (K, C_in, k, k) -> (K, K_in, k, k), and what the other inputs give
            rest = (weight.double() * constants.view(1, -1, 1, 1)).sum(1, keepdim=True)
            weight = weight[:, kept[number - 1]]
        own = {key: value.detach() for key, value in norm.state_dict().items()}
        own = {key: value[kept[number]] if value.ndim else value for key, value in own.items()}
        if number and mode != 'drop' and bool(rest.any()):
            if mode != 'fold' and any(conv.padding):
                weight = torch.cat([weight, rest.to(weight.dtype)], 1)
                found.constant_inputs.append(names[number])
            else:
                mean = own['running_mean'].double() - rest.sum((1, 2, 3))
                own['running_mean'] = mean.to(own['running_mean'].dtype)
        state[f'{names[number]}.weight'] = weight
        if conv.bias is not None:
            state[f'{names[number]}.bias'] = conv.bias.detach()[kept[number]]
        state |= {f'{path}.{layout.norms[number]}.{key}': value for key, value in own.items()}
        constants = emitted(conv, norm)
        if number < len(pairs) - 1:
            constants = layout.activation(constants)
        constants[kept[number]] = 0
    if fewer[-1]:
        state |= {f'{path}.kept': kept[-1], f'{path}.constants': constants.view(1, -1, 1, 1)}
    return state


def _kept(conv: nn.Conv2d) -> Tensor:
    """(K,), ascending; the first filter if all are zero."""
    places = torch.nonzero(~zero_filters(conv)).flatten()
    return places if len(places) else places.new_zeros(1)


def _elsewhere(model: nn.Module, blocks: list[tuple[str, nn.Module, Layout]]) -> dict[str, int]:
    known = {block.get_submodule(conv) for _, block, layout in blocks for conv in layout.convs}
    counts = {
        name: int(zero_filters(conv).sum())
        for name, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d) and conv not in known
    }
    return {name: count for name, count in counts.items() if count}


def _nothing(found: Extraction, mode: Mode) -> str:
    zeros = sum(found.filters[name] - len(places) for name, places in found.kept.items())
    if zeros:
        return (
            f'mode {mode!r} leaves the ends of blocks as they are, and no other layer has a zero '
            'filter'
        )
    beside = f', {sum(found.elsewhere.values())} in others, which stay' if found.elsewhere else ''
    return (
        f'it has no zero filter in the {len(found.kept)} convolutions of residual blocks{beside}: '
        'it was not pruned, or averaged or trained on since'
    )
