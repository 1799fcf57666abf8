"""One first-in first-out store of rows per class."""

import torch
from torch import Tensor, nn

from .hash import hash_below, hash_uint32


class ClassRing(nn.Module):
    """``size`` rows for each of K classes, written alike on every rank.

    Buffers: ``rows`` (K * size + 1, C), of which the last takes masked writes and stays zero;
    ``ptr`` (K,), the next slot; ``count`` (K,), slots ever written.

    Args:
        num_classes: K.
        size: Rows per class.
        channels: C.
        legacy: Use the authors' write rule and their random start, see :meth:`write`.
        dtype: Of the stored rows.
        seed: Of the random start and of the draws.
    """

    rows: Tensor
    ptr: Tensor
    count: Tensor

    def __init__(
        self,
        num_classes: int,
        size: int,
        channels: int,
        legacy: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes, self.size, self.legacy, self.seed = num_classes, size, legacy, seed
        rows = torch.zeros(num_classes * size + 1, channels, dtype=dtype)
        if legacy:
            generator = torch.Generator().manual_seed(seed)
            for part in rows[:-1].split(size):
                noise = torch.randn(size, channels, generator=generator)
                part.copy_(nn.functional.normalize(noise))
        self.register_buffer('rows', rows)
        self.register_buffer('ptr', torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer('count', torch.zeros(num_classes, dtype=torch.long))

    def write(self, rows: Tensor, amount: Tensor) -> None:
        """Append the first ``amount[g, c]`` of ``rows[g, c]``, images in order.

        By default a ring: of more new rows than fit the last ``size`` are kept. ``legacy``: a write
        that reaches the end goes to the last slots instead, over the newest rows, and the pointer
        returns to 0.

        Args:
            rows: (G, K, R, C).
            amount: (G, K), at most R.
        """
        if not self.legacy:
            self._write_ring(rows, amount)
        else:
            for image, number in zip(rows, amount, strict=True):
                self._write_legacy(image, number)
        self.count.copy_((self.count + amount.sum(0)).clamp_max_(self.size))

    def _write_ring(self, rows: Tensor, amount: Tensor) -> None:
        running = torch.arange(rows.shape[2], device=rows.device)
        total = amount.sum(0)
        index = (amount.cumsum(0) - amount)[..., None] + running  # within the class, (G, K, R)
        keep = (running < amount[..., None]) & (index >= (total - self.size)[:, None])
        self._scatter(rows, (self.ptr[:, None] + index) % self.size, keep)
        self.ptr.copy_((self.ptr + total) % self.size)

    def _write_legacy(self, rows: Tensor, amount: Tensor) -> None:
        running = torch.arange(rows.shape[1], device=rows.device)
        wraps = self.ptr + amount >= self.size
        start = torch.where(wraps, self.size - amount, self.ptr)
        slot = start[:, None] + running
        keep = (running < amount[:, None]) & (slot >= 0)
        self._scatter(rows, slot, keep)
        self.ptr.copy_(torch.where(wraps, 0, self.ptr + amount))

    def _scatter(self, rows: Tensor, slot: Tensor, keep: Tensor) -> None:
        dump = self.rows.shape[0] - 1
        base = torch.arange(self.num_classes, device=rows.device)[:, None] * self.size
        target = torch.where(keep, base + slot, dump).flatten()
        self.rows.index_copy_(0, target, rows.reshape(-1, rows.shape[-1]).to(self.rows.dtype))
        self.rows[dump].zero_()

    def draw(self, number: int, step: Tensor) -> tuple[Tensor, Tensor]:
        """``number`` rows of each class: rows (K * number, C), and which of them count.

        By default slots are uniform among the written ones, and the rows of an empty class do not
        count. ``legacy``: one random set of slots for all classes, unwritten ones (random unit
        vectors) included.
        """
        device, classes = self.rows.device, torch.arange(self.num_classes, device=self.rows.device)
        if self.legacy:
            slots = torch.arange(self.size, device=device)
            noise = hash_uint32(step, self.seed, slots)
            slot = ((noise << 31) | slots).argsort()[:number].expand(self.num_classes, -1)
            mask = torch.ones_like(slot, dtype=torch.bool)
        else:
            draw = torch.arange(number, device=device)
            slot = hash_below(self.count[:, None], step, self.seed, classes[:, None], draw)
            mask = (self.count > 0)[:, None].expand_as(slot)
        index = classes[:, None] * self.size + slot
        return self.rows.index_select(0, index.flatten()), mask.flatten()
