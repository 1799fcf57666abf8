"""``torch.load`` of weights and of nothing that could run code, on every supported torch.

MMEngine's checkpoints hold more than tensors: log buffers, numbers of numpy, and the state of every
scheduler. torch's own weights-only reader is told their names, and each name stands for something
of this file that takes data and gives data. Before torch 2.7 it cannot be told, and before 2.6 it
also loads archives that run code; `_Machine` is read with there.
"""

import math
import pickle
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

#: torch's own, whatever `torch.load` is when a file is read.
_LOAD = torch.load
_NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16')
_REBUILDS = (
    '_rebuild_tensor',
    '_rebuild_tensor_v2',
    '_rebuild_tensor_v3',
    '_rebuild_parameter',
    '_rebuild_parameter_with_state',
    '_rebuild_qtensor',
    '_rebuild_sparse_tensor',
    '_rebuild_meta_tensor_no_storage',
    '_rebuild_nested_tensor',
)


def load_weights(file: Any, map_location: Any = 'cpu') -> Any:
    """Read a file of tensors, containers and what MMEngine's checkpoints have besides.

    Args:
        file: Path or an open file.
        map_location: As in `torch.load`.

    Raises:
        pickle.UnpicklingError: If it names anything else.
    """
    _refuse_programs(file)
    if digit_version(torch.__version__) < digit_version('2.7'):  # cannot be told the names in files
        machine = SimpleNamespace(__name__='kdmm', Unpickler=_Machine, load=_load_one)
        content = _LOAD(file, map_location, pickle_module=machine, weights_only=False)
    else:
        with _allowed(MMENGINE):
            content = _LOAD(file, map_location, weights_only=True)
    return _settled(content, set())


def load_anything(file: Any, map_location: Any = 'cpu') -> Any:
    """Read a file that may run code, for those who trust it."""
    return _LOAD(file, map_location, weights_only=False)


def _refuse_programs(file: Any) -> None:
    """Refuse the two forms of archive that some torch releases read without asking the unpickler.

    TorchScript runs its ``__setstate__``, and the tar files of torch 0.1 are unpacked to disk.
    """
    if not hasattr(file, 'read'):
        with open(file, 'rb') as opened:
            return _refuse_programs(opened)
    start = file.tell()
    archive = file.read(4) == b'PK\x03\x04'
    file.seek(start)
    if archive:
        program = 'constants.pkl' in torch._C.PyTorchFileReader(file).get_all_records()
    else:
        try:
            tarfile.open(fileobj=file, mode='r:').close()
            program = True
        except tarfile.TarError:
            program = False
    file.seek(start)
    if program:
        kind = 'a TorchScript' if archive else 'an ancient tar'
        raise pickle.UnpicklingError(f'{kind} archive is more than weights')


@contextmanager
def _allowed(names: dict[str, Any]) -> Iterator[None]:
    """Let torch's reader know ``names``, and no others that somebody in the process allowed."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(value, name) for name, value in names.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# Stand-ins. Of numpy's own functions some take memory for objects if a file tells them to.


class _Dtype:
    """Stands for ``numpy.dtype``, of plain numbers only."""

    def __init__(self, code: Any = None, align: Any = False, copy: Any = True) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype of {code!r} is not allowed')
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, rest = state[1], state[2:]
        if order not in ('<', '>', '|', '=') or rest != (None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype of state {state!r} is not allowed')
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for ``numpy.ndarray`` until everything is read."""

    shape: Any = (0,)
    dtype: Any = None
    data: Any = b''
    order: Any = 'C'

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, fortran, self.data = state
        self.order = 'F' if fortran else 'C'

    def real(self) -> np.ndarray:
        if self.dtype is None:
            return np.zeros(0)
        return _numbers(self.shape, self.dtype, self.data, self.order)


