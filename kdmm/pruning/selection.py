"""Choice of the convolutions that are pruned, and of the norm behind each."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdmm.config import SECTION
from kdmm.errors import ConfigError, listed, nearest

#: Names of shortcuts, which also name the encoders of MSPN and RSN: a shortcut is short.
SHORTCUT = re.compile(r'^(downsample|(skip|shortcut|identity|residual)(_conv|_proj)?)$')
_SHORT = 2
#: Classes that give weights of channels or positions, or tokens, in place of channels.
ATTENTION = re.compile(
    r'Attention|Attn|^SE(Layer|Module|Block)|SqueezeExcit|EffectiveSE|^C?[Ee][Cc][Aa](Layer|Module)'
    r'|NonLocal|ContextBlock|Weighting|DyReLU|Patch(Embed|Merging)|HybridEmbed'
)
#: Convolutions whose output does not depend on the norm of a filter.
NORMALIZED = re.compile(r'ConvA?WS|StdConv|NormedConv|SAConv')


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
    residual blocks are pruned. Attention (squeeze-and-excitation, non-local blocks), offsets of
    deformable convolutions, embeddings of patches, outputs without norm and activation, depthwise
    and grouped convolutions, and convolutions that normalise their weights stay dense.
    What a ``kd`` section adds to a model is never chosen.

    Args:
        model: Of a base library, not wrapped, in train mode, where backbones have frozen their
            stages; only read.
        include: Regular expressions, searched for in the names. Convolutions of mmcv's
            ``ConvModule`` or with a BatchNorm or an activation behind them that match one are
            chosen, too: of necks and heads, but not the layers that give a head's output; and
            shortcuts.
        exclude: Likewise; what matches one is not chosen.

    Raises:
        ConfigError: If an expression is none, matches nothing or outputs alone, a weight is shared
            with a layer that is not excluded or computed from others, or nothing is left.
    """
    possible = {
        name: conv
        for name, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d)
        and conv.groups == 1
        and not NORMALIZED.search(type(conv).__name__)
        and not name.startswith(f'{SECTION}.')
    }
    chosen = {name for name in _of_backbone(model, possible) if _by_default(model, name)}
    for pattern in _patterns('include', include):
        matched = _matches('include', pattern, possible)
        inner = {name for name in matched if _inner(model, name)}
        if not inner:
            raise ConfigError(
                f'it matches outputs alone, with no norm and no activation: {listed(matched)}',
                key='include',
                got=pattern.pattern,
            )
        chosen |= inner
    without: set[str] = set()
    for pattern in _patterns('exclude', exclude):
        without |= _matches('exclude', pattern, possible)
    found = [
        Prunable(name, conv, _norm_behind(model, name, conv))
        for name, conv in possible.items()
        if name in chosen - without and conv.weight.requires_grad
    ]
    if not found:
        raise ConfigError(
            f'{type(model).__name__} has no convolution to prune: trained, without groups and not '
            'on a shortcut, in its backbone or by include',
            key='include',
            got=list(include),
            expected='a regular expression that matches names such as backbone.layer1.0.conv1',
        )
    _check_weights(model, found, without)
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


