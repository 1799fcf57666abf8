"""Only the matrix products of a relation loss: what no form of it can do without.

Blocks of rows write into buffers that exist already, so that neither memory traffic nor allocation
adds to them. A form may still fall below one pass of these products where a map is symmetric.
"""

from typing import Any

import torch
from torch import Tensor

ROWS = {'cpu': 256, 'cuda': 4096}


def _rows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B * h * w, C)."""
    return x.detach().permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _blocks(x: Tensor) -> list[slice]:
    step = ROWS.get(x.device.type, ROWS['cpu'])
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


def p2p(student: Tensor, teacher: Tensor, **_: Any) -> None:
    """``F_s F_s^T``, ``F_t F_t^T``, ``D F_s`` and ``D^T F_s`` of all pixels of the batch."""
    s, t = _rows(student), _rows(teacher)
    blocks = _blocks(s)
    maps = s.new_empty(blocks[0].stop, len(s))
    anchors, keys = torch.empty_like(s), torch.zeros_like(s)
    for block in blocks:
        part = maps[: block.stop - block.start]
        torch.mm(s[block], s.T, out=part)
        torch.mm(t[block], t.T, out=part)
        torch.mm(part, s, out=anchors[block])
        keys.addmm_(part.T, s[block])


def p2p_flop(shape: dict[str, int]) -> int:
    """Multiplications and additions of `p2p`."""
    pixels = shape['batch'] * shape['height'] * shape['width']
    return 2 * pixels**2 * (shape['teacher'] + 3 * shape['student'])


def memory(student: Tensor, teacher: Tensor, keys: Tensor, **_: Any) -> None:
    """``s X^T``, ``t X^T`` and ``D X``."""
    s, t = student.detach(), teacher
    blocks = _blocks(s)
    maps = s.new_empty(blocks[0].stop, len(keys))
    grad = torch.empty_like(s)
    for block in blocks:
        part = maps[: block.stop - block.start]
        torch.mm(s[block], keys.T, out=part)
        torch.mm(t[block], keys.T, out=part)
        torch.mm(part, keys, out=grad[block])


def memory_flop(shape: dict[str, int]) -> int:
    """Multiplications and additions of `memory`."""
    return 6 * shape['anchors'] * shape['keys'] * shape['channels']
