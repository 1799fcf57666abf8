"""Plan a conversion: source, target and key map, with every check before a file is written."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdmm.config import load_config
from kdmm.errors import ConfigError, about
from kdmm.pretrained.architecture import Architecture, backbone_of, from_text
from kdmm.pretrained.checkpoint import Weights, transfer_entry
from kdmm.pretrained.families import Family, Recognised, family_of, recognise
from kdmm.pretrained.libraries import (
    MM,
    ZOO,
    check_model_name,
    find_class,
    installed,
    model_inputs,
    model_names,
    parameters_of,
    require,
)
from kdmm.pretrained.mapping import KeyMap, map_keys
from kdmm.transfer.writing import check_out

WHICH = '--source-config CONFIG, or --arch NAME for a file of torchvision or timm'
#: Types that some libraries write as another type with arguments.
WRITTEN_OUT = dict(
    ResNetV1c=dict(type='ResNet', deep_stem=True),
    ResNetV1d=dict(type='ResNet', deep_stem=True, avg_down=True),
)


@dataclass(frozen=True)
class Request:
    """One conversion.

    Attributes:
        checkpoint: Path or URL of the file to convert.
        to: Library of the target: mmpose, mmseg, mmdet, mmpretrain, torchvision or timm.
        out: File to write.
        config: Config of the target; default the same network in ``to``.
        source_config: Config of the source; default what the checkpoint says of itself.
        arch: Model name of torchvision or timm.
        prefix: What stands before the backbone's keys; default ``backbone.`` if there are such.
        container: Entry of the file that holds the weights; default ``state_dict``.
        branch: Which network of several that share a trunk: ``layer3_<branch>.`` is ``layer3.``.
        drop: Keys of the source, or their first parts, that are left out: heads beside the trunk.
        into: Complete checkpoint whose backbone is replaced; the result is complete, too.
        also: Further prefixes that are carried over, with ``into``.
        accept: Traits that may differ between source and target, although features change.
        force: Overwrite ``out``.
        unsafe: Allow files that are more than weights, which can run code.
        size: Height and width of the input of the proof.
    """

    checkpoint: str
    to: str
    out: str
    config: str | None = None
    source_config: str | None = None
    arch: str | None = None
    prefix: str | None = None
    container: str | None = None
    branch: int | None = None
    drop: tuple[str, ...] = ()
    into: str | None = None
    also: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    force: bool = False
    unsafe: bool = False
    size: tuple[int, int] = (64, 64)

    def check(self) -> None:
        """Refuse wrong flags before anything is read.

        Raises:
            ConfigError: Names the flag.
        """
        if self.to not in MM + ZOO:
            raise ConfigError(key='--to', got=self.to, expected=f'one of {", ".join(MM + ZOO)}')
        if self.into and self.to in ZOO:
            raise ConfigError(f'of the OpenMMLab libraries only, not of {self.to}', key='--into')
        if self.also and not self.into:
            raise ConfigError(
                'further parts go into a complete checkpoint', key='--also', fix='Give --into.'
            )
        if min(self.size) < 32:
            raise ConfigError(key='--size', got=self.size, expected='two numbers of at least 32')
        inputs = [Path(path).expanduser() for path in (self.checkpoint, self.into) if path]
        check_out(self.out, self.force, inputs)


@dataclass(frozen=True)
class Plan:
    """A conversion that has passed all checks and is not written yet.

    Attributes:
        source, target: The networks.
        net: The source as it was built.
        family: Of the source.
        state: The source's weights under its own keys.
        held: Its keys to those in the file.
        mapping: Keys of the target to those of the source.
        differing: Traits that differ, as accepted.
    """

    source: Architecture
    target: Architecture
    net: nn.Module
    family: Family
    state: Mapping[str, Tensor]
    held: KeyMap
    mapping: KeyMap
    differing: list[str]


def plan_of(request: Request, weights: Weights) -> Plan:
    """Find source and target, and check that one can become the other."""
    source = source_of(request, weights)
    net = source.build()
    family = family_of(net)
    held = check_held(weights, source, net.state_dict(), family)
    state = held.complete(weights.tensors)
    target = target_of(request, source, recognise(state))
    receiver = target.build()
    differing = check_agreement((source, net), (target, receiver), request.accept)
    wanted = receiver.state_dict()
    what = f'it does not fill {target.title(wanted)} ({target.provenance})'
    with about('checkpoint', request.checkpoint):
        mapping = map_keys(state, wanted, family, what)
    return Plan(source, target, net, family, state, held, mapping, differing)


def source_of(request: Request, weights: Weights) -> Architecture:
    """Find the network of the checkpoint: by config, by its own config, by name, by weights.

    Raises:
        ConfigError: If nothing says it; names the flag to give.
    """
    text = weights.meta.get('cfg') or weights.meta.get('config')
    if request.source_config:
        return from_config(request.source_config, '--source-config', weights.prefix)
    if text:
        if request.arch and request.to not in ZOO:
            raise ConfigError(
                f'{request.checkpoint!r} brings its own config, which says what it holds',
                key='--arch',
                got=request.arch,
                fix='Leave --arch out, or give --source-config.',
            )
        return from_text(text, weights.prefix, request.to)
    if request.arch:
        return named(request.arch, request.to, weights.tensors)
    return _inferred(recognise(weights.tensors), request.to, weights)


def target_of(request: Request, source: Architecture, found: Recognised | None) -> Architecture:
    """Find the network that receives the weights.

    Raises:
        ConfigError: If the library or the model is not there, or is another library's.
    """
    require(request.to, '--to')
    if request.to in ZOO:
        if request.config:
            raise ConfigError(
                f'{request.to} has no configs', key='--config', fix='Name the model by --arch.'
            )
        name = request.arch or (found.model_name if found else '')
        if not name:
            raise ConfigError('missing', key='--arch', fix=f'Name the model of {request.to}.')
        check_model_name(request.to, name)
        return Architecture(request.to, name, f'--arch {name}', inputs=None)
    if request.config is None:
        return same_in(request.to, source, found)
    target = from_config(request.config, '--config', 'backbone.', request.to)
    if target.library != request.to:
        raise ConfigError(
            f'it is a config of {target.library}, --to says {request.to}',
            key='--config',
            got=request.config,
        )
    return target


def from_config(path: str, flag: str, prefix: str, default: str | None = None) -> Architecture:
    """Read the backbone of a config file.

    Args:
        path: A file, or ``package::path``.
        flag: How errors call it.
        prefix: See `backbone_of`.
        default: Library of a config without ``default_scope``.

    Raises:
        ConfigError: If the file cannot be read, or says no library.
    """
    with about(flag):
        cfg = load_config(path).to_dict()
    scope = cfg.get('default_scope') or default
    if not scope:
        raise ConfigError('it has no default_scope, which names its library', key=flag, got=path)
    require(scope, flag)
    return backbone_of(cfg, scope, prefix, f'{flag} {path}', trusted=True)


def named(name: str, to: str = '', keys: Collection[str] = ()) -> Architecture:
    """Find a model of torchvision or of timm.

    Args:
        name: Of the model.
        to: Library that is asked for.
        keys: Weights of the file.
    """
    library = _library_of(name, to, keys)
    if library:
        inputs = model_inputs(library, name)
        return Architecture(library, name, f'--arch {name}', inputs=inputs)
    libraries = [library for library in ZOO if installed(library)]
    if not libraries:
        require(ZOO[0], '--arch')
    check_model_name(libraries[-1], name)
    raise AssertionError('unreachable')


def same_in(library: str, source: Architecture, found: Recognised | None) -> Architecture:
    """Build the source's type and arguments in ``library``.

    Raises:
        ConfigError: If the library has no such type.
    """
    config = _of_weights(found, library) if source.library in ZOO else _of_config(source)
    try:
        cls = find_class(config['type'], library, trusted=True)
    except ConfigError as error:
        if config['type'] not in WRITTEN_OUT:
            raise ConfigError(
                f'it has no {config["type"]!r}',
                key='--to',
                got=library,
                fix='Name the target with --config.',
            ) from error
        config |= WRITTEN_OUT[config['type']]
        cls = find_class(config['type'], library, trusted=True)
    known = parameters_of(cls)
    args = {key: value for key, value in config.items() if key in known}
    return Architecture(library, cls, f'the same network in {library}', args)


def check_held(
    weights: Weights, source: Architecture, wanted: Mapping[str, Tensor], family: Family
) -> KeyMap:
    """Refuse a checkpoint that does not hold the network that it is said to hold.

    Raises:
        ConfigError: Names the network that it does hold, or the prefixes, or the keys.
    """
    if not set(weights.tensors) & set(wanted):
        raise ConfigError(
            f'no key of the backbone under it: {weights.describe(wanted)}',
            key='--prefix',
            got=weights.prefix,
        )
    holds, said = recognise(weights.tensors), recognise(wanted)
    if holds and said and holds.phrase != said.phrase:
        raise ConfigError(
            f'it holds {holds.phrase}, {source.provenance} is {said.phrase}', key='checkpoint'
        )
    what = f'it does not fit {source.provenance}'
    with about('checkpoint'):
        return map_keys(weights.tensors, wanted, family, what, 'Leave them out with --drop')


def check_agreement(
    source: tuple[Architecture, nn.Module],
    target: tuple[Architecture, nn.Module],
    accept: Collection[str],
) -> list[str]:
    """Return the traits in which the networks differ, all of them accepted.

    Raises:
        ConfigError: For another depth or width, or a trait that may not differ: the same weights
            would give other features.
    """
    holds, wants = (recognise(net.state_dict()) for _, net in (source, target))
    if holds and wants and holds.phrase != wants.phrase:
        raise ConfigError(
            f'it holds {holds.phrase}, the target ({target[0].provenance}) wants {wants.phrase}',
            key='checkpoint',
        )
    ours, theirs = (family_of(net).traits(net) for _, net in (source, target))
    differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    for name in differing:
        if name not in accept:
            raise ConfigError(
                f'the source ({source[0].provenance}) has {ours[name]}, the target '
                f'({target[0].provenance}) {theirs[name]}: the same weights give other features',
                key=name,
                fix=f'Take a target that agrees, or --accept {name} if you know that it can be.',
            )
    return differing


def _library_of(name: str, to: str, keys: Collection[str]) -> str:
    """The library whose model of that name has most of ``keys``; where both do, ``to``."""
    libraries = sorted(filter(installed, ZOO), key=lambda library: library != to)
    having = [library for library in libraries if name in model_names(library)]
    if len(having) < 2:
        return having[0] if having else ''

    def held(library: str) -> int:
        return len(Architecture(library, name, '').build().state_dict().keys() & set(keys))

    return max(having, key=held)  # the first of equals


def _inferred(found: Recognised | None, to: str, weights: Weights) -> Architecture:
    if found is None:
        raise ConfigError(
            f'it does not say which network it holds ({weights.describe()})',
            key='checkpoint',
            fix=f'Give {WHICH}.',
        )
    library = _library_of(found.model_name, to, weights.tensors)
    library = library or next(filter(installed, ZOO), '')
    require(library or ZOO[0], 'the checkpoint has no config')
    entry = transfer_entry(weights.meta)
    network = Architecture(
        library, found.model_name, 'recognised by its weights', inputs=entry.get('inputs')
    )
    if not (found.certain or _stated(entry, network)):
        raise ConfigError(
            f'it holds {found.phrase}, but its weights do not show all that it computes (style of '
            'bottlenecks, way of scaling up)',
            key='checkpoint',
            fix=f'Give {WHICH}.',
        )
    return network


def _stated(entry: Mapping[str, Any], network: Architecture) -> bool:
    """True for a file of ours that states the traits of the network of that name."""
    if 'traits' not in entry:
        return False
    net = network.build()
    return bool(entry['traits'] == family_of(net).traits(net))


def _of_weights(found: Recognised | None, library: str) -> dict[str, Any]:
    if found is None:
        raise ConfigError(
            'missing', key='--config', fix=f'Name the config of {library} that gets these weights.'
        )
    return found.args


def _of_config(source: Architecture) -> dict[str, Any]:
    args = dict(source.args)
    if 'arch' in args and 'extra' not in args:  # an abbreviation of mmpretrain's HRNet
        extra = getattr(source.build(), 'extra', None)
        args |= dict(extra=extra) if extra else {}
    registered = source.kind.__name__
    scope = source.kind.__module__.split('.')[0]
    return dict(args, type=registered if scope == source.library else f'{scope}.{registered}')
