"""Stop at the first non-finite loss, and write no non-finite state."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from torch import Tensor

from kdmm.errors import TrainingError
from kdmm.registry import HOOKS
from kdmm.taps import leaves
from kdmm.utils.models import unwrapped


class NonFiniteError(TrainingError):
    """Training produced NaN or infinity."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Raises `NonFiniteError` naming the iteration, the terms and the images of the batch.

    Nothing is written after that: the last checkpoint stands. Nor is a file written of weights,
    buffers, averages (`EMAHook`) or a state of ``kd`` that are not finite, whatever the loss is. A
    buffer that held an infinity when training began, as masks and observers do, may hold one.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._infinite: set[str] = set()

    def before_train(self, runner: Any) -> None:
        """Find the buffers that begin with infinities."""
        buffers = dict(unwrapped(runner.model).named_buffers())
        self._infinite = set(non_finite(buffers)) - set(non_finite(buffers, allow=buffers))

    def before_writing(self, runner: Any) -> None:
        """Check every entry that a checkpoint would hold.

        Raises:
            NonFiniteError: Names the first entry that is not finite.
        """
        states = [unwrapped(runner.model).state_dict()]
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model'):
                states.append(hook.ema_model.module.state_dict())
        for state in states:
            for name in non_finite(state, allow=self._infinite):
                raise NonFiniteError(f'{name} is not finite')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check the loss of the step."""
        outputs = outputs or {}
        if not _finite(outputs.get('loss', 0.0)):  # one look at the device in the good case
            bad = [name for name, value in outputs.items() if not _finite(value)]
            raise NonFiniteError(
                f'iteration {runner.iter + 1}: not finite: {", ".join(bad)}. Images of this batch: '
                f'{", ".join(image_names(data_batch)) or "unknown"}. Nothing was saved since; the '
                'last checkpoint stands. Try a lower learning rate, clip_grad, or bfloat16 in '
                'place of float16'
            )


def non_finite(state: Mapping[str, Any], allow: Collection[str] = ()) -> list[str]:
    """Return the names of a state's entries that hold NaN or an infinity.

    Args:
        state: Name to tensor, or to something that contains tensors (``get_extra_state``).
        allow: Names of entries that may hold infinities, but no NaN.
    """
    found: list[tuple[str, Tensor]] = []
    for name, value in state.items():
        for x in leaves(value):
            if x.is_floating_point() or x.is_complex():
                bad = x.isnan() if name in allow else ~x.isfinite()
                found.append((name, bad.any()))
    if not found:
        return []
    flags = torch.stack([flag.to(found[0][1].device) for _, flag in found])
    return [name for (name, _), bad in zip(found, flags.tolist(), strict=True) if bad]


def _finite(value: Any) -> bool:
    return math.isfinite(value.item() if isinstance(value, Tensor) else value)


def image_names(data_batch: Any) -> Iterator[str]:
    """Yield the files of a collated batch, as far as its data samples know them."""
    samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
    for sample in samples or ():
        yield str(getattr(sample, 'img_path', None) or getattr(sample, 'img_id', '?'))
