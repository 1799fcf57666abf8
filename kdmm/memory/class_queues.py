"""Per-class queues of teacher pixels and regions (CIRKD, arXiv 2204.06986)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError

from ..functional.collective import gather_images, global_image_index
from ..functional.maps import full_precision, normalize_rows
from .hash import hash_below, hash_uint32

_NEVER = 2**63 - 1


class Keys(NamedTuple):
    """Keys of one step: rows (M, C), which of them count (M,), sizes of the two parts."""

    rows: Tensor
    mask: Tensor
    sections: list[int]


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
        running = torch.arange(rows.shape[2], device=rows.device)  # (R,)
        total = amount.sum(0)  # (G, K) -> (K,)
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
        target = torch.where(keep, base + slot, dump).flatten()  # (G, K, R) -> (G * K * R,)
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
        index = classes[:, None] * self.size + slot  # (K, number) -> rows (K * number, C)
        return self.rows.index_select(0, index.flatten()), mask.flatten()


class ClassQueues(nn.Module):
    """A pixel queue and a region queue per class, equal on all ranks after every step.

    All state is in persistent buffers or a function of the step counter, so a resumed run continues
    to the bit. No operation waits for the device.

    Args:
        num_classes: K.
        channels: Channels of the teacher's features.
        pixel_size: Rows per class of the pixel queue.
        region_size: Rows per class of the region queue.
        per_image: Pixels enqueued per image and class.
        mode: ``'class'``: pixels of a class come from that class; a true ring; only written slots
            are drawn. ``'legacy'``: as the authors' code, which differs in all three (it draws
            pixels of class c, n_c of them in the image, from the first n_c raster positions; a
            write over the end replaces the newest rows; unwritten random rows are keys). The
            authors' code has no other mode, so the published numbers belong to ``'legacy'``. One
            departure remains: keys are the same on all ranks.
        dtype: Of the stored rows.
        seed: Of all choices.
    """

    step: Tensor

    def __init__(
        self,
        num_classes: int,
        channels: int,
        pixel_size: int = 20000,
        region_size: int = 2000,
        per_image: int = 16,
        mode: str = 'class',
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if mode not in ('class', 'legacy'):
            raise ConfigError(key='mode', got=mode, expected="'class' or 'legacy'")
        for name, value in dict(
            num_classes=num_classes,
            channels=channels,
            pixel_size=pixel_size,
            region_size=region_size,
            per_image=per_image,
        ).items():
            if value < 1:
                raise ConfigError(key=name, got=value, expected='at least 1')
        self.num_classes, self.per_image, self.mode, self.seed = num_classes, per_image, mode, seed
        legacy = mode == 'legacy'
        self.pixel = ClassRing(num_classes, pixel_size, channels, legacy, dtype, seed * 4 + 1)
        self.region = ClassRing(num_classes, region_size, channels, legacy, dtype, seed * 4 + 2)
        self.register_buffer('step', torch.zeros((), dtype=torch.long))

    def memory_bytes(self) -> int:
        """Memory of the stored rows."""
        rings = (self.pixel.rows, self.region.rows)
        return sum(x.numel() * x.element_size() for x in rings)

    @torch.no_grad()
    def enqueue(self, features: Tensor, labels: Tensor) -> None:
        """Append samples of every rank's images, in global image order, and advance the step.

        Only the samples are gathered, not the maps.

        Args:
            features: Unit rows (B, A, C) of this rank's images.
            labels: (B, A). Labels outside 0..K-1 belong to no class.
        """
        outside = (labels < 0) | (labels >= self.num_classes)
        labels = labels.masked_fill(outside, self.num_classes)
        # an outer autocast must not round what is stored
        with full_precision(features):
            self._enqueue(features, labels)

    def _enqueue(self, features: Tensor, labels: Tensor) -> None:
        # (B, A) -> (B, A, K)
        member = labels[..., None] == torch.arange(self.num_classes, device=labels.device)
        counts = member.sum(1)  # (B, K)
        region = normalize_rows(_class_means(features, member, counts), dim=2)  # (B, K, C)
        pixels = self._pixels(features, labels, counts)  # (B, K, V, C)
        samples = torch.cat([pixels, region[:, :, None]], 2)  # (B, K, V + 1, C)
        # (B, K, V + 1, C) -> (G, K, V + 1, C), and (B, K) -> (G, K), the images of all ranks
        samples = gather_images(samples.to(self.pixel.rows.dtype))
        counts = gather_images(counts)
        self.pixel.write(samples[:, :, :-1], counts.clamp_max(self.per_image))
        self.region.write(samples[:, :, -1:], counts.clamp_max(1))
        self.step += 1

    def _pixels(self, features: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """Choose rows (B, K, V, C); those beyond a class's count are arbitrary."""
        batch, area, channels = features.shape
        images = global_image_index(batch, features.device)
        common = (counts, self.per_image, self.step, images, self.seed * 4)
        if self.mode == 'class':
            position = _class_pixels(labels, *common)
        else:
            position = _leading_pixels(area, *common)
        # (B, K, V) -> (B, K * V, C)
        index = position.flatten(1)[..., None].expand(-1, -1, channels)
        return features.gather(1, index).unflatten(1, (self.num_classes, -1))

    @torch.no_grad()
    def draw(self, n_pixel: int, n_region: int) -> Keys:
        """Draw the keys of this step, the same on all ranks.

        Args:
            n_pixel: Pixel keys per class, at most the queue's size.
            n_region: Region keys per class, likewise.
        """
        sizes = (min(n_pixel, self.pixel.size), min(n_region, self.region.size))
        rings = (self.pixel, self.region)
        drawn = [ring.draw(n, self.step) for ring, n in zip(rings, sizes, strict=True)]
        rows, masks = (torch.cat(x) for x in zip(*drawn, strict=True))
        return Keys(rows, masks, [self.num_classes * n for n in sizes])


