"""Reading weight files: safely, completely, or not at all."""

import codecs
import errno
import hashlib
import importlib
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch import Tensor, nn

from kdmm.distillers.errors import ConfigError

_BROKEN = (RuntimeError, EOFError, LookupError, zipfile.BadZipFile, ValueError)


def _history_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in MMEngine's log buffers, which pickle their own methods by name."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(HistoryBuffer, name)


def _log_globals() -> list[Any]:
    """What MMEngine's own checkpoints hold besides tensors: logged numbers, as numpy values."""
    core = 'numpy.core' if np.__version__ < '2' else 'numpy._core'
    multiarray = importlib.import_module(f'{core}.multiarray')
    rebuild = [
        (getattr(multiarray, name), f'{package}.multiarray.{name}')
        for package in ('numpy.core', 'numpy._core')  # files written under numpy 1 and 2
        for name in ('_reconstruct', 'scalar')
    ]
    dtypes = [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'u1', 'u4', 'b1')]
    method = (_history_method, 'builtins.getattr')
    return [HistoryBuffer, method, *rebuild, np.ndarray, np.dtype, *dtypes, codecs.encode]


def weights_only() -> Any:
    """Context in which ``torch.load(weights_only=True)`` also accepts MMEngine's log buffers.

    It needs torch 2.7; under an older one such files are refused and ask for ``unsafe``.
    """
    if digit_version(torch.__version__) < digit_version('2.7'):
        return nullcontext()
    return torch.serialization.safe_globals(_log_globals())


def read_checkpoint(
    source: str, map_location: Any = 'cpu', unsafe: bool = False, what: str = 'checkpoint'
) -> dict[str, Any]:
    """A checkpoint from a path or a URL, unpickled weights-only.

    Args:
        source: Local path or ``http(s)://`` address.
        map_location: As in `torch.load`.
        unsafe: Allow arbitrary pickles, which can run code. Only for files you trust.
        what: How errors call the file, usually the config key that names it.

    Raises:
        ConfigError: If the file is missing, truncated, no checkpoint, or needs ``unsafe``.
    """
    try:
        with weights_only():
            if source.startswith(('http://', 'https://')):
                content = torch.hub.load_state_dict_from_url(
                    source, map_location=map_location, weights_only=not unsafe
                )
            else:
                path = Path(source).expanduser()
                if not path.is_file():
                    raise ConfigError(f'{what}: no file at {source!r}')
                content = torch.load(path, map_location=map_location, weights_only=not unsafe)
            if not isinstance(content, Mapping):
                raise ConfigError(f'{what}: {source!r} is a {type(content).__name__}, no weights')
            return dict(content)
    except pickle.UnpicklingError as error:
        named = re.search(r'GLOBAL [\w.]+', str(error))
        raise ConfigError(
            f'{what}: {source!r} is damaged or holds more than weights'
            f'{f" ({named[0]})" if named else ""}. If you trust its origin and it is whole, allow '
            'it: unsafe=True for a teacher, unsafe_checkpoint=True in the config for a run'
        ) from error
    except ConfigError:
        raise
    except _BROKEN as error:
        raise ConfigError(f'{what}: {source!r} is truncated or no checkpoint ({error})') from error
    except OSError as error:
        # a cut-off archive may also end in a failed seek
        cut = error.errno == errno.EINVAL
        state = 'is truncated or no checkpoint' if cut else 'cannot be read'
        raise ConfigError(f'{what}: {source!r} {state} ({error})') from error


def state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint, without the prefix of a parallel wrapper."""
    state = checkpoint.get('state_dict', checkpoint)
    wrapped = all(str(key).startswith('module.') for key in state)
    return {str(key).removeprefix('module.') if wrapped else key: state[key] for key in state}


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], what: str, without: str | None = None
) -> None:
    """Load ``state`` into ``model``; anything missing, left over or misshapen is an error.

    Args:
        model: Receives the weights.
        state: Key to tensor.
        what: How the error calls ``state``.
        without: A child of ``model`` that ``state`` does not speak of.

    Raises:
        ConfigError: Lists the keys, up to eight of a kind.
    """
    own = {
        key: value
        for key, value in model.state_dict().items()
        if without is None or not key.startswith(f'{without}.')
    }
    shapes = [
        f'{key} {_shape(state[key])} for {_shape(own[key])}'
        for key in own
        if key in state and _shape(state[key]) != _shape(own[key])
    ]
    problems = {
        'missing': [key for key in own if key not in state],
        'unexpected': [key for key in state if key not in own],
        'wrong shape': shapes,
    }
    if any(problems.values()):
        lines = [f'  {kind}: {_listed(keys)}' for kind, keys in problems.items() if keys]
        raise ConfigError(
            f'{what} does not fit {type(model).__name__} ({len(own)} entries):\n' + '\n'.join(lines)
        )
    model.load_state_dict(state, strict=without is None)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the bytes of ``tensors`` in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _listed(keys: list[str], most: int = 8) -> str:
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + rest
