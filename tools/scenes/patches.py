"""Coloured polygons: the only thing that is ever painted."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .camera import NEAR, Camera
from .description import Colour


@dataclass(frozen=True, eq=False)
class Patch:
    """A polygon (N, 2) in picture heights.

    ``label`` is the class it paints, None to leave the labels alone (windows, shadows); ``depth``
    in metres, None to leave the depth alone; ``alpha`` its opacity in the picture.
    """

    points: np.ndarray
    colour: Colour
    label: int | None
    depth: float | None = None
    alpha: float = 1.0


def shade(colour: Colour, factor: float) -> Colour:
    """A colour times a brightness, kept in range."""
    red, green, blue = (min(255.0, max(0.0, channel * factor)) for channel in colour)
    return red, green, blue


def disc(centre: np.ndarray, radius: float, squash: float = 1.0, corners: int = 20) -> np.ndarray:
    """An ellipse (corners, 2) of half width ``radius`` and half height ``radius * squash``."""
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return np.asarray(centre) + radius * np.stack([np.cos(angle), squash * np.sin(angle)], axis=1)


def capsule(start: np.ndarray, end: np.ndarray, radius: float, taper: float = 1.0) -> np.ndarray:
    """The hull (N, 2) of two discs; ``taper`` is the second radius over the first."""
    both = np.concatenate([disc(start, radius, corners=12), disc(end, radius * taper, corners=12)])
    return cv2.convexHull(both.astype(np.float32))[:, 0].astype(float)


def upright(
    camera: Camera, x: float, z: float, width: float, low: float, high: float
) -> np.ndarray:
    """A rectangle (4, 2) that faces the camera, centred at ``x``."""
    left, right = x - width / 2, x + width / 2
    return camera.project(
        np.array([[left, low, z], [right, low, z], [right, high, z], [left, high, z]])
    )


def wall(camera: Camera, x: float, near: float, far: float, low: float, high: float) -> np.ndarray:
    """A rectangle (4, 2) along the street, between two depths."""
    near, far = max(near, NEAR), max(far, NEAR)
    return camera.project(
        np.array([[x, low, near], [x, low, far], [x, high, far], [x, high, near]])
    )


def floor(camera: Camera, left: float, right: float, near: float, far: float) -> np.ndarray:
    """A rectangle (4, 2) on the ground."""
    near, far = max(near, NEAR), max(far, NEAR)
    return camera.project(
        np.array([[left, 0, near], [right, 0, near], [right, 0, far], [left, 0, far]])
    )
