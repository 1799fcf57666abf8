"""One queue of teacher rows without classes (CIRKDv2's memory of channels)."""

from typing import Any

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, ShapeError

from ..functional.collective import all_gather_cat, global_image_index
from ..functional.maps import full_precision
from .class_queues import ClassRing
from .hash import hash_uint32

_LENGTH = 'ring.rows'


class RowQueue(nn.Module):
    """First-in first-out rows, equal on all ranks after every step and for any number of ranks.

    The rows' length is that of the first rows enqueued, or of a loaded state. All state is in
    persistent buffers or a function of the step counter, so a resumed run continues to the bit.
    Only written rows are drawn; the authors' code also draws its random initial rows.

    Args:
        size: Rows stored.
        per_step: Rows enqueued a step, drawn without replacement from those of all ranks.
        dtype: Of the stored rows.
        seed: Of all choices.
    """

    step: Tensor
    ring: ClassRing

    def __init__(
        self,
        size: int = 10000,
        per_step: int = 256,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in dict(size=size, per_step=per_step).items():
            if value < 1:
                raise ConfigError(key=name, got=value, expected='at least 1')
        self.size, self.per_step, self.seed = size, per_step, seed
        self.ring = ClassRing(1, size, 0, dtype=dtype, seed=seed * 4 + 3)
        self.register_buffer('step', torch.zeros((), dtype=torch.long))

    @property
    def length(self) -> int:
        """Length of a row, 0 before there is any."""
        return self.ring.rows.shape[1]

    def memory_bytes(self) -> int:
        """Memory of the stored rows, 0 before their length is known."""
        return self.ring.rows.numel() * self.ring.rows.element_size()

    def check(self, length: int) -> None:
        """Refuse rows of another length.

        Raises:
            ValueError: With both lengths.
        """
        if self.length not in (0, length):
            raise ShapeError(
                f'the queue holds rows of length {self.length} and got rows of length {length}',
                'row length',
                'All rows that it gets have one length, over a resume, too.',
            )

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Append ``per_step`` random rows of every rank's and advance the step.

        Args:
            rows: (B, C, a) of this rank's B images; all ranks need one C and a, and one B unless
                `kdmm.functional.collective.expect_uneven` was called.

        Raises:
            ValueError: If the length is not that of the rows before.
        """
        self.check(rows.shape[2])
        self._allocate(rows.shape[2])
        # an outer autocast must not round what is stored
        with full_precision(rows):
            chosen = self._choose(rows.to(self.ring.rows.dtype))[None, None]  # (1, 1, R, a)
            amount = torch.full((1, 1), chosen.shape[2], device=rows.device)
            self.ring.write(chosen, amount)
            self.step += 1

    def _choose(self, rows: Tensor) -> Tensor:
        # the smallest hashes of all ranks' rows; each rank sends its own smallest only
        images = global_image_index(len(rows), rows.device)  # (B,)
        place = images[:, None] * rows.shape[1] + torch.arange(rows.shape[1], device=rows.device)
        noise = hash_uint32(self.step, self.seed * 4, place)  # (B, C)
        key = (
            (noise >> 1) << 32 | place
        ).flatten()  # distinct, so that ties cannot depend on order
        key, index = key.sort()
        key = all_gather_cat(key[: self.per_step])
        # (B, C, a) -> (B * C, a) -> (R, a) -> (W * R, a), the rows of all W ranks
        rows = all_gather_cat(rows.flatten(0, 1)[index[: self.per_step]])
        return rows[key.argsort()[: self.per_step]]

    @torch.no_grad()
    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """``number`` rows (M, a), uniform among the written ones, and which of them count (M,).

        The same on all ranks. None counts while the queue is empty.
        """
        return self.ring.draw(number, self.step)

    def _allocate(self, length: int) -> None:
        if self.length != length:
            self.ring.rows = self.ring.rows.new_zeros(self.size + 1, length)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(prefix + _LENGTH)
        if isinstance(saved, Tensor) and saved.ndim == 2 and len(saved) == self.size + 1:
            self._allocate(saved.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
