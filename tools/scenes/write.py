"""Writes generated scenes in CamVid's layout, with COCO's keypoints of the persons in them."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from .classes import CLASSES
from .keypoints import PersonKeypoints, keypoint_file
from .render import Rendering, render
from .sampling import sample_scene

SPLITS = ('train', 'val')
VERSION = 1
"""Raised whenever the same settings give other pictures."""

SETTINGS_FILE = 'scenes.json'


@dataclass(frozen=True)
class SceneSettings:
    """Settings that determine a generated data set; ``height`` and ``width`` in pixels."""

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
    """Return True if ``root`` holds the scenes of these settings; False where it is empty.

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


def write_scenes(
    root: str | Path,
    n_train: int,
    n_val: int,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> bool:
    """Write ``img_dir/{train,val}/*.jpg``, ``ann_dir/{train,val}/*.png``, keypoints and settings.

    The keypoints are in ``annotations/person_keypoints_{train,val}.json``. The folder appears under
    its name only when it is complete. One with the same settings that was written before there were
    keypoints gets them; its pictures are left alone.

    Args:
        root: Folder to create.
        n_train: Pictures to train on.
        n_val: Pictures to validate on; none of them is a training scene.
        size: Height and width in pixels.
        seed: Seed of everything.

    Returns:
        True when anything was written, False when all was there already with the same settings.

    Raises:
        FileExistsError: ``root`` holds other settings, or no generated data set.
    """
    root = Path(root)
    settings = SceneSettings(n_train, n_val, *size, seed)
    if is_there(root, settings):
        return _complete(root, settings)
    draft = root.with_name(f'.{root.name}.{os.getpid()}')
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for split in SPLITS:
            _write_split(draft, split, settings)
        (draft / SETTINGS_FILE).write_text(json.dumps(asdict(settings), indent=2) + '\n')
        return _publish(draft, root, settings)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, root: Path, settings: SceneSettings) -> bool:
    """Rename the draft; another process may have been faster with the same settings."""
    try:
        draft.rename(root)
    except OSError:
        if not is_there(root, settings):
            raise
        return False
    return True


def _complete(root: Path, settings: SceneSettings) -> bool:
    """Write the keypoints that a folder of an older version lacks; whether there were any."""
    missing = [split for split in SPLITS if not keypoint_file(root, split).exists()]
    for split in missing:
        persons = PersonKeypoints()
        for number, painted in _paintings(split, settings):
            persons.add(number, f'{number:05d}.jpg', painted)
        persons.write(keypoint_file(root, split))
    return bool(missing)


def _paintings(split: str, settings: SceneSettings) -> Iterator[tuple[int, Rendering]]:
    size = (settings.height, settings.width)
    for number in range(getattr(settings, f'n_{split}')):
        entropy = (settings.seed, SPLITS.index(split), number)
        yield number, render(sample_scene(entropy, aspect=size[1] / size[0]), size)


def _write_split(root: Path, split: str, settings: SceneSettings) -> None:
    images, labels = root / 'img_dir' / split, root / 'ann_dir' / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    persons = PersonKeypoints()
    for number, painted in _paintings(split, settings):
        picture = cv2.cvtColor(painted.image, cv2.COLOR_RGB2BGR)
        _write(images / f'{number:05d}.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        _write(labels / f'{number:05d}.png', painted.labels, [])
        persons.add(number, f'{number:05d}.jpg', painted)
    persons.write(keypoint_file(root, split))


def _write(path: Path, picture: object, flags: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, picture, flags)  # type: ignore[call-overload]
    if not done:
        raise OSError(f'{path}: OpenCV could not encode the picture')
    path.write_bytes(data.tobytes())
