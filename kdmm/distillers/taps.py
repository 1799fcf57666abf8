"""Taps: named places in a network whose activations a loss reads."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, nearest

_PATH = re.compile(r'^(?P<module>[^\[\]]+)\.(?P<side>in|out)(\[(?P<item>-?\d+)\])?$')


@dataclass(frozen=True)
class TapPath:
    """``module.path.in`` or ``.out``, of a tuple ``.out[i]``."""

    module: str
    side: str
    item: int | None = None

    @classmethod
    def parse(cls, text: str) -> 'TapPath':
        """Read the notation above; `ConfigError` if it is none."""
        match = _PATH.match(text)
        if match is None:
            raise ConfigError(
                f'tap {text!r}: expected a module path that ends in .in, .out, .in[i] or .out[i], '
                "for instance 'decode_head.conv_seg.in'"
            )
        item = match['item']
        return cls(match['module'], match['side'], None if item is None else int(item))

    def pick(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        """The tensor (or tuple) this path means in one call of its module."""
        if self.side == 'out':
            value = output
        else:
            value = args[0] if args else next(iter(kwargs.values()), None)
        if self.item is None:
            return value
        if not isinstance(value, (tuple, list)) or not -len(value) <= self.item < len(value):
            what = f'{len(value)} items' if isinstance(value, (tuple, list)) else 'no tuple'
            raise ConfigError(f'[{self.item}] of {self.module}.{self.side}, which is {what}')
        return value[self.item]


class _EnoughError(Exception):
    """Every tap has been read: the rest of the forward pass is not needed."""


class Taps:
    """Reads activations of ``model`` while a block runs.

    The hooks exist only inside :meth:`record`, so the model, its copies and its checkpoints know
    nothing of them.

    Args:
        model: The network to read.
        paths: Tap name to ``module.path.in|.out`` (``[i]`` for one item of a tuple).
        owner: How errors call the network, for instance ``'student'``.

    Raises:
        ConfigError: If a path is malformed or names no module; the nearest names are given.
    """

    def __init__(self, model: nn.Module, paths: Mapping[str, str], owner: str) -> None:
        self.owner = owner
        self.paths = {name: TapPath.parse(path) for name, path in paths.items()}
        modules = dict(model.named_modules())
        for name, path in self.paths.items():
            if path.module not in modules:
                raise ConfigError(
                    f'kd.taps.{name}: the {owner} ({type(model).__name__}) has no module '
                    f'{path.module!r}; {nearest(path.module, modules)}'
                )
        self._model = model

    @contextmanager
    def record(self, stop_early: bool = False) -> Iterator[dict[str, Any]]:
        """Collect the taps of one forward pass made inside the block.

        Args:
            stop_early: Abandon the forward pass once every tap was read.

        Yields:
            Filled while the block runs: tap name to tensor. A module that runs several times gives
            a tuple, one entry a call.
        """
        calls: dict[str, list[Any]] = {name: [] for name in self.paths}
        found: dict[str, Any] = {}
        with ExitStack() as hooks:
            for name, path in self.paths.items():
                handle = self._model.get_submodule(path.module).register_forward_hook(
                    self._reader(calls, name, path, stop_early), with_kwargs=True
                )
                hooks.callback(handle.remove)
            with suppress(_EnoughError):
                yield found
        for name, values in calls.items():
            if not values:
                raise ConfigError(
                    f'kd.taps.{name}: module {self.paths[name].module!r} of the {self.owner} did '
                    'not run in this forward pass'
                )
            found[name] = values[0] if len(values) == 1 else tuple(values)

    @staticmethod
    def _reader(calls: dict[str, list[Any]], name: str, path: TapPath, stop: bool) -> Any:
        def read(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            try:
                calls[name].append(path.pick(args, kwargs, output))
            except ConfigError as error:
                raise ConfigError(f'kd.taps.{name}: {error}') from None
            if stop and all(calls.values()):
                raise _EnoughError

        return read


def taps_of_student(
    student: nn.Module, sides: Mapping[str, Mapping[str, str]], read: Sequence[str]
) -> Taps:
    """Those that a term reads; the paths of the others are only checked."""
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
                f'kd.taps.{name}: the {owner} activation carries no gradient. Its module is frozen '
                'or lies inside an activation-checkpointed block; tap the block itself instead'
            )


def trained(value: Any) -> Iterator[Tensor]:
    """The tensors of an activation that carry a gradient, however nested it is."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from trained(item)
