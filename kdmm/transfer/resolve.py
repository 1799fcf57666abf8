"""Which network a checkpoint holds, and which one is to receive it."""

from collections.abc import Collection, Mapping
from typing import Any

from kdmm.errors import ConfigError
from kdmm.transfer import model_names
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.declared import said
from kdmm.transfer.families import family_of
from kdmm.transfer.in_config import from_config, from_text
from kdmm.transfer.recognise import Recognised, recognise
from kdmm.transfer.registered import ZOO, installed, require
from kdmm.transfer.request import Request
from kdmm.transfer.same import same_in

WHICH = '--source-config CONFIG, or --arch NAME for a file of torchvision or timm'


def source_of(request: Request, weights: Weights) -> Architecture:
    """The network that the checkpoint holds: by config, by its own config, by name, by weights.

    Raises:
        ConfigError: If nothing says it; names the flag to give.
    """
    text = weights.meta.get('cfg') or weights.meta.get('config')
    if request.source_config:
        return from_config(request.source_config, '--source-config', weights.prefix)
    if text:
        if request.arch and request.to not in ZOO:
            raise ConfigError(
                f'--arch: {request.checkpoint!r} brings its own config, which says what it holds; '
                'leave --arch out, or give --source-config'
            )
        return from_text(text, weights.prefix, request.to)
    if request.arch:
        return named(request.arch, request.to, weights.tensors)
    return _inferred(recognise(weights.tensors), request.to, weights)


def target_of(request: Request, source: Architecture, found: Recognised | None) -> Architecture:
    """The network that receives the weights.

    Raises:
        ConfigError: If the library or the model is not there, or is another library's.
    """
    require(request.to, '--to')
    if request.to in ZOO:
        if request.config:
            raise ConfigError(f'--config: {request.to} has no configs; name the model by --arch')
        name = request.arch or (found.model_name if found else '')
        if not name:
            raise ConfigError(f'--arch: say which model of {request.to} this is')
        model_names.check_name(request.to, name)
        return Architecture(request.to, name, f'--arch {name}', inputs=None)
    if request.config is None:
        return same_in(request.to, source, found)
    target = from_config(request.config, '--config', 'backbone.', request.to)
    if target.library != request.to:
        raise ConfigError(
            f'--config: {request.config!r} is a config of {target.library}, --to says {request.to}'
        )
    return target


def named(name: str, to: str = '', keys: Collection[str] = ()) -> Architecture:
    """A model of torchvision or of timm.

    Args:
        name: Of the model.
        to: Library that is asked for.
        keys: Weights of the file.
    """
    library = _library_of(name, to, keys)
    if library:
        inputs = model_names.inputs(library, name)
        return Architecture(library, name, f'--arch {name}', inputs=inputs)
    libraries = [library for library in ZOO if installed(library)]
    if not libraries:
        require(ZOO[0], '--arch')
    model_names.check_name(libraries[-1], name)
    raise AssertionError('unreachable')


def _library_of(name: str, to: str, keys: Collection[str]) -> str:
    """The library whose model of that name has most of ``keys``; where both do, ``to``."""
    libraries = sorted(filter(installed, ZOO), key=lambda library: library != to)
    having = [library for library in libraries if name in model_names.names(library)]
    if len(having) < 2:
        return having[0] if having else ''

    def held(library: str) -> int:
        return len(Architecture(library, name, '').build().state_dict().keys() & set(keys))

    return max(having, key=held)  # the first of equals


def _inferred(found: Recognised | None, to: str, weights: Weights) -> Architecture:
    if found is None:
        raise ConfigError(
            f'the checkpoint does not say which network it holds: give {WHICH} ({weights.survey()})'
        )
    library = _library_of(found.model_name, to, weights.tensors)
    library = library or next(filter(installed, ZOO), '')
    require(library or ZOO[0], 'the checkpoint has no config')
    entry = said(weights.meta)
    origin = 'recognised by its weights'
    network = Architecture(library, found.model_name, origin, inputs=entry.get('inputs'))
    if not (found.certain or _told(entry, network)):
        raise ConfigError(
            f'the checkpoint holds {found.phrase}, but its weights do not show all that it '
            f'computes (style of bottlenecks, way of scaling up): give {WHICH}'
        )
    return network


def _told(entry: Mapping[str, Any], network: Architecture) -> bool:
    """Whether a file of ours says that it computes what the network of that name does."""
    if 'traits' not in entry:
        return False
    net = network.build()
    return bool(entry['traits'] == family_of(net).traits(net))
