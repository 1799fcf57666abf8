"""Small draws: numbers and colours."""

import numpy as np

from .description import Colour


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A plain float between two bounds."""
    return float(rng.uniform(low, high))


def grey(rng: np.random.Generator, low: float, high: float, tint: float = 6.0) -> Colour:
    """A grey between two levels with a slight tint."""
    level = uniform(rng, low, high)
    return colour(rng, (level, level, level), tint)


def colour(rng: np.random.Generator, around: Colour, spread: float) -> Colour:
    """A colour within ``spread`` of a given one; half of the shift is common to the channels."""
    common = uniform(rng, -spread, spread) / 2
    red, green, blue = (
        min(255.0, max(0.0, channel + common + uniform(rng, -spread, spread) / 2))
        for channel in around
    )
    return red, green, blue
