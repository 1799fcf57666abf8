"""Lightness and chroma in a data pipeline (needs mmcv)."""

from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform

from kdmm.errors import ConfigError
from kdmm.functional.views import chrominance, luminance
from kdmm.registry import TRANSFORMS


class _FromColours(BaseTransform):
    """Base: replaces the image by another one of the same size, of float32.

    Args:
        keep: Name under which the image stays as it was, for a network that sees that one; None
            drops it.
        bgr: Whether its channels are B, G, R, as ``LoadImageFromFile`` gives them.
    """

    def __init__(self, keep: str | None = None, bgr: bool = True) -> None:
        if keep is not None and (not isinstance(keep, str) or keep in ('', 'img')):
            raise ConfigError(
                key=f'{type(self).__name__}.keep', got=keep, expected="a name other than 'img'"
            )
        self.keep, self.bgr = keep, bgr

    def convert(self, images: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W), R, G, B -> (1, C, H, W)."""
        raise NotImplementedError

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``results['img']``, (H, W, 3) -> (H, W, C)."""
        image = results['img']
        if image.ndim != 3 or image.shape[2] != 3:
            raise ConfigError(
                f'{results.get("img_path", "an image")} has shape {image.shape}',
                key=type(self).__name__,
                expected='three channels, (H, W, 3)',
            )
        if self.keep is not None:
            results[self.keep] = image
        colours = np.ascontiguousarray(image[..., ::-1] if self.bgr else image)
        # (H, W, 3) -> (1, 3, H, W) -> (H, W, C)
        found = self.convert(torch.from_numpy(colours).permute(2, 0, 1)[None].float())
        results['img'] = np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(keep={self.keep!r}, bgr={self.bgr})'


@TRANSFORMS.register_module()
class ToLuminance(_FromColours):
    """Lightness L* of 0 to 255 in place of colours, see `kdmm.functional.views.luminance`.

    The last step before packing, in training and in testing. The view ``Luminance`` gives a teacher
    the same values.

    Required keys and set: ``img``.

    Args:
        channels: 1, or 3 equal ones for a network that takes colours.
        keep: See `ToChrominance`.
        bgr: See `ToChrominance`.
    """

    def __init__(self, channels: int = 3, keep: str | None = None, bgr: bool = True) -> None:
        super().__init__(keep, bgr)
        if channels not in (1, 3):
            raise ConfigError(key='ToLuminance.channels', got=channels, expected='1 or 3')
        self.channels = channels

    def convert(self, images: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) -> (1, channels, H, W)."""
        return luminance(images).expand(-1, self.channels, -1, -1)


@TRANSFORMS.register_module()
class ToChrominance(_FromColours):
    """a* + 128 and b* + 128 in place of colours, see `kdmm.functional.views.chrominance`.

    The last step before packing, in training and in testing: so a network of two input channels is
    trained, tested and deployed on the same images by the base library itself. For a teacher that
    sees other channels of the image, ``keep='img2'`` leaves it in the sample, cropped and flipped
    as it is: ``meta_keys`` of the packing transform name it, and ``kd.teacher.inputs`` reads it
    (``SecondImage``).

    Required keys: ``img``. Set: ``img``, and ``keep``.

    Args:
        keep: Name under which the image stays as it was; None drops it.
        bgr: Whether its channels are B, G, R, as ``LoadImageFromFile`` gives them.
    """

    def convert(self, images: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) -> (1, 2, H, W)."""
        return chrominance(images)
