"""Views of a batch of images: lightness, chroma, grey, another resolution, photometric changes.

Images are (B, C, H, W) of 0 to 255, colours R, G, B as sRGB encodes them (IEC 61966-2-1).
Everything is computed in float32 or wider under any autocast.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from .maps import full_precision, promote

#: Chromaticities (x, y) of the primaries R, G, B and of the white D65, ITU-R BT.709-6, table 1;
#: sRGB has the same.
PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
WHITE = (0.3127, 0.3290)
#: Weights of R, G, B in luma, ITU-R BT.601-7, section 2.5.1; OpenCV's grey has the same.
LUMA = (0.299, 0.587, 0.114)


def _to_relative_xyz() -> Tensor:
    """Matrix (3, 3), float64, of linear RGB to (X / X_n, Y / Y_n, Z / Z_n); white is (1, 1, 1)."""
    # (x, y) -> (X, Y, Z) of luminance 1, a column a primary
    primaries, white = (
        torch.tensor([[x / y, 1.0, (1 - x - y) / y] for x, y in points], dtype=torch.float64).T
        for points in (PRIMARIES, [WHITE])
    )
    return primaries * torch.linalg.solve(primaries, white).T / white


_RELATIVE_XYZ = _to_relative_xyz()


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB images of 0 to 255 to CIE 1976 L*a*b* (ISO/CIE 11664-4) of white D65.

    Args:
        images: (B, 3, H, W), R, G, B.

    Returns:
        (B, 3, H, W): L* of 0 to 100; a* of -86.2 to 98.3; b* of -107.9 to 94.5. A grey has a* and
        b* of 0 but for rounding.

    Raises:
        ShapeError: If there are not three channels.
    """
    _need_colours(images)
    with full_precision(images):
        encoded = promote(images) / 255
        linear = torch.where(
            encoded <= 0.04045, encoded / 12.92, ((encoded.clamp_min(0) + 0.055) / 1.055) ** 2.4
        )
        matrix = _RELATIVE_XYZ.to(linear)
        # (3, 3) x (B, 3, H, W) -> (B, 3, H, W)
        xyz = torch.einsum('ij,bjhw->bihw', matrix, linear)
        small = 6 / 29
        root = xyz.clamp_min(small**3) ** (1 / 3)
        f = torch.where(xyz > small**3, root, xyz / (3 * small**2) + 4 / 29)
        x, y, z = f.unbind(1)
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def luminance(images: Tensor) -> Tensor:
    """Lightness L* in units of 100 / 255, of 0 to 255: (B, 3, H, W) -> (B, 1, H, W)."""
    return rgb_to_lab(images)[:, :1] * (255 / 100)


def chrominance(images: Tensor) -> Tensor:
    """Return a* + 128 and b* + 128, of 20 to 227: (B, 3, H, W) -> (B, 2, H, W).

    The offset and the unit are those of 8-bit L*a*b*; nothing is rounded.
    """
    return rgb_to_lab(images)[:, 1:] + 128


def grey(images: Tensor) -> Tensor:
    """Luma of the encoded values, 0.299 R + 0.587 G + 0.114 B: (B, 3, H, W) -> (B, 1, H, W)."""
    _need_colours(images)
    with full_precision(images):
        weights = promote(images).new_tensor(LUMA).view(1, 3, 1, 1)
        return (promote(images) * weights).sum(1, keepdim=True)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its factor, (B,), and clip to 0 and 255."""
    return (promote(images) * _per_image(factor, images)).clamp(0, 255)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image's distance from its mean of all channels by its factor, and clip."""
    images = promote(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    return (mean + (images - mean) * _per_image(factor, images)).clamp(0, 255)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image by its own Gaussian, with the border's pixels repeated.

    Args:
        images: (B, C, H, W).
        sigma: Standard deviations in pixels, (B,), above 0.
        radius: The kernels have 2 * radius + 1 pixels a side.
    """
    images = promote(images)
    batch, channels, height, width = images.shape
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma.to(images)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)  # (B, 2r + 1)
    kernels = weights.repeat_interleave(channels, 0)[:, None, None]  # (B * C, 1, 1, 2r + 1)
    # (B, C, H, W) -> (1, B * C, H, W): an image and channel a group
    flat = images.reshape(1, batch * channels, height, width)
    with full_precision(images):
        flat = F.pad(flat, (radius, radius, 0, 0), 'replicate')
        flat = F.conv2d(flat, kernels, groups=batch * channels)
        flat = F.pad(flat, (0, 0, radius, radius), 'replicate')
        flat = F.conv2d(flat, kernels.transpose(2, 3), groups=batch * channels)
    return flat.view_as(images)


def cut_out(images: Tensor, centre: Tensor, side: float) -> Tensor:
    """Replace a square of each image by the image's mean colour (Cutout, arXiv 1708.04552).

    The paper fills with the mean of the data, and lets squares reach over the border, as here.

    Args:
        images: (B, C, H, W).
        centre: (y, x) of each square as shares of height and width, (B, 2).
        side: Its side as a share of the image's shorter side.
    """
    height, width = images.shape[-2:]
    half = side * min(height, width) / 2
    y = torch.arange(height, device=images.device, dtype=torch.float32) + 0.5
    x = torch.arange(width, device=images.device, dtype=torch.float32) + 0.5
    centre = centre.to(y)
    # (B, H, 1) and (B, 1, W) -> (B, 1, H, W)
    rows = (y - centre[:, :1] * height).abs()[:, :, None] < half
    columns = (x - centre[:, 1:] * width).abs()[:, None] < half
    return torch.where((rows & columns)[:, None], images.mean((2, 3), keepdim=True), images)


def resize_images(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize to (h, w), bilinear, with a low-pass filter where the image becomes smaller.

    Pixels are areas (``align_corners=False``), so what lay at a share of the height still does. An
    image that has the size is returned as it is.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    with full_precision(images):
        return F.interpolate(promote(images), tuple(size), mode='bilinear', antialias=True)


def _need_colours(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError('colours are (B, 3, H, W)', 'channels', images=images)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.to(images).view(-1, 1, 1, 1)
