"""Scenes drawn from a seed.

Every scene has a generator of its own, ``default_rng((seed, split, number))``, so that a split can
grow without changing what is there and no two splits share a scene.
"""

from collections.abc import Sequence

import numpy as np

from . import traffic
from .camera import Camera
from .classes import KINDS
from .description import Building, Colour, Light, Scene, Street
from .traffic import Habit, colour, grey, uniform

HABITS = {
    'residential': Habit(
        (3, 4.5), (1.5, 3), (1, 12), (1, 3), (3, 8), (3, 6), 0.5, (1, 5), (2, 7), 0.8, 0.7
    ),
    'downtown': Habit(
        (4, 7), (2.5, 4.5), (0, 2), (3, 9), (0, 4), (4, 8), 0.6, (2, 7), (5, 13), 0.0, 0.1
    ),
    'park': Habit(
        (2.5, 4), (1.5, 3), (25, 60), (1, 3), (10, 20), (3, 7), 0.4, (0, 2), (4, 11), 0.5, 1.0
    ),
    'highway': Habit(
        (6, 9), (0, 0.8), (20, 70), (1, 5), (2, 8), (3, 7), 0.8, (3, 9), (0, 3), 0.1, 0.8
    ),
}


def sample_scene(seed: int | Sequence[int], aspect: float = 2.0) -> Scene:
    """Draw a scene.

    Args:
        seed: One number, or several, as ``numpy.random.default_rng`` takes them.
        aspect: Width over height of the pictures to come.

    Returns:
        The same description for the same arguments.
    """
    entropy = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng(entropy)
    kind = KINDS[rng.integers(len(KINDS))]
    habit = HABITS[kind]
    light, sky = _weather(rng)
    street = _street(rng, habit)
    return Scene(
        seed=entropy,
        kind=kind,
        camera=_camera(rng, aspect),
        light=light,
        sky=sky,
        clouds=uniform(rng, 0, 30),
        street=street,
        buildings=tuple(_buildings(rng, habit, street)),
        actors=tuple(traffic.actors(rng, habit, street)),
        bonnet=uniform(rng, 0.04, 0.09) if rng.random() < 0.25 else 0.0,
    )


def _camera(rng: np.random.Generator, aspect: float) -> Camera:
    return Camera(
        focal=uniform(rng, 0.85, 1.35),
        height=uniform(rng, 1.3, 2.1),
        horizon=uniform(rng, 0.4, 0.56),
        centre=uniform(rng, 0.3, 0.7),
        aspect=aspect,
    )


def _weather(rng: np.random.Generator) -> tuple[Light, tuple[Colour, Colour]]:
    mood = rng.choice(['clear', 'grey', 'fog', 'dusk'], p=[0.4, 0.3, 0.15, 0.15])
    level = {'clear': 1.0, 'grey': 0.85, 'fog': 0.95, 'dusk': 0.6}[mood] * uniform(rng, 0.8, 1.15)
    red, green, blue = (level * uniform(rng, 0.9, 1.1) for _ in range(3))
    if mood == 'dusk':
        red, blue = red * 1.15, blue * 0.95
    haze = grey(rng, 150, 205)
    blue_sky = colour(rng, (60, 110, 170), 35), colour(rng, (185, 200, 215), 25)
    sky = blue_sky if mood in ('clear', 'dusk') else (grey(rng, 150, 215), grey(rng, 180, 225))
    light = Light(
        gain=(red, green, blue),
        slope=uniform(rng, -0.2, 0.2),
        visibility=uniform(rng, 25, 70) if mood == 'fog' else uniform(rng, 150, 700),
        fog=haze,
        shadow=uniform(rng, 0.35, 0.6) if mood == 'clear' else uniform(rng, 0.1, 0.3),
        noise=uniform(rng, 2, 8) if mood != 'dusk' else uniform(rng, 5, 11),
        blur=uniform(rng, 0, 0.006),
    )
    return light, sky


def _street(rng: np.random.Generator, habit: Habit) -> Street:
    half, shift = uniform(rng, *habit.half_road), uniform(rng, -1.5, 1.5)
    green = bool(rng.random() < habit.green)
    verge = colour(rng, (95, 120, 60), 25) if green else grey(rng, 95, 160)
    return Street(
        left=shift - half,
        right=shift + half,
        pavement=uniform(rng, *habit.pavement),
        lanes=max(1, round(2 * half / 3.3)),
        road=grey(rng, 70, 135),
        pavement_colour=grey(rng, 105, 175, tint=14),
        verge=verge,
        verge_is_plants=green,
        crossing=uniform(rng, 6, 25) if rng.random() < 0.25 else None,
    )


def _buildings(rng: np.random.Generator, habit: Habit, street: Street) -> list[Building]:
    found = []
    for side, kerb in ((-1, street.left - street.pavement), (1, street.right + street.pavement)):
        z = uniform(rng, -12, 4)
        while z < 150:
            z += uniform(rng, *habit.gap)
            found.append(_building(rng, habit, side, kerb + side * uniform(rng, 0.3, 4), z))
            z += found[-1].length
    return found


def _building(rng: np.random.Generator, habit: Habit, side: int, x: float, z: float) -> Building:
    storey = uniform(rng, 2.7, 3.6)
    storeys = int(rng.integers(habit.storeys[0], habit.storeys[1] + 1))
    gable = uniform(rng, 1.5, 4) if rng.random() < habit.gable else 0.0
    return Building(
        side=side,
        x=x,
        z=z,
        length=uniform(rng, 7, 20),
        width=uniform(rng, 7, 14),
        height=storeys * storey,
        colour=colour(rng, (150, 125, 110), 60),
        window=colour(rng, (75, 85, 100), 35),
        storey=storey,
        bay=uniform(rng, 1.8, 3.5),
        gable=gable,
    )
