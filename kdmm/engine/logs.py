"""Logs that cannot be written: a warning, and the run goes on."""

import functools
import logging
from collections.abc import Callable
from typing import Any

#: What MMEngine's visualizer asks of its backends.
WRITERS = ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars')


class Forgiving:
    """Warns once of what cannot be logged.

    Args:
        logger: Prints the warning.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._told = logger, False

    def warn(self, error: BaseException | None, what: str) -> None:
        """Say that ``what`` failed, if nothing was said so far."""
        if not self._told:
            self._told = True
            self._logger.warning(
                f'{what} cannot be written ({error}): the run goes on, and its log has gaps'
            )

    def files(self) -> None:
        """The logger's files; MMEngine also writes into their streams itself."""
        for handler in self._logger.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                stream: Any = _Stream(handler.stream, self, f'the log {handler.baseFilename}')
                handler.stream = stream

    def backends(self, visualizer: Any) -> None:
        """The files of the visualizer's backends, such as the curves' ``scalars.json``."""
        for backend in getattr(visualizer, '_vis_backends', {}).values():
            for name in WRITERS:
                if name not in vars(backend):  # a visualizer serves several runners
                    setattr(backend, name, self._forgiven(getattr(backend, name), backend))

    def _forgiven(self, write: Callable[..., Any], backend: Any) -> Callable[..., Any]:
        @functools.wraps(write)
        def forgiven(*args: Any, **kwargs: Any) -> Any:
            try:
                return write(*args, **kwargs)
            except OSError as error:
                return self.warn(error, f'the log of {type(backend).__name__}')

        return forgiven


class _Stream:
    """A text file that forgives what cannot be written."""

    def __init__(self, file: Any, forgiving: Forgiving, what: str) -> None:
        self._file, self._forgiving, self._what = file, forgiving, what

    def write(self, text: str) -> None:
        self._try(self._file.write, text)

    def flush(self) -> None:
        self._try(self._file.flush)

    def close(self) -> None:
        self._try(self._file.close)

    def _try(self, do: Callable[..., Any], *args: Any) -> None:
        try:
            do(*args)
        except OSError as error:
            self._forgiving.warn(error, self._what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
