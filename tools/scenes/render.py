"""Paints a scene at any size and derives its annotations."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

from . import actors, pose, street, surface
from .classes import CAR, IGNORE, PERSON, SIGN
from .description import Actor, Building, Car, Person, Scene, Tree
from .patches import Patch

_SHIFT = 4
_BEYOND = 40.0  # picture heights; OpenCV takes no coordinates without bounds
OVERSAMPLE = 3
"""Painted pixels per pixel and axis; odd, so that a pixel has a middle one: its label."""


class Canvas:
    """The maps being painted, ``OVERSAMPLE`` times the final size."""

    def __init__(self, size: tuple[int, int], scene: Scene) -> None:
        height, width = (OVERSAMPLE * side for side in size)
        rows = (np.arange(height) + 0.5) / height
        self.unit = height
        self.colours = np.zeros((height, width, 3), np.uint8)
        self.labels = np.zeros((height, width), np.uint8)
        self.instances = np.zeros((height, width), np.int32)
        depth = scene.camera.ground_depth(rows)[:, None].astype(np.float32)
        self.depth = np.ascontiguousarray(np.broadcast_to(depth, (height, width)))

    def paint(self, patches: Iterable[Patch], instance: int = 0) -> None:
        """Paint patches over what is there; ``instance`` goes where they have a label."""
        for patch in patches:
            corners = (patch.points.clip(-_BEYOND, _BEYOND) * self.unit - 0.5) * (1 << _SHIFT)
            polygon = [np.rint(corners).astype(np.int32)]
            self._colour(polygon, patch)
            if patch.label is not None:
                cv2.fillPoly(self.labels, polygon, patch.label, shift=_SHIFT)
                cv2.fillPoly(self.instances, polygon, instance, shift=_SHIFT)
            if patch.depth is not None:
                cv2.fillPoly(self.depth, polygon, patch.depth, shift=_SHIFT)

    def _colour(self, polygon: list[np.ndarray], patch: Patch) -> None:
        if patch.alpha >= 1:
            cv2.fillPoly(self.colours, polygon, patch.colour, shift=_SHIFT)
            return
        x, y, width, height = cv2.boundingRect(polygon[0] >> _SHIFT)
        x, y, right, bottom = max(x, 0), max(y, 0), x + width + 1, y + height + 1
        under = self.colours[y : max(bottom, y), x : max(right, x)]
        if not under.size:
            return
        over = under.copy()
        moved = [polygon[0] - np.array([x, y]) * (1 << _SHIFT)]
        cv2.fillPoly(over, moved, patch.colour, shift=_SHIFT)
        cv2.addWeighted(over, patch.alpha, under, 1 - patch.alpha, 0, dst=under)


@dataclass(frozen=True, eq=False)
class Thing:
    """A box and, for a person, joints.

    Attributes:
        instance: Its number in ``Rendering.instances``.
        label: Its class.
        box: ``(x0, y0, x1, y1)`` in pixels, the whole object including what is hidden, clipped to
            the picture.
        pixels: How many pixels of it are seen.
        joints: (17, 3) ``x, y, visibility`` in pixels and COCO's terms: 0 outside the picture, 1
            hidden, 2 seen; None if it is not a person.
    """

    instance: int
    label: int
    box: tuple[float, float, float, float]
    pixels: int
    joints: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Rendering:
    """A painted scene.

    Attributes:
        scene: What was painted.
        image: Picture (H, W, 3), uint8 RGB.
        labels: Class of every pixel (H, W), uint8.
        instances: Number of the sign, car or person of every pixel (H, W), int32; 0 for none.
    """

    scene: Scene
    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    _outlines: dict[int, np.ndarray] = field(repr=False)

    def things(self, min_pixels: int = 12) -> list[Thing]:
        """Signs, cars and persons with at least ``min_pixels`` pixels in sight, nearest last."""
        seen = np.bincount(self.instances.ravel(), minlength=len(self.scene.actors) + 1)
        return [
            self._thing(number, int(seen[number]))
            for number in self._outlines
            if seen[number] >= min_pixels
        ]

    def _thing(self, number: int, pixels: int) -> Thing:
        what = self.scene.actors[number - 1]
        label = {Car: CAR, Person: PERSON}.get(type(what), SIGN)
        height, width = self.labels.shape
        rows, columns = np.nonzero(self.instances == number)
        seen = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
        corners = np.concatenate([self._outlines[number] * height, seen])
        low, high = corners.min(axis=0).clip(0), corners.max(axis=0).clip(max=(width, height))
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        marks = self._joints(number, what) if isinstance(what, Person) else None
        return Thing(number, label, box, pixels, marks)

    def _joints(self, number: int, what: Person) -> np.ndarray:
        height, width = self.labels.shape
        at = self.scene.camera.project(pose.joints(what)) * height  # (17, 2)
        column, row = np.floor(at).astype(int).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        own = self.instances[row.clip(0, height - 1), column.clip(0, width - 1)] == number
        seen = own & ~pose.hidden_by_head(what)
        flags = np.where(inside, np.where(seen, 2, 1), 0)
        return np.concatenate([np.where(inside[:, None], at, 0), flags[:, None]], axis=1)


def render(scene: Scene, size: tuple[int, int]) -> Rendering:
    """Paint a scene.

    Args:
        scene: What to paint.
        size: Height and width in pixels; width over height should be the camera's aspect.

    Returns:
        Picture, labels and instances, the same bytes for the same arguments.
    """
    canvas = Canvas(size, scene)
    canvas.paint(street.sky(scene))
    canvas.paint(street.ground(scene.camera, scene.street))
    canvas.paint(actors.shadow(scene.camera, actor, scene.light.shadow) for actor in scene.actors)
    outlines = _paint_objects(canvas, scene)
    labels, instances = _middle(canvas.labels), _middle(canvas.instances)
    colours = cv2.resize(canvas.colours, size[::-1], interpolation=cv2.INTER_AREA)
    picture = surface.finish(scene, colours, labels, _middle(canvas.depth))
    if scene.bonnet:
        _bonnet(scene, picture, labels, instances)
    return Rendering(scene, surface.expose(scene, picture), labels, instances, outlines)


def _middle(painted: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(
        painted[OVERSAMPLE // 2 :: OVERSAMPLE, OVERSAMPLE // 2 :: OVERSAMPLE]
    )


def _paint_objects(canvas: Canvas, scene: Scene) -> dict[int, np.ndarray]:
    """Paint from far to near; returns the corners (N, 2) of every car, person and sign."""
    outlines: dict[int, np.ndarray] = {}
    order: list[tuple[float, int, Building | Actor]] = [(b.z, 0, b) for b in scene.buildings]
    order += [(actor.z, number, actor) for number, actor in enumerate(scene.actors, start=1)]
    for _, number, what in sorted(order, key=lambda item: (-_layer(item[2]), -item[0], item[1])):
        if isinstance(what, Building):
            canvas.paint(street.building(scene.camera, what))
            continue
        patches = list(actors.actor(scene.camera, what))
        solid = [p.points for p in patches if p.label in (CAR, PERSON, SIGN)]
        for patch in patches:
            canvas.paint([patch], number if patch.label in (CAR, PERSON, SIGN) else 0)
        if solid:
            outlines[number] = np.concatenate(solid)
    return outlines


def _layer(what: Building | Actor) -> int:
    """Buildings and trees stand behind all that is on the street."""
    return int(isinstance(what, Building | Tree))


def _bonnet(scene: Scene, picture: np.ndarray, labels: np.ndarray, instances: np.ndarray) -> None:
    """The own car's bonnet at the bottom edge; void, as in recorded driving data."""
    height, width = labels.shape
    axes = (round(0.6 * width), round(scene.bonnet * height))
    mask = cv2.ellipse(np.zeros_like(labels), (width // 2, height), axes, 0, 0, 360, 1, -1) > 0
    picture[mask] = 0.35 * picture[mask] + np.array([30.0, 32.0, 36.0], np.float32)
    labels[mask] = IGNORE
    instances[mask] = 0
