import os
import stat
from pathlib import Path

import pytest

from kdmm.utils.files import Draft, write_file


def full(*_: object) -> None:
    raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('content', [b'new', 'new', memoryview(b'new')])
def test_a_file_is_written_whole_and_its_folder_is_made(tmp_path, content):
    target = tmp_path / 'a/b/file'
    write_file(target, b'a longer text')
    write_file(target, content)
    assert target.read_bytes() == b'new' and os.listdir(target.parent) == ['file']


def test_the_folder_is_synced_after_the_file_has_its_name(tmp_path, monkeypatch):
    """Else a power failure may forget the name."""
    synced = []

    def sync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((folder, (tmp_path / 'file').exists()))

    monkeypatch.setattr('os.fsync', sync)
    write_file(tmp_path / 'file', b'x')
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize('call', ['os.fsync', 'os.replace'])
def test_a_system_that_refuses_changes_nothing(tmp_path, monkeypatch, call):
    target = tmp_path / 'file'
    target.write_bytes(b'old')
    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(OSError, match='No space left'):
            write_file(target, b'new')
    assert target.read_bytes() == b'old' and os.listdir(tmp_path) == ['file']


def test_a_draft_that_is_not_committed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Draft('file') as draft:
        draft.write(b'x')
        assert Path(draft.path).read_bytes() == b'x'
    assert os.listdir(tmp_path) == []
