"""Atomic writes: a file is complete or absent."""

import contextlib
import os
from types import TracebackType
from typing import Any, TypeVar

#: What the temporary name of a file ends with.
PART = '.part'
Self = TypeVar('Self', bound='Draft')


class Draft:
    """A file under a temporary name until `commit`; it is removed if that does not come.

    Args:
        target: Where the file is to be. Until `commit`, and if anything fails, what is there stays.

    Attributes:
        path: The temporary name, beside the target.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self.target = os.fspath(target)
        self.path = f'{self.target}{PART}'

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)

    def write(self, content: bytes | memoryview) -> None:
        """Write the temporary file and wait until it is on the disk.

        Raises:
            OSError: If the system refuses.
        """
        with open(self.path, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> None:
        """Give the file its name."""
        os.replace(self.path, self.target)
        with contextlib.suppress(OSError):  # not every file system syncs folders
            folder = os.open(os.path.dirname(self.target) or '.', os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_file(target: str | os.PathLike[str], content: bytes | memoryview | str) -> None:
    """Write a file under a temporary name, sync it and rename it; its folder is made.

    Args:
        target: Where the file is to be.
        content: Text is written as UTF-8.

    Raises:
        OSError: If the system refuses; ``target`` is then what it was before.
    """
    os.makedirs(os.path.dirname(os.fspath(target)) or '.', exist_ok=True)
    with Draft(target) as draft:
        draft.write(content.encode() if isinstance(content, str) else content)
        draft.commit()
