"""Reading weight files: safely, completely, or not at all."""

import errno
import hashlib
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.compat.unpickling import load_anything, load_weights
from kdmm.downloads import local_file, verify_archive
from kdmm.errors import ConfigError

#: The entry of a checkpoint file that holds what a run has besides its student.
ENTRY = 'kdmm'

#: What parallel, averaging and compiling wrappers put before all keys.
_WRAPPERS = ('module.', '_orig_mod.')
#: What averaging wrappers put beside them.
_COUNTERS = ('steps', 'n_averaged')
_ALLOW = 'unsafe=True for a teacher, unsafe_checkpoint=True in the config for a run'


def read_checkpoint(
    source: str | os.PathLike[str],
    map_location: Any = 'cpu',
    unsafe: bool = False,
    what: str = 'checkpoint',
    allow: str = _ALLOW,
) -> dict[str, Any]:
    """A checkpoint from a path or an address, unpickled weights-only.

    Every record of a zip archive, which is what `torch.save` writes, is compared with its checksum
    before it is used. Files in torch's older form have none: the hash in the name of a zoo's file
    is compared where it is fetched, and damage in the numbers of any other cannot be seen.

    Args:
        source: See `local_file`.
        map_location: As in `torch.load`.
        unsafe: Allow arbitrary pickles, which can run code. Only for files you trust.
        what: How errors call the file, usually the config key that names it.
        allow: How errors say that ``unsafe`` is set.

    Raises:
        ConfigError: If the file is missing, damaged, no checkpoint, or needs ``unsafe``.
    """
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f'{what}: expected a path or a URL, got {source!r}')
    source = str(source)
    path = local_file(source, what)
    name = f'{what}: {source!r}'
    if '://' in source:
        name += f' (its copy is {str(path)!r}; without it, it is fetched again)'
    content = _content(path, map_location, unsafe, name, allow)
    if not isinstance(content, Mapping):
        raise ConfigError(f'{name} is a {type(content).__name__}, no weights')
    return dict(content)


