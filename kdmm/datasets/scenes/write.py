"""Writes generated scenes in CamVid's layout."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from .classes import CLASSES
from .render import render
from .sampling import sample_scene

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


def write_scenes(
    root: str | Path,
    n_train: int,
    n_val: int,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> bool:
    """Write ``img_dir/{train,val}/*.jpg``, ``ann_dir/{train,val}/*.png`` and the settings.

    The folder appears under its name only when it is complete.

    Args:
        root: Folder to create.
        n_train: Pictures to train on.
        n_val: Pictures to validate on; none of them is a training scene.
        size: Height and width in pixels.
        seed: Seed of everything.

    Returns:
        True when it was written, False when it was there already with the same settings.

    Raises:
        FileExistsError: ``root`` holds other settings, or no generated data set.
    """
    root = Path(root)
    settings = SceneSettings(n_train, n_val, *size, seed)
    if _is_there(root, settings):
        return False
    draft = root.with_name(f'.{root.name}.{os.getpid()}')
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for split, (name, count) in enumerate((('train', n_train), ('val', n_val))):
            _write_split(draft, name, count, split, settings)
        (draft / SETTINGS_FILE).write_text(json.dumps(asdict(settings), indent=2) + '\n')
        return _publish(draft, root, settings)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, root: Path, settings: SceneSettings) -> bool:
    """Rename the draft; another process may have been faster with the same settings."""
    try:
        draft.rename(root)
    except OSError:
        if not _is_there(root, settings):
            raise
        return False
    return True


def _is_there(root: Path, settings: SceneSettings) -> bool:
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


def _write_split(root: Path, name: str, count: int, split: int, settings: SceneSettings) -> None:
    size = (settings.height, settings.width)
    images, labels = root / 'img_dir' / name, root / 'ann_dir' / name
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(count):
        scene = sample_scene((settings.seed, split, number), aspect=size[1] / size[0])
        painted = render(scene, size)
        picture = cv2.cvtColor(painted.image, cv2.COLOR_RGB2BGR)
        _write(images / f'{number:05d}.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        _write(labels / f'{number:05d}.png', painted.labels, [])


def _write(path: Path, picture: object, flags: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, picture, flags)  # type: ignore[call-overload]
    if not done:
        raise OSError(f'{path}: OpenCV could not encode the picture')
    path.write_bytes(data.tobytes())
