"""A row for every image of the training set and every network (CRD, arXiv 1910.10699)."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, ShapeError

from ..functional.collective import gather_images, global_image_index
from ..functional.maps import normalize_rows, promote
from .hash import hash_uint32

_CHUNK = 2**16  # rows drawn at once
_MEMORY = Path('/proc/meminfo')
_CONTAINER = Path('/sys/fs/cgroup')
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class InstanceBank(nn.Module):
    """N banks of n rows, equal on all ranks after every step and for any number of ranks.

    Rows begin uniform in (-s, s), ``s = 1 / sqrt(D / 3)``, and become unit rows when first written:
    ``l2(momentum * row + (1 - momentum) * embedding)``. A batch enters when :meth:`after_step` is
    called, so it is scored against the banks before it, and no row changes during a backward
    pass. All state is in persistent buffers, so a resumed run continues to the bit.

    Buffers: ``rows`` (N, n, D); ``step`` (), the batches written.

    Args:
        networks: N.
        num_samples: n.
        dim: D.
        momentum: Share of the old row, in [0, 1).
        dtype: Of the stored rows, float16 and bfloat16 for half the memory; what is written is
            computed in at least float32.
        seed: Of the initial rows, equal on all ranks, and of :meth:`noise`.
        owner: Name of the loss in the log.

    Raises:
        ValueError: If a number is out of range.
        ConfigError: If there is no memory for the rows, here or where they are moved to a device.
    """

    rows: Tensor
    step: Tensor

    def __init__(
        self,
        networks: int,
        num_samples: int,
        dim: int = 128,
        momentum: float = 0.5,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        owner: str = 'InstanceBank',
    ) -> None:
        super().__init__()
        for name, value in dict(networks=networks, num_samples=num_samples, dim=dim).items():
            if not 1 <= value < 2**31:
                raise ConfigError(key=name, got=value, expected='a number from 1 to 2^31 - 1')
        if not 0 <= momentum < 1:
            raise ConfigError(key='momentum', got=momentum, expected='a number in [0, 1)')
        if dtype not in _DTYPES:
            raise ConfigError(key='dtype', got=dtype, expected='a floating type')
        self.momentum, self.seed = momentum, seed
        size = networks * num_samples * dim * dtype.itemsize
        self._size = (
            f'{networks} instance bank{"s" * (networks > 1)} of {num_samples} x {dim} '
            f'{str(dtype).removeprefix("torch.")}, {size / 2**20:.0f} MiB on each device'
        )
        from mmengine.logging import print_log  # late: nothing else here needs a base library

        print_log(f'{owner}: {self._size}', 'current')
        free = free_memory()
        if free is not None and size > free:  # the system would end the process while it is filled
            raise self._too_large(dtype, f', {free / 2**20:.0f} MiB are free')
        self.register_buffer('rows', self._start((networks, num_samples, dim), dtype))
        self.register_buffer('step', torch.zeros((), dtype=torch.long))
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def memory_bytes(self) -> int:
        """Memory of the rows."""
        return self.rows.numel() * self.rows.element_size()

    def noise(self, batch: int, columns: int, part: slice = slice(None)) -> Tensor:
        """Uniform whole numbers (B, columns) in [0, 2^32) for this rank's images of this batch.

        They depend on the seed, the batches before and the place in the global batch, and not on
        the number of ranks.

        Args:
            batch: B.
            columns: Numbers for each image.
            part: Of the images, whose numbers alone are returned.
        """
        images = global_image_index(batch, self.rows.device)[part, None]
        column = torch.arange(columns, device=self.rows.device)
        return hash_uint32(self.step + len(self._waiting), self.seed, images, column)

    def remember(self, index: Tensor, embeddings: Tensor) -> None:
        """Keep a batch for :meth:`after_step`.

        Ranks of different batch sizes: see `kdmm.functional.collective.expect_uneven`.

        Args:
            index: Rows (B,) of this rank's images.
            embeddings: Unit rows (N, B, D), kept without their gradient.

        Raises:
            ValueError: If the embeddings are not (N, B, D).
        """
        networks, _, dim = self.rows.shape
        if embeddings.shape != (networks, len(index), dim):
            raise ShapeError(
                f'a bank of {networks} x {dim} keeps embeddings (N, B, D)',
                'form',
                index=index,
                embeddings=embeddings,
            )
        self._waiting.append((index, embeddings.detach()))

    @torch.no_grad()
    def after_step(self) -> None:
        """Write the embeddings of all ranks, batch after batch; call it after the backward pass.

        Of an image's repetitions in a global batch the first in global image order counts.
        """
        for index, embeddings in self._waiting:
            # (N, B, D) -> (B, N, D) -> (G, N, D), the images of all ranks
            new = gather_images(embeddings.transpose(0, 1))
            self._write(gather_images(index), new.transpose(0, 1))
            self.step += 1
        self._waiting = []

    def _write(self, index: Tensor, embeddings: Tensor) -> None:
        ordered, order = index.sort(stable=True)  # (G,), (G,)
        first = order[torch.searchsorted(ordered, index)]  # of the same image
        for rows, new in zip(self.rows, embeddings[:, first], strict=True):
            old = promote(rows.index_select(0, index))  # (n, D) -> (G, D)
            mixed = self.momentum * old + (1 - self.momentum) * promote(new)
            # duplicates write the same numbers, so their order does not matter
            rows.index_copy_(0, index, normalize_rows(mixed).to(rows.dtype))

    def _start(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        try:
            rows = torch.empty(shape, dtype=dtype)
        except RuntimeError as error:  # the allocator's
            raise self._too_large(dtype) from error
        generator, limit = torch.Generator().manual_seed(self.seed), math.sqrt(3 / shape[2])
        for part in rows.flatten(0, 1).split(_CHUNK):
            part.copy_(torch.empty(part.shape).uniform_(-limit, limit, generator=generator))
        return rows

    def _apply(self, fn: Any, recurse: bool = True) -> 'InstanceBank':
        try:
            return super()._apply(fn, recurse)
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large(self.rows.dtype) from error

    def _too_large(self, dtype: torch.dtype, free: str = '') -> ConfigError:
        half = "Set dtype='float16' for half of that" if dtype.itemsize > 2 else 'Lower dim'
        return ConfigError(
            f'no memory for {self._size}{free}', fix=f'{half}, or use a larger device.'
        )


def free_memory() -> int | None:
    """Bytes that this process may still take on the CPU, None where the system does not say."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = _MEMORY.read_text().splitlines()
        found.append(
            next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable')) * 2**10
        )
    with suppress(OSError, ValueError):  # a container's limit; 'max' where there is none
        limit = int((_CONTAINER / 'memory.max').read_text())
        found.append(limit - int((_CONTAINER / 'memory.current').read_text()))
    return min(found, default=None)
