"""Residual networks with a width for every convolution, made from those of the base libraries.

Soft filter pruning (arXiv 2010.09498, and SFP before it, IJCAI 2018) leaves other filters in every
layer of a stage, while the stream that residual blocks add to keeps its width. So the last
convolution of a block computes the filters that are left, and its result is added at their places.
The network is built by its own library and then narrowed in place: stem, dilations, frozen stages
and shortcuts stay as that library has them, and so do the names of all weights.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, nearest
from ..registry import MODELS
from .backbones.resnet import ResidualBlock
from .recompute import uncounted

#: Modules of the base libraries whose ``BasicBlock`` and ``Bottleneck`` are known.
KNOWN = tuple(
    f'{library}.models.backbones.resnet' for library in ('mmpretrain', 'mmseg', 'mmdet', 'mmpose')
)
#: The same in words.
SUPPORTED = (
    "a backbone of basic blocks or bottlenecks: the base libraries' ResNet, ResNetV1c and "
    "ResNetV1d, HRNet, or kdmm's CIFARResNet"
)


@dataclass(frozen=True)
class Layout:
    """The parts of a residual block, by their paths within it.

    Attributes:
        convs: Convolutions of the branch, in order.
        norms: The norm behind each.
        skip: The shortcut; it may be None in the block.
        activation: Between the convolutions, and behind the sum.
    """

    convs: tuple[str, ...]
    norms: tuple[str, ...]
    skip: str
    activation: nn.Module


def layout_of(block: nn.Module) -> Layout | None:
    """Return the layout of a residual block, None for any other module."""
    if isinstance(block, ResidualBlock):
        places = [n for n, part in enumerate(block.branch) if isinstance(part, nn.Conv2d)]
        return Layout(
            tuple(f'branch.{n}' for n in places),
            tuple(f'branch.{n + 1}' for n in places),
            'skip',
            nn.ReLU(inplace=True),
        )
    kind: Any = type(block)
    if kind.__module__ not in KNOWN or kind.__name__ not in ('BasicBlock', 'Bottleneck'):
        return None
    known: Any = block
    count = 2 if kind.__name__ == 'BasicBlock' else 3
    return Layout(
        tuple(f'conv{n}' for n in range(1, count + 1)),
        tuple(getattr(known, f'norm{n}_name') for n in range(1, count + 1)),
        'downsample',
        known.relu,
    )


def residual_blocks(net: nn.Module) -> Iterator[tuple[str, nn.Module, Layout]]:
    """Yield path, module and layout of every residual block in ``net``, in its order."""
    for path, module in net.named_modules():
        layout = layout_of(module)
        if layout is not None:
            yield path, module, layout


class ConstantInputConv(nn.Conv2d):
    """A convolution with one more input channel, which is 1 everywhere.

    It stands for pruned filters in front: they emitted a constant each, and the zero padding, which
    takes them away at the border, does the same to it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in - 1, H, W) -> (B, C_out, H', W')."""
        return super().forward(F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0))


class PrunedBlock(nn.Module):
    """A residual block whose branch has fewer channels than the stream that it adds to.

    It computes act(index_add(skip(x) + constants, kept, branch(x))). The weights keep the names
    that they have in the block.

    Attributes:
        kept: (K,), ascending; the places of the branch's channels among the C of the stream.
            The first K until a checkpoint is loaded.
        constants: (1, C, 1, 1), what the filters that are gone emitted; 0 at ``kept``.

    Args:
        block: Whose parts become this one's.
        layout: Of ``block``.
        width: C.
        left: K.
    """

    kept: Tensor
    constants: Tensor

    def __init__(self, block: nn.Module, layout: Layout, width: int, left: int) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)
        self.layout = layout
        self.with_cp = bool(getattr(block, 'with_cp', False))
        weight = self.get_submodule(layout.convs[0]).weight
        assert isinstance(weight, Tensor)
        self.register_buffer('kept', torch.arange(left, device=weight.device))
        self.register_buffer('constants', weight.detach().new_zeros(1, width, 1, 1))
        self.training = block.training

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            y: Tensor = checkpoint(
                self._sum, x, use_reentrant=False,
                context_fn=lambda: (nullcontext(), uncounted(self)),
            )  # fmt: skip
        else:
            y = self._sum(x)
        return self.layout.activation(y)

    def _sum(self, x: Tensor) -> Tensor:
        y = x
        for number, names in enumerate(zip(self.layout.convs, self.layout.norms, strict=True)):
            y = self.layout.activation(y) if number else y
            for name in names:
                y = _part(self, name)(y)
        drop_path: Any = getattr(self, 'drop_path', None)  # MMPretrain's
        y = y if drop_path is None else drop_path(y)  # (B, K, H', W')
        skip = getattr(self, self.layout.skip, None)
        x = (x if skip is None else skip(x)).to(y.dtype)
        # (B, C, H', W')
        return (x + self.constants.to(y.dtype)).index_add_(1, self.kept, y)

    def extra_repr(self) -> str:
        """Channels that are left."""
        return f'{len(self.kept)} of {self.constants.shape[1]} channels'


def check_parts(path: str, block: nn.Module, layout: Layout) -> None:
    """Refuse a residual block with parts that narrowing would change in an unknown way.

    Raises:
        ConfigError: Names the block and the part.
    """
    problem = ''
    for conv, norm in zip(layout.convs, layout.norms, strict=True):
        filters, statistics = block.get_submodule(conv), block.get_submodule(norm)
        if type(filters) is not nn.Conv2d or filters.groups != 1:
            problem = f'{conv} is no plain convolution of one group ({filters})'
        elif filters.padding_mode != 'zeros' or isinstance(filters.padding, str):
            problem = f'{conv} is not padded by a number of zeros ({filters})'
        elif not isinstance(statistics, _BatchNorm) or statistics.running_mean is None:
            problem = f'{norm} is no BatchNorm with running statistics ({statistics})'
    if getattr(block, 'with_plugins', False):
        problem = 'it has plugins'
    if next(layout.activation.parameters(), None) is not None:
        problem = f'its activation has weights ({layout.activation})'
    if problem:
        raise ConfigError(
            f'{path}: {problem}, so that its filters cannot be taken out',
            key='model.backbone',
            expected='residual blocks of plain convolutions, BatchNorm and an activation',
        )


def narrow(
    net: nn.Module, widths: Mapping[str, int], constant_inputs: Collection[str] = ()
) -> nn.Module:
    """Narrow convolutions of residual blocks in place; what is narrowed has weights of no meaning.

    Args:
        net: Of residual blocks, see `residual_blocks`.
        widths: Path of a convolution to the number of its filters that are left. The last one of a
            block adds to a part of the stream, see `PrunedBlock`.
        constant_inputs: Convolutions that get an input that is 1 everywhere, see
            `ConstantInputConv`.

    Returns:
        ``net``.

    Raises:
        ConfigError: For paths that are no convolution of a residual block, or its first for
            ``constant_inputs``; for widths beyond the filters; for parts that are not known.
    """
    found = list(residual_blocks(net))
    if not found:
        raise ConfigError(key='model.backbone', got=type(net).__name__, expected=SUPPORTED)
    every = [[f'{path}.{conv}' for conv in layout.convs] for path, _, layout in found]
    allowed = dict(
        widths=[name for names in every for name in names],
        constant_inputs=[name for names in every for name in names[1:]],
    )
    for key, names in (('widths', widths), ('constant_inputs', constant_inputs)):
        for name in names:
            if name not in allowed[key]:
                near = nearest(name, allowed[key])
                raise ConfigError(
                    f'no such convolution; {near}', key=f'PrunedResNet.{key}', got=name
                )
    for path, block, layout in found:
        names = {f'{path}.{conv}' for conv in layout.convs}
        if names & {*widths, *constant_inputs}:
            check_parts(path, block, layout)
            _replace(net, path, _narrowed(path, block, layout, widths, constant_inputs))
    return net


@MODELS.register_module(name='PrunedResNet')
def pruned_resnet(
    backbone: Mapping[str, Any], widths: Mapping[str, int], constant_inputs: Collection[str] = ()
) -> nn.Module:
    """Build a backbone and narrow it: ``type='kdmm.PrunedResNet'``, as ``tools/prune.py`` writes.

    The result is of the backbone's own class. Its places in the stream are in the checkpoint, so
    one without its checkpoint is a network of the right size and of no meaning.

    Args:
        backbone: Its config, with the scope of its library: ``type='mmseg.ResNetV1c'``.
        widths: As in `narrow`.
        constant_inputs: As in `narrow`.

    Raises:
        ConfigError: As `narrow`.
    """
    return narrow(ROOT_MODELS.build(backbone), widths, constant_inputs)


def _narrowed(
    path: str,
    block: nn.Module,
    layout: Layout,
    widths: Mapping[str, int],
    constant_inputs: Collection[str],
) -> nn.Module:
    left = 0
    for number, (conv, norm) in enumerate(zip(layout.convs, layout.norms, strict=True)):
        filters: Any = block.get_submodule(conv)
        name, width = f'{path}.{conv}', filters.out_channels
        inputs = left if number else filters.in_channels
        left = widths.get(name, width)
        if type(left) is not int or not 1 <= left <= width:
            raise ConfigError(
                key=f'PrunedResNet.widths[{name!r}]', got=left, expected=f'1 to {width}'
            )
        kind = ConstantInputConv if name in constant_inputs else nn.Conv2d
        _replace(block, conv, _conv(kind, filters, inputs, left))
        _replace(block, norm, _norm(block.get_submodule(norm), left))
    return block if left == width else PrunedBlock(block, layout, width, left)


def _conv(kind: type[nn.Conv2d], old: nn.Conv2d, inputs: int, outputs: int) -> nn.Conv2d:
    new = kind(
        inputs + (kind is ConstantInputConv),
        outputs,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    new.weight.requires_grad_(old.weight.requires_grad)
    if new.bias is not None and old.bias is not None:
        new.bias.requires_grad_(old.bias.requires_grad)
    return new.train(old.training)


def _norm(old: Any, channels: int) -> nn.Module:
    new = copy.deepcopy(old)
    new.num_features = channels
    for name, value in new.named_parameters(recurse=False):
        part = value.detach()[:channels].clone()
        setattr(new, name, nn.Parameter(part, value.requires_grad))
    for name, value in new.named_buffers(recurse=False):
        if value.ndim:  # not the counter of batches
            setattr(new, name, value[:channels].clone())
    return new


def _part(module: Any, path: str) -> Any:
    """``get_submodule`` without its checks, which take longer than some of the convolutions."""
    for name in path.split('.'):
        module = module._modules[name]
    return module


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition('.')
    setattr(root.get_submodule(parent), name, module)