class _LogBuffer:
    """Stands for ``HistoryBuffer`` until everything is read."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> HistoryBuffer:
        """The buffer; its statistics are those that every buffer has."""
        state = dict(self.state or {})
        buffer = HistoryBuffer([], [], int(state.pop('max_length', 1000000)))
        for method in dict(state.pop('statistics_methods', {})).values():
            if not any(method is known for known in _METHODS.values()):
                raise pickle.UnpicklingError(f'statistics {method!r} of a log are not allowed')
        for key in ('_log_history', '_count_history'):
            values = state.pop(key, None)
            if type(values) is not _Array:
                raise pickle.UnpicklingError(f'a log without {key}')
            setattr(buffer, key, values.real())
        if state:
            raise pickle.UnpicklingError(f'a log with {", ".join(map(str, state))}')
        return buffer


class _OneCycle:
    """Stands for ``OneCycleParamScheduler``, which a file names only as the owner of a formula."""

    def __new__(cls, *args: Any) -> Any:
        raise pickle.UnpicklingError('GLOBAL OneCycleParamScheduler is not allowed')


_METHODS = {
    (_LogBuffer, 'min'): HistoryBuffer.min,
    (_LogBuffer, 'max'): HistoryBuffer.max,
    (_LogBuffer, 'mean'): HistoryBuffer.mean,
    (_LogBuffer, 'current'): HistoryBuffer.current,
    (_OneCycle, '_annealing_cos'): OneCycleParamScheduler._annealing_cos,
    (_OneCycle, '_annealing_linear'): OneCycleParamScheduler._annealing_linear,
}


def _method(owner: Any, name: Any) -> Any:
    """Stands for ``getattr``: exactly the functions that MMEngine's states hold."""
    for (kind, allowed), function in _METHODS.items():
        if owner is kind and name == allowed and type(name) is str:
            return function
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {name!r} is not allowed')


def _new_array(kind: Any, shape: Any, code: Any) -> _Array:
    """Stands for numpy's ``_reconstruct``."""
    if kind is not _Array:
        raise pickle.UnpicklingError(f'GLOBAL numpy _reconstruct of {kind!r} is not allowed')
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    """Stands for numpy's ``scalar``."""
    return _numbers((), dtype, data)[()]


def _numbers(shape: Any, dtype: Any, data: Any, order: Any = 'C') -> np.ndarray:
    """Bytes as numbers of this machine's byte order."""
    if type(dtype) is not _Dtype or type(data) is not bytes or type(shape) is not tuple:
        raise pickle.UnpicklingError('an array of numpy that is no plain one')
    if len(data) != math.prod(shape) * dtype.value.itemsize:
        raise pickle.UnpicklingError(f'an array of shape {shape} with {len(data)} bytes')
    found: np.ndarray = np.ndarray(shape, dtype.value, data, order=order)
    return found.astype(dtype.value.newbyteorder('='))


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands for ``_codecs.encode``, with which the second protocol writes bytes."""
    if type(text) is not str or encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode with {encoding!r} is not allowed')
    return text.encode('latin1')


def _no_bytes() -> bytes:
    """Stands for ``bytes``, with which the second protocol writes none of them."""
    return b''


def _typed(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """Stands for torch's ``_rebuild_from_type_v2``: a tensor with attributes."""
    allowed = any(function is TORCH.get(f'torch._utils.{name}') for name in _REBUILDS)
    if function is None or not allowed or kind not in (torch.Tensor, torch.nn.Parameter):
        raise pickle.UnpicklingError(f'GLOBAL torch._tensor of {kind!r} is not allowed')
    return torch._tensor._rebuild_from_type_v2(function, kind, args, state)


