"""Reading weight files: safely, completely, or not at all."""

import errno
import hashlib
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier
from torch import Tensor, nn

from kdmm.compat.unpickling import load_weights
from kdmm.errors import ConfigError

#: The entry of a checkpoint file that holds what a run has besides its student.
ENTRY = 'kdmm'

_BROKEN = (RuntimeError, EOFError, LookupError, zipfile.BadZipFile, ValueError, struct.error)


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
        remote = source.startswith(('http://', 'https://'))
        path = fetch(source) if remote else Path(source).expanduser()
        if not path.is_file():
            raise ConfigError(f'{what}: no file at {source!r}')
        if unsafe:
            content = torch.load(path, map_location, weights_only=False)
        else:
            content = load_weights(path, map_location)
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


def fetch(url: str) -> Path:
    """The file behind ``url`` in torch's hub folder, downloaded once a node.

    A hash in the file name, as the OpenMMLab zoos write it, is checked. All ranks call this.
    """
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name
    if int(os.environ.get('LOCAL_RANK', 0)) == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r'-([a-f0-9]{8,})\.', name)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None)
    barrier()
    return path


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
        if key in state and _sized(own[key]) and _shape(state[key]) != _shape(own[key])
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


def _sized(value: Any) -> bool:
    """Whether a buffer has its shape already: some queues get theirs from the first batch."""
    return not isinstance(value, Tensor) or value.numel() > 0


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _listed(keys: list[str], most: int = 8) -> str:
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + rest
