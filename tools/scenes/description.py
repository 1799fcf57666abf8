"""Content of a scene in metres, independent of the resolution.

One description serves every task: its rendering gives the label map (segmentation), boxes
(detection) and joints (pose); ``Scene.kind`` is the class (classification).
"""

from dataclasses import dataclass

from .camera import Camera
from .classes import KINDS

Colour = tuple[float, float, float]
"""RGB, 0 to 255."""


@dataclass(frozen=True)
class Light:
    """Illumination and sensor: ``gain`` per channel, fog, shadow strength, noise and blur.

    ``slope`` tilts the brightness from left to right, ``visibility`` is the 1/e distance of the fog
    in metres, ``noise`` the standard deviation in grey levels, ``blur`` a Gaussian sigma in picture
    heights.
    """

    gain: Colour
    slope: float
    visibility: float
    fog: Colour
    shadow: float
    noise: float
    blur: float


@dataclass(frozen=True)
class Street:
    """The ground: the road from ``left`` to ``right``, a pavement and a verge on either side."""

    left: float
    right: float
    pavement: float
    lanes: int
    road: Colour
    pavement_colour: Colour
    verge: Colour
    verge_is_plants: bool
    crossing: float | None


@dataclass(frozen=True)
class Building:
    """A box on one ``side`` (-1 left, 1 right), its wall at ``x`` from ``z`` to ``z + length``."""

    side: int
    x: float
    z: float
    length: float
    width: float
    height: float
    colour: Colour
    window: Colour
    storey: float
    bay: float
    gable: float


@dataclass(frozen=True)
class Tree:
    """A trunk and a crown of ``blobs``: (dx, dy, radius, brightness) in crown radii."""

    x: float
    z: float
    trunk: float
    thickness: float
    crown: float
    blobs: tuple[tuple[float, float, float, float], ...]
    colour: Colour
    bark: Colour


@dataclass(frozen=True)
class Pole:
    """A pole; a street lamp with an ``arm``; may bear a 'round', 'triangle' or 'board' sign."""

    x: float
    z: float
    height: float
    thickness: float
    colour: Colour
    arm: float
    sign: str | None
    sign_size: float
    sign_colour: Colour


@dataclass(frozen=True)
class Car:
    """A car along the street; ``z`` is its nearer end, which shows tail lamps if it is ``away``."""

    x: float
    z: float
    width: float
    length: float
    height: float
    cabin: float
    colour: Colour
    glass: Colour
    away: bool


@dataclass(frozen=True)
class Person:
    """A walking person; heading 0 is towards the camera; ``phase`` and ``stride`` in radians."""

    x: float
    z: float
    height: float
    heading: float
    phase: float
    stride: float
    arms: float
    skin: Colour
    shirt: Colour
    trousers: Colour
    hair: Colour


Actor = Tree | Pole | Car | Person


@dataclass(frozen=True)
class Scene:
    """A whole scene; ``bonnet`` is the height of the own car's bonnet in picture heights, or 0."""

    seed: tuple[int, ...]
    kind: str
    camera: Camera
    light: Light
    sky: tuple[Colour, Colour]
    clouds: float
    street: Street
    buildings: tuple[Building, ...]
    actors: tuple[Actor, ...]
    bonnet: float

    @property
    def kind_id(self) -> int:
        """Class of the scene, an index of ``KINDS``."""
        return KINDS.index(self.kind)
