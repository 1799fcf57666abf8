"""Random numbers without a generator: hashes of step, seed, image and column.

They are equal on every device and for any number of ranks, and a resumed run needs only its step
counter.
"""

from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    # int64 products wrap; the low 32 bits are those of the unsigned product
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def hash_uint32(first: Tensor, *fields: Tensor | int) -> Tensor:
    """Integers in [0, 2^32) as int64, from broadcastable integer fields.

    The order of the fields matters. Only the low 32 bits of each count.
    """
    state = _mix((first + 0x9E3779B9) & _MASK)
    for field in fields:
        state = _mix((state * 0x9E3779B1 + field + 0x85EBCA6B) & _MASK)
    return state


def hash_below(bound: Tensor | int, first: Tensor, *fields: Tensor | int) -> Tensor:
    """Integers in [0, bound), ``floor(u * bound)``; 0 where the bound is 0. Bounds below 2^31."""
    return (hash_uint32(first, *fields) * bound) >> 32
