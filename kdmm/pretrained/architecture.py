"""A backbone that can be built: read from a config, or from the text that a checkpoint brings."""

import ast
import copy
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from kdmm.checkpoints import weights_only
from kdmm.config import is_wrapper
from kdmm.errors import ConfigError
from kdmm.pretrained.checkpoint import under_prefix
from kdmm.pretrained.families import recognise
from kdmm.pretrained.libraries import (
    KNOWN,
    ZOO,
    build_model,
    find_class,
    installed,
    load_model,
    parameters_of,
    require,
    silenced_logs,
)
from kdmm.utils.models import without_pretrained

NEEDED = ('model', 'data_preprocessor', 'default_scope')
BROUGHT = 'the config in the checkpoint'
#: Types whose arguments say all that they compute, in whichever library.
ALIKE = ('ResNet', 'ResNetV1c', 'ResNetV1d')


@dataclass(frozen=True)
class Architecture:
    """A network by its class and arguments.

    Attributes:
        library: Default scope of an OpenMMLab config; or ``torchvision``, ``timm``.
        kind: A class; of torchvision and timm a model name.
        provenance: Where that was read, for messages.
        args: Arguments of the class, without what loads weights.
        inputs: The config's data preprocessor, if it has one.
        config: The model section that the backbone was found in.
        path: Where in it, which is also the prefix of its keys.
    """

    library: str
    kind: Any
    provenance: str
    args: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    path: str = 'backbone.'

    @property
    def by_init_cfg(self) -> bool:
        """True where ``init_cfg=dict(type='Pretrained', ...)`` loads it."""
        if self.library in ZOO:
            return False
        return issubclass(self.kind, BaseModule) and 'init_cfg' in parameters_of(self.kind)

    def title(self, state: Mapping[str, Tensor]) -> str:
        """Library and network in short; ``state`` are its weights."""
        found = recognise(state)
        kind = self.kind if self.library in ZOO else self.kind.__name__
        return f'{self.library} {kind if found is None or self.library in ZOO else found.title}'

    def build(self, **more: Any) -> nn.Module:
        """The network with random weights.

        Raises:
            ConfigError: If its class refuses the arguments.
        """
        with own_randomness(), silenced_logs(), weights_only():
            if self.library in ZOO:
                return build_model(self.library, self.kind)
            args = ConfigDict(copy.deepcopy({**self.args, **more}))
            try:
                net = MODELS.build(ConfigDict(args, type=self.kind, _scope_=self.library))
            except Exception as error:  # whatever a class thinks of its arguments
                reason = f'{type(error).__name__}: {error}'
                raise ConfigError(
                    f'{self.kind.__name__} cannot be built ({reason})', key=self.provenance
                ) from error
            if not isinstance(net, nn.Module):
                raise ConfigError(f'{self.kind.__name__} is no network', key=self.provenance)
            return net

    def load(self, path: str, prefix: str = '') -> nn.Module:
        """The network with the weights of a file, read by the library's own means.

        Args:
            path: File.
            prefix: What stands before its keys in the file's ``state_dict``, if it has one.
        """
        if self.library in ZOO:
            with own_randomness():
                return load_model(self.library, self.kind, path)
        init = dict(type='Pretrained', checkpoint=path) | (dict(prefix=prefix) if prefix else {})
        net: Any = self.build(init_cfg=init) if self.by_init_cfg else self.build()
        with own_randomness(), silenced_logs(), weights_only():
            if self.by_init_cfg:
                net.init_weights()
            else:
                net.load_state_dict(under_prefix(torch.load(path, weights_only=True), prefix))
        return net


@contextmanager
def own_randomness() -> Iterator[None]:
    """Restore the states of the random number generators afterwards."""
    python = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)


