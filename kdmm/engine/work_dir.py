"""Lock of a work dir, its latest checkpoint, and files that killed runs left."""

import errno
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path
from typing import IO, Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import print_log

from kdmm.errors import ConfigError
from kdmm.hooks.checkpoint import LAST, checkpoint_folders, last_named, record_of, resumable
from kdmm.hooks.summary import SUMMARY
from kdmm.utils.files import PART

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = '.lock'
#: Locked files of this process. Closing a second descriptor would release the lock.
_held: dict[str, IO[str]] = {}


@contextmanager
def exclusive_run(work_dir: str) -> Iterator[None]:
    """Lock the work dir against other runs. All ranks call this.

    The first rank holds a POSIX record lock on a file ``.lock``. The kernel releases it with the
    process, and data loader workers do not inherit it, so a killed run can be resumed at once.
    Within a process the work dir can be held several times. Where the file system has no locks, a
    warning says so.

    Raises:
        ConfigError: On all ranks, if another process holds it (the message says which), or nothing
            can be written there.
    """
    path, mine = os.path.join(os.path.realpath(work_dir), LOCK), False
    refusal: ConfigError | None = None
    if is_main_process() and path not in _held:
        try:
            make_folder(work_dir, 'work_dir')
            _lock(path)
        except ConfigError as error:
            refusal = error
        mine = path in _held
    for found in all_gather_object(refusal):
        if found is not None:
            raise found
    try:
        yield
    finally:
        if mine:
            _held.pop(path).close()


def make_folder(path: str, key: str) -> None:
    """Make a folder in which files can be written.

    Args:
        path: Of the folder.
        key: The option or config key that names it, for errors.

    Raises:
        ConfigError: If it cannot be made, or the system refuses to write a file there.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(2**12))
    except OSError as error:
        place = f' ({error.filename})' if error.filename not in (None, path) else ''
        raise ConfigError(
            f'{error.strerror}{place}',
            key=key,
            got=path,
            expected='a folder in which files can be written',
            fix='Name another, or see to its rights and the room on its disk.',
        ) from error


def _lock(path: str) -> None:
    """Lock the file, where the file system has locks.

    Raises:
        ConfigError: If another process has locked it.
    """
    file = None
    try:
        file = open(path, 'a+')  # noqa: SIM115  (held as long as the run lasts)
        if fcntl is None:
            raise OSError('this system has no record locks')
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        folder = os.path.dirname(path)
        owner = _owner(file) if file is not None else ''
        if file is not None and error.errno in (errno.EAGAIN, errno.EACCES):
            raise ConfigError(
                f'another run is training there ({owner})',
                key='work_dir',
                got=folder,
                fix='Give this run another --work-dir, or wait for the other to end.',
            ) from error
        print_log(
            f'work_dir: {folder!r} cannot be locked ({error}); see to it that no other run trains '
            'in it',
            'current',
            WARNING,
        )
        return
    file.truncate(0)
    began = time.strftime('%Y-%m-%d %H:%M:%S')
    file.write(f'process {os.getpid()} on {socket.gethostname()}, since {began}\n')
    file.flush()
    _held[path] = file


def _owner(file: IO[str]) -> str:
    """Close a lock file that another process holds; return its content."""
    with file:
        file.seek(0)
        return file.read().strip() or 'it does not say which'


def latest_checkpoint(work_dir: str, cfg: Mapping[str, Any]) -> str | None:
    """Checkpoint of the work dir from which to resume, None if there is none.

    It is the file that ``last_checkpoint`` names, looked up in this work dir or the ``out_dir`` of
    the `CheckpointHook`, also after the work dir was moved. If that file is missing, it is the
    readable and resumable one of most iterations.

    Args:
        work_dir: Of the run.
        cfg: Its config.

    Raises:
        ConfigError: If there are checkpoints and none of them can be read.
    """
    work_dir = os.path.abspath(work_dir)
    named, folders = record_of(work_dir), checkpoint_folders(work_dir, cfg)
    if '://' in named:
        return named
    for path in last_named(folders, work_dir):
        return path
    record = os.path.join(work_dir, LAST)
    found, damaged = resumable(folders, cfg)
    if found is None and damaged:
        raise ConfigError(
            f'{record} names no checkpoint that is there ({named!r}), and none of these can be '
            f'read: {", ".join(damaged)}',
            key='--resume',
            fix='Name another with --resume PATH, or start anew without --resume.',
        )
    if found is not None:
        message = f'names {named!r}, which is not there' if named else 'is missing or names no file'
        print_log(f'{record} {message}; going on from {found}', 'current', WARNING)
    return found


def remove_partial_files(work_dir: str, cfg: Mapping[str, Any]) -> None:
    """Remove partial files of a run that was killed while it wrote; call it in `exclusive_run`.

    Only files with the temporary names of a run are removed, and only if this process holds the
    lock: otherwise another run may be writing.
    """
    if os.path.join(os.path.realpath(work_dir), LOCK) not in _held:  # nor do other ranks
        return
    for folder in checkpoint_folders(work_dir, cfg):
        for path in Path(folder).glob(f'*{PART}'):
            written = path.name.removesuffix(PART)
            if path.is_file() and (written.endswith('.pth') or written in (LAST, SUMMARY)):
                path.unlink(missing_ok=True)
                print_log(f'{path} is removed: a run was killed while it wrote it', 'current')
