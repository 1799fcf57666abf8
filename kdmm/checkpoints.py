"""Read weight files safely and completely, and compare their entries with a network's."""

import errno
import hashlib
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.compat.unpickling import load_anything, load_weights
from kdmm.downloads import local_file, verify_archive
from kdmm.errors import ConfigError, about, listed

#: The entry of a checkpoint file that holds what a run has besides its student.
ENTRY = 'kdmm'

#: What parallel, averaging and compiling wrappers put before all keys.
_WRAPPERS = ('module.', '_orig_mod.')
#: What averaging wrappers put beside them.
_COUNTERS = ('steps', 'n_averaged')
#: Differences that a file may have where it is not loaded strictly.
_LENIENT = ('missing', 'unexpected', 'wrong shape')
_ALLOW = 'unsafe=True for a teacher, unsafe_checkpoint=True in the config for a run'


def read_checkpoint(
    source: str | os.PathLike[str],
    map_location: Any = 'cpu',
    unsafe: bool = False,
    what: str = 'checkpoint',
    allow: str = _ALLOW,
) -> dict[str, Any]:
    """Read a checkpoint from a path or an address, weights only.

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
        raise ConfigError(key=what, got=source, expected='a path or a URL')
    source = str(source)
    path = local_file(source, what)
    more = f'Its copy is {str(path)!r}; without it, it is fetched again.' if '://' in source else ''
    with about(what, source):
        content = _content(path, map_location, unsafe, allow, more)
        if not isinstance(content, Mapping):
            raise ConfigError(f'it is a {type(content).__name__}, no weights', fix=more)
    return dict(content)


@contextmanager
def weights_only(unsafe: bool = False) -> Iterator[None]:
    """Let every `torch.load` inside read as `read_checkpoint` does.

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
        named = dict(got=str(f)) if isinstance(f, str | os.PathLike) else {}
        with about('pretrained weights', **named):
            return _content(f, map_location, unsafe, 'unsafe_checkpoint=True in the config')

    torch.load = load
    try:
        yield
    finally:
        torch.load = before


def _content(file: Any, map_location: Any, unsafe: bool, allow: str, more: str = '') -> Any:
    """Read a path or an open file, see `read_checkpoint`; ``more`` ends errors."""
    whole = False
    try:
        whole = not hasattr(file, 'read') and verify_archive(Path(file))
        return (load_anything if unsafe else load_weights)(file, map_location)
    except pickle.UnpicklingError as error:
        named = re.search(r'GLOBAL [\w.]+', str(error))
        fix = f'If you trust its origin{"" if whole else " and it is whole"}, allow it: {allow}.'
        raise ConfigError(
            f'it {"" if whole else "is damaged or "}holds more than weights'
            f'{f" ({named[0]})" if named else ""}',
            fix=f'{fix} {more}'.strip(),
        ) from error
    except Exception as error:  # whatever the unpickler stumbles over in a damaged file
        reason = str(error) or type(error).__name__
        # a cut-off archive may also end in a failed seek
        disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        state = 'cannot be read' if disk else 'is damaged, truncated or no checkpoint'
        raise ConfigError(f'it {state} ({reason})', fix=more) from error


