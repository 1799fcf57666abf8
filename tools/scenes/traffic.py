"""Draws what stands, drives and walks on a street."""

import math
from dataclasses import dataclass

import numpy as np

from .description import Actor, Car, Colour, Person, Pole, Street, Tree


@dataclass(frozen=True)
class Habit:
    """Statistics of a kind of scene: ranges of counts, metres and probabilities."""

    half_road: tuple[float, float]
    pavement: tuple[float, float]
    gap: tuple[float, float]
    storeys: tuple[int, int]
    trees: tuple[int, int]
    poles: tuple[int, int]
    signs: float
    cars: tuple[int, int]
    persons: tuple[int, int]
    gable: float
    green: float


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


def actors(rng: np.random.Generator, habit: Habit, street: Street) -> list[Actor]:
    """Trees, poles, signs, cars and persons of a street, in no particular order."""
    found: list[Actor] = []
    found += [tree(rng, street) for _ in range(_count(rng, habit.trees))]
    found += [pole(rng, street, habit.signs) for _ in range(_count(rng, habit.poles))]
    cars: list[Car] = []
    for _ in range(_count(rng, habit.cars)):
        vehicle = car(rng, street)
        if not any(_touch(vehicle, other) for other in cars):
            cars.append(vehicle)
    found += cars
    for _ in range(_count(rng, habit.persons)):
        walker = person(rng, street)
        if not any(_inside(walker, other) for other in cars):
            found.append(walker)
    return found


def _count(rng: np.random.Generator, span: tuple[int, int]) -> int:
    return int(rng.integers(span[0], span[1] + 1))


def _depth(rng: np.random.Generator, near: float, far: float) -> float:
    """Depth whose logarithm is uniform: as many close things as distant ones."""
    return float(np.exp(rng.uniform(math.log(near), math.log(far))))


def _kerb(rng: np.random.Generator, street: Street, low: float, high: float) -> float:
    """A place beside the road, metres from the kerb outwards."""
    out = uniform(rng, low, high)
    return street.left - out if rng.random() < 0.5 else street.right + out


def _touch(one: Car, other: Car) -> bool:
    beside = abs(one.x - other.x) < 0.5 * (one.width + other.width) + 0.3
    return beside and max(one.z, other.z) < min(one.z + one.length, other.z + other.length) + 1.0


def _inside(walker: Person, other: Car) -> bool:
    beside = abs(walker.x - other.x) < 0.5 * other.width + 0.4
    return beside and other.z - 0.4 < walker.z < other.z + other.length + 0.4


def tree(rng: np.random.Generator, street: Street) -> Tree:
    """A tree beside the street."""
    blobs = [(0.0, 0.0, 1.0, 0.85)]
    for _ in range(int(rng.integers(9, 16))):
        angle, reach = uniform(rng, 0, 2 * math.pi), uniform(rng, 0.3, 0.95)
        dx, dy = reach * math.cos(angle), reach * math.sin(angle)
        blobs.append((dx, dy, uniform(rng, 0.25, 0.5), 0.85 - 0.35 * dy + uniform(rng, -0.2, 0.2)))
    hue = (70, 95, 45) if rng.random() < 0.8 else (140, 95, 45)
    return Tree(
        x=_kerb(rng, street, 0.8, max(2.0, street.pavement) + 6),
        z=_depth(rng, 5, 90),
        trunk=uniform(rng, 1.2, 3.2),
        thickness=uniform(rng, 0.2, 0.5),
        crown=uniform(rng, 1.0, 2.8),
        blobs=tuple(blobs),
        colour=colour(rng, hue, 40),
        bark=colour(rng, (85, 70, 55), 25),
    )


def pole(rng: np.random.Generator, street: Street, signs: float) -> Pole:
    """A street lamp, a bare pole or a sign post at the kerb."""
    x, has_sign = _kerb(rng, street, 0.2, 0.8), bool(rng.random() < signs)
    arm = uniform(rng, 0.8, 2.2) if not has_sign and rng.random() < 0.5 else 0.0
    shapes = ('round', 'triangle', 'board')
    paints = ((190, 30, 35), (35, 70, 170), (225, 180, 40), (40, 110, 70))
    return Pole(
        x=x,
        z=_depth(rng, 4, 35),
        height=uniform(rng, 2.2, 3.4) if has_sign else uniform(rng, 4, 8),
        thickness=uniform(rng, 0.1, 0.28),
        colour=grey(rng, 55, 150),
        arm=-arm if x > 0 else arm,
        sign=shapes[rng.integers(3)] if has_sign else None,
        sign_size=uniform(rng, 0.7, 1.3),
        sign_colour=colour(rng, paints[rng.integers(4)], 30),
    )


def car(rng: np.random.Generator, street: Street) -> Car:
    """A parked or moving car in one of the lanes."""
    lane = (street.right - street.left) / street.lanes
    number = int(rng.integers(street.lanes))
    return Car(
        x=street.left + (number + 0.5) * lane + uniform(rng, -0.3, 0.3),
        z=_depth(rng, 5, 70),
        width=uniform(rng, 1.6, 2.0),
        length=uniform(rng, 3.6, 5.2),
        height=uniform(rng, 1.35, 2.1),
        cabin=uniform(rng, 1.2, 2.6),
        colour=colour(rng, (120, 115, 115), 115),
        glass=colour(rng, (60, 70, 80), 30),
        away=bool(number >= street.lanes / 2),
    )


def person(rng: np.random.Generator, street: Street) -> Person:
    """A person on the pavement, now and then on the road."""
    on_road = rng.random() < 0.2
    x = uniform(rng, street.left, street.right) if on_road else None
    return Person(
        x=_kerb(rng, street, 0.3, max(1.2, street.pavement)) if x is None else x,
        z=_depth(rng, 3, 20),
        height=uniform(rng, 1.1, 1.4) if rng.random() < 0.15 else uniform(rng, 1.55, 1.95),
        heading=uniform(rng, 0, 2 * math.pi),
        phase=uniform(rng, 0, 2 * math.pi),
        stride=uniform(rng, 0.15, 0.6),
        arms=uniform(rng, 0.1, 1.6),
        skin=colour(rng, (170, 125, 100), 70),
        shirt=colour(rng, (120, 115, 115), 120),
        trousers=colour(rng, (75, 75, 85), 60),
        hair=colour(rng, (70, 55, 45), 50),
    )
