"""Choice of the convolutions that are pruned, and of the norm behind each."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdmm.config import SECTION
from kdmm.errors import ConfigError, nearest

#: Parts of names of what stays dense: shortcuts, and what joins the resolutions of HRNet.
DENSE = re.compile(r'^(downsample|skip|shortcut|identity|residual|fuse_layers|transition\d*)$')
#: Classes of attention over channels, whose outputs are weights of other layers' channels.
_ATTENTION = (
    'SELayer', 'SEModule', 'SqueezeExcite', 'SqueezeExcitation', 'EffectiveSELayer', 'ECALayer',
    'ChannelAttention',
)  # fmt: skip
#: Convolutions whose output does not depend on the norm of a filter.
_NORMALIZED = ('ConvWS2d', 'ConvAWS2d', 'NormedConv2d')


class Prunable(NamedTuple):
    """A convolution that is pruned.

    Attributes:
        name: Path in the model.
        conv: The convolution.
        norm: The BatchNorm that reads its output, if there is one.
    """

    name: str
    conv: nn.Conv2d
    norm: nn.Module | None


def select_prunable(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Prunable]:
    """Choose the convolutions of a model that soft filter pruning acts on.

    By default all those of its backbone (of the model, if it has none) without groups that are
    trained and not on a shortcut. Of a backbone with branches of several resolutions (HRNet) only
    residual blocks are pruned. Attention over channels (squeeze-and-excitation), depthwise and
    grouped convolutions, and convolutions that normalise their weights stay dense.
    What a ``kd`` section adds to a model is never chosen.

    Args:
        model: Of a base library, not wrapped; only read.
        include: Regular expressions, searched for in the names. Convolutions of mmcv's
            ``ConvModule`` or with a BatchNorm behind them that match one are chosen, too: of necks
            and heads, but not the layers that give a head's output; and shortcuts.
        exclude: Likewise; what matches one is not chosen.

    Raises:
        ConfigError: If an expression is none or matches nothing, a weight is shared by layers or
            computed from others, or nothing is left.
    """
    possible = {
        name: conv
        for name, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d)
        and conv.groups == 1
        and type(conv).__name__ not in _NORMALIZED
        and not name.startswith(f'{SECTION}.')
    }
    chosen = {name for name in possible if _by_default(model, name)}
    for pattern in _patterns('include', include):
        chosen |= {name for name in _matches('include', pattern, possible) if _inner(model, name)}
    for pattern in _patterns('exclude', exclude):
        chosen -= _matches('exclude', pattern, possible)
    found = [
        Prunable(name, conv, _norm_behind(model, name, conv))
        for name, conv in possible.items()
        if name in chosen and conv.weight.requires_grad
    ]
    if not found:
        raise ConfigError(
            f'{type(model).__name__} has no convolution to prune: trained, without groups and not '
            'on a shortcut, in its backbone or by include',
            key='include',
            got=list(include),
            expected='a regular expression that matches names such as backbone.layer1.0.conv1',
        )
    _check_weights(found)
    return found


def in_copy(layers: Sequence[Prunable], model: nn.Module, copy: nn.Module) -> list[Prunable]:
    """Find the layers of a model in a copy of it."""
    names = {module: name for name, module in model.named_modules()}

    def there(module: nn.Module) -> Any:
        return copy.get_submodule(names[module])

    return [
        Prunable(name, there(conv), norm if norm is None else there(norm))
        for name, conv, norm in layers
    ]


def _by_default(model: nn.Module, name: str) -> bool:
    path, parents = name.split('.'), list(_parents(model, name))
    if isinstance(getattr(model, 'backbone', None), nn.Module) and path[0] != 'backbone':
        return False
    if any(type(part).__name__ in _ATTENTION for part in parents):
        return False
    if any(DENSE.match(part) for part in path):
        return False
    return not any(hasattr(part, 'transition1') for part in parents[-1:])  # HRNet's stem


def _inner(model: nn.Module, name: str) -> bool:
    """Return True for a convolution with a norm or an activation behind it."""
    parent = model.get_submodule(name.rpartition('.')[0])
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return hasattr(parent, 'with_activation') or _norm_behind(model, name, conv) is not None


def _parents(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules around one, from the outside."""
    path = name.split('.')
    return (model.get_submodule('.'.join(path[:n])) for n in range(len(path)))


def _norm_behind(model: nn.Module, name: str, conv: nn.Conv2d) -> nn.Module | None:
    """Find the BatchNorm that reads a convolution's output, by the naming of the base libraries."""
    above, _, own = name.rpartition('.')
    parent = model.get_submodule(above)
    order = getattr(parent, 'order', None)  # of mmcv's ConvModule
    if isinstance(order, tuple) and 'norm' in order and order.index('norm') < order.index('conv'):
        return None
    children = dict(parent.named_children())
    if isinstance(parent, nn.ModuleList):  # Res2Net: convs.0 and bns.0
        beside = model.get_submodule(above.rpartition('.')[0])
        lists = (getattr(beside, other, None) for other in ('bns', 'norms'))
        norms = [part[int(own)] for part in lists if isinstance(part, nn.ModuleList)]
    elif own.isdecimal():
        norms = [part for key, part in children.items() if key == str(int(own) + 1)]
    else:
        number = re.sub(r'^\D*', '', own)
        names = [f'{stem}{number}' for stem in ('bn', 'norm', 'batch_norm')]
        names += [getattr(parent, f'norm{number}_name', ''), getattr(parent, 'norm_name', '')]
        norms = [children[key] for key in names if key in children]
    for norm in norms:
        if isinstance(norm, _BatchNorm) and norm.num_features == conv.out_channels:
            return norm
    return None


def _patterns(key: str, given: Sequence[str]) -> list[re.Pattern[str]]:
    if isinstance(given, str) or not all(isinstance(item, str) for item in given):
        raise ConfigError(key=key, got=given, expected='a list of regular expressions')
    found = []
    for item in given:
        try:
            found.append(re.compile(item))
        except re.error as error:
            raise ConfigError(
                str(error), key=key, got=item, expected='a regular expression'
            ) from error
    return found


def _matches(key: str, pattern: re.Pattern[str], names: dict[str, nn.Conv2d]) -> set[str]:
    found = {name for name in names if pattern.search(name)}
    if not found:
        raise ConfigError(
            'it matches no convolution without groups',
            key=key,
            got=pattern.pattern,
            fix=nearest(pattern.pattern, names),
        )
    return found


def _check_weights(found: Sequence[Prunable]) -> None:
    """Refuse weights that cannot be scaled by themselves."""
    owners: dict[int, str] = {}
    for name, conv, _ in found:
        if 'weight' not in dict(conv.named_parameters(recurse=False)):
            raise ConfigError(
                f'the weight of {name} is computed from others, so it cannot be pruned',
                key='exclude',
                fix=f'Add {"^" + re.escape(name) + "$"!r} to exclude.',
            )
        other = owners.setdefault(id(conv.weight), name)
        if other != name:
            raise ConfigError(
                f'{other} and {name} share their weight, so it would be pruned twice',
                key='exclude',
                fix=f'Add {"^" + re.escape(name) + "$"!r} to exclude.',
            )
