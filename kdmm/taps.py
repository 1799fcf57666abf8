"""Taps: named places in a network whose activations a loss reads.

An activation is a tree: a tensor, or tensors in tuples, lists and dicts, however nested.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, nearest

_PATH = re.compile(
    r'^(?P<module>[^\[\]#]+)\.(?P<side>in|out)(\[(?P<item>-?\d+)\])?(#(?P<call>\d+))?$'
)


@dataclass(frozen=True)
class TapPath:
    """``module.path.in`` or ``.out``; ``[i]`` of a tuple, ``#k`` of the k-th call, from 1 on."""

    module: str
    side: str
    item: int | None = None
    call: int | None = None

    @classmethod
    def parse(cls, text: str, key: str = 'tap') -> 'TapPath':
        """Read the notation above.

        Args:
            text: The path.
            key: Who asks, for errors.

        Raises:
            ConfigError: If ``text`` is none of it.
        """
        match = _PATH.match(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigError(
                key=key,
                got=text,
                expected='a module path that ends in .in, .out, .in[i] or .out[i], for instance '
                "'decode_head.conv_seg.in'",
                fix='#k chooses the k-th call of a module that runs several times.',
            )
        item, call = (None if match[key] is None else int(match[key]) for key in ('item', 'call'))
        if call == 0:
            raise ConfigError('calls are counted from 1 on, #1 is the first', key=key, got=text)
        return cls(match['module'], match['side'], item, call)

    def pick(self, value: Any) -> Any:
        """Return the tensor (or tuple) of this path from the inputs or outputs of one call."""
        if self.item is None:
            return value
        if not isinstance(value, (tuple, list)) or not -len(value) <= self.item < len(value):
            what = f'{len(value)} items' if isinstance(value, (tuple, list)) else 'no tuple'
            raise ConfigError(f'[{self.item}] of {self.module}.{self.side}, which is {what}')
        return value[self.item]


class Calls(tuple):
    """The activations of a module that ran several times in one pass, in order."""


class DidNotRunError(ConfigError):
    """A tapped module was not called in a forward pass.

    Attributes:
        module: Its path.
    """

    def __init__(self, problem: str = '', module: str = '', **fields: Any) -> None:
        super().__init__(problem, **fields)
        self.module = module


class _EnoughError(BaseException):
    """Ends a forward pass in which every tap has been read; no network catches it."""


class _Keep(torch.autograd.Function):
    """A copy whose graph says that it is one, see `source_of`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


def source_of(activation: Tensor) -> Any:
    """Return the place in the graph from which the network continues a tapped activation.

    It is the activation, unless that is a copy: then it is the gradient edge of the original before
    it was overwritten. `torch.autograd.grad` takes both as inputs.

    Raises:
        NotImplementedError: If it is a copy, and this torch cannot name edges.
    """
    node = activation.grad_fn
    if node is None or type(node).__name__ != f'{_Keep.__name__}Backward':
        return activation
    if not hasattr(torch.autograd.graph, 'GradientEdge'):
        raise NotImplementedError(
            'an operation in place overwrites a tapped activation, and torch before 2.2 takes no '
            'gradient there: tap a module that nothing changes, or use a newer torch'
        )
    source, number = node.next_functions[0]
    assert source is not None, 'a copy is of what carries a gradient'
    return torch.autograd.graph.GradientEdge(source, number)


class _Reading:
    """The calls of one tapped module in the pass that runs.

    A tap gives what the module took or gave at that moment. An operation that later works in place
    would change it, so tensors that are overwritten are copied (`copying`); that of others is read
    off the tensors' version counters when the pass ends. A first pass compares the values, too:
    writes through ``.data`` or NumPy do not count.
    """

    def __init__(self, name: str, path: TapPath, key: str, copying: bool, watching: bool) -> None:
        self.name, self.path, self.key = name, path, key
        self.copying, self.watching = copying, watching
        self.count = 0
        self.values: list[Any] = []
        self.originals: list[Any] = []
        self._versions: list[tuple[Tensor, int]] = []

    def take(self, value: Any) -> None:
        """Read one call."""
        self.count += 1
        if self.path.call not in (None, self.count):
            return
        try:
            original = map_leaves(lambda x: x, self.path.pick(value))  # lists may be changed later
        except ConfigError as error:
            raise error.under(self.key) from None
        self.originals.append(original)
        self.values.append(map_leaves(_copy, original) if self.copying else original)
        if self.watching:
            self._versions += [(x, x._version) for x in leaves(original) if not x.is_inference()]

    @property
    def overwritten(self) -> bool:
        """Return whether a tensor was changed in place since it was read."""
        return any(x._version != version for x, version in self._versions)

    @property
    def differs(self) -> bool:
        """Return whether a copy differs from the original as it is now."""
        pairs = zip(leaves(self.values), leaves(self.originals), strict=True)
        return any(not torch.equal(copy, original) for copy, original in pairs)

    def done(self, calls: int) -> bool:
        """Return whether the tap is complete in a pass in which the module runs ``calls`` times."""
        return self.count >= (self.path.call or calls)


class Taps:
    """Reads activations of ``model`` while a block runs.

    The hooks exist only inside :meth:`record`, so the model, its copies and its checkpoints know
    nothing of them.

    Args:
        model: The network to read.
        paths: Tap name to a `TapPath` as text.
        owner: How errors call the network, for instance ``'student'``.
        section: Where the paths stand in a config, for errors.

    Attributes:
        calls: Tap name to how often its module runs in a whole pass, as far as one was recorded.

    Raises:
        ConfigError: If a path is malformed or names no module; the nearest names are given.
    """

    def __init__(
        self,
        model: nn.Module,
        paths: Mapping[str, str],
        owner: str,
        section: str = 'kd.taps',
    ) -> None:
        self.owner, self.section = owner, section
        self.paths = {
            name: TapPath.parse(path, f'{section}.{name}') for name, path in paths.items()
        }
        modules = dict(model.named_modules(remove_duplicate=False))  # all names of shared ones
        for name, path in self.paths.items():
            if path.module not in modules:
                raise ConfigError(
                    f'the {owner} ({type(model).__name__}) has no module {path.module!r}; '
                    f'{nearest(path.module, modules)}',
                    key=f'{section}.{name}',
                )
        self._model = model
        self.calls: dict[str, int] = {}
        # (tap, training mode, early stop) -> whether something overwrites it later in such a pass
        self._overwritten: dict[tuple[str, bool, bool], bool] = {}

    @contextmanager
    def record(
        self, stop_early: bool = False, tolerant: bool = False, compiled: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Collect the taps of one forward pass made inside the block.

        Args:
            stop_early: Abandon the pass once every tap was read, as often as `calls` says.
            tolerant: Let an error end the pass once every tap was read.
            compiled: The pass is compiled, where version counters say nothing: copy what was
                overwritten in an eager pass before.

        Yields:
            Filled when the block ends: tap name to activation, a tensor or a tuple of them. A
            module that runs several times gives `Calls`, unless the path chooses one.

        Raises:
            DidNotRunError: If a tapped module, or the call that a path names, did not run.
            ConfigError: If an activation was overwritten that was not in earlier passes.
        """
        found: dict[str, Any] = {}
        readings = [self._reading(name, stop_early, compiled) for name in self.paths]

        def take(reading: _Reading, value: Any) -> None:
            reading.take(value)
            if stop_early and all(r.done(self.calls.get(r.name, 1)) for r in readings):
                raise _EnoughError

        with ExitStack() as hooks:
            for reading in readings:
                hooks.callback(self._listen(reading, take).remove)
            try:
                yield found
            except _EnoughError:
                pass
            except Exception:
                if not tolerant or not all(reading.values for reading in readings):
                    raise
        for reading in readings:
            found[reading.name] = self._settle(reading, stop_early, compiled)
            if not stop_early:
                self.calls[reading.name] = reading.count

    def _mode(self, name: str, stop_early: bool, compiled: bool) -> tuple[str, bool, bool]:
        return name, self._model.training, stop_early and not compiled

    def _reading(self, name: str, stop_early: bool, compiled: bool) -> _Reading:
        """One that copies, too, where nothing is known yet."""
        known = self._overwritten.get(self._mode(name, stop_early, compiled))
        key = f'{self.section}.{name}'
        return _Reading(name, self.paths[name], key, known is not False, not compiled)

    def _listen(self, reading: _Reading, take: Any) -> Any:
        """An input is read before its module runs, which may work in place."""
        module = self._model.get_submodule(reading.path.module)
        if reading.path.side == 'in':
            return module.register_forward_pre_hook(
                lambda _, args, kwargs: take(
                    reading, args[0] if args else next(iter(kwargs.values()), None)
                ),
                with_kwargs=True,
            )
        return module.register_forward_hook(lambda _, args, output: take(reading, output))

    def _settle(self, reading: _Reading, stop_early: bool, compiled: bool) -> Any:
        path, where = reading.path, reading.key
        if not reading.values:
            often = f'ran {reading.count} time(s)' if reading.count else 'did not run'
            chosen = f', so there is no call #{path.call}' if reading.count else ''
            raise DidNotRunError(
                f'module {path.module!r} of the {self.owner} {often} in this forward pass{chosen}',
                path.module,
                key=where,
            )
        values = reading.values
        if not compiled:
            mode = self._mode(reading.name, stop_early, compiled)
            if mode not in self._overwritten:
                self._overwritten[mode] = reading.overwritten or reading.differs
            if reading.overwritten and not reading.copying:
                raise ConfigError(
                    f'{path.module}.{path.side} of the {self.owner} was overwritten in place in '
                    'this forward pass, and not in the first one',
                    key=where,
                    fix='Tap a module that nothing changes, for instance what comes behind it.',
                )
            values = reading.values if self._overwritten[mode] else reading.originals
        return values[0] if len(values) == 1 else Calls(values)


def _copy(x: Tensor) -> Tensor:
    return _Keep.apply(x) if torch.is_grad_enabled() and x.requires_grad else x.clone()


def taps_of_student(
    student: nn.Module, sides: Mapping[str, Mapping[str, str]], read: Sequence[str]
) -> Taps:
    """Build the taps that a term reads; the paths of the others are only checked."""
    every = Taps(student, {name: side['student'] for name, side in sides.items()}, 'student')
    every.paths = {name: every.paths[name] for name in read}
    return every


def require_gradient(taps: Mapping[str, Any], owner: str = 'student') -> None:
    """Refuse taps that no gradient can reach.

    A tap inside an activation-checkpointed block (reentrant form) is computed without a graph, and
    a loss on it would train nothing without a word.

    Raises:
        ConfigError: Names the tap.
    """
    if not torch.is_grad_enabled():
        return
    for name, value in taps.items():
        if not any(True for _ in trained(value)):
            raise ConfigError(
                f'the {owner} activation carries no gradient: its module is frozen or lies inside '
                'an activation-checkpointed block',
                key=f'kd.taps.{name}',
                fix='Tap the block itself instead.',
            )


def trained(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an activation that carry a gradient."""
    return (x for x in leaves(value) if x.requires_grad)


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an activation in order; anything else is passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def map_leaves(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Build the same tree with ``function`` of each tensor in its place.

    Lists become tuples, and a subclass of tuple that is made from one iterable stays what it is.
    What is neither a tensor nor a container is kept.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(function, item) for item in value]
        named = hasattr(value, '_fields') or isinstance(value, list)  # a namedtuple takes fields
        return tuple(items) if named else type(value)(items)
    return value
