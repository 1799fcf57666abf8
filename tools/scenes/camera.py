"""A pinhole camera over a flat ground.

World: ``x`` metres to the right, ``y`` metres above the ground, ``z`` metres ahead. Picture:
``(u, v)`` in picture heights, ``u`` to the right from the left edge, ``v`` down from the top edge,
so that a description does not depend on the resolution.
"""

from dataclasses import dataclass

import numpy as np

NEAR = 0.6
"""Nothing is drawn closer than this, in metres."""


@dataclass(frozen=True)
class Camera:
    """A camera that looks along the street.

    Attributes:
        focal: Focal length in picture heights.
        height: Height above the ground in metres.
        horizon: Row of the horizon as a fraction of the picture height.
        centre: Column of the vanishing point as a fraction of the picture width.
        aspect: Width over height of the picture.
    """

    focal: float
    height: float
    horizon: float
    centre: float
    aspect: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in metres to picture points (..., 2) in picture heights."""
        points = np.asarray(points, dtype=float)
        scale = self.focal / np.maximum(points[..., 2], NEAR)
        u = self.centre * self.aspect + points[..., 0] * scale
        v = self.horizon + (self.height - points[..., 1]) * scale
        return np.stack([u, v], axis=-1)

    def length(self, metres: float, z: float) -> float:
        """Size in picture heights of a length that faces the camera at depth ``z``."""
        return metres * self.focal / max(z, NEAR)

    def ground_depth(self, rows: np.ndarray, sky: float = 1000.0) -> np.ndarray:
        """Depth in metres of the ground seen in picture rows; ``sky`` at and above the horizon."""
        below = np.asarray(rows, dtype=float) - self.horizon
        return np.where(below > 0, self.focal * self.height / np.maximum(below, 1e-4), sky).clip(
            max=sky
        )
