"""Texture, fog, light and sensor: what makes flat colours a picture."""

import cv2
import numpy as np

from .classes import BUILDING, CAR, CLASSES, PAVEMENT, PERSON, PLANTS, ROAD
from .description import Scene

# grey levels of (coarse, fine) texture
_GRAIN = {
    BUILDING: (9, 9),
    ROAD: (6, 7),
    PAVEMENT: (7, 8),
    PLANTS: (14, 22),
    CAR: (8, 3),
    PERSON: (6, 7),
}


def finish(scene: Scene, colours: np.ndarray, labels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Turn painted colours (H, W, 3) into a picture (H, W, 3) uint8 RGB.

    Args:
        scene: The description; its seed also seeds the texture.
        colours: Painted colours, uint8.
        labels: Class of every pixel (H, W).
        depth: Depth of every pixel (H, W) in metres.
    """
    rng = np.random.default_rng((*scene.seed, 1))
    picture = colours.astype(np.float32) + _texture(rng, scene, labels)[..., None]
    picture = _fog(scene, picture, depth)
    picture = _light(scene, picture)
    return picture.clip(0, 255)


def expose(scene: Scene, picture: np.ndarray) -> np.ndarray:
    """Lens blur and sensor noise on a picture (H, W, 3); returns uint8."""
    rng = np.random.default_rng((*scene.seed, 2))
    sigma = scene.light.blur * picture.shape[0]
    if sigma > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    noise = rng.normal(0, scene.light.noise, picture.shape)
    return np.rint(picture + noise).clip(0, 255).astype(np.uint8)


def _field(rng: np.random.Generator, shape: tuple[int, int], rows: int) -> np.ndarray:
    """Smooth unit noise with about ``rows`` grains from top to bottom."""
    columns = max(2, round(rows * shape[1] / shape[0]))
    grains = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(grains, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _texture(rng: np.random.Generator, scene: Scene, labels: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 2), np.float32)
    for label in range(len(CLASSES)):
        table[label] = _GRAIN.get(label, (4, 3))
    table[0] = (scene.clouds, 1.0)  # the sky
    amount = table[labels]  # (H, W, 2)
    coarse = _field(rng, labels.shape, 9) + 0.6 * _field(rng, labels.shape, 28)
    fine = _field(rng, labels.shape, 128)
    return amount[..., 0] * coarse + amount[..., 1] * fine


def _fog(scene: Scene, picture: np.ndarray, depth: np.ndarray) -> np.ndarray:
    clear = np.exp(-depth / scene.light.visibility)[..., None].astype(np.float32)
    clear = np.maximum(clear, 0.25)
    clear[depth >= 999] = (
        1.0 if scene.light.visibility > 100 else 0.5
    )  # the sky has its own colours
    return picture * clear + (1 - clear) * np.array(scene.light.fog, np.float32)


def _light(scene: Scene, picture: np.ndarray) -> np.ndarray:
    across = np.linspace(-1, 1, picture.shape[1], dtype=np.float32)[:, None]
    return picture * (1 + scene.light.slope * across) * np.array(scene.light.gain, np.float32)
