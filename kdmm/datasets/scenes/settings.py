"""What determines a generated data set, and whether a folder holds it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .classes import CLASSES

VERSION = 1
"""Raised whenever the same settings give other pictures."""

SETTINGS_FILE = 'scenes.json'


@dataclass(frozen=True)
class SceneSettings:
    """What determines a generated data set; ``height`` and ``width`` in pixels."""

    n_train: int
    n_val: int
    height: int
    width: int
    seed: int
    version: int = VERSION
    classes: tuple[str, ...] = CLASSES

    def __post_init__(self) -> None:
        for name in ('n_train', 'n_val', 'height', 'width'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')


def is_there(root: Path, settings: SceneSettings) -> bool:
    """Whether ``root`` holds the scenes of these settings; False where there is nothing.

    Raises:
        FileExistsError: ``root`` holds other settings, or no generated data set.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    file = root / SETTINGS_FILE
    wanted = json.loads(json.dumps(asdict(settings)))
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        raise FileExistsError(
            f'{root} exists and is no generated data set (no readable {SETTINGS_FILE} '
            'in it): name an empty folder or remove it'
        ) from None
    if found == wanted:
        return True
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    detail = ', '.join(f'{key} is {found.get(key)} and not {wanted[key]}' for key in differing)
    raise FileExistsError(
        f'{root} holds scenes of other settings ({detail or "unknown keys"}): '
        'remove it or name another folder'
    )
