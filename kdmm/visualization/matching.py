"""A picture of which layers of different networks match (L-MCL, arXiv 2207.11518)."""

from collections.abc import Sequence

import cv2
import numpy as np

from kdmm.errors import ConfigError

CELL, MARGIN, TITLE = 48, 28, 22
"""Pixels: side of a cell; left and top of a panel, for the stages' numbers; its title."""
LIMITS = (0.25, 0.75)
"""Weights at the ends of the colour map; learned ones lie within sigmoid(-1) and sigmoid(1)."""
# dark blue to yellow: lightness grows along it, and no step of it is between red and green
_COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_CIVIDIS)[:, 0, ::-1]


def matching_sheet(weights: np.ndarray, rows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Draw a panel for each ordered pair of networks, (H, W, 3) uint8 RGB.

    Panels of one network are beside each other. A panel has the stages of the first network from
    top to bottom, those of the second from left to right, and in each cell the weight, as a number
    and as a colour between `LIMITS`: dark for little, light for much.

    Args:
        weights: Of ordered pairs of stages, (A, A), as `MatchedLayers.matching_mean`.
        rows: Place of the network and stage of each of the A rows, as
            `MatchedLayers.matching_rows`.

    Raises:
        ConfigError: If they are not of one size, or of one network.
    """
    networks = sorted({network for network, _ in rows})
    if weights.shape != (len(rows), len(rows)) or len(networks) < 2:
        raise ConfigError(
            'a matching is drawn between the stages of several networks',
            key='weights',
            got=f'{weights.shape} for {len(rows)} stages of {len(networks)} networks',
            expected='(A, A) for A stages of 2 networks or more',
        )
    places = {n: [at for at, (network, _) in enumerate(rows) if network == n] for n in networks}
    lines = []
    for i in networks:
        panels = [
            matching_panel(weights[np.ix_(places[i], places[j])], f'peer{i} - peer{j}')
            for j in networks
            if j != i
        ]
        lines.append(_side_by_side(panels, 1))
    return np.ascontiguousarray(_side_by_side(lines, 0))


def matching_panel(weights: np.ndarray, title: str) -> np.ndarray:
    """Draw the weights (S_i, S_j) of one ordered pair of networks, (h, w, 3) uint8 RGB."""
    down, across = weights.shape
    cells = np.kron(colours(weights), np.ones((CELL, CELL, 1), np.uint8))  # (S_i c, S_j c, 3)
    panel = np.full((TITLE + MARGIN + down * CELL, MARGIN + across * CELL, 3), 255, np.uint8)
    panel[TITLE + MARGIN :, MARGIN:] = cells
    _write(panel, title, (MARGIN, 15))
    for stage in range(across):
        _write(panel, str(stage + 1), (MARGIN + stage * CELL + CELL // 2 - 4, TITLE + 20))
    for stage in range(down):
        middle = TITLE + MARGIN + stage * CELL + CELL // 2
        _write(panel, str(stage + 1), (10, middle + 5))
        for other in range(across):
            at = (MARGIN + other * CELL + 7, middle + 5)
            light = panel[middle, MARGIN + other * CELL + 2].mean() > 110  # the cell's colour
            _write(panel, f'{weights[stage, other]:.2f}', at, (0, 0, 0) if light else (255,) * 3)
    return panel


def colours(weights: np.ndarray) -> np.ndarray:
    """Colours of weights, any shape -> (..., 3) uint8 RGB; beyond `LIMITS` those at the ends."""
    low, high = LIMITS
    shares = np.clip((weights - low) / (high - low), 0, 1)
    return _COLOURS[np.rint(255 * shares).astype(int)]


def _side_by_side(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Join pictures along an axis, on white where their sizes across it differ."""
    across = max(part.shape[1 - axis] for part in parts)
    padded = []
    for part in parts:
        room = [(0, 0), (0, 0), (0, 0)]
        room[1 - axis] = (0, across - part.shape[1 - axis])
        padded.append(np.pad(part, room, constant_values=255))
    return np.concatenate(padded, axis)


def _write(
    picture: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, ...] = (0, 0, 0)
) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
