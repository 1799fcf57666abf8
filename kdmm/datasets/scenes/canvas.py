"""Where patches are painted."""

from collections.abc import Iterable

import cv2
import numpy as np

from .description import Scene
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
