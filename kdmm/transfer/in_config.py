"""The backbone in a config: of a file, or of the text that a checkpoint brings."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdmm.distillers.section import WRAPPERS
from kdmm.engine.config import load_config
from kdmm.errors import ConfigError
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.literal import read_literals
from kdmm.transfer.registered import KNOWN, ZOO, check_types, find_class, installed, require
from kdmm.utils.models import without_pretrained

NEEDED = ('model', 'data_preprocessor', 'default_scope')
BROUGHT = 'the config in the checkpoint'
#: Types whose arguments say all that they compute, in whichever library.
ALIKE = ('ResNet', 'ResNetV1c', 'ResNetV1d')


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
    cfg = read_literals(text, NEEDED) if isinstance(text, str) else text
    scope = cfg.get('default_scope') if isinstance(cfg, Mapping) else None
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


def _backbone(
    cfg: Mapping[str, Any], scope: str, prefix: str, origin: str, trusted: bool
) -> Architecture:
    model = cfg.get('model')
    if isinstance(model, Mapping) and model.get('type') in WRAPPERS:
        model = model.get('student')  # whose keys are in the checkpoint
    places = dict(_backbones(model, ''))
    path = prefix if prefix in places else next(iter(places), '')
    if not places:
        raise ConfigError(f'{origin}: its model has no backbone')
    if len(places) > 1 and prefix not in places:
        raise ConfigError(
            f'{origin}: several backbones, {", ".join(places)}: name one with --prefix'
        )
    found = places[path]
    args = {
        key: value
        for key, value in without_pretrained(found).items()
        if key not in ('type', '_scope_', 'init_cfg') and (key, value) != ('pretrained', None)
    }
    if not trusted:
        check_types(args, scope, f'model.{path.rstrip(".")}')
    kind = found.get('type')
    if not isinstance(kind, str) and not (trusted and isinstance(kind, type)):
        raise ConfigError(f'{origin}: model.{path}type is {kind!r}, expected a name')
    cls = find_class(kind, scope, trusted) if isinstance(kind, str) else kind
    assert isinstance(model, Mapping)
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