def _class_pixels(
    labels: Tensor, counts: Tensor, limit: int, step: Tensor, images: Tensor, seed: int
) -> Tensor:
    """Random positions of each class, without replacement.

    Args:
        labels: (B, A) in 0..K, K for pixels that belong to no class.
        counts: (B, K) pixels of each class.
        limit: V, positions per image and class.
        step: Scalar int64.
        images: Global image indices (B,).
        seed: Any integer.

    Returns:
        Positions (B, K, V); the first ``min(count, V)`` of each are valid, the others arbitrary.
    """
    batch, area = labels.shape
    position = torch.arange(area, device=labels.device)
    noise = hash_uint32(step, seed, images[:, None], position)
    # (B, A), by class, then noise
    order = ((labels << 32) | noise).sort(dim=1, stable=True).indices
    start = counts.cumsum(1) - counts
    index = start[..., None] + torch.arange(limit, device=labels.device)  # (B, K, V)
    return order.gather(1, index.clamp_max(area - 1).flatten(1)).view(batch, -1, limit)


def _leading_pixels(
    area: int, counts: Tensor, limit: int, step: Tensor, images: Tensor, seed: int
) -> Tensor:
    """As :func:`_class_pixels`, but drawn from the first ``count`` raster positions of the map.

    The authors' code does this: it permutes ``0 .. count - 1`` and takes the result for
    positions, so a class's queue gets pixels from the top of the image, of any class.
    """
    classes = torch.arange(counts.shape[1], device=counts.device)
    position = torch.arange(area, device=counts.device)
    noise = hash_uint32(step, seed, images[:, None, None], classes[:, None], position)
    # (B, K, A), distinct, so that ties cannot depend on the device
    key = ((noise >> 1) << 32) | position
    key = key.masked_fill(position >= counts[..., None], _NEVER)
    # (B, K, A) -> (B, K, V)
    chosen = key.topk(min(limit, area), largest=False).indices
    return torch.nn.functional.pad(chosen, (0, limit - chosen.shape[-1]))


def _class_means(rows: Tensor, member: Tensor, counts: Tensor) -> Tensor:
    """Mean row of each class: rows (B, A, C), member (B, A, K) -> (B, K, C).

    A matrix product: sums by atomic addition would differ from run to run on a GPU.
    """
    # (B, K, A) @ (B, A, C)
    sums = member.to(rows.dtype).transpose(1, 2) @ rows
    return sums / counts.clamp_min(1)[..., None]
