"""Stop at the first loss that is no number."""

import math
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor

from kdmm.registry import HOOKS


class NonFiniteError(RuntimeError):
    """Training produced NaN or infinity."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Raises `NonFiniteError` naming the iteration, the terms and the images of the batch.

    Nothing is written after that, see `save_checkpoint` of the Runner: the last checkpoint stands.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss of the step."""
        outputs = outputs or {}
        if not _finite(outputs.get('loss', 0.0)):  # one look at the device in the good case
            bad = [name for name, value in outputs.items() if not _finite(value)]
            raise NonFiniteError(
                f'iteration {runner.iter + 1}: not finite: {", ".join(bad)}. Images of this batch: '
                f'{", ".join(image_names(data_batch)) or "unknown"}. Nothing was saved since; the '
                'last checkpoint stands. Try a lower learning rate, clip_grad, or bfloat16 in '
                'place of float16'
            )


def _finite(value: Any) -> bool:
    return math.isfinite(value.item() if isinstance(value, Tensor) else value)


def image_names(data_batch: Any) -> Iterator[str]:
    """The files of a collated batch, as far as its data samples know them."""
    samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
    for sample in samples or ():
        yield str(getattr(sample, 'img_path', None) or getattr(sample, 'img_id', '?'))