def _of_backbone(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The names inside the backbone, or the backbones of networks in a model; all, without one."""
    if isinstance(getattr(model, 'backbone', None), nn.Module):
        return [name for name in names if name.startswith('backbone.')]
    return [name for name in names if 'backbone' in name.split('.')] or list(names)


def _by_default(model: nn.Module, name: str) -> bool:
    path, (*outer, parent) = name.split('.'), _parents(model, name)
    parts = [*outer, parent, model.get_submodule(name)]
    inner = [part for part in parts[1:-1] if part is not getattr(model, 'backbone', None)]
    if any(ATTENTION.search(type(part).__name__) for part in inner):
        return False
    if any(_is_filter(getattr(part, 'weight', None)) for part in inner):
        return False  # a convolution inside of another gives its offsets or switches
    if not getattr(parent, 'with_norm', True) and not getattr(parent, 'with_activation', True):
        return False
    if hasattr(parent, 'transition1') and hasattr(parent, 'stage2'):
        return False  # HRNet's stem
    return not any(
        key == 'fuse_layers'
        or (re.match(r'transition\d+$', key) and any(_has_stage(above)))
        or (SHORTCUT.match(key) and _convolutions(part) <= _SHORT)
        for key, above, part in zip(path, parts, parts[1:], strict=False)
    )


def _has_stage(net: nn.Module) -> Iterator[bool]:
    return (re.match(r'stage\d+$', key) is not None for key, _ in net.named_children())


def _is_filter(weight: Any) -> bool:
    return isinstance(weight, Tensor) and weight.ndim == 4


def _convolutions(part: nn.Module) -> int:
    """Number of convolutions without groups."""
    return sum(isinstance(each, nn.Conv2d) and each.groups == 1 for each in part.modules())


def _inner(model: nn.Module, name: str) -> bool:
    """Return True for a convolution with a norm or an activation behind it."""
    above, _, own = name.rpartition('.')
    parent = model.get_submodule(above)
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    following = _behind(parent, own)[:1] if isinstance(parent, nn.Sequential) else []
    return (
        hasattr(parent, 'with_activation')
        or any('activation' in type(part).__module__ for part in following)
        or _norm_behind(model, name, conv) is not None
    )


def _parents(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules around one, from the outside."""
    path = name.split('.')
    return [model.get_submodule('.'.join(path[:n])) for n in range(len(path))]


def _behind(parent: nn.Module, own: str) -> list[nn.Module]:
    """The children that a module registers behind one of them."""
    children = dict(parent.named_children())
    return list(children.values())[list(children).index(own) + 1 :]


def _norm_behind(model: nn.Module, name: str, conv: nn.Conv2d) -> nn.Module | None:
    """Find the BatchNorm that reads a convolution's output, by the habits of the base libraries.

    It is registered behind the convolution (in front of it are norms of its input, as in DenseNet)
    and has its number, or is the first one before the next convolution.
    """
    above, _, own = name.rpartition('.')
    parent = model.get_submodule(above)
    order = getattr(parent, 'order', None)  # of mmcv's ConvModule
    if isinstance(order, tuple) and 'norm' in order and order.index('norm') < order.index('conv'):
        return None
    behind = _behind(parent, own)
    if isinstance(parent, nn.Sequential | nn.ModuleList):
        norms: list[Any] = behind[:1]
        if isinstance(parent, nn.ModuleList):  # Res2Net: convs.0 and bns.0
            beside = model.get_submodule(above.rpartition('.')[0])
            lists = (getattr(beside, other, None) for other in ('bns', 'norms'))
            norms = [part[int(own)] for part in lists if isinstance(part, nn.ModuleList)] or norms
    else:
        number = re.sub(r'^\D*', '', own)
        names = [f'{stem}{number}' for stem in ('bn', 'norm', 'batch_norm')]
        names += [getattr(parent, f'norm{number}_name', ''), getattr(parent, 'norm_name', '')]
        known = [getattr(parent, key, None) for key in names if key]
        norms = [part for part in known if any(part is each for each in behind)]
        norms += [part for part in takewhile(lambda each: not _convolves(each), behind)]
    for norm in norms:
        if isinstance(norm, _BatchNorm):
            return norm if norm.num_features == conv.out_channels else None
    return None


def _convolves(part: nn.Module) -> bool:
    return any(isinstance(each, nn.Conv2d) for each in part.modules())


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


def _check_weights(model: nn.Module, found: Sequence[Prunable], without: set[str]) -> None:
    """Refuse weights that cannot be scaled by themselves."""
    owners: dict[int, list[str]] = {}
    for name, part in model.named_modules():  # a module that is used several times is one owner
        for value in part.parameters(recurse=False):
            owners.setdefault(id(value), []).append(name)
    for name, conv, _ in found:
        fix = f'Add {"^" + re.escape(name) + "$"!r} to exclude.'
        if 'weight' not in dict(conv.named_parameters(recurse=False)):
            raise ConfigError(
                f'the weight of {name} is computed from others, so it cannot be pruned',
                key='exclude',
                fix=fix,
            )
        if hasattr(conv.weight, 'placements'):  # DTensor, as FSDP2 makes them
            raise ConfigError(
                f'the weight of {name} is sharded, so its filters cannot be ranked',
                key='model_wrapper_cfg.type',
                fix='Train it with DDP.',
            )
        others = [other for other in owners[id(conv.weight)] if other not in {name} | without]
        if others:
            raise ConfigError(
                f'{name} and {listed(others)} share their weight, so it would be pruned in all',
                key='exclude',
                fix=fix,
            )
