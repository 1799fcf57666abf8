"""``torch.load`` of weights and of nothing that could run code, on every supported torch.

MMEngine's checkpoints hold more than tensors: logged numbers as numpy values, in `HistoryBuffer`.
"""

import codecs
import importlib
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version


def load_weights(path: Path, map_location: Any = 'cpu') -> Any:
    """Read a file of tensors, containers and MMEngine's log buffers.

    Raises:
        pickle.UnpicklingError: If it names anything else.
    """
    names = _log_names()
    if digit_version(torch.__version__) < digit_version('2.7'):  # cannot be told the names in files
        # without weights_only the pickle module decides, and this one knows only these names
        limited = restricted_pickle(names)
        return torch.load(path, map_location, pickle_module=limited, weights_only=False)
    with torch.serialization.safe_globals([(value, name) for name, value in names.items()]):
        return torch.load(path, map_location, weights_only=True)


def _history_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in MMEngine's log buffers, which pickle their own methods by name."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(HistoryBuffer, name)


def _log_names() -> dict[str, Any]:
    """Full name in a file to what it stands for, of all that a log buffer consists of."""
    core = 'numpy.core' if np.__version__ < '2' else 'numpy._core'
    multiarray = importlib.import_module(f'{core}.multiarray')
    names = {
        f'{package}.multiarray.{name}': getattr(multiarray, name)
        for package in ('numpy.core', 'numpy._core')  # files written under numpy 1 and 2
        for name in ('_reconstruct', 'scalar')
    }
    for kind in ('f4', 'f8', 'i4', 'i8', 'u1', 'u4', 'b1'):
        dtype = type(np.dtype(kind))
        names[f'{dtype.__module__}.{dtype.__name__}'] = dtype
    history = f'{HistoryBuffer.__module__}.{HistoryBuffer.__name__}'
    return {
        **names,
        history: HistoryBuffer,
        'builtins.getattr': _history_method,
        '__builtin__.getattr': _history_method,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        '_codecs.encode': codecs.encode,
    }


def restricted_pickle(names: dict[str, Any]) -> Any:
    """A ``pickle_module`` for ``torch.load`` that knows tensors, containers and ``names``."""
    table = {
        'collections.OrderedDict': OrderedDict,
        'torch.Size': torch.Size,
        'torch.device': torch.device,
        **names,
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full = f'{module}.{name}'
            if full in table:
                return table[full]
            tensor = module == 'torch._utils' and name.startswith('_rebuild_')
            storage = module in ('torch', 'torch.storage') and name.endswith('Storage')
            dtype = module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
            if tensor or storage or dtype:
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f'GLOBAL {full} is not allowed')

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__='restricted_pickle', Unpickler=Unpickler, load=load)
