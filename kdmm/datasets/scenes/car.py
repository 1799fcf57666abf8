"""Patches of a car."""

from collections.abc import Iterator

import numpy as np

from .camera import Camera
from .classes import CAR
from .description import Car
from .patches import Patch, shade, upright, wall


def car(camera: Camera, what: Car) -> Iterator[Patch]:
    """Body, cabin, glass, wheels and lamps of a car."""
    near = what.z
    belt, half = 0.55 * what.height, what.width / 2
    inner = half if what.x < 0 else -half  # the side that looks at the camera's axis
    if abs(what.x) > half:
        yield from _side(camera, what, what.x + inner, belt)
    roof = [[-0.8, 1, 0.3], [0.8, 1, 0.3], [0.8, 1, 0.75], [-0.8, 1, 0.75]]
    lid = np.array(
        [[what.x + a * half, b * what.height, near + c * what.length] for a, b, c in roof]
    )
    yield Patch(camera.project(lid), shade(what.colour, 1.15), CAR, near)
    slope = [[-1, belt, 0.0], [1, belt, 0.0], [0.8, what.height, 0.3], [-0.8, what.height, 0.3]]
    screen = np.array([[what.x + a * half, b, near + c * what.cabin] for a, b, c in slope])
    yield Patch(camera.project(screen), shade(what.colour, 0.9), CAR, near)
    glass = np.array([[what.x + 0.85 * a * half, b, near + c] for a, b, c in _inset(slope)])
    yield Patch(camera.project(glass), what.glass, None)
    yield Patch(upright(camera, what.x, near, what.width, 0.2, belt), what.colour, CAR, near)
    yield from _details(camera, what, belt)


def _inset(slope: list[list[float]]) -> list[list[float]]:
    low, high = slope[0][1], slope[2][1]
    gap = 0.12 * (high - low)
    return [[a, b + gap if b == low else b - gap, c] for a, b, c in slope]


def _side(camera: Camera, what: Car, x: float, belt: float) -> Iterator[Patch]:
    near, far = what.z, what.z + what.length
    yield Patch(wall(camera, x, near, far, 0.2, belt), shade(what.colour, 0.7), CAR, near)
    lean = 0.2 * what.width / 2 * (-1 if x > what.x else 1)
    cabin = np.array(
        [
            [x, belt, near],
            [x, belt, far - 0.15 * what.length],
            [x + lean, what.height, far - 0.25 * what.length],
            [x + lean, what.height, near + 0.3 * what.cabin],
        ]
    )
    outline = camera.project(cabin)
    yield Patch(outline, shade(what.colour, 0.65), CAR, near)
    middle = outline.mean(axis=0)
    yield Patch(middle + 0.75 * (outline - middle), shade(what.glass, 0.9), None)
    for z in (near + 0.2 * what.length, far - 0.2 * what.length):
        wheel = wall(camera, x, z - 0.32, z + 0.32, 0.0, 0.6)
        yield Patch(wheel, (25, 25, 28), CAR, near)


def _details(camera: Camera, what: Car, belt: float) -> Iterator[Patch]:
    lamp = (190.0, 30.0, 25.0) if what.away else (250.0, 245.0, 215.0)
    for side in (-1, 1):
        x = what.x + side * 0.38 * what.width
        yield Patch(upright(camera, x, what.z, 0.25, 0.75 * belt, 0.92 * belt), lamp, None)
        yield Patch(upright(camera, x, what.z, 0.22, 0.0, 0.25), (25, 25, 28), CAR, what.z)
    plate = upright(camera, what.x, what.z, 0.5, 0.4 * belt, 0.55 * belt)
    yield Patch(plate, (225, 225, 215), None)
