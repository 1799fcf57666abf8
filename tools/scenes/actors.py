"""Patches of trees, poles, signs, cars and persons."""

from collections.abc import Iterator

import cv2
import numpy as np

from . import pose
from .camera import NEAR, Camera
from .classes import CAR, PERSON, PLANTS, POLE, SIGN
from .description import Actor, Car, Person, Pole, Tree
from .patches import Patch, capsule, disc, floor, shade, upright, wall


def actor(camera: Camera, what: Actor) -> Iterator[Patch]:
    """Patches of any actor, in painting order."""
    if isinstance(what, Tree):
        return tree(camera, what)
    if isinstance(what, Pole):
        return pole(camera, what)
    return car(camera, what) if isinstance(what, Car) else person(camera, what)


def shadow(camera: Camera, what: Actor, strength: float) -> Patch:
    """The dark ellipse on the ground under an actor."""
    if isinstance(what, Car):
        half = 0.58 * what.width
        area = floor(camera, what.x - half, what.x + half, what.z - 0.3, what.z + what.length + 0.3)
        return Patch(area, (0, 0, 0), None, alpha=strength)
    radius = what.crown if isinstance(what, Tree) else 0.35
    foot = camera.project(np.array([what.x, 0.0, what.z]))
    blot = disc(foot, camera.length(radius, what.z), squash=0.22)
    return Patch(blot, (0, 0, 0), None, alpha=strength)


def tree(camera: Camera, what: Tree) -> Iterator[Patch]:
    """Trunk and crown; all of it is plants."""
    stem = upright(camera, what.x, what.z, what.thickness, 0, what.trunk + 0.5 * what.crown)
    yield Patch(stem, what.bark, PLANTS, what.z)
    top = camera.project(np.array([what.x, what.trunk + what.crown, what.z]))
    unit = camera.length(what.crown, what.z)
    for dx, dy, radius, brightness in what.blobs:
        blob = disc(top + unit * np.array([dx, dy]), unit * radius, squash=0.9)
        yield Patch(blob, shade(what.colour, brightness), PLANTS, what.z)


def pole(camera: Camera, what: Pole) -> Iterator[Patch]:
    """Pole, arm and sign. A sign is an object of its own class."""
    post = upright(camera, what.x, what.z, what.thickness, 0, what.height)
    yield Patch(post, what.colour, POLE, what.z)
    top = camera.project(np.array([what.x, what.height, what.z]))
    if what.arm:
        tip = camera.project(np.array([what.x + what.arm, what.height + 0.2, what.z]))
        yield Patch(capsule(top, tip, camera.length(0.06, what.z)), what.colour, POLE, what.z)
    if what.sign:
        yield from _sign(camera, what)


def _sign(camera: Camera, what: Pole) -> Iterator[Patch]:
    size = camera.length(what.sign_size, what.z)
    middle = camera.project(np.array([what.x, what.height - 0.5 * what.sign_size, what.z]))
    for scale, colour in ((1.0, what.sign_colour), (0.65, (235.0, 235.0, 225.0))):
        if what.sign == 'round':
            shape = disc(middle, 0.5 * scale * size)
        elif what.sign == 'triangle':
            shape = middle + 0.55 * scale * size * np.array([[-1, 0.7], [1, 0.7], [0, -1.0]])
        else:
            half = scale * size * np.array([0.9, 0.5])
            shape = middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        yield Patch(shape, colour, SIGN if scale == 1 else None, what.z)


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


def person(camera: Camera, what: Person) -> Iterator[Patch]:
    """Limbs as capsules around the joints, far side first."""
    if what.z <= NEAR:
        return
    at = camera.project(pose.joints(what))  # (17, 2)
    unit = camera.length(what.height, what.z)

    def limb(first: int, second: int, radius: float, colour: tuple[float, float, float]) -> Patch:
        return Patch(capsule(at[first], at[second], radius * unit, 0.85), colour, PERSON, what.z)

    left_is_near = np.sin(what.heading) < 0
    for side in (1, 0) if left_is_near else (0, 1):
        light = 0.75 if side == (1 if left_is_near else 0) else 1.0
        yield limb(11 + side, 13 + side, 0.048, shade(what.trousers, light))
        yield limb(13 + side, 15 + side, 0.038, shade(what.trousers, light))
        yield limb(5 + side, 7 + side, 0.032, shade(what.shirt, light))
        yield limb(7 + side, 9 + side, 0.025, shade(what.skin, light))
    yield Patch(_torso(at, unit), what.shirt, PERSON, what.z)
    yield from _head(what, at, unit)


def _torso(at: np.ndarray, unit: float) -> np.ndarray:
    rings = [disc(at[joint], 0.05 * unit, corners=10) for joint in (5, 6, 11, 12)]
    return cv2.convexHull(np.concatenate(rings).astype(np.float32))[:, 0].astype(float)


def _head(what: Person, at: np.ndarray, unit: float) -> Iterator[Patch]:
    middle = at[3:5].mean(axis=0)
    neck = at[5:7].mean(axis=0)
    yield Patch(capsule(neck, middle, 0.03 * unit), what.skin, PERSON, what.z)
    yield Patch(disc(middle, 0.058 * unit, squash=1.2), what.hair, PERSON, what.z)
    if np.cos(what.heading) > -0.2:
        face = middle + 0.5 * (at[0] - middle) + np.array([0.0, 0.012 * unit])
        yield Patch(disc(face, 0.046 * unit, squash=1.2), what.skin, PERSON, what.z)
