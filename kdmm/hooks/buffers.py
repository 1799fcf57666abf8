"""One set of buffers on all ranks for validation and for checkpoints.

Without SyncBN each rank keeps running statistics of its own share of the images. MMEngine evaluates
each part of the validation data with another rank's and writes those of rank 0, so that the file
does not belong to the metrics.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, broadcast, get_comm_device, get_world_size
from mmengine.hooks import EMAHook, Hook
from torch import Tensor, nn

from kdmm.checkpoints import ENTRY
from kdmm.registry import HOOKS
from kdmm.utils.models import unwrapped

#: The entry for each rank's own buffers, where they differ.
RANKS = f'{ENTRY}_ranks'
#: Elements that a mark looks at in one go.
BLOCK = 2**20
_AVERAGE = 'EMAHook:'
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@HOOKS.register_module()
class BuffersHook(Hook):
    """Let all ranks evaluate and write with the means of their buffers.

    Outside of validation, tests and files every rank goes on with its own, so training does not
    depend on how often is validated or saved. A file that can be resumed has them in the entry
    ``kdmm_ranks``, with those of an average whose buffers are averages (``update_buffers`` of the
    `EMAHook`); on another number of ranks all begin with the means. Buffers that are no
    floating-point numbers are rank 0's, and those that are equal on all ranks (queues, SyncBN) stay
    as they are.
    """

    priority = 'VERY_HIGH'  # after the hooks that evaluate, before those that save

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._written: list[dict[str, Tensor]] = []
        self._read: list[dict[str, Tensor]] = []

    def before_val_epoch(self, runner: Any) -> None:
        """Evaluate with the common buffers."""
        self._stack.enter_context(common_buffers(runner))

    def after_val(self, runner: Any) -> None:
        """Restore this rank's buffers, after an `EMAHook` gave the model its own back."""
        self._stack.close()

    def before_test_epoch(self, runner: Any) -> None:
        """Evaluate with the common buffers."""
        self._stack.enter_context(common_buffers(runner))

    def after_test(self, runner: Any) -> None:
        """Restore this rank's buffers."""
        self._stack.close()

    @contextmanager
    def saving(self, runner: Any) -> Iterator[None]:
        """Let `Runner.save_checkpoint` write the common buffers inside; on all ranks."""
        with common_buffers(runner) as own:
            if own:
                copies = tuple(f'{_AVERAGE}{n}.' for n in _averages(runner, with_buffers=False))
                cpu = {k: value.cpu() for k, value in own.items() if not k.startswith(copies)}
                self._written = all_gather_object(cpu)
            try:
                yield
            finally:
                self._written = []

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add each rank's own buffers."""
        if self._written and 'optimizer' in checkpoint:
            checkpoint[RANKS] = self._written

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep what `before_train` needs."""
        self._read = checkpoint.get(RANKS, []) if runner._resume else []

    @torch.no_grad()
    def before_train(self, runner: Any) -> None:
        """Give a resumed rank its own buffers back."""
        if len(self._read) == runner.world_size:
            buffers = _every_buffer(runner)
            for name, value in self._read[runner.rank].items():
                if not name.startswith(_AVERAGE) or name in buffers:  # its hook may be left out
                    buffers[name].copy_(value)
        self._read = []


def with_common_buffers(save: Callable[..., None]) -> Callable[..., None]:
    """Let a Runner's ``save_checkpoint`` write the common buffers, if it has a `BuffersHook`.

    All ranks have to call it.
    """

    @functools.wraps(save)
    def run(runner: Any, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as stack:
            for hook in runner.hooks:
                if isinstance(hook, BuffersHook):
                    stack.enter_context(hook.saving(runner))
            save(runner, *args, **kwargs)

    return run


@contextmanager
def common_buffers(runner: Any) -> Iterator[dict[str, Tensor]]:
    """Make the buffers of the model and of its averages (EMA) equal on all ranks inside.

    Yields:
        This rank's own, by name: those that are not equal on all ranks.
    """
    buffers = _every_buffer(runner)
    names = differing(buffers)
    own = {name: buffers[name].detach().clone() for name in names}
    _write(buffers, common_values(own))
    try:
        yield own
    finally:
        _write(buffers, own)


def differing(buffers: Mapping[Any, Tensor]) -> list[Any]:
    """Return the names of buffers that differ between ranks; all ranks get the same answer."""
    if get_world_size() == 1 or not buffers:
        return []
    marks = torch.stack([_mark(value) for value in buffers.values()]).to(get_comm_device())
    low, high = marks.clone(), marks.clone()
    all_reduce(low, 'min')
    all_reduce(high, 'max')
    equal = (low == high).tolist()
    return [name for name, same in zip(buffers, equal, strict=True) if not same]


def common_values(own: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """Return the means over the ranks; of integers and booleans, the values of rank 0.

    Means are taken in float64 as rank 0's value and the mean distance to it, so that elements that
    are equal on all ranks stay equal to the bit.
    """
    result: dict[Any, Tensor] = {}
    device = get_comm_device()
    floats = {name: value for name, value in own.items() if value.is_floating_point()}
    for name, value in own.items():
        if name not in floats:
            first = value.to(device, torch.int64, copy=True)  # backends know few other types
            broadcast(first, 0)
            result[name] = first
    if floats:
        flat = torch.cat([value.double().flatten() for value in floats.values()]).to(device)
        first = flat.clone()
        broadcast(first, 0)
        apart = torch.where(flat == first, torch.zeros_like(flat), flat - first)
        all_reduce(apart, 'sum')
        mean = first + apart / get_world_size()
        parts = mean.split([value.numel() for value in floats.values()])
        for (name, value), part in zip(floats.items(), parts, strict=True):
            result[name] = part.view_as(value)
    return result


def _every_buffer(runner: Any) -> dict[str, Tensor]:
    """Buffers by their name in the model; those of averages behind a prefix."""
    found = _saved_buffers(unwrapped(runner.model))
    for number, average in _averages(runner).items():
        for name, value in _saved_buffers(average.module).items():
            found[f'{_AVERAGE}{number}.{name}'] = value
    return found


def _averages(runner: Any, with_buffers: bool | None = None) -> dict[int, Any]:
    """The averaged models by number, all or those that do or do not average buffers, too."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    made = {n: hook.ema_model for n, hook in enumerate(hooks) if hasattr(hook, 'ema_model')}
    return {n: x for n, x in made.items() if with_buffers in (None, bool(x.update_buffers))}


def _saved_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Buffers that a checkpoint holds."""
    state = network.state_dict()
    return {name: value for name, value in network.named_buffers() if name in state}


@torch.no_grad()
def _write(buffers: Mapping[Any, Tensor], values: Mapping[Any, Tensor]) -> None:
    for name, value in values.items():
        buffers[name].copy_(value)


def _mark(value: Tensor) -> Tensor:
    """Checksum (int64) of a tensor that depends on every bit and on the order."""
    value = torch.view_as_real(value) if value.is_complex() else value
    bits = value.detach().contiguous().view(_INTEGERS[value.element_size()]).flatten()
    mark = torch.zeros((), dtype=torch.int64, device=bits.device)
    for block in bits.split(BLOCK):
        places = torch.arange(1, len(block) + 1, device=bits.device) * 2654435761
        mark = mark * 31 + (block.long() * places).sum()
    return mark
