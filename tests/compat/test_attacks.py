"""Files that run code, or change the process, in a naive reader, and are refused here.

Each attack is first carried out with a naive reader, so that one that does nothing fails its test.
"""

import codecs
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from kdmm.checkpoints import read_checkpoint
from kdmm.compat import unpickling
from kdmm.compat.unpickling import load_weights
from kdmm.errors import ConfigError
from tests.compat.pickles import (
    allow_all,
    call,
    folder_makers,
    of_getattr,
    text,
    write_archive,
)
from tests.errors import refused


class Naive(pickle.Unpickler):
    """An allow-list as one writes it first: by prefixes, and with the objects themselves."""

    NAMES = (
        'collections.OrderedDict',
        'collections.Counter',
        'mmengine.logging.history_buffer.HistoryBuffer',
        'numpy.dtype',
        '_codecs.encode',
    )

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' in ('builtins.getattr', '__builtin__.getattr'):
            return self.method
        if f'{module}.{name}' in self.NAMES or name.startswith('_rebuild_'):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')

    @staticmethod
    def method(owner: Any, name: str) -> Any:
        if owner is not HistoryBuffer:
            raise pickle.UnpicklingError('getattr')
        return getattr(owner, name)


@pytest.fixture
def methods() -> Iterator[dict[str, Any]]:
    """State of the process that a file could change."""
    HistoryBuffer()
    kept = dict(HistoryBuffer._statistics_methods)
    update, defaults = Counter.update, torch._utils._rebuild_tensor_v2.__defaults__
    yield kept
    HistoryBuffer._statistics_methods.clear()
    HistoryBuffer._statistics_methods.update(kept)
    Counter.update = update  # type: ignore[method-assign]
    torch._utils._rebuild_tensor_v2.__defaults__ = defaults


def refused_by_both(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the pickle's protocol
        with pytest.raises(Exception):  # noqa: B017
            load_weights(path)
        with pytest.raises(ConfigError, match='more than weights|damaged'):
            read_checkpoint(path)


@pytest.mark.parametrize('name', folder_makers(''))
def test_code_is_not_run(name: str, version: str, tmp_path: Path) -> None:
    made = tmp_path / 'made'
    data = folder_makers(str(made))[name]
    reader = pickle.Unpickler if name in allow_all(str(made)) else Naive
    reader(io.BytesIO(data)).load()
    assert made.is_dir(), 'no attack'
    made.rmdir()
    refused_by_both(write_archive(tmp_path / 'a.pth', data))
    legacy = [pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)]
    legacy += [pickle.dumps(torch.serialization.PROTOCOL_VERSION, 2)]
    legacy += [pickle.dumps(dict(little_endian=True), 2), data, pickle.dumps([], 2)]
    (tmp_path / 'b.pth').write_bytes(b''.join(legacy))
    refused_by_both(tmp_path / 'b.pth')
    assert not made.exists()


@pytest.mark.parametrize('name', sorted(dir(HistoryBuffer)) + ['mean.__globals__'])
def test_of_a_log_buffer_only_its_statistics_are_named(name, version, tmp_path):
    path = write_archive(tmp_path / 'a.pth', of_getattr(name) + b'.')
    if name in ('min', 'max', 'mean', 'current'):
        assert load_weights(path) is getattr(HistoryBuffer, name)
    else:
        with pytest.raises(pickle.UnpicklingError, match='getattr'):
            load_weights(path)


@pytest.mark.parametrize('name', sorted(dir(HistoryBuffer)))
def test_no_statistic_is_called(name, version, tmp_path):
    refused_by_both(write_archive(tmp_path / 'a.pth', call(of_getattr(name)) + b'.'))


def test_a_formula_that_may_be_named_is_not_called(version, tmp_path):
    owner = b'cmmengine.optim.scheduler.param_scheduler\nOneCycleParamScheduler\n'
    formula = of_getattr('_annealing_cos', owner)
    read = load_weights(write_archive(tmp_path / 'a.pth', formula + b'.'))
    assert read is OneCycleParamScheduler._annealing_cos
    path = write_archive(tmp_path / 'b.pth', call(formula, b'K\x01', b'K\x02', b'K\x01') + b'.')
    with pytest.raises(pickle.UnpicklingError, match='call'):
        load_weights(path)


def test_nothing_is_made_past_its_function(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickling.torch, '__version__', '2.1')
    for kind in (b'c__builtin__\nset\n', b'cnumpy\ndtype\n', b'ctorch\nTensor\n'):
        with pytest.raises(pickle.UnpicklingError, match='a new'):
            load_weights(write_archive(tmp_path / 'a.pth', kind + b')\x81.'))


