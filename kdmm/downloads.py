"""Local copies of files behind paths and addresses, and checks that they are complete."""

import hashlib
import os
import re
import uuid
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urlsplit

import torch
from mmengine.dist import all_gather_object

from kdmm.errors import ConfigError

#: ``-9e428899.pth`` as most zoos write it, ``-9e428899_20230126.pth`` as MMPose's does.
_DIGEST = re.compile(r'-([a-f0-9]{8,64})(?:_\d{8})?\.[a-z]+$')
_DATE = re.compile(r'20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])')  # no hash, though of its form


def local_file(source: str | os.PathLike[str], what: str = 'checkpoint') -> Path:
    """Return the file of a path or an address, which is fetched. All ranks call this.

    Args:
        source: Path, or an address that begins with ``http://``, ``https://`` or ``file://``.
        what: How errors call the file, usually the config key that names it.

    Raises:
        ConfigError: If there is none, or it cannot be fetched.
    """
    name = str(source)
    try:
        scheme = urlsplit(name).scheme if '://' in name else ''
    except ValueError as error:
        raise ConfigError(f'this is no address ({error})', key=what, got=name) from error
    if scheme in ('http', 'https'):
        return fetch(name, what)
    if scheme not in ('', 'file'):
        raise ConfigError(
            f'{scheme}:// is not fetched here',
            key=what,
            got=name,
            expected='a path, http://, https:// or file://',
            fix='Fetch it first and give its path.',
        )
    path = Path(unquote(urlsplit(name).path) if scheme else name).expanduser()
    if not path.is_file():
        raise ConfigError('there is no such file', key=what, got=name)
    return path


def fetch(url: str, what: str = 'checkpoint') -> Path:
    """Download the file behind ``url`` once a node. All ranks call this.

    The copy lies in torch's hub folder under a name of its own for every whole address: two
    addresses may end in the same file name. A hash in the file name, as the OpenMMLab zoos write
    it, is compared with the content at every use; a copy that is not what its name says is fetched
    again. Given such a hash, a file that torch or MMEngine has fetched before is used as well.
    No process sees half a file: it gets its name when it is complete.

    Raises:
        ConfigError: On all ranks, if the file cannot be fetched or is not what its name says.
    """
    problem: ConfigError | None = None
    if int(os.environ.get('LOCAL_RANK', 0)) == 0 and _copy_of(url) is None:
        try:
            _download(url, what)
        except ConfigError as error:
            problem = error
    problems = [error for error in all_gather_object(problem) if error is not None]
    if problems:  # no rank may wait for another that has left
        raise problem or problems[0]
    path = _copy_of(url)
    if path is None:
        raise ConfigError('there is no file after its download', key=what, got=url)
    return path


def verify_archive(path: Path) -> bool:
    """Compare every record of a zip archive with its checksum.

    0.07 s for 200 MB. torch itself ignores the checksums when it reads.

    Returns:
        False for a file without checksums: one that is no zip archive, as torch before 1.6 and the
        OpenMMLab zoos write them, or that was written with ``set_crc32_options(False)``. Damage in
        its numbers cannot be seen.

    Raises:
        zipfile.BadZipFile: Names the damaged record.
    """
    with open(path, 'rb') as file:
        if file.read(4) != b'PK\x03\x04':
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(record.CRC for record in archive.infolist()):
                return False
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile):
        raise
    except Exception as error:  # whatever a damaged index leads to: other compression, a password
        raise zipfile.BadZipFile(f'its index is damaged ({error})') from error
    if damaged is not None:
        raise zipfile.BadZipFile(f'the checksum of its record {damaged} is another')
    return True


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; 0.17 s for 200 MB."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _place(url: str) -> tuple[Path, Path, str]:
    """Path of the copy of ``url``, path of torch's own copy, and the hash in its name."""
    address = urldefrag(url)[0]
    name = urlsplit(address).path.rpartition('/')[2][-100:] or 'checkpoint'
    match = _DIGEST.search(name)
    digest = match[1] if match and not _DATE.fullmatch(match[1]) else ''
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    return folder / hashlib.sha256(address.encode()).hexdigest()[:16] / name, folder / name, digest


def _copy_of(url: str) -> Path | None:
    """The copy of ``url`` that is here, if it is what its name says."""
    own, common, digest = _place(url)
    for path in (own, common) if digest else (own,):
        if path.is_file() and sha256(path).startswith(digest):
            return path
    return None


def _download(url: str, what: str) -> None:
    own, _, digest = _place(url)
    part = own.with_name(f'{uuid.uuid4().hex}.part')
    elsewhere = 'or fetch it elsewhere and give its path'
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(part))
        verify_archive(part)
        if not sha256(part).startswith(digest):
            raise ConfigError(
                f'it has the SHA-256 {sha256(part)[:16]}..., its name says {digest}: it is damaged '
                'or another file',
                key=what,
                got=url,
                fix=f'Try again, {elsewhere} if you trust it.',
            )
        os.replace(part, own)
    except HTTPError as error:
        raise ConfigError(
            f'cannot be read (the server says {error.code} {error.reason})',
            key=what,
            got=url,
            fix=f'Correct the address, {elsewhere}.',
        ) from error
    except zipfile.BadZipFile as error:
        raise ConfigError(
            f'arrived truncated or damaged ({error})',
            key=what,
            got=url,
            fix=f'Try again, {elsewhere}.',
        ) from error
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise ConfigError(
            f'cannot be read ({error})',
            key=what,
            got=url,
            fix=f'Check the network, {elsewhere}.',
        ) from error
    finally:
        part.unlink(missing_ok=True)