def state_dict_of(
    checkpoint: Mapping[str, Any],
    what: str = 'checkpoint',
    container: str | None = None,
    prefix: str | None = None,
    flag: str | None = None,
) -> dict[str, Any]:
    """Return the network's entries in a checkpoint, without the prefixes of wrappers.

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
    state = without_wrappers(_contained(checkpoint, what, container, flag))
    if prefix:
        start = f'{prefix.rstrip(".")}.'
        below = _rekeyed(state, partial(_below, start=start))
        if not below:
            first = sorted({key.split('.')[0] for key in state})
            raise ConfigError(
                f'no weights under prefix={prefix!r}; its keys start with {listed(first)}', key=what
            )
        state = without_wrappers(below)
    return state


def without_wrappers(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``state`` without the prefixes that wrappers put before all of its keys."""
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
    Keys of wrappers find their place, see `without_wrappers`. Buffers that the network does not
    save, such as ``data_preprocessor.mean``, may be in ``state`` if they are equal to its own.

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
    others = []
    for key in [key for key in state if key not in own]:
        if key in unsaved or key.startswith('data_preprocessor.'):
            value = state.pop(key)
            if key not in unsaved or not _equal(value, unsaved[key]):
                others.append(f'{key} {_numbers(value)} for {_numbers(unsaved.get(key))}')
    problems = {**differences(own, state, _buffers(model)), 'of another value': others}
    refusal = f'does not fit {type(model).__name__} ({len(own)} entries)'
    if any(problems.values()):
        raise ConfigError(f'{refusal}: {in_words(problems)}', key=what)
    # a module without a version would take the state for that of an old release, and rewrite it
    versions = {_bare(path): entry for path, entry in _versions(state).items()}
    state._metadata = {  # type: ignore[attr-defined]
        path: versions.get(_bare(path), dict(version=module._version))
        for path, module in model.named_modules(remove_duplicate=False)
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # of a module that loads in its own way
        raise ConfigError(f'{refusal}: {error}', key=what) from error


def refuse_misfits(model: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Refuse values that are not loaded even where other shapes and keys are allowed.

    Raises:
        ConfigError: Lists the weights that are not numbers, or of another kind than ``model``'s.
    """
    problems = differences(model.state_dict(), state, _buffers(model))
    problems = {kind: keys for kind, keys in problems.items() if kind not in _LENIENT}
    if problems:
        name = type(model).__name__
        raise ConfigError(f'cannot be loaded into {name}: {in_words(problems)}', key=what)


def differences(
    own: Mapping[str, Any], state: Mapping[str, Any], own_start: Collection[str] = ()
) -> dict[str, list[str]]:
    """Compare the entries of a file with those that a network has.

    Args:
        own: The network's, by key.
        state: The file's, under the keys of the network.
        own_start: Keys that may have the NaN and infinite values that ``own`` has, see `misfit`.

    Returns:
        Kind of difference to keys: ``'missing'`` and ``'unexpected'``, which may be empty, and the
        kinds of `misfit`, whose keys are followed by both sides in words.
    """
    found = {
        'missing': [key for key in own if key not in state],
        'unexpected': [key for key in state if key not in own],
    }
    for key in own:
        if key in state:
            kind, text = misfit(key, state[key], own[key], own_start=key in own_start)
            if kind:
                found.setdefault(kind, []).append(f'{key} {text}')
    return found


def in_words(problems: Mapping[str, list[str]]) -> str:
    """`differences` as the end of a message: number, kind and up to eight keys of each."""
    return '; '.join(
        f'{len(keys)} {kind}: {listed(keys)}' for kind, keys in problems.items() if keys
    )


def unequal(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Keys of ``wanted`` that ``found`` lacks, or has with another shape, dtype or bit."""
    return [
        key
        for key, value in wanted.items()
        if key not in found
        or (value.dtype, value.shape) != (found[key].dtype, found[key].shape)
        or not torch.equal(_bytes(value), _bytes(found[key]))
    ]


def _buffers(model: nn.Module) -> set[str]:
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    return {key for key in model.state_dict() if key not in parameters}


def misfit(key: str, value: Any, own: Any, own_start: bool = False) -> tuple[str, str]:
    """Name the kind of misfit between a file's value and a network's entry, and both sides.

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
        digest.update(_bytes(tensor).numpy().tobytes())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


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
            raise ConfigError(
                f'{what or "it"} has no weights there{there or " or anywhere"}',
                key=flag or what,
                got=container,
            )
        return _named(checkpoint[container], _part(what, container))
    if holders:
        way = f'name one with {flag}' if flag else 'write that one into a file as state_dict'
        there = f'; its weights are in {", ".join(holders)}: {way}'
    if 'state_dict' in checkpoint:
        state = checkpoint['state_dict']
        empty = isinstance(state, Mapping) and not state
        if not empty and 'state_dict' not in holders:
            form = 'without tensors' if isinstance(state, Mapping) else f'a {type(state).__name__}'
            raise ConfigError(f'its state_dict is {form}{there}', key=what)
        return _named(state, _part(what, 'state_dict'))
    tensors = [str(key) for key, value in checkpoint.items() if isinstance(value, Tensor)]
    # beside entries that hold weights, a tensor without a module's name is a number of the run
    if tensors and (not holders or any('.' in key for key in tensors)):
        return _named(checkpoint, what)
    others = '' if holders else f', only {", ".join(map(str, checkpoint)) or "nothing"}'
    raise ConfigError(f'it has no state_dict{there}{others}', key=what)


def _part(what: str, entry: str) -> str:
    return ': '.join(filter(None, (what, f'its {entry}')))


def _named(state: Any, what: str) -> dict[str, Any]:
    """``state`` as a dict, if it is one from names."""
    if not isinstance(state, Mapping):
        raise ConfigError(
            f'it is a {type(state).__name__}', key=what, expected='names with tensors'
        )
    odd = [repr(key) for key in state if not isinstance(key, str)]
    if odd:
        raise ConfigError(f'it has keys that are no names: {listed(odd)}', key=what)
    return _rekeyed(state, lambda key: key)


def _renamed(state: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` under the names of ``own``, whatever wrappers added to either."""
    if not any(key in own for key in state):
        state = without_wrappers(state)
    bare = {key.replace('_orig_mod.', ''): key for key in own}
    return _rekeyed(state, lambda key: bare.get(key.replace('_orig_mod.', ''), key))


def _versions(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Versions that torch keeps beside a state: path of a module to its version."""
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
    """Return whether a tensor is dense: one value for each place of its shape."""
    odd = value.is_meta or value.is_nested or value.is_quantized
    return not odd and value.layout == torch.strided


def same_kind(value: Tensor, own: Tensor) -> bool:
    """Return whether both are floating-point, complex, boolean or integer."""
    if torch.bool in (value.dtype, own.dtype):
        return value.dtype == own.dtype
    return (value.is_floating_point(), value.is_complex()) == (
        own.is_floating_point(),
        own.is_complex(),
    )


def _equal(value: Any, own: Tensor) -> bool:
    """Return whether two tensors hold the same numbers in the lower of their precisions."""
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
