"""Which network a checkpoint holds, and which one is to receive it."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdmm.engine.config import load_config
from kdmm.errors import ConfigError
from kdmm.transfer import model_names
from kdmm.transfer.architecture import LOADING, Architecture
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.literal import read_literals
from kdmm.transfer.recognise import Recognised, recognise
from kdmm.transfer.registered import KNOWN, ZOO, check_types, find_class, installed, require
from kdmm.transfer.request import Request
from kdmm.transfer.same import same_in

NEEDED = ('model', 'data_preprocessor', 'default_scope')
BROUGHT = 'the config in the checkpoint'
#: Types whose arguments say all that they compute, in whichever library.
ALIKE = ('ResNet', 'ResNetV1c', 'ResNetV1d')
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
        return named(request.arch)
    return _inferred(recognise(weights.tensors), weights)


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


def from_config(path: str, flag: str, prefix: str, default: str | None = None) -> Architecture:
    """The backbone of a config file."""
    try:
        cfg = load_config(path).to_dict()
    except ConfigError as error:
        raise ConfigError(f'{flag}: {error}') from error
    scope = cfg.get('default_scope') or default
    if not scope:
        raise ConfigError(f'{flag}: {path!r} has no default_scope, which names its library')
    require(scope, flag)
    return _backbone(cfg, scope, prefix, f'{flag} {path}', trusted=True)


def from_text(text: Any, prefix: str, substitute: str) -> Architecture:
    """The backbone of the config that a checkpoint brings, which is read and not run."""
    cfg = read_literals(text, NEEDED) if isinstance(text, str) else dict(text)
    scope = cfg.get('default_scope')
    if scope not in KNOWN:
        raise ConfigError(
            f'the config in the checkpoint has default_scope={scope!r}, expected one of '
            f'{", ".join(KNOWN)}: give --source-config'
        )
    if installed(scope):
        require(scope, BROUGHT)
        return _backbone(cfg, scope, prefix, BROUGHT, trusted=False)
    if substitute not in ZOO and installed(substitute):
        origin = f'{BROUGHT}; {scope} is not installed, {substitute} stands in'
        found = _backbone(cfg, substitute, prefix, origin, trusted=False)
        if found.kind.__name__ in ALIKE:
            return found
    require(scope, BROUGHT)
    raise AssertionError('unreachable')


def named(name: str) -> Architecture:
    """A model of torchvision, or of timm."""
    libraries = [library for library in ZOO if installed(library)]
    for library in libraries:
        if name in model_names.names(library):
            inputs = model_names.inputs(library, name)
            return Architecture(library, name, f'--arch {name}', inputs=inputs)
    if not libraries:
        require(ZOO[0], '--arch')
    model_names.check_name(libraries[-1], name)
    raise AssertionError('unreachable')


def _inferred(found: Recognised | None, weights: Weights) -> Architecture:
    if found is None:
        raise ConfigError(
            f'the checkpoint does not say which network it holds: give {WHICH} ({weights.survey})'
        )
    if not found.certain:
        raise ConfigError(
            f'the checkpoint holds {found.phrase}, but its weights do not show all that it '
            f'computes (style of bottlenecks, way of scaling up): give {WHICH}'
        )
    library = next((library for library in ZOO if installed(library)), '')
    require(library or ZOO[0], 'the checkpoint has no config')
    return Architecture(library, found.model_name, 'recognised by its weights')


def _backbone(
    cfg: Mapping[str, Any], scope: str, prefix: str, origin: str, trusted: bool
) -> Architecture:
    model = cfg.get('model') or {}
    if model.get('type') == 'kdmm.Distiller':  # its keys are the student's
        model = model['student']
    places = dict(_backbones(model, ''))
    path = prefix if prefix in places else next(iter(places), '')
    if not places:
        raise ConfigError(f'{origin}: its model has no backbone')
    if len(places) > 1 and prefix not in places:
        raise ConfigError(
            f'{origin}: several backbones, {", ".join(places)}: name one with --prefix'
        )
    found = places[path]
    args = {key: value for key, value in found.items() if key not in LOADING}
    if not trusted:
        check_types(args, scope, f'model.{path.rstrip(".")}')
    kind = found.get('type')
    cls = find_class(kind, scope, trusted) if isinstance(kind, str) else kind
    inputs = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    return Architecture(scope, cls, origin, args, inputs, model, path)


def _backbones(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Prefix of the keys to config, of every backbone below a model."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key == 'backbone' and isinstance(value, Mapping):
            yield f'{path}backbone.', value
        else:
            yield from _backbones(value, f'{path}{key}.')
