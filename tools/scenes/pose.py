"""The 17-joint figure of a person."""

import math

import numpy as np

from .description import Person

# joint -> (half width to the left, height), in body heights
_REST = {
    'nose': (0.0, 0.925),
    'eye': (0.022, 0.945),
    'ear': (0.045, 0.935),
    'shoulder': (0.115, 0.815),
    'hip': (0.065, 0.52),
}
_UPPER_ARM, _FORE_ARM, _THIGH, _SHANK = 0.17, 0.15, 0.24, 0.24


def _swing(root: np.ndarray, angle: float, bend: float, upper: float, lower: float) -> np.ndarray:
    """Two joints (2, 3) hanging from ``root``; angles forward from the vertical, in radians."""
    middle = root + upper * np.array([0.0, -math.cos(angle), math.sin(angle)])
    end = middle + lower * np.array([0.0, -math.cos(angle + bend), math.sin(angle + bend)])
    return np.stack([middle, end])


def _body(person: Person) -> np.ndarray:
    """Joints (17, 3) in body heights, walking along +z; the left of the body is +x."""
    joints = np.zeros((17, 3))
    joints[0] = (0.0, _REST['nose'][1], 0.065)
    for row, name, ahead in (
        (1, 'eye', 0.055),
        (3, 'ear', 0.0),
        (5, 'shoulder', 0.0),
        (11, 'hip', 0.0),
    ):
        half, up = _REST[name]
        joints[row] = (half, up, ahead)
        joints[row + 1] = (-half, up, ahead)
    for side in (0, 1):
        swing = person.stride * math.sin(person.phase + math.pi * side)
        knee = -0.25 * person.stride - 0.9 * max(0.0, -swing)
        joints[13 + side : 16 + side : 2] = _swing(joints[11 + side], swing, knee, _THIGH, _SHANK)
        elbow = person.arms if side == 0 else 0.4 * person.arms + 0.15
        joints[7 + side : 10 + side : 2] = _swing(
            joints[5 + side], -0.8 * swing, elbow, _UPPER_ARM, _FORE_ARM
        )
    joints[:, 1] -= joints[15:17, 1].min() - 0.035  # the lower foot stands on the ground
    return joints


def joints(person: Person) -> np.ndarray:
    """World positions (17, 3) of a person's joints in metres, in COCO's order."""
    body = _body(person) * person.height
    cos, sin = math.cos(person.heading), math.sin(person.heading)
    # heading 0 comes towards the camera: body +z is world -z, its left is the picture's right
    x = cos * body[:, 0] + sin * body[:, 2]
    z = sin * body[:, 0] - cos * body[:, 2]
    return np.stack([person.x + x, body[:, 1], person.z + z], axis=1)


def hidden_by_head(person: Person) -> np.ndarray:
    """Mask of the joints (17,) of the face that the head itself hides from the camera."""
    hidden = np.zeros(17, dtype=bool)
    hidden[:3] = math.cos(person.heading) < -0.2
    side = math.sin(person.heading)  # > 0 walks to the right: the body's left is behind
    if abs(side) > 0.5:
        # the far ear and eye of a profile
        hidden[[1, 3] if side > 0 else [2, 4]] = True
    return hidden
