"""Similarity maps block by block: how much of one is held at once.

A block is as large as stays in the processor's cache.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

MIB = 2**20
#: Buffers of one block's size that the streamed forms work with: two maps and a product of them.
BUFFERS = 3
_CUDA_BYTES = 256 * MIB  # each
_UNKNOWN_CACHE = 16 * MIB
_LARGEST_CACHE = 64 * MIB  # beyond that other cores own the rest
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


@cache
def cache_bytes() -> int:
    """Size of the largest data cache of the first core, 16 MiB where the system does not say."""
    sizes = [0]
    for entry in Path('/sys/devices/system/cpu/cpu0/cache').glob('index*/size'):
        with suppress(OSError, ValueError, IndexError):  # unreadable, empty or odd
            text = entry.read_text().strip()
            sizes.append(int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text))
    return min(max(sizes) or _UNKNOWN_CACHE, _LARGEST_CACHE)


def block_elements(like: Tensor) -> int:
    """Elements of one block map, so that all buffers fill half of the cache (CUDA: 256 MiB)."""
    budget = _CUDA_BYTES if like.is_cuda else cache_bytes() // 2 // BUFFERS
    return max(budget // like.element_size(), 1)


def rows_per_block(rows: int, columns: int, like: Tensor, chunk: int | None = None) -> int:
    """Rows of a block that spans all ``columns``: ``chunk``, or what the cache holds."""
    return max(1, min(rows, chunk or block_elements(like) // columns))


def blocks(rows: int, chunk: int) -> Iterator[slice]:
    """Consecutive slices of at most ``chunk`` rows."""
    return (slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk))


def empty_blocks(like: Tensor, rows: int, columns: int) -> tuple[Tensor, ...]:
    """The buffers of one block."""
    return torch.unbind(like.new_empty(BUFFERS, rows * columns))


def refuse_second_order(name: str, instead: str) -> None:
    """Raise in a backward pass that is itself being recorded, by ``create_graph=True``.

    Args:
        name: The function that was differentiated.
        instead: What gives second derivatives.

    Raises:
        RuntimeError: The gradient was formed block by block in the forward pass, so a second
            derivative would silently be missing.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f'{name} gives first derivatives only (its gradient is formed in the forward pass); '
            f'create_graph=True is not supported through it, but through {instead}'
        )