@contextmanager
def weights_only(unsafe: bool = False) -> Iterator[None]:
    """Let every `torch.load` within read as `read_checkpoint` does, whoever calls it.

    Models of the base libraries read files while they are built and initialised: through
    ``init_cfg=dict(type='Pretrained', ...)`` and ``pretrained``, MMEngine's loaders of paths,
    addresses and zoos, `torch.hub` and timm. Most of them allow arbitrary pickles. What they get is
    what `torch.load` would give them.

    Args:
        unsafe: Let all of them read arbitrary pickles, also where a release of torch would not.

    Raises:
        ConfigError: If a file is damaged or needs ``unsafe``.
    """
    before = torch.load

    def load(f: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
        path = isinstance(f, str | os.PathLike)
        name = f'pretrained weights: {str(f)!r}' if path else 'pretrained weights'
        return _content(f, map_location, unsafe, name, 'unsafe_checkpoint=True in the config')

    torch.load = load
    try:
        yield
    finally:
        torch.load = before


def _content(file: Any, map_location: Any, unsafe: bool, name: str, allow: str) -> Any:
    """The content of a path or an open file, see `read_checkpoint`; ``name`` begins errors."""
    whole = False
    try:
        whole = not hasattr(file, 'read') and verify_archive(Path(file))
        return (load_anything if unsafe else load_weights)(file, map_location)
    except pickle.UnpicklingError as error:
        named = re.search(r'GLOBAL [\w.]+', str(error))
        raise ConfigError(
            f'{name} {"" if whole else "is damaged or "}holds more than weights'
            f'{f" ({named[0]})" if named else ""}. If you trust its origin'
            f'{"" if whole else " and it is whole"}, allow it: {allow}'
        ) from error
    except Exception as error:  # whatever the unpickler stumbles over in a damaged file
        reason = str(error) or type(error).__name__
        # a cut-off archive may also end in a failed seek
        disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        state = 'cannot be read' if disk else 'is damaged, truncated or no checkpoint'
        raise ConfigError(f'{name} {state} ({reason})') from error


def state_dict_of(
    checkpoint: Mapping[str, Any],
    what: str = 'checkpoint',
    container: str | None = None,
    prefix: str | None = None,
    flag: str | None = None,
) -> dict[str, Any]:
    """The network's entries in a checkpoint, without the prefixes of wrappers.

    ``module.`` of parallel and averaging wrappers and ``_orig_mod.`` of compiled networks go where
    all keys have them. The versions of the modules, if torch wrote them, stay with the entries.

    Args:
        checkpoint: Content of a file.
        what: How errors call the file.
        container: Its entry that holds the weights; default ``state_dict``, or the file itself.
        prefix: Take what is below this prefix, and nothing else.
        flag: How errors say that ``container`` is given.

    Raises:
        ConfigError: If there are no weights; names the entries that hold some.
    """
    state = unwrapped(_contained(checkpoint, what, container, flag))
    if prefix:
        start = f'{prefix.rstrip(".")}.'
        below = _rekeyed(state, partial(_below, start=start))
        if not below:
            first = sorted({key.split('.')[0] for key in state})
            raise ConfigError(
                f'{what} has no weights under prefix={prefix!r}; its keys start with '
                f'{_listed(first)}'
            )
        state = unwrapped(below)
    return state


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` without the prefixes that wrappers put before all of its keys."""
    inner = _rekeyed(state, lambda key: key)
    while True:
        keys = [key for key in inner if key not in _COUNTERS]
        found = [start for start in _WRAPPERS if all(key.startswith(start) for key in keys)]
        if not keys or not found:
            return inner
        inner = _rekeyed(inner, partial(_below, start=found[0]))


def load_strictly(model: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Load ``state`` into ``model``; whatever does not fit is an error, and nothing is loaded.

    Floating-point weights of any width are taken (float16, bfloat16 and float64 files are usual);
    integers only for integers that can hold them, booleans for booleans, complex for complex.
    NaN and infinite values are refused, but in buffers that the network itself starts with them.
    Keys of wrappers find their place, see `unwrapped`. Buffers that the network does not save, such
    as ``data_preprocessor.mean``, may be in ``state`` if they are equal to the network's own.

    Args:
        model: Receives the weights.
        state: Key to tensor.
        what: How the error calls ``state``.

    Raises:
        ConfigError: Lists the keys, up to eight of a kind.
    """
    own = model.state_dict()
    unsaved = {key: value for key, value in model.named_buffers() if key not in own}
    state = _renamed(_named(state, what), own)
    problems: dict[str, list[str]] = {'missing': [key for key in own if key not in state]}
    for key in [key for key in state if key not in own]:
        value = state.pop(key)
        if key not in unsaved and not key.startswith('data_preprocessor.'):
            problems.setdefault('unexpected', []).append(key)
        elif key not in unsaved or not _equal(value, unsaved[key]):
            text = f'{key} {_numbers(value)} for {_numbers(unsaved.get(key))}'
            problems.setdefault('of another value', []).append(text)
    for kind, keys in misfits(model, state).items():
        problems.setdefault(kind, []).extend(keys)
    name = f'{what} does not fit {type(model).__name__} ({len(own)} entries)'
    if any(problems.values()):
        lines = [f'  {kind}: {_listed(keys)}' for kind, keys in problems.items() if keys]
        raise ConfigError(f'{name}:\n' + '\n'.join(lines))
    # a module without a version would take the state for that of an old release, and rewrite it
    versions = {_bare(path): entry for path, entry in _versions(state).items()}
    state._metadata = {  # type: ignore[attr-defined]
        path: versions.get(_bare(path), dict(version=module._version))
        for path, module in model.named_modules(remove_duplicate=False)
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # of a module that loads in its own way
        raise ConfigError(f'{name}: {error}') from error


def refuse_misfits(model: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Refuse what must not be loaded even where another shape or set of keys may be.

    Raises:
        ConfigError: Lists the weights that are not numbers, or of another kind than ``model``'s.
    """
    problems = misfits(model, state)
    problems.pop('wrong shape', None)
    if problems:
        lists = '; '.join(f'{kind}: {_listed(keys)}' for kind, keys in problems.items())
        raise ConfigError(f'{what} cannot be loaded into {type(model).__name__}: {lists}')


def misfits(model: nn.Module, state: Mapping[str, Any]) -> dict[str, list[str]]:
    """What no entry of ``model`` can take of ``state``: kind of misfit to keys with both sides."""
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    found: dict[str, list[str]] = {}
    for key, own in model.state_dict().items():
        if key in state:
            kind, text = misfit(key, state[key], own, own_start=key not in parameters)
            if kind:
                found.setdefault(kind, []).append(f'{key} {text}')
    return found


def misfit(key: str, value: Any, own: Any, own_start: bool = False) -> tuple[str, str]:
    """Kind of misfit between a value in a file and a network's entry, and both sides in words.

    Args:
        key: Of the entry.
        value: The file's.
        own: The network's. One without elements gets its shape from the first batch.
        own_start: Allow NaN and infinite values where the network's are the same.

    Returns:
        Two empty texts if ``own`` can take ``value`` and stay meaningful.
    """
    if not isinstance(own, Tensor):  # the state of a module that is no tensor
        return '', ''
    if not isinstance(value, Tensor):
        return 'no tensor', f'({type(value).__name__})'
    if not is_plain(value):
        form = 'on no device' if value.is_meta else f'{value.layout}, {value.dtype}'
        return 'no plain tensor', f'({form})'
    if own.numel() and value.shape != own.shape:
        return 'wrong shape', f'{tuple(value.shape)} for {tuple(own.shape)}'
    if not same_kind(value, own):
        return 'wrong dtype', f'{value.dtype} for {own.dtype}'
    taken = value.to(own.dtype)
    if not (value.is_floating_point() or value.is_complex()):
        lost = not torch.equal(taken.to(value.dtype), value)
        return ('too large', f'{value.dtype} for {own.dtype}') if lost else ('', '')
    bad = ~taken.isfinite()
    if own_start and own.shape == value.shape and bool(bad.any()):
        start = own.to(value.device)
        bad = bad & ~(taken == start) & ~(taken.isnan() & start.isnan())
    if bool(bad.any()):
        return 'not finite', f'({int(bad.sum())} of {value.numel()} values)'
    if key.endswith('running_var') and bool((taken < 0).any()):
        return 'negative variance', f'({int((taken < 0).sum())} of {value.numel()} values)'
    return '', ''


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the bytes of ``tensors`` in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def containers(checkpoint: Mapping[str, Any]) -> list[str]:
    """Entries of a checkpoint that hold tensors by name."""
    return [
        str(key)
        for key, value in checkpoint.items()
        if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
    ]


def _contained(
    checkpoint: Mapping[str, Any], what: str, container: str | None, flag: str | None
) -> Mapping[str, Any]:
    holders = containers(checkpoint)
    there = f'; there are some in {", ".join(holders)}' if holders else ''
    if container is not None:
        if container not in holders:
            raise ConfigError(f'{flag}: {what} has no weights in {container!r}{there or " or any"}')
        return _named(checkpoint[container], f'{what}: its {container}')
    if holders:
        way = f'name one with {flag}' if flag else 'write that one into a file as state_dict'
        there = f'; its weights are in {", ".join(holders)}: {way}'
    if 'state_dict' in checkpoint:
        state = checkpoint['state_dict']
        empty = isinstance(state, Mapping) and not state
        if not empty and 'state_dict' not in holders:
            form = 'without tensors' if isinstance(state, Mapping) else f'a {type(state).__name__}'
            raise ConfigError(f'{what}: its state_dict is {form}{there}')
        return _named(state, f'{what}: its state_dict')
    tensors = [str(key) for key, value in checkpoint.items() if isinstance(value, Tensor)]
    # beside entries that hold weights, a tensor without a module's name is a number of the run
    if tensors and (not holders or any('.' in key for key in tensors)):
        return _named(checkpoint, what)
    others = '' if holders else f', only {", ".join(map(str, checkpoint)) or "nothing"}'
    raise ConfigError(f'{what} has no state_dict{there}{others}')


def _named(state: Any, what: str) -> dict[str, Any]:
    """``state`` as a dict, if it is one from names."""
    if not isinstance(state, Mapping):
        raise ConfigError(f'{what} is a {type(state).__name__}, expected names with tensors')
    odd = [repr(key) for key in state if not isinstance(key, str)]
    if odd:
        raise ConfigError(f'{what} has keys that are no names: {_listed(odd)}')
    return _rekeyed(state, lambda key: key)


def _renamed(state: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` under the names of ``own``, whatever wrappers added to either."""
    if not any(key in own for key in state):
        state = unwrapped(state)
    bare = {key.replace('_orig_mod.', ''): key for key in own}
    return _rekeyed(state, lambda key: bare.get(key.replace('_orig_mod.', ''), key))


def _versions(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What torch keeps beside a state: path of a module to the version that wrote its entries."""
    return getattr(state, '_metadata', {})


def _rekeyed(
    state: Mapping[str, Any], name_of: Callable[[str], str | None]
) -> OrderedDict[str, Any]:
    """``state`` and its versions under other names; what is called None is left out."""
    pairs = ((name_of(key), value) for key, value in state.items())
    found = OrderedDict((name, value) for name, value in pairs if name is not None)
    versions = ((name_of(f'{path}.' if path else ''), v) for path, v in _versions(state).items())
    found._metadata = OrderedDict(  # type: ignore[attr-defined]
        (path.removesuffix('.'), version) for path, version in versions if path is not None
    )
    return found


def _below(key: str, start: str) -> str | None:
    return key.removeprefix(start) if key.startswith(start) else None


def _bare(path: str) -> str:
    """A module's path without what compiling adds."""
    return f'{path}.'.replace('_orig_mod.', '').removesuffix('.')


def is_plain(value: Tensor) -> bool:
    """Whether a tensor has values, one for each place of its shape."""
    odd = value.is_meta or value.is_nested or value.is_quantized
    return not odd and value.layout == torch.strided


def same_kind(value: Tensor, own: Tensor) -> bool:
    """Whether both are floating-point, complex, boolean or integer."""
    if torch.bool in (value.dtype, own.dtype):
        return value.dtype == own.dtype
    return (value.is_floating_point(), value.is_complex()) == (
        own.is_floating_point(),
        own.is_complex(),
    )


def _equal(value: Any, own: Tensor) -> bool:
    """Whether two tensors hold the same numbers in the precision of the lesser one."""
    if misfit('', value, own, own_start=True)[0]:
        return False
    value = value.to(own.device)
    return torch.equal(value.to(own.dtype), own) or torch.equal(own.to(value.dtype), value)


def _numbers(value: Any, most: int = 4) -> str:
    """The first values of a tensor."""
    if not isinstance(value, Tensor) or not is_plain(value):
        return 'none' if value is None else type(value).__name__
    first = ', '.join(f'{number:g}' for number in value.flatten()[:most].tolist())
    return f'[{first}{", ..." if value.numel() > most else ""}]'


def _listed(keys: list[str], most: int = 8) -> str:
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + rest