#: Full name in a file to what it stands for: what MMEngine's checkpoints have besides tensors.
MMENGINE: dict[str, Any] = {
    f'{HistoryBuffer.__module__}.HistoryBuffer': _LogBuffer,
    f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler': _OneCycle,
    'builtins.getattr': _method,
    'builtins.slice': slice,
    'builtins.bytes': _no_bytes,
    'numpy.dtype': _Dtype,
    'numpy.ndarray': _Array,
    **{
        f'numpy.{core}.multiarray.{name}': stand_in
        for core in ('core', '_core')  # files written under numpy 1 and 2
        for name, stand_in in (('_reconstruct', _new_array), ('scalar', _scalar))
    },
}
#: The same of tensors and containers: what the newest torch allows and networks and optimizers use.
TORCH: dict[str, Any] = {
    'collections.OrderedDict': OrderedDict,
    'collections.Counter': Counter,
    'builtins.set': set,
    'builtins.complex': complex,
    'builtins.bytearray': bytearray,
    '_codecs.encode': _encode,
    'torch.Size': torch.Size,
    'torch.device': torch.device,
    'torch.serialization._get_layout': torch.serialization._get_layout,
    'torch._tensor._rebuild_from_type_v2': _typed,
    **{
        f'torch._utils.{name}': getattr(torch._utils, name)
        for name in _REBUILDS
        if hasattr(torch._utils, name)
    },
}
#: What a file may name, but not call.
_VALUES: dict[str, Any] = {
    'torch.Tensor': torch.Tensor,
    'torch.nn.parameter.Parameter': torch.nn.Parameter,
    'torch.storage.UntypedStorage': torch.storage.UntypedStorage,
    **{
        f'torch.{name}': value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype | torch.qscheme)
    },
}
_NAMES = {**MMENGINE, **TORCH, **_VALUES}
_CALLED = [value for value in {**MMENGINE, **TORCH}.values() if value not in (_LogBuffer, _Array)]
_KEPT = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.BINUNICODE, pickle.SHORT_BINSTRING),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT),
)
_Pure: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Machine(_Pure):
    """An unpickler that knows the names above, calls what is to be called and sets no attributes.

    `pickle.Unpickler` with a ``find_class`` of its own is not enough: it calls, extends and changes
    whatever lies on the stack, functions and classes included. `torch.load` derives from it and
    gives it ``persistent_load``.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = f'{"builtins" if module == "__builtin__" else module}.{name}'
        if full not in _NAMES:
            raise pickle.UnpicklingError(f'GLOBAL {full} is not allowed')
        return _NAMES[full]

    def load_global(self) -> None:
        module, name = (self.readline()[:-1].decode() for _ in range(2))
        self.append(self.find_class(module, name))

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if type(args) is not tuple or not any(function is known for known in _CALLED):
            raise pickle.UnpicklingError(f'a call of {function!r} is not allowed')
        self.append(function(*args))

    def load_newobj(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        if kind is not _LogBuffer or args != ():
            raise pickle.UnpicklingError(f'a new {kind!r} is not allowed')
        self.append(_LogBuffer())

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) in (_LogBuffer, _Array, _Dtype):
            target.__setstate__(state)
        elif type(target) is OrderedDict and type(state) is dict:
            target.__dict__.update(state)  # the versions of modules, `_metadata`
        else:
            raise pickle.UnpicklingError(f'a state of {type(target)!r} is not allowed')

    def load_binpersid(self) -> None:
        name = self.stack.pop()
        if type(name) is not tuple or name[:1] != ('storage',):
            raise pickle.UnpicklingError(f'a persistent {name!r} is not allowed')
        self.append(self.persistent_load(name))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._target(list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._target(list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target(dict, OrderedDict, Counter)[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        target = self._target(dict, OrderedDict, Counter)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def _target(self, *kinds: type) -> Any:
        if type(self.stack[-1]) not in kinds:
            raise pickle.UnpicklingError(f'items of a {type(self.stack[-1])!r} are not allowed')
        return self.stack[-1]

    def _refuse(self) -> None:
        raise pickle.UnpicklingError('an operation that files of torch do not have')

    dispatch = {
        **dict.fromkeys(range(256), _refuse),
        **{code[0]: _Pure.dispatch[code[0]] for code in _KEPT},
        pickle.GLOBAL[0]: load_global,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.BINPERSID[0]: load_binpersid,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def _load_one(file: IO[bytes], **options: Any) -> Any:
    return _Machine(file, **options).load()


def _settled(value: Any, seen: set[int]) -> Any:
    """``value`` with what the stand-ins stand for; dicts and lists are changed in place."""
    if type(value) in (_Array, _LogBuffer):
        return value.real()
    if type(value) is tuple:
        items = [_settled(item, seen) for item in value]
        same = all(one is other for one, other in zip(items, value, strict=True))
        return value if same else tuple(items)
    if type(value) in (dict, OrderedDict, Counter, list) and id(value) not in seen:
        seen.add(id(value))
        for key in range(len(value)) if type(value) is list else list(value):
            value[key] = _settled(value[key], seen)
    return value
