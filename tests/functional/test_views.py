"""Colours against the standards' formulas and OpenCV; values and places of the other views."""

import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from kdmm.functional import views
from tests.errors import unfit
from tests.versions import cpu_autocast

#: Linear sRGB to XYZ of white D65 as CSS Color 4 (W3C, sample code) writes it in whole numbers; it
#: follows from the same chromaticities, BT.709-6 and x = 0.3127, y = 0.3290.
MATRIX = np.array(
    [
        [Fraction(506752, 1228815), Fraction(87881, 245763), Fraction(12673, 70218)],
        [Fraction(87098, 409605), Fraction(175762, 245763), Fraction(12673, 175545)],
        [Fraction(7918, 409605), Fraction(87881, 737289), Fraction(1001167, 1053270)],
    ],
    dtype=np.float64,
)
WHITE = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])


def cube(step: int = 15) -> torch.Tensor:
    """Colours of all of the cube, (1, 3, N, N), uint8 values in float64."""
    levels = torch.arange(0, 256, step, dtype=torch.float64)
    colours = torch.cartesian_prod(levels, levels, levels)
    side = math.isqrt(len(colours))
    return colours[: side * side].T.reshape(1, 3, side, side)


def lab_of(rgb: tuple[float, ...]) -> list[float]:
    """L*a*b* of one colour of 0 to 255, one number after the other (IEC 61966-2-1, CIE 15)."""
    linear = []
    for value in rgb:
        value /= 255
        linear.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    f = []
    for row, white in zip(MATRIX, WHITE, strict=True):
        t = sum(m * c for m, c in zip(row, linear, strict=True)) / white
        f.append(t ** (1 / 3) if t > (6 / 29) ** 3 else (29 / 6) ** 2 * t / 3 + 4 / 29)
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


def test_lab_is_the_formula_of_the_standards():
    colours = cube(51)
    found = views.rgb_to_lab(colours).flatten(2)[0].T
    expected = [lab_of(tuple(rgb)) for rgb in colours.flatten(2)[0].T.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-9)
    single = views.rgb_to_lab(colours.float()).flatten(2)[0].T
    torch.testing.assert_close(single.double(), found, rtol=0, atol=2e-4)


def test_red_is_where_tables_have_it():
    red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)
    found = views.rgb_to_lab(red).flatten().tolist()
    assert found == pytest.approx([53.24, 80.09, 67.20], abs=0.01)


def test_opencv_agrees_within_its_tables_and_its_rounding():
    colours = cube()
    image = colours[0].permute(1, 2, 0).numpy()
    # of float images OpenCV interpolates in a table of the cube
    theirs = cv2.cvtColor((image / 255).astype(np.float32), cv2.COLOR_RGB2Lab)
    mine = views.rgb_to_lab(colours)[0].permute(1, 2, 0).numpy()
    assert np.abs(theirs - mine).max() < 0.5
    # of 8 bits it has tables of few bits and rounds
    theirs = cv2.cvtColor(image.astype(np.uint8), cv2.COLOR_RGB2Lab).astype(float)
    mine = torch.cat([views.luminance(colours), views.chrominance(colours)], 1)
    mine = mine[0].permute(1, 2, 0).numpy()
    assert np.abs(theirs - mine).max() < 2.5 and np.abs(theirs - mine).mean() < 0.3
    theirs = cv2.cvtColor(image.astype(np.uint8), cv2.COLOR_RGB2GRAY)
    assert np.abs(theirs - views.grey(colours)[0, 0].numpy()).max() <= 0.5 + 1e-4


def test_a_grey_has_no_chroma_and_white_is_100():
    greys = torch.arange(256.0).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert (views.chrominance(greys) - 128).abs().max() < 1e-4
    assert views.luminance(greys)[..., -1] == pytest.approx(255)
    assert (views.luminance(greys).diff(dim=-1) > 0).all()
    torch.testing.assert_close(views.grey(greys), greys[:, :1])


def test_no_half_precision_under_autocast():
    colours = cube().float()
    expected = views.rgb_to_lab(colours), views.grey(colours)
    with cpu_autocast(torch.bfloat16):
        found = views.rgb_to_lab(colours), views.grey(colours)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert views.rgb_to_lab(colours.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize('shape', [(1, 1, 4, 4), (3, 4, 4)])
def test_colours_have_three_channels(shape):
    for view in (views.luminance, views.chrominance, views.grey):
        with unfit('channels', images=shape):
            view(torch.zeros(shape))


def images(count: int = 3, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255


def test_brightness_and_contrast_by_image():
    x, factor = images(), torch.tensor([0.5, 1.0, 1.6])
    bright, contrast = views.adjust_brightness(x, factor), views.adjust_contrast(x, factor)
    for image, f, one, other in zip(x, factor, bright, contrast, strict=True):
        torch.testing.assert_close(one, (image * f).clamp(0, 255))
        mean = image.mean()
        torch.testing.assert_close(other, (mean + (image - mean) * f).clamp(0, 255))
    assert bright.max() == 255


def test_blur_is_a_gaussian_of_each_images_own_width():
    x, sigma, radius = images().double(), torch.tensor([0.3, 1.0, 2.0]), 3
    found = views.gaussian_blur(x, sigma, radius)
    height, width = x.shape[2:]
    for b, y, c in ((0, 4, 0), (1, 0, 1), (2, 8, 2), (1, 4, 2)):
        for column in (0, 3, 6):
            total = weights = 0.0
            for i in range(-radius, radius + 1):
                for j in range(-radius, radius + 1):
                    weight = math.exp(-(i * i + j * j) / (2 * float(sigma[b]) ** 2))
                    row = min(max(y + i, 0), height - 1)
                    place = min(max(column + j, 0), width - 1)
                    total += weight * float(x[b, c, row, place])
                    weights += weight
            assert float(found[b, c, y, column]) == pytest.approx(total / weights, rel=1e-9)
    flat = torch.full((2, 3, 8, 8), 17.0)
    torch.testing.assert_close(views.gaussian_blur(flat, torch.tensor([1.0, 2.0]), 6), flat)


def test_cutout_is_a_square_of_the_mean_colour():
    x = images(2, 8, 12)
    found = views.cut_out(x, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), side=0.5)
    expected = x.clone()
    expected[0, :, 2:6, 4:8] = x[0].mean((1, 2))[:, None, None]
    expected[1, :, :2, 10:] = x[1].mean((1, 2))[:, None, None]
    torch.testing.assert_close(found, expected)


def test_resizing_keeps_the_place_of_the_content():
    ramp = torch.arange(16.0).expand(1, 1, 8, 16) + 0.5  # the pixel's centre
    for size, factor in (((4, 8), 2), ((16, 32), 0.5)):
        found = views.resize_images(ramp, size)
        centres = (torch.arange(size[1]) + 0.5) * factor
        torch.testing.assert_close(found[0, 0, 1, 2:-2], centres[2:-2])
    assert views.resize_images(ramp, (8, 16)) is ramp
    # a filter comes before: stripes of one pixel become grey, not stripes
    stripes = torch.tensor([0.0, 255.0]).repeat(32).expand(1, 1, 4, 64)
    small = views.resize_images(stripes, (4, 20))
    assert (small[..., 2:-2] - 127.5).abs().max() < 30
