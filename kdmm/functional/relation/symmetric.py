"""The relation of rows to themselves from half of the map's tiles.

The same as :mod:`.textbook` and :mod:`.streamed`. ``Z = F F^T / tau`` is symmetric, so a tile above
the diagonal serves its rows and, transposed, its columns; and the gradient ``(D + D^T) F / tau``,
``D`` the derivative with respect to ``Z``, needs the tile of ``D + D^T`` only, which is symmetric
as well. A first pass sums each row's exponentials; a second one, for which the tiles are computed
again, forms the gradient.

In units of 2 M^2 operations the products cost ``2 C_s + C_t``, against ``3 C_s + C_t`` of a single
pass over whole rows; the exponentials are as many; and no tile leaves the cache between its product
and its use.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..blocks import block_elements, blocks, empty_blocks, refuse_second_order
from .streamed import PairPlan, divergence, exponentials, inverse


def image_blocks(
    images: int, area: int, like: Tensor, chunk: int | None = None
) -> list[tuple[slice, slice]]:
    """Cut rows into blocks for square tiles, each of several whole images or of a part of one.

    Args:
        images: Images whose rows follow each other.
        area: Rows of each.
        like: Says device and dtype.
        chunk: Let a tile hold no more than so many whole rows would; by default what the cache
            holds.

    Returns:
        For each block its rows of ``images * area``, and the images that they belong to.
    """
    elements = chunk * images * area if chunk else block_elements(like)
    limit = max(int(elements**0.5), 1)
    if area <= limit:
        return [
            (slice(part.start * area, part.stop * area), part)
            for part in blocks(images, limit // area)
        ]
    piece = -(-area // -(-area // limit))  # equal parts of at most limit rows
    return [
        (slice(image * area + part.start, image * area + part.stop), slice(image, image + 1))
        for image in range(images)
        for part in blocks(area, piece)
    ]


class _Block(NamedTuple):
    rows: slice  # n of the M rows
    images: slice  # those that the rows belong to

    def by_image(self, x: Tensor, dim: int) -> Tensor:
        """Split dimension ``dim`` into (images, rows of each)."""
        return x.unflatten(dim, (self.images.stop - self.images.start, -1))


class _Tile(NamedTuple):
    left: _Block
    right: _Block
    es: Tensor  # (n, m), n rows of left and m of right
    et: Tensor  # (n, m)
    cross: Tensor  # (n, m)

    @property
    def mirrored(self) -> bool:
        """True if the tile stands for its transpose, too."""
        return self.left is not self.right


class _Map:
    """The tiles on and above the diagonal; kept between the passes if there is only one."""

    def __init__(self, anchors: Tensor, plan: PairPlan) -> None:
        self.anchors, self.plan = anchors, plan
        area = anchors.shape[0] // plan.segments
        self.blocks = [
            _Block(*pair) for pair in image_blocks(plan.segments, area, anchors, plan.chunk)
        ]
        side = max(block.rows.stop - block.rows.start for block in self.blocks)
        self._buffers = empty_blocks(anchors, side, side)
        self._only: _Tile | None = None

    def tiles(self) -> Iterator[_Tile]:
        if self._only is not None:
            yield self._only
            return
        for i, left in enumerate(self.blocks):
            # (M, C) -> (n, C)
            rows = self.anchors[left.rows] / self.plan.tau
            teacher = self.plan.teacher_anchors[left.rows] / self.plan.tau
            for right in self.blocks[i:]:
                parts = exponentials(
                    (rows, self.anchors[right.rows]),
                    (teacher, self.plan.teacher_anchors[right.rows]),
                    self._buffers,
                )
                self._mask(parts, left, right)
                tile = _Tile(left, right, *parts)
                if len(self.blocks) == 1:
                    self._only = tile
                yield tile

    def _mask(self, parts: tuple[Tensor, ...], left: _Block, right: _Block) -> None:
        mask = self.plan.key_mask
        if mask is not None:
            for part in parts:  # rows that do not count have no weight either
                part.mul_(mask[right.rows]).mul_(mask[left.rows, None])


def _sums(tiles: _Map) -> Tensor:
    """(3, M, images), float64: sums of E_s, E_t and E_t (Z_t - Z_s) over each image's pixels."""
    rows, images = tiles.anchors.shape[0], tiles.plan.segments
    sums = torch.zeros(3, rows, images, dtype=torch.float64, device=tiles.anchors.device)
    for tile in tiles.tiles():
        left, right = tile.left, tile.right
        for total, part in zip(sums, (tile.es, tile.et, tile.cross), strict=True):
            # (n, m) -> (n, images, m') -> (n, images); transposed: (images, n', m) -> (m, images)
            total[left.rows, right.images] += right.by_image(part, 1).sum(2)
            if tile.mirrored:
                total[right.rows, left.images] += left.by_image(part, 0).sum(1).T
    return sums


def _gradient(tiles: _Map, sums: Tensor) -> Tensor:
    """(M, C): ``(D + D^T) F / tau``, D the derivative with respect to the logits."""
    plan, anchors = tiles.plan, tiles.anchors
    weight = plan.weight[:, None].double() / plan.tau
    scale_s, scale_t = (inverse(weight, x).to(anchors.dtype) for x in sums[:2])
    out = torch.zeros_like(anchors)
    for tile in tiles.tiles():
        left, right = tile.left, tile.right
        shape = right.by_image(left.by_image(tile.cross, 0), 2)  # (images, n', images, m')
        for part, scale in ((tile.es, scale_s), (tile.et, scale_t)):
            # both directions of each pair of pixels: 1 / sum of the row plus 1 / sum of the column
            # (images, n', images', 1) + (images, 1, images', m')
            rows = left.by_image(scale[left.rows, right.images], 0)[..., None]
            columns = right.by_image(scale[right.rows, left.images].T, 1)[:, None]
            torch.add(rows, columns, out=shape)
            part.mul_(tile.cross)
        tile.es.sub_(tile.et)  # not fused into the product: equal networks give exactly 0
        # (n, m) @ (m, C) -> (n, C); transposed: (m, n) @ (n, C) -> (m, C)
        out[left.rows].addmm_(tile.es, anchors[right.rows])
        if tile.mirrored:
            out[right.rows].addmm_(tile.es.T, anchors[left.rows])
    return out


class _SelfKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, plan: PairPlan) -> Tensor:
        tiles = _Map(anchors, plan)
        sums = _sums(tiles)
        kl = divergence(*sums)  # (M, images)
        if plan.need_grad:
            ctx.save_for_backward(_gradient(tiles, sums))
        return (kl.sum(1) * plan.weight).sum().to(anchors.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_order('pixel_to_pixel_kl', 'relation.textbook.pixel_to_pixel_kl')
        return grad * ctx.saved_tensors[0], None


def self_kl(anchors: Tensor, plan: PairPlan) -> Tensor:
    """Weighted sum over anchors (M, C) and images of KL(teacher || student).

    The anchors are the keys of both networks: ``plan.teacher_keys`` is not read.
    """
    return _SelfKL.apply(anchors, plan)
