"""A network's own view of the batch: registered transforms of its images."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdmm.distillers.builder import build_part
from kdmm.distillers.refusals import refusal
from kdmm.errors import ConfigError, ShapeError
from kdmm.functional import collective
from kdmm.functional.views import (
    adjust_brightness,
    adjust_contrast,
    chrominance,
    cut_out,
    gaussian_blur,
    grey,
    luminance,
    resize_images,
)
from kdmm.registry import MODELS
from kdmm.schedules import Progress

#: What a view may do to the places of the content: leave them, keep them as shares of another
#: height and width, or anything else.
GEOMETRIES = ('kept', 'resized', 'moved')


class View:
    """Base: a transform of a batch of images, before the network's normalization.

    A subclass is registered in `MODELS`, as the batch transforms of MMDetection are, and named in
    ``kd.teacher.inputs`` or ``kd.inputs``. It has no parameters and no state.
    """

    #: One of `GEOMETRIES`. A view that does something else is refused when the model is built.
    geometry: ClassVar[str] = 'kept'
    #: Whether training alone should see it; only such views are for a student.
    augments: ClassVar[bool] = False
    #: Whether it reads images from the data samples, which the preprocessor does not change.
    reads_samples: ClassVar[bool] = False

    def __call__(
        self, images: Tensor, samples: Sequence[Any] | None, random: torch.Generator
    ) -> Tensor:
        """Transform a batch.

        Args:
            images: (B, C, H, W) of 0 to 255, three channels in the order R, G, B. Padding is
                whatever the student's padding value means; afterwards it gets the network's own,
                unless the geometry is ``'moved'``.
            samples: The B data samples.
            random: On the CPU, the only source of random numbers; seeded for this step, rank and
                network.

        Returns:
            (B, C', H', W'), in 0 to 255; ``images`` itself where nothing is to be done.
        """
        raise NotImplementedError

    def preview(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Transform images that no data set gave, for shapes and geometry."""
        return self(images, None, random)


class _Channels(View):
    """Base of views that give one channel, or three equal ones."""

    def __init__(self, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ConfigError(key='channels', got=channels, expected='1 or 3')
        self.channels = channels

    def spread(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, channels, H, W)."""
        return image.expand(-1, self.channels, -1, -1)


@MODELS.register_module()
class Luminance(_Channels):
    """Lightness L* of CIE L*a*b* as 0 to 255, see `kdmm.functional.views.luminance`.

    Args:
        channels: 1, or 3 equal ones for a network that takes colours.
    """

    def __call__(self, images: Tensor, samples: Any, random: torch.Generator) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H, W)."""
        return self.spread(luminance(images))


@MODELS.register_module()
class Chrominance(View):
    """a* and b* of CIE L*a*b*, each + 128, see `kdmm.functional.views.chrominance`."""

    def __call__(self, images: Tensor, samples: Any, random: torch.Generator) -> Tensor:
        """(B, 3, H, W) -> (B, 2, H, W)."""
        return chrominance(images)


@MODELS.register_module()
class Grey(_Channels):
    """Luma of ITU-R BT.601 as OpenCV's grey, see `kdmm.functional.views.grey`.

    Args:
        channels: 1, or 3 equal ones for a network that takes colours.
    """

    def __call__(self, images: Tensor, samples: Any, random: torch.Generator) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H, W)."""
        return self.spread(grey(images))


@MODELS.register_module()
class ResizeImages(View):
    """Another resolution, see `kdmm.functional.views.resize_images`.

    Args:
        size: (h, w) of the result; either this or ``scale``.
        scale: Factor of both sides, rounded up.
    """

    geometry: ClassVar[str] = 'resized'

    def __init__(self, size: Sequence[int] | None = None, scale: float | None = None) -> None:
        if (size is None) == (scale is None):
            raise ConfigError('either size or scale is needed', key='size', got=size)
        pair = isinstance(size, list | tuple) and len(size) == 2
        if size is not None and not (pair and all(type(n) is int and n > 0 for n in size)):
            raise ConfigError(key='size', got=size, expected='(h, w), two positive integers')
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if scale is not None and not (number and 0 < scale <= 16):
            raise ConfigError(key='scale', got=scale, expected='a number above 0, at most 16')
        self.size, self.scale = size, scale

    def __call__(self, images: Tensor, samples: Any, random: torch.Generator) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        size = self.size
        if self.scale is not None:
            size = [ceil(side * self.scale) for side in images.shape[-2:]]
        assert size is not None
        return resize_images(images, size)


@MODELS.register_module()
class Photometric(View):
    """Strong augmentation of values, image by image: brightness, contrast, blur, Cutout.

    Places stay, so that maps may be compared with those of a network that sees the batch as it is.

    Args:
        brightness: b: values are multiplied by a factor of [1 - b, 1 + b].
        contrast: c: distances from the image's mean by one of [1 - c, 1 + c].
        blur: Range of a Gaussian's standard deviation in pixels; None for no blur.
        blur_share: Share of the images that are blurred.
        cutout: Side of a square of the image's mean colour, as a share of the shorter side; 0 for
            none.
        cutout_share: Share of the images that have one.
    """

    augments: ClassVar[bool] = True

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        blur: Sequence[float] | None = (0.1, 2.0),
        blur_share: float = 0.5,
        cutout: float = 0.5,
        cutout_share: float = 0.5,
    ) -> None:
        shares = dict(
            brightness=brightness,
            contrast=contrast,
            blur_share=blur_share,
            cutout=cutout,
            cutout_share=cutout_share,
        )
        for name, value in shares.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(key=name, got=value, expected='0 to 1')
        pair = isinstance(blur, list | tuple) and len(blur) == 2
        numbers = pair and all(isinstance(value, int | float) for value in blur or ())
        if blur is not None and not (numbers and 0 < blur[0] <= blur[1] < 100):
            raise ConfigError(key='blur', got=blur, expected='None or (from, to), above 0')
        self.brightness, self.contrast = brightness, contrast
        self.blur, self.blur_share = blur, blur_share
        self.cutout, self.cutout_share = cutout, cutout_share

    def __call__(self, images: Tensor, samples: Any, random: torch.Generator) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        # drawn whether used or not: a changed option leaves the others' numbers as they are
        draws = torch.rand(len(images), 7, generator=random, dtype=torch.float64)  # (B, 7)
        bright, contrast, blurred, sigma, cut, y, x = draws.to(images).unbind(1)
        if self.brightness:
            images = adjust_brightness(images, 1 + self.brightness * (2 * bright - 1))
        if self.contrast:
            images = adjust_contrast(images, 1 + self.contrast * (2 * contrast - 1))
        if self.blur is not None and self.blur_share:
            low, high = self.blur
            smooth = gaussian_blur(images, low + (high - low) * sigma, ceil(3 * high))
            images = _where(blurred < self.blur_share, smooth, images)
        if self.cutout and self.cutout_share:
            holed = cut_out(images, torch.stack([y, x], 1), self.cutout)
            images = _where(cut < self.cutout_share, holed, images)
        return images


@MODELS.register_module()
class SecondImage(View):
    """Another image of the same sample in place of the batch's, such as depth.

    The data samples carry it as ``sample.<key>``: an array (H, W) or (H, W, C) as pipelines have
    it, or a tensor (C, H, W). It is cropped, flipped and resized like the first by
    `kdmm.BothImages`, and packed by ``meta_keys`` of the packing transform.

    Args:
        key: Name of the field.
        channels: C.
        bgr: Whether three channels are B, G, R, as files are loaded.
    """

    reads_samples: ClassVar[bool] = True

    def __init__(self, key: str = 'img2', channels: int = 3, bgr: bool = True) -> None:
        if type(channels) is not int or channels < 1:
            raise ConfigError(key='channels', got=channels, expected='a positive integer')
        self.key, self.channels, self.bgr = key, channels, bgr

    def __call__(self, images: Tensor, samples: Any, random: torch.Generator) -> Tensor:
        """(B, C, H, W) -> (B, channels, H, W); right of and below an image's own size 0.

        Raises:
            ConfigError: If a sample has no such image, or one of another size or depth.
        """
        height, width = images.shape[-2:]
        result = images.new_zeros(len(images), self.channels, height, width)
        if len(samples or ()) != len(images):
            raise ConfigError(
                f'{len(images)} images have {len(samples or ())} data samples',
                key='train_dataloader.dataset.pipeline',
            )
        for canvas, sample in zip(result, samples or (), strict=True):
            image = self._of(sample, (height, width))[:, :height, :width]
            canvas[:, : image.shape[1], : image.shape[2]] = image
        return result.flip(1) if self.bgr and self.channels == 3 else result

    def preview(self, images: Tensor, random: torch.Generator) -> Tensor:
        """The first channel, as often as wanted."""
        return images[:, :1].expand(-1, self.channels, -1, -1)

    def _of(self, sample: Any, size: tuple[int, int]) -> Tensor:
        """The image of a sample, (C, H, W)."""
        found, where = getattr(sample, self.key, None), 'train_dataloader.dataset.pipeline'
        if found is None:
            raise ConfigError(
                f'the data samples carry no {self.key!r}, which the view SecondImage reads',
                key=where,
                fix=f'Load it, and add {self.key!r} to the meta_keys of the transform that packs.',
            )
        if isinstance(found, np.ndarray):  # of 16 bits, too, which torch does not have throughout
            found = np.atleast_3d(found).transpose(2, 0, 1).astype(np.float32)
            found = torch.from_numpy(np.ascontiguousarray(found))
        image = found[None] if found.ndim == 2 else found
        own = tuple(getattr(sample, 'img_shape', None) or size)[:2]
        if tuple(image.shape[1:]) not in (own, size):
            raise ConfigError(
                f'{self.key!r} has {image.shape[1]} x {image.shape[2]} pixels (h x w), its image '
                f'{own[0]} x {own[1]}',
                key=where,
                fix='Put transforms of geometry into kdmm.BothImages.',
            )
        if len(image) != self.channels:
            raise ConfigError(
                f'{self.key!r} of the data samples has {len(image)} channel(s)',
                key='SecondImage.channels',
                got=self.channels,
            )
        return image


class Views:
    """The views of one network, in order, with their random numbers.

    These come from a generator of their own, seeded by the seed of torch's default generator (with
    a ``kd`` section a function of seed, iteration and rank), the iteration, the rank and the
    network. No other random stream is touched, and a resumed run draws what the whole one drew.

    Args:
        config: ``dict(type=...)`` or a list of them; None or an empty list for the batch as it is.
        where: The config key, for errors.
        stream: Number of the network.

    Attributes:
        progress: Of the training.

    Raises:
        ConfigError: For unknown views or arguments.
    """

    progress = Progress()

    def __init__(self, config: Any, where: str, stream: int = 0) -> None:
        self.where, self.stream = where, stream
        several = isinstance(config, list | tuple)
        given = list(config) if several else [] if config is None else [config]
        keys = [f'{where}[{index}]' if several else where for index in range(len(given))]
        self.views = dict(zip(keys, map(_build, keys, given), strict=True))

    def __bool__(self) -> bool:
        return bool(self.views)

    def __str__(self) -> str:
        return ', '.join(type(view).__name__ for view in self.views.values())

    @property
    def geometry(self) -> str:
        """The strongest of what the views do to the content's places, one of `GEOMETRIES`."""
        found = (view.geometry for view in self.views.values())
        return max(found, key=GEOMETRIES.index, default='kept')

    def __call__(self, images: Tensor, samples: Sequence[Any] | None) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), see `View`; ``images`` itself where nothing changes."""
        random = self._generator()
        for where, view in self.views.items():
            try:
                images = view(images, samples, random)
            except ShapeError as error:
                raise refusal(where, error) from error
        return images

    def preview(self, images: Tensor) -> Tensor:
        """As a call, for images that no data set gave."""
        for where, view in self.views.items():
            images = previewed(where, view, images)
        return images

    def size_of(self, channels: int, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of what the views make of images of ``channels`` and ``size``."""
        height, width = self.preview(torch.zeros(()).expand(1, channels, *size)).shape[2:]
        return height, width

    def _generator(self) -> torch.Generator:
        words = (torch.initial_seed(), self.progress.iteration, collective.rank(), self.stream)
        entropy = np.random.SeedSequence([word % 2**64 for word in words])
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


