"""Arguments that had another name in an earlier version: accepted for a while, with a warning."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kdmm.errors import ConfigError

#: The version that knows the old names no more.
GONE = '0.3'

_T = TypeVar('_T', bound=Callable[..., Any])


class RenamedWarning(DeprecationWarning):
    """An argument was given under its old name."""


if not sys.warnoptions:  # Python hides deprecations from everybody but the main script
    warnings.simplefilter('default', RenamedWarning)


def renamed(where: str = '', /, **names: str) -> Callable[[_T], _T]:
    """Let a function or a class take keyword arguments under their old names, too.

    Its signature has the new names only. The old ones are in its attribute ``renamed``, where
    `current_names` looks for configs. Objects of a class answer to the old names as attributes.

    Args:
        where: How warnings call it; by default its name.
        **names: Old name to new name.
    """

    def decorate(made: Any) -> Any:
        target = made.__init__ if inspect.isclass(made) else made

        @functools.wraps(target)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not names.keys().isdisjoint(kwargs):
                kwargs = _translated(where or made.__name__, names, kwargs)
            return target(*args, **kwargs)

        if not inspect.isclass(made):
            call.renamed = names  # type: ignore[attr-defined]
            return call
        made.__init__ = call  # type: ignore[method-assign]
        made.renamed = names  # type: ignore[attr-defined]
        for old, new in names.items():
            setattr(made, old, _alias(where or made.__name__, old, new))
        return made

    return decorate


def current_names(where: str, made: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` of a class or function, those that were `renamed` under their new names.

    Args:
        where: The config key of the arguments, for the warning.
        made: What they are for. One of its own arguments may have an old name again.
        arguments: By name.

    Raises:
        ConfigError: If an argument is given under both names.
    """
    names = getattr(made, 'renamed', {})
    if names:
        own = inspect.signature(made).parameters
        names = {old: new for old, new in names.items() if old not in own}
    return _translated(where, names, arguments)


def _translated(where: str, names: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(given)
    for old, new in names.items():
        if old not in given:
            continue
        if new in given:
            raise ConfigError(
                f'{old} is the old name of {new}, which a base config may have set',
                key=where,
                got={old: given[old], new: given[new]},
                fix=f'Give {new} alone.',
            )
        _warn(where, old, new, 4)
        result[new] = result.pop(old)
    return result


def _alias(owner: str, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        _warn(owner, old, new, 3)
        return getattr(self, new)

    def write(self: Any, value: Any) -> None:
        _warn(owner, old, new, 4)  # called by `nn.Module.__setattr__`
        setattr(self, new, value)

    return property(read, write, doc=f'The old name of `{new}`.')


def _warn(where: str, old: str, new: str, level: int) -> None:
    text = f'{where}.{old} is called {where}.{new} now; the old name goes with version {GONE}'
    warnings.warn(text, RenamedWarning, stacklevel=level)
