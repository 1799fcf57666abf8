import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kdmm.downloads
from kdmm.checkpoints import read_checkpoint
from kdmm.downloads import fetch, local_file, sha256, verify_archive
from kdmm.errors import ConfigError
from tests.errors import refused


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts."""

    seen: list[str]

    def log_message(self, *args: Any) -> None:
        self.seen.append(self.path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A folder, the address that it is served at, and what was asked for."""
    (tmp_path / 'site').mkdir()
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    handler: Any = type('Handler', (Quiet,), dict(seen=[]))
    serve = partial(handler, directory=str(tmp_path / 'site'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), serve)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f'http://127.0.0.1:{server.server_address[1]}'
    yield SimpleNamespace(
        folder=tmp_path / 'site', url=address, seen=handler.seen, hub=tmp_path / 'hub/checkpoints'
    )
    server.shutdown()
    server.server_close()


def put(folder: Path, name: str, value: float, **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(w=torch.full((50,), value)), path, **options)
    return path


def value(url: str) -> float:
    return float(read_checkpoint(url)['w'][0])


def test_every_address_has_a_copy_of_its_own(site):
    for name, number in (('a/best.pth', 0.0), ('b/best.pth', 1.0)):
        put(site.folder, name, number)
    urls = [f'{site.url}/{name}' for name in ('a/best.pth', 'b/best.pth', 'a/best.pth?version=2')]
    assert [value(url) for url in (*urls, *urls)] == [0.0, 1.0, 0.0] * 2
    assert len(site.seen) == 3 and len({fetch(url) for url in urls}) == 3
    assert fetch(f'{urls[0]}#part') == fetch(urls[0])  # a fragment never reaches the server
    assert not list(site.hub.rglob('*.part'))


def test_a_copy_that_torch_made_is_used_only_if_its_hash_is_right(site):
    path = put(site.folder, 'x.pth', 1.0)
    name = f'r18-{sha256(path)[:8]}.pth'
    path.rename(site.folder / name)
    put(site.hub, name, 2.0)  # of another address
    assert value(f'{site.url}/{name}') == 1.0 and len(site.seen) == 1
    (site.hub / name).write_bytes((site.folder / name).read_bytes())
    assert fetch(f'{site.url}/elsewhere/{name}') == site.hub / name and len(site.seen) == 1
    put(site.hub, 'plain.pth', 3.0)  # nothing tells whose it is
    put(site.folder, 'plain.pth', 4.0)
    assert value(f'{site.url}/plain.pth') == 4.0


@pytest.mark.parametrize('form', ['r18-{}.pth', 'pose-{}_20230126.pth'])
def test_a_hash_is_compared_at_every_use(site, form):
    path = put(site.folder, 'x.pth', 1.0, _use_new_zipfile_serialization=False)
    name = form.format(sha256(path)[:8])
    path.rename(site.folder / name)
    copy = fetch(f'{site.url}/{name}')
    put(copy.parent, name, 2.0)
    assert value(f'{site.url}/{name}') == 1.0 and len(site.seen) == 2  # fetched again
    put(site.folder, name, 3.0)
    copy.unlink()
    with refused(key='kd.x', got=f'{site.url}/{name}', problem=('the SHA-256', 'its name says')):
        fetch(f'{site.url}/{name}', 'kd.x')
    assert not list(site.hub.rglob('*.p*t*'))


@pytest.mark.parametrize(
    'name', ['best-20240131.pth', 'r18-d8.pth', 'net-deadbeef0', 'a%20b.pth', f'{"x" * 150}.pth']
)
def test_names_without_a_hash(site, name):
    put(site.folder, name.replace('%20', ' '), 5.0)
    assert value(f'{site.url}/{name}') == 5.0


def test_an_address_without_a_name(site, monkeypatch):
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, part: put(site.folder, part, 6.0)
    )
    assert value(f'{site.url}/?file=3') == 6.0
    assert value(f'{site.url}/folder/') == 6.0


def test_half_a_file_is_not_kept(site):
    whole = put(site.folder, 'a.pth', 1.0).read_bytes()
    (site.folder / 'a.pth').write_bytes(whole[: len(whole) // 2])
    with refused(got=f'{site.url}/a.pth', problem='arrived truncated or damaged'):
        fetch(f'{site.url}/a.pth')
    (site.folder / 'a.pth').write_bytes(whole)
    assert value(f'{site.url}/a.pth') == 1.0


def test_what_the_server_gives_in_place_of_a_file_can_be_removed(site):
    (site.folder / 'a.pth').write_text('<html>log in first</html>')
    with refused(got=f'{site.url}/a.pth', fix='without it, it is fetched again') as info:
        read_checkpoint(f'{site.url}/a.pth')
    copy = fetch(f'{site.url}/a.pth')
    assert str(copy) in info.value.fix
    copy.unlink()
    put(site.folder, 'a.pth', 1.0)
    assert value(f'{site.url}/a.pth') == 1.0


@pytest.mark.parametrize(
    'url, told',
    [
        ('{}/gone.pth', dict(problem='the server says 404', fix='Correct the address')),
        ('http://127.0.0.1:9/a.pth', dict(problem='cannot be read', fix='Check the network')),
        ('http://[::1/a.pth', dict(problem='is no address')),
        ('http://host name/a.pth', dict(problem='cannot be read')),
        ('s3://bucket/a.pth', dict(expected='a path, http://')),
        ('file:///none/a.pth', dict(problem='no such file')),
    ],
)
def test_one_message_for_what_cannot_be_fetched(site, url, told):
    url = url.format(site.url)
    with refused(key='kd.x', got=url, **told):
        local_file(url, 'kd.x')


def test_a_file_address_is_a_path(tmp_path):
    path = put(tmp_path, 'a b.pth', 1.0)
    assert local_file(path.as_uri()) == local_file(path) == path


def test_no_rank_waits_for_another_that_has_left(site, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    with refused(got=f'{site.url}/a.pth', problem='no file after its download'):
        fetch(f'{site.url}/a.pth')
    assert not site.seen  # the first rank of a node fetches
    theirs = ConfigError('rank 0 says 404')
    monkeypatch.setattr(kdmm.downloads, 'all_gather_object', lambda mine: [theirs, mine])
    with refused(problem='rank 0 says 404'):
        fetch(f'{site.url}/a.pth')


def test_checksums_of_an_archive(tmp_path, monkeypatch):
    path = put(tmp_path, 'a.pth', 1.0)
    assert verify_archive(path)
    content = bytearray(path.read_bytes())
    content[content.find(torch.full((50,), 1.0).numpy().tobytes()) + 77] ^= 16
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match='a/data/0'):
        verify_archive(path)
    assert not verify_archive(put(tmp_path, 'b.pth', 1.0, _use_new_zipfile_serialization=False))


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='newer torch')
def test_an_archive_that_was_written_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = put(tmp_path, 'a.pth', 1.0)
    finally:
        torch.serialization.set_crc32_options(True)
    assert not verify_archive(path) and read_checkpoint(path)['w'][0] == 1
