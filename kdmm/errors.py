"""Errors of configurations, and errors that end a run."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

_NOT_GIVEN: Any = object()
_WRAPPED = re.compile(r'class `\w+` in \S+: ')

#: In what tensors do not fit each other, or a computation.
Mismatch = Literal[
    'form',  # another number of dimensions, or of another meaning
    'images', 'resolution', 'channels', 'classes',  # the two differ
    'declared channels',  # not those that a loss was built for
    'one pixel', 'one window',  # of a comparison of positions; one window of a pooling
    'one channel', 'one class',
    'one image', 'few images',  # nothing to contrast with; of relations within a batch
    'small',  # maps that are too small for a network
    'unpooled',  # maps in place of a vector an image
    'layers',  # what is compared are several layers
    'row length',  # of a memory, whose rows are as long as maps have positions
    'ranks',  # the shapes on the ranks differ
    'labels',
]  # fmt: skip


class ConfigError(ValueError):
    """A key of a config, or an argument, that cannot be right.

    The message is put together from the fields, each of which may be left out:
    ``<key>: <problem>, expected <expected>, got <got>. <fix>``.

    Args:
        problem: What is wrong, where the other fields do not say it.
        key: The config key or argument, dotted from the top of the config: ``kd.losses.p2p.tau``.
        got: Its value.
        expected: What it may be, as the end of a sentence: ``a positive number``.
        fix: What to do about it, whole sentences.

    Attributes:
        problem, key, expected, fix: As given, else empty.
        got: As given, else None.
        has_got: Whether ``got`` was given.
    """

    def __init__(
        self,
        problem: str = '',
        *,
        key: str = '',
        got: Any = _NOT_GIVEN,
        expected: str = '',
        fix: str = '',
    ) -> None:
        self.problem, self.key, self.expected, self.fix = problem, key, expected, fix
        self.has_got = got is not _NOT_GIVEN
        self.got = got if self.has_got else None
        super().__init__(problem)

    def __str__(self) -> str:
        parts = [self.problem] if self.problem else []
        parts += [f'expected {self.expected}'] if self.expected else []
        parts += [f'got {_short(repr(self.got))}'] if self.has_got else []
        text = ': '.join(filter(None, (self.key, ', '.join(parts))))
        return f'{text.rstrip(".")}. {self.fix}' if self.fix else text

    def under(self, key: str, got: Any = _NOT_GIVEN) -> 'ConfigError':
        """Return the same error as one of ``key``, whose value holds this error's own key.

        Args:
            key: Put before the own key, unless that is a flag of a command line.
            got: The value of ``key``, for an error that has none.
        """
        joint = ': ' if key.startswith('-') else '.'
        whole = self.key if self.key.startswith('-') else joint.join(filter(None, (key, self.key)))
        fields = {**vars(self), 'key': whole}
        if got is not _NOT_GIVEN and not self.has_got:
            fields |= dict(got=got, has_got=True)
        return self._of(fields)

    def advised(self, fix: str) -> 'ConfigError':
        """Return the same error with ``fix`` behind its own."""
        own = f'{self.fix.rstrip(".")}. ' if self.fix and fix else self.fix
        return self._of({**vars(self), 'fix': f'{own}{fix}'})

    def __reduce__(self) -> Any:
        return type(self)._of, ({**vars(self)},)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> 'ConfigError':
        """The error of these attributes; ranks send their errors to each other."""
        made = cls.__new__(cls, fields['problem'])
        vars(made).update(fields)
        return made


@contextmanager
def about(key: str, got: Any = _NOT_GIVEN) -> Iterator[None]:
    """Let errors that are raised inside name ``key`` and its value, see `ConfigError.under`."""
    try:
        yield
    except ConfigError as error:
        raise error.under(key, got) from error.__cause__


class ShapeError(ValueError):
    """Tensors that do not fit each other, or a computation.

    The message speaks to a caller who has the tensors: ``<problem>: student (2, 3, 8, 8), teacher
    (2, 3, 4, 4). <fix>``. What a config declares against a ``mismatch`` is known where a config is
    read, see `kdmm.distillers.refusals.REMEDIES`.

    Args:
        problem: What is wrong.
        mismatch: What does not fit, in a word.
        fix: What to do about it, whole sentences.
        **tensors: By name, tensors or lists of tensors, of which the shapes are kept.

    Attributes:
        problem, mismatch, fix: As given.
        shapes: Of the tensors, by name.
    """

    def __init__(
        self, problem: str, mismatch: Mismatch = 'form', fix: str = '', **tensors: Any
    ) -> None:
        super().__init__(problem, mismatch, fix)
        self.problem, self.mismatch, self.fix = problem, mismatch, fix
        self.shapes = {name: _shape(tensor) for name, tensor in tensors.items()}

    @property
    def finding(self) -> str:
        """The problem, with the shapes."""
        shapes = ', '.join(f'{name} {shape}' for name, shape in self.shapes.items())
        return f'{self.problem}: {shapes}' if shapes else self.problem

    def __str__(self) -> str:
        return f'{self.finding}. {self.fix}' if self.fix else self.finding


class TrainingError(RuntimeError):
    """A run whose state must not be written any more."""


class ProofError(RuntimeError):
    """A written file does not compute what it was made from; it is not kept."""


def rewrapped(error: BaseException) -> BaseException | None:
    """Return the error that a registry of MMEngine 0.10 raised again, with its class, as ``error``.

    None if it is as it was raised first.
    """
    again = _WRAPPED.match(str(error).strip('"\''))
    return error.__context__ if again else None


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the ``count`` names most like ``name``, as a phrase to append to an error."""
    pool = sorted(set(known))
    matches = difflib.get_close_matches(name, pool, count, cutoff=0.4)
    return f'nearest: {", ".join(matches)}' if matches else f'known: {", ".join(pool[:20])}'


def refuse_unknown(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys of the section ``where`` that are not ``known``.

    Raises:
        ConfigError: Names the first of them and what is nearest to it.
    """
    allowed = set(known)
    for key in keys:
        if key not in allowed:
            raise ConfigError(f'unknown key {key!r}; {nearest(key, allowed)}', key=where)


def listed(items: Iterable[Any], most: int = 8) -> str:
    """Join up to ``most`` items, and say how many more there are."""
    texts = [str(item) for item in items]
    rest = f' and {len(texts) - most} more' if len(texts) > most else ''
    return ', '.join(texts[:most]) + rest


def _shape(tensor: Any) -> Any:
    """The shape of a tensor, or a list of those of several; the class of what has none."""
    if isinstance(tensor, list | tuple):
        return [_shape(item) for item in tensor]
    return tuple(tensor.shape) if hasattr(tensor, 'shape') else type(tensor).__name__


def _short(text: str, most: int = 200) -> str:
    """Shorten ``text`` to one line of about ``most`` characters."""
    line = ' '.join(text.split())
    return line if len(line) <= most else f'{line[: most - 40]} ... {line[-35:]}'
