import pickle
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from kdmm.distillers.weights import fingerprint, load_strictly, read_checkpoint, state_dict_of
from kdmm.errors import ConfigError


class Arbitrary:
    """Not a weight."""


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_file_is_read(tmp_path, net):
    torch.save(dict(state_dict=net.state_dict()), tmp_path / 'a.pth')
    state = state_dict_of(read_checkpoint(str(tmp_path / 'a.pth')))
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_what_mmengine_stores_is_weights_only(tmp_path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(message_hub=dict(log_scalars=OrderedDict(loss=log)), lr=np.float64(0.1),
                   count=np.int64(3), seeds=np.arange(3))  # fmt: skip
    torch.save(content, tmp_path / 'a.pth')
    read = read_checkpoint(str(tmp_path / 'a.pth'))
    assert read['message_hub']['log_scalars']['loss'].current() == 2.0 and read['lr'] == 0.1


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"kd\.x: no file at '.*gone\.pth'"):
        read_checkpoint(str(tmp_path / 'gone.pth'), what='kd.x')
    with pytest.raises(ConfigError, match='no file at'):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize('keep', [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_truncated_file(tmp_path, net, keep, zipped):
    path = tmp_path / 'a.pth'
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ConfigError, match=r"checkpoint: '.*a\.pth' is (truncated|damaged)"):
        read_checkpoint(str(path))


@pytest.mark.parametrize('content', [b'<html>404</html>', b'junk', bytes(200), b'\x80\x02}q\x00.'])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ConfigError, match='a.pth'):
        state_dict_of(read_checkpoint(str(tmp_path / 'a.pth')))


@pytest.mark.parametrize('content', [[1, 2], torch.ones(2), 3])
def test_a_file_without_a_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='a.pth'):
        state_dict_of(read_checkpoint(str(tmp_path / 'a.pth')))


def test_arbitrary_pickles_need_unsafe(tmp_path):
    torch.save(dict(state_dict={}, extra=Arbitrary()), tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='(?s)holds more than weights .*unsafe=True'):
        read_checkpoint(str(tmp_path / 'a.pth'))
    assert isinstance(read_checkpoint(str(tmp_path / 'a.pth'), unsafe=True)['extra'], Arbitrary)


def test_code_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, (f'open({str(tmp_path / "ran")!r}, "w")',)

    (tmp_path / 'a.pth').write_bytes(pickle.dumps(dict(a=Bomb())))
    with pytest.raises(ConfigError):
        read_checkpoint(str(tmp_path / 'a.pth'))
    assert not (tmp_path / 'ran').exists()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Addresses that give local files: a 'download' copies one of ``tmp_path`` into the hub."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    calls = []

    def download(url, target, digest):
        calls.append((url, digest))
        shutil.copy(tmp_path / url.rsplit('/', 1)[1], target)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    return calls


def test_an_address_is_fetched_once_and_its_hash_asked_for(tmp_path, served):
    torch.save(dict(a=torch.ones(1)), tmp_path / 'r18-d8_0123abcd-0123abcd.pth')
    url = 'https://host/r18-d8_0123abcd-0123abcd.pth'
    for _ in range(2):
        assert read_checkpoint(url)['a'] == 1
    assert served == [(url, '0123abcd')]


def test_only_the_first_rank_of_a_node_fetches(tmp_path, served, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(ConfigError, match='no file at'):
        read_checkpoint('https://host/a.pth')
    assert not served


def test_an_address_is_read_weights_only(tmp_path, served):
    torch.save(dict(x=Arbitrary()), tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='unsafe=True'):
        read_checkpoint('https://host/a.pth')
    assert isinstance(read_checkpoint('https://host/a.pth', unsafe=True)['x'], Arbitrary)


def test_a_failing_address_is_named(tmp_path, served, monkeypatch):
    def download(url, target, digest):
        raise OSError('name or service not known')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(ConfigError, match="'https://host/a.pth' cannot be read .*service"):
        read_checkpoint('https://host/a.pth')


def test_the_prefix_of_a_wrapper_goes(net):
    wrapped = {f'module.{key}': value for key, value in net.state_dict().items()}
    assert set(state_dict_of(dict(state_dict=wrapped))) == set(net.state_dict())
    assert set(state_dict_of(wrapped)) == set(net.state_dict())


def test_a_child_called_module_keeps_its_name():
    net = nn.ModuleDict(dict(module=nn.Linear(1, 1), other=nn.Linear(1, 1)))
    assert set(state_dict_of(net.state_dict())) == set(net.state_dict())


def test_loading_strictly(net):
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_strictly(net, other.state_dict(), 'x')
    assert torch.equal(net[0].weight, other[0].weight)


def test_every_kind_of_misfit_is_listed_and_nothing_is_loaded(net):
    before = fingerprint(net.state_dict().values())
    state = dict(net.state_dict(), extra=torch.ones(1))
    state['0.weight'] = torch.ones(3, 5)
    state['0.bias'] = torch.ones(3)
    del state['1.running_mean']
    with pytest.raises(ConfigError) as info:
        load_strictly(net, state, 'kd.teacher.checkpoint')
    message = str(info.value)
    assert message.startswith('kd.teacher.checkpoint does not fit Sequential (7 entries)')
    assert 'missing: 1.running_mean' in message and 'unexpected: extra' in message
    assert 'wrong shape: 0.weight (3, 5) for (3, 2)' in message
    assert fingerprint(net.state_dict().values()) == before


def test_long_lists_are_cut(net):
    state = {f'k{index}': torch.ones(1) for index in range(20)}
    with pytest.raises(ConfigError, match='k7 and 12 more'):
        load_strictly(net, state, 'x')


def test_a_child_can_be_left_out(net):
    state = {key: value for key, value in net.state_dict().items() if not key.startswith('1.')}
    load_strictly(net, state, 'x', without='1')
    with pytest.raises(ConfigError, match='unexpected: 1.weight'):
        load_strictly(net, net.state_dict(), 'x', without='1')


def test_an_entry_that_is_no_tensor_is_a_config_error(net):
    with pytest.raises(ConfigError):
        load_strictly(net, dict(net.state_dict(), **{'0.bias': 'text'}), 'x')


def test_the_fingerprint_sees_every_bit(net):
    def digest() -> str:
        return fingerprint(net.state_dict().values())

    before = digest()
    assert digest() == before
    with torch.no_grad():
        net[0].bias[2] = torch.nextafter(net[0].bias[2], torch.tensor(9.0))
    assert digest() != before
    before = digest()
    net[1].num_batches_tracked += 1
    assert digest() != before


@pytest.mark.parametrize('value', [torch.ones(2, 2).bfloat16(), torch.tensor(True),
                                   torch.ones(0), torch.ones(2, 3).t()])  # fmt: skip
def test_the_fingerprint_takes_any_tensor(value):
    assert len(fingerprint([value])) == 64
