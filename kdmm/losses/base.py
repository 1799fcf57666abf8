"""`DistillLoss`, the base of all losses of a ``kd`` section, and `OwnedOptimizer`."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..functional import mean_over_ranks

#: Name of the only part of a loss that returns a scalar.
WHOLE = ''


class Batch(NamedTuple):
    """Batch of a training iteration.

    Attributes:
        inputs: Output of the student's data preprocessor, mostly images (B, 3, H, W).
        samples: The B data samples of the base library.
    """

    inputs: Any
    samples: Sequence[Any]


def _accept(self: 'DistillLoss', *activations: Any) -> None:
    """Refuse activations that cannot be compared; the base class refuses none."""


class DistillLoss(nn.Module):
    """Base of all losses that a ``kd`` section may name.

    A loss of student and teacher defines ``forward(student, teacher, **context)``, one of all
    networks of a cohort (``mutual = True``) ``forward(peers, **context)`` with a sequence of
    activations, one a network. Where a term reads several taps, each activation is a tuple.
    ``forward`` returns a scalar, or a dict of scalars whose keys are `parts`. Weights are applied
    outside.

    Arguments of ``__init__`` that are called ``student_channels``, ``teacher_channels``,
    ``tap_channels`` (``peer_channels`` if it is mutual), ``num_classes`` or ``ignore_index`` are
    filled in where the config leaves them out. A numeric argument that is kept as an attribute of
    the same name may be a schedule in the config.

    Parameters and buffers, `torch.nn.Module.get_extra_state` included, are trained, saved with the
    run and resumed with it.
    """

    #: Context that ``forward`` takes by keyword, see `kdmm.distillers.term`: ``'labels'``,
    #: ``'sample_ids'``, ``'keypoint_weights'``.
    needs: tuple[str, ...] = ()
    #: Keys of the dict that ``forward`` returns; `WHOLE` alone: it returns a scalar.
    parts: ClassVar[tuple[str, ...]] = (WHOLE,)
    #: Whether ``forward`` writes to a memory, so that it must run even while its weight is 0.
    stateful: ClassVar[bool] = False
    #: Whether it compares all networks of a cohort at once.
    mutual: ClassVar[bool] = False
    #: Whether it keeps one activation a step for `after_step`, so that what it reads must run once.
    one_activation: ClassVar[bool] = False
    #: Images of a batch without which it is a constant, more than 1 where they are compared.
    least_images: ClassVar[int] = 1
    #: Whether it holds similarity maps in blocks of rows, see `kdmm.functional.blocks`.
    blockwise: ClassVar[bool] = False
    #: Whether it has a module that a meta-optimisation trains, which not every objective runs.
    needs_meta: bool = False
    #: Whether positions of the ignored label are left out; None: that is no option of this loss.
    valid_only: bool | None = None
    #: Scalars for the log, by name; nothing adds them up.
    logged: Mapping[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.logged = {}

    #: ``check(student, teacher)``, of a mutual loss ``check(peers)``: refuse activations that
    #: cannot be compared by a `ValueError` that names their shapes. It is called with blank ones
    #: when a run is built.
    check: Callable[..., None] = _accept

    def memory_bytes(self) -> int:
        """Return the memory of queues and banks, in bytes, on each device."""
        return 0

    def note(self) -> str:
        """Return what the table at the start says of this loss, on a line of its own; mostly ''."""
        return ''

    def rows_in(self, features: Any) -> int:
        """Count what is compared where `least_images` is more than 1: the images of a tensor.

        0 where it is not known.
        """
        return len(features) if isinstance(features, Tensor) else 0

    def least_batch(self, rows: int) -> int:
        """Return the images that each rank needs in a batch.

        Args:
            rows: What `rows_in` counts in one image; 0 where it is not known.
        """
        return math.ceil(self.least_images / rows) if rows else 1

    def see_dataset(self, dataset: Any) -> None:
        """Read facts of the whole training set, before each (resumed) training.

        Args:
            dataset: The data set of the training loader.

        Raises:
            ConfigError: If the loss cannot be computed on it.
        """

    def after_step(self, batch: Batch) -> None:
        """Train the loss's own parts and write its memories, after the optimizer's step.

        Args:
            batch: Of this iteration.
        """

    def upgrade(self, state: dict[str, Any], prefix: str) -> None:
        """Convert entries of an earlier version to the present form.

        Args:
            state: The whole saved state, changed in place.
            prefix: Of this loss's keys in it, with the last dot.

        Raises:
            ConfigError: If the entries are no longer supported.
        """


class OwnedOptimizer(nn.Module):
    """Train a module apart from the student's optimizer, backward pass and DDP.

    Its parameters require a gradient only inside `learning`. The optimizer's state is the extra
    state of this module, so it is saved and resumed with the loss or objective that has it as a
    child.

    Args:
        module: The module to train, a child of the same loss or objective.
        make: Builds the optimizer of a list of parameters. It is called when the optimizer is first
            needed, after the parameters were moved to their device.
    """

    def __init__(
        self, module: nn.Module, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ) -> None:
        super().__init__()
        self._trained = (module.requires_grad_(False),)  # in a tuple, it is no child of this one
        self._make = make
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, whose state and learning rate may be changed."""
        if self._optimizer is None:
            self._optimizer = self._make(list(self._trained[0].parameters()))
        return self._optimizer

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Enable gradients of the parameters in the block, also under ``no_grad``."""
        module = self._trained[0].requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            module.requires_grad_(False)

    def step(self, loss: Tensor) -> None:
        """Take one step along the mean of all ranks' gradients of ``loss``, inside `learning`."""
        grads = torch.autograd.grad(loss, list(self._trained[0].parameters()))
        # gradients of n parameters -> (P,), so that one collective serves all
        flat = torch.cat([grad.flatten() for grad in grads])
        parts = mean_over_ranks(flat).split([grad.numel() for grad in grads])
        # (p,) -> the parameter's shape
        self.step_along([part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])

    def step_along(self, grads: Sequence[Tensor]) -> None:
        """Take one step along gradients, shaped like the parameters and equal on all ranks."""
        for parameter, grad in zip(self._trained[0].parameters(), grads, strict=True):
            parameter.grad = grad
        self.optimizer.step()
        self.optimizer.zero_grad()  # the student's optimizer must not see them

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the optimizer's state."""
        self.optimizer.load_state_dict(copy.deepcopy(state))  # torch would share its tensors

    def _apply(self, fn: Any, recurse: bool = True) -> 'OwnedOptimizer':
        if self._optimizer is not None:
            for parameter, state in self._optimizer.state.items():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = fn(value)  # moments; the number of steps stays on the CPU
        return super()._apply(fn, recurse)
