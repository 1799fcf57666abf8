"""Let a run continue when its logs cannot be written."""

import functools
import logging
from collections.abc import Callable
from typing import Any

#: Methods of MMEngine's visualizer backends that write.
WRITERS = ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars')


class LogErrorHandler:
    """Turn errors of log files and visualizer backends into one warning.

    Args:
        logger: Prints the warning.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._warned = logger, False

    def warn(self, error: BaseException | None, what: str) -> None:
        """Warn that ``what`` failed, unless a warning was given before."""
        if not self._warned:
            self._warned = True
            self._logger.warning(
                f'{what} cannot be written ({error}): the run goes on, and its log has gaps'
            )

    def guard_files(self) -> None:
        """Guard the logger's files; MMEngine also writes into their streams directly."""
        for handler in self._logger.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                stream: Any = _Stream(handler.stream, self, f'the log {handler.baseFilename}')
                handler.stream = stream

    def guard_backends(self, visualizer: Any) -> None:
        """Guard the visualizer's backends, such as the file ``scalars.json`` of the curves."""
        for backend in getattr(visualizer, '_vis_backends', {}).values():
            for name in WRITERS:
                if name not in vars(backend):  # a visualizer serves several runners
                    setattr(backend, name, self._guarded(getattr(backend, name), backend))

    def _guarded(self, write: Callable[..., Any], backend: Any) -> Callable[..., Any]:
        @functools.wraps(write)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return write(*args, **kwargs)
            except OSError as error:
                return self.warn(error, f'the log of {type(backend).__name__}')

        return guarded


class _Stream:
    """Text file whose write errors are warnings."""

    def __init__(self, file: Any, handler: LogErrorHandler, what: str) -> None:
        self._file, self._log_errors, self._what = file, handler, what

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
            self._log_errors.warn(error, self._what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