def test_the_statistics_of_all_logs_stay(version, methods, tmp_path):
    state = b'}' + text('statistics_methods') + b'}' + text('mean')
    data = b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81' + state
    for value in (b'ccollections\nOrderedDict\n', of_getattr('update'), text('x')):
        attack = data + value + b'ssb.'
        Naive(io.BytesIO(attack)).load()
        assert HistoryBuffer._statistics_methods != methods, 'no attack'
        HistoryBuffer._statistics_methods.update(methods)
        refused_by_both(write_archive(tmp_path / 'a.pth', attack))
        assert HistoryBuffer._statistics_methods == methods


def test_classes_and_functions_stay(version, methods, tmp_path):
    update, defaults = Counter.update, torch._utils._rebuild_tensor_v2.__defaults__
    attacks = {
        b'ccollections\nCounter\n': 'update',
        b'ctorch._utils\n_rebuild_tensor_v2\n': '__defaults__',
    }
    for target, name in attacks.items():
        attack = target + b'N}' + text(name) + b')s\x86b.'
        Naive(io.BytesIO(attack)).load()
        changed = Counter.update, torch._utils._rebuild_tensor_v2.__defaults__
        assert changed != (update, defaults), 'no attack'
        Counter.update, torch._utils._rebuild_tensor_v2.__defaults__ = update, defaults
        refused_by_both(write_archive(tmp_path / 'a.pth', attack))
        assert (Counter.update, torch._utils._rebuild_tensor_v2.__defaults__) == (update, defaults)


def test_numpy_takes_no_bytes_for_objects(version, tmp_path):
    """A type of objects that says that it holds none: its scalars are addresses in the file."""
    dtype = call(b'cnumpy\ndtype\n', text('O'), b'\x89', b'\x88')
    attack = dtype + b'(K\x03' + text('|') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.'
    found = Naive(io.BytesIO(attack)).load()
    assert found.char == 'O' and not found.hasobject, 'no attack'
    refused_by_both(write_archive(tmp_path / 'a.pth', attack))


@pytest.mark.parametrize('code', ['O', 'V8', 'U4', 'S4', 'M8[s]', 'f8,i4', 'object'])
def test_only_plain_numbers_of_numpy(code, version, tmp_path):
    torch.save(dict(x=np.zeros(2, code)), tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'numpy.dtype'):
        load_weights(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'state',
    [
        (3, '<', None, ('a',), dict(a=(np.dtype('O'), 0)), 8, 1, 0),
        (3, '<', (np.dtype('f8'), (1000,)), None, None, -1, -1, 0),
        (3, '<', None, None, None, 1000, -1, 0),
        (3, '<', None, None, None, -1, -1, 63),
        (4, '<', None, None, None, -1, -1, 0, {}),
        (3, 'x', None, None, None, -1, -1, 0),
    ],
)
def test_no_type_of_numpy_is_given_parts(state, version, tmp_path):
    class Odd:
        def __reduce__(self):
            return np.dtype, ('f8', False, True), state

    torch.save(dict(x=Odd()), tmp_path / 'a.pth')
    refused_by_both(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'shape, size', [((2,), 8), ((1,), 24), ((-1,), 8), ((2**62, 4), 0), (('a',), 8)]
)
def test_an_array_is_as_long_as_its_bytes(shape, size, version, tmp_path):
    class Odd:
        def __reduce__(self):
            new = np.zeros(0).__reduce__()[0]
            return new, (np.ndarray, (0,), b'b'), (1, shape, np.dtype('f8'), False, b'1' * size)

    torch.save(dict(x=Odd()), tmp_path / 'a.pth')
    refused_by_both(tmp_path / 'a.pth')


def test_numbers_of_another_byte_order(version, tmp_path):
    values = np.arange(6, dtype='>f4').reshape(2, 3)
    content = dict(x=values, y=np.asfortranarray(values), z=values[0, 1], none=np.zeros((0, 3)))
    torch.save(content, tmp_path / 'a.pth')
    read = load_weights(tmp_path / 'a.pth')
    assert all(np.array_equal(read[key], content[key]) for key in content)
    assert read['x'].dtype == np.dtype('f4') and read['none'].shape == (0, 3)
    read['x'] += 1  # may be written to