def from_text(text: Any, prefix: str, substitute: str) -> Architecture:
    """Read, without running it, the backbone of the config that a checkpoint brings.

    Args:
        text: The config, or what it was parsed to.
        prefix: See `backbone_of`.
        substitute: Library that stands in for one that is not installed.

    Raises:
        ConfigError: If it cannot be read, names a class that is not registered, or its library is
            not installed.
    """
    cfg = read_literals(text, NEEDED) if isinstance(text, str) else text
    scope = cfg.get('default_scope') if isinstance(cfg, Mapping) else None
    if scope not in KNOWN:
        raise ConfigError(
            key=f'{BROUGHT}: default_scope',
            got=scope,
            expected=f'one of {", ".join(KNOWN)}',
            fix='Give --source-config.',
        )
    if installed(scope):
        require(scope, BROUGHT)
        return backbone_of(cfg, scope, prefix, BROUGHT, trusted=False)
    if substitute not in ZOO and installed(substitute):
        provenance = f'{BROUGHT}; {scope} is not installed, {substitute} stands in'
        found = backbone_of(cfg, substitute, prefix, provenance, trusted=False)
        if found.kind.__name__ in ALIKE:
            return found
    require(scope, BROUGHT)
    raise AssertionError('unreachable')


def backbone_of(
    cfg: Mapping[str, Any], scope: str, prefix: str, provenance: str, trusted: bool
) -> Architecture:
    """Find the backbone of a config.

    Args:
        cfg: With ``model``, which may be a section of ours around the student.
        scope: Its library.
        prefix: Of the backbone that is meant, where the model has several.
        provenance: See `Architecture`.
        trusted: Whether it is a file of the user's, and not the word of a checkpoint.

    Raises:
        ConfigError: If it has no backbone, several of other prefixes, or one of no known class.
    """
    model = cfg.get('model')
    if isinstance(model, Mapping) and is_wrapper(model.get('type')):
        model = model.get('student')  # whose keys are in the checkpoint
    places = dict(_backbones(model, ''))
    path = prefix if prefix in places else next(iter(places), '')
    if not places:
        raise ConfigError('its model has no backbone', key=provenance)
    if len(places) > 1 and prefix not in places:
        raise ConfigError(
            f'several backbones, {", ".join(places)}', key=provenance, fix='Name one with --prefix.'
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
        raise ConfigError(key=f'{provenance}: model.{path}type', got=kind, expected='a name')
    cls = find_class(kind, scope, trusted) if isinstance(kind, str) else kind
    assert isinstance(model, Mapping)
    inputs = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    return Architecture(scope, cls, provenance, args, inputs, model, path)


class Unread(str):
    """Source text of a value that only running it would give."""


def read_literals(text: str, names: Collection[str]) -> dict[str, Any]:
    """Read the assignments to ``names`` in a config text: literals, and ``dict(...)`` of literals.

    What is no literal becomes `Unread`; a dotted name (a class) becomes its text.

    Raises:
        ConfigError: If the text is no Python.
    """
    try:
        found = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name in names:
                    found[name] = _value(node.value)
        return found
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f'it is no Python text ({error})', key=BROUGHT, fix='Give --source-config.'
        ) from error


def check_types(node: Any, library: str, where: str) -> None:
    """Refuse, in a config from a checkpoint, every ``type`` that is not registered.

    Raises:
        ConfigError: Names it, or a value that is no literal.
    """
    if isinstance(node, Unread):
        raise ConfigError(
            f'{where}={node} is no literal and is not run',
            key=BROUGHT,
            fix='Give --source-config.',
        )
    if isinstance(node, Mapping):
        if isinstance(node.get('type'), str):
            find_class(node['type'], library, trusted=False)
        for key, value in node.items():
            check_types(value, library, f'{where}.{key}')
    elif isinstance(node, list | tuple):
        for value in node:
            check_types(value, library, where)


def _backbones(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Prefix of the keys to config, of every backbone below a model."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key == 'backbone' and isinstance(value, Mapping):
            yield f'{path}backbone.', value
        else:
            yield from _backbones(value, f'{path}{key}.')


def _value(node: ast.expr) -> Any:
    """The value of a literal, `Unread` of anything else."""
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Attribute):  # a class that MMEngine wrote as module.Class
        return ast.unparse(node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Unread(ast.unparse(node))


def _call(node: ast.Call) -> Any:
    """``dict(a=1)``, or ``dict({'a': 1})`` as MMEngine writes keys that are no identifiers."""
    named = all(keyword.arg for keyword in node.keywords)
    if not (isinstance(node.func, ast.Name) and node.func.id == 'dict' and named):
        return Unread(ast.unparse(node))
    start = [_value(item) for item in node.args]
    if start and not (len(start) == 1 and isinstance(start[0], dict)):
        return Unread(ast.unparse(node))
    given = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    return {**(start[0] if start else {}), **given}
