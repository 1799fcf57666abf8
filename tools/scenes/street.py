"""Patches of what does not move: sky, ground and buildings."""

from collections.abc import Iterator

import numpy as np

from .camera import NEAR, Camera
from .classes import BUILDING, PAVEMENT, PLANTS, ROAD, SKY
from .description import Building, Colour, Scene, Street
from .patches import Patch, floor, shade, upright, wall

FAR = 400.0
_WIDE = 2000.0


def sky(scene: Scene, bands: int = 12) -> Iterator[Patch]:
    """Horizontal bands from the zenith's colour to the horizon's, the last down to the bottom."""
    top, low = (np.array(colour) for colour in scene.sky)
    edges = np.linspace(0, scene.camera.horizon, bands + 1)
    for band in range(bands):
        mix = band / (bands - 1)
        colour: Colour = tuple((1 - mix) * top + mix * low)  # type: ignore[assignment]
        end = edges[band + 1] if band < bands - 1 else 2.0
        yield Patch(_band(scene.camera, edges[band], end), colour, SKY)


def _band(camera: Camera, top: float, bottom: float) -> np.ndarray:
    wide = camera.aspect + 0.1
    return np.array([[-0.1, top], [wide, top], [wide, bottom], [-0.1, bottom]])


def ground(camera: Camera, street: Street) -> Iterator[Patch]:
    """Verge, pavement, kerb, road, lane marks and crossing, in painting order."""
    verge = PLANTS if street.verge_is_plants else PAVEMENT
    outer = (street.left - street.pavement, street.right + street.pavement)
    yield Patch(floor(camera, -_WIDE, _WIDE, NEAR, FAR), street.verge, verge)
    if street.pavement > 0:
        yield Patch(floor(camera, *outer, NEAR, FAR), street.pavement_colour, PAVEMENT)
    yield Patch(floor(camera, street.left, street.right, NEAR, FAR), street.road, ROAD)
    for edge in (street.left, street.right):
        kerb = floor(camera, edge - 0.08, edge + 0.08, NEAR, 60)
        yield Patch(kerb, shade(street.pavement_colour, 0.75), None)
    yield from _marks(camera, street)


def _marks(camera: Camera, street: Street) -> Iterator[Patch]:
    paint: Colour = (215, 215, 205)
    lane = (street.right - street.left) / street.lanes
    for number in range(1, street.lanes):
        x = street.left + number * lane
        for z in np.arange(1.0, 80.0, 6.0).tolist():
            yield Patch(floor(camera, x - 0.07, x + 0.07, z, z + 3), paint, None, alpha=0.8)
    if street.crossing is not None:
        for x in np.arange(street.left + 0.3, street.right - 0.4, 1.0).tolist():
            stripe = floor(camera, x, x + 0.5, street.crossing, street.crossing + 3)
            yield Patch(stripe, paint, None, alpha=0.8)


def building(camera: Camera, house: Building) -> Iterator[Patch]:
    """Front, street wall, gable roof and windows of one building."""
    near, far = max(house.z, NEAR), house.z + house.length
    if far <= NEAR:
        return
    depth = 0.5 * (near + far)
    front = house.x + house.side * house.width / 2
    if house.z > NEAR:
        face = upright(camera, front, near, house.width, 0, house.height)
        yield Patch(face, shade(house.colour, 0.8), BUILDING, near)
        yield from _gable(camera, house, front)
    yield Patch(wall(camera, house.x, near, far, 0, house.height), house.colour, BUILDING, depth)
    yield from _windows(camera, house)


def _gable(camera: Camera, house: Building, front: float) -> Iterator[Patch]:
    if house.gable <= 0:
        return
    half, top = house.width / 2, house.height + house.gable
    corners = [[front - half, house.height, house.z], [front, top, house.z]]
    corners.append([front + half, house.height, house.z])
    roof = corners[1:2] + [[front, top, house.z + house.length]]
    eave = house.x
    roof += [[eave, house.height, house.z + house.length], [eave, house.height, house.z]]
    yield Patch(camera.project(np.array(roof)), shade(house.colour, 0.55), BUILDING, house.z)
    yield Patch(camera.project(np.array(corners)), shade(house.colour, 0.8), BUILDING, house.z)


def _windows(camera: Camera, house: Building) -> Iterator[Patch]:
    bay, storey = house.bay, house.storey
    end = house.z + house.length
    rows = np.arange(0.35 * storey, house.height - 0.6 * storey, storey).tolist()
    for z in np.arange(house.z + 0.3 * bay, end - 0.6 * bay, bay).tolist():
        for y in rows if z > NEAR else []:
            pane = wall(camera, house.x, z, z + 0.5 * bay, y, y + 0.5 * storey)
            yield Patch(pane, house.window, None, alpha=0.85)
    if house.z <= NEAR:
        return
    for x in np.arange(1.2, house.width - 0.8, 1.3 * bay).tolist():
        at = house.x + house.side * x
        for y in rows:
            pane = upright(camera, at, house.z, 0.5 * bay, y, y + 0.5 * storey)
            yield Patch(pane, shade(house.window, 0.8), None, alpha=0.85)