def test_a_name_is_no_prefix(version, tmp_path):
    for module, name in (
        ('torch._utils', '_rebuild_wrapper_subclass.__globals__'),
        ('torch._utils', '_rebuild_anything'),
        ('torch', 'load'),
        ('torch', 'Tensor.__init__'),
        ('torch', 'hub.load'),
        ('torch.storage', 'torch.os.mkdir'),
        ('collections', 'OrderedDict.fromkeys'),
        ('collections', 'defaultdict'),
        ('numpy', 'load'),
        ('numpy', 'dtype.__class__'),
        ('builtins', 'getattr.__self__'),
        ('mmengine.logging.history_buffer', 'HistoryBuffer.mean'),
        ('mmengine.logging.history_buffer', 'np'),
        ('mmengine.optim.scheduler.param_scheduler', 'OneCycleLR'),
    ):
        data = b'\x80\x04c' + f'{module}\n{name}\n.'.encode()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with pytest.raises(pickle.UnpicklingError, match='GLOBAL'):
                load_weights(write_archive(tmp_path / 'a.pth', data))


def test_names_that_others_allowed_are_not(tmp_path):
    """MMEngine itself allows ``getattr`` while it reads."""
    if not hasattr(torch.serialization, 'safe_globals'):
        pytest.skip('this torch cannot be told names')
    mine = [getattr, os.mkdir, HistoryBuffer, np.dtype]
    attack = of_getattr('__init__') + b'.'
    with torch.serialization.safe_globals(mine):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(pickle.UnpicklingError, match='getattr'):
            load_weights(write_archive(tmp_path / 'a.pth', attack))
        assert set(torch.serialization.get_safe_globals()) == before


class Program(torch.nn.Module):
    """Writes a file when it is read."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.found = path, torch.ones(0)

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path, self.training = state
        self.found = torch.from_file(self.path, True, 8)

    def forward(self, x):
        return x


@pytest.mark.filterwarnings('ignore')
def test_a_program_of_torchscript(version, tmp_path):
    made = tmp_path / 'made'
    torch.jit.save(torch.jit.script(Program(str(made))), tmp_path / 'a.pth')
    torch.load(tmp_path / 'a.pth', weights_only=False)
    assert made.exists(), 'no attack'
    made.unlink()
    with refused(got=str(tmp_path / 'a.pth'), problem='more than weights'):
        read_checkpoint(tmp_path / 'a.pth')
    assert not made.exists()


def test_the_tar_files_of_old(version, tmp_path):
    made = tmp_path / 'made'
    parts = dict(storages=pickle.dumps(0, 2) + pickle.dumps([], 2), tensors=pickle.dumps(0, 2))
    parts['pickle'] = folder_makers(str(made))['reduce']
    with tarfile.open(tmp_path / 'a.pth', 'w') as tar:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    torch.load(tmp_path / 'a.pth', weights_only=False)
    assert made.exists(), 'no attack'
    made.rmdir()
    with refused(got=str(tmp_path / 'a.pth'), problem='more than weights'):
        read_checkpoint(tmp_path / 'a.pth')
    assert not made.exists()


@pytest.mark.parametrize('name', [('module', OrderedDict, 'x.py', 'y'), 'storage', ('x',), ()])
def test_persistent_names_are_of_storages(name, version, tmp_path):
    data = pickle.dumps(name, 2)[:-1] + pickle.BINPERSID + b'.'
    path = write_archive(tmp_path / 'a.pth', data)
    refused_by_both(path)
    if version == '2.1':
        with pytest.raises(pickle.UnpicklingError, match='persistent'):
            load_weights(path)


def test_what_is_called_takes_no_attributes(version, tmp_path):
    """Tensors with attributes are built by a function that calls another one."""
    tensor = torch.ones(2)
    tensor.note = 'mine'  # type: ignore[attr-defined]
    torch.save(dict(x=tensor), tmp_path / 'a.pth')
    assert load_weights(tmp_path / 'a.pth')['x'].note == 'mine'
    new = b'ctorch._tensor\n_rebuild_from_type_v2\n'
    for function in (b'ccollections\nCounter\n', b'cbuiltins\nset\n', of_getattr('mean')):
        refused_by_both(
            write_archive(
                tmp_path / 'a.pth', call(new, function, b'ctorch\nTensor\n', b')', b'}') + b'.'
            )
        )


def test_codecs_write_bytes_only(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickling.torch, '__version__', '2.1')
    data = call(b'c_codecs\nencode\n', text('x'), text('rot13')) + b'.'
    assert Naive(io.BytesIO(data)).load() == codecs.encode('x', 'rot13')
    refused_by_both(write_archive(tmp_path / 'a.pth', data))


def test_an_archive_of_ours_is_read(version, tmp_path):
    """The frame in which the attacks stand is a good file."""
    path = write_archive(tmp_path / 'a.pth', pickle.dumps(dict(a=1), 2))
    assert load_weights(path) == dict(a=1) and zipfile.is_zipfile(path)