def views_of_teachers(teachers: Sequence[dict[str, Any]], used: Sequence[int]) -> list[Views]:
    """Build the views of the teachers ``used``, and take them out of their configs.

    Raises:
        ConfigError: As `Views`.
    """
    place = '[{}]' if len(teachers) > 1 else ''
    found = []
    for index in used:
        where = f'kd.teacher{place.format(index)}.inputs'
        found.append(Views(teachers[index].pop('inputs', None), where, index + 1))
    return found


def previewed(where: str, view: View, images: Tensor) -> Tensor:
    """Preview one view.

    Raises:
        ConfigError: If it refuses the shape of its images.
    """
    try:
        return view.preview(images, torch.Generator().manual_seed(0))
    except ShapeError as error:
        raise refusal(where, error) from error


def _build(where: str, config: Mapping[str, Any]) -> View:
    view: Any = build_part(where, config, {}, 'view')
    if not isinstance(view, View):
        raise ConfigError(
            f'{type(view).__name__} is no view',
            key=f'{where}.type',
            fix='Derive the class from kdmm.distillers.View.',
        )
    if view.geometry not in GEOMETRIES:
        kind = type(view).__name__
        raise ConfigError(
            key=f'{kind}.geometry', got=view.geometry, expected=f'one of {", ".join(GEOMETRIES)}'
        )
    return view


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose by image; ``chosen`` is (B,)."""
    return torch.where(chosen.view(-1, 1, 1, 1), yes, no)
