"""Person keypoints of generated scenes, as COCO writes them.

COCO's two conventions: boxes are ``x, y, width, height`` between the edges of pixels, keypoints are
indices of pixels, so that the middle of the upper left pixel is (0, 0). That is also how the poses'
libraries warp and flip them. ``Thing`` counts both from the edge of the picture.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .classes import JOINTS, PERSON
from .render import Rendering, Thing

MIN_HEIGHT = 24.0
"""Persons whose box is lower, in pixels, are left out: a crop of them shows nothing."""

MIN_SEEN = 5
"""Persons with fewer joints in sight are left out."""

# pairs of joints, counted from 1
_SKELETON = [
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
]


def keypoint_file(root: Path, split: str) -> Path:
    """Path of a split's keypoint file."""
    return root / 'annotations' / f'person_keypoints_{split}.json'


class PersonKeypoints:
    """Collects the persons of a split. All pictures are listed, also those without a person.

    The number of a picture is its id; persons are counted from 1 in the order of the pictures, so a
    split that grows keeps its ids. Left out, and not marked in any other way, are persons under
    ``MIN_HEIGHT`` or with fewer than ``MIN_SEEN`` joints in sight.
    """

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.persons: list[dict[str, Any]] = []

    def add(self, number: int, name: str, painted: Rendering) -> None:
        """Note a picture and its persons."""
        height, width = painted.labels.shape
        self.images.append(dict(id=number, file_name=name, height=height, width=width))
        for thing in painted.things():
            if thing.label == PERSON and _is_useful(thing):
                common = dict(id=len(self.persons) + 1, image_id=number, category_id=1, iscrowd=0)
                self.persons.append(common | _annotation(thing, (width, height)))

    def write(self, file: Path) -> None:
        """Write the file; it appears under its name only when it is complete."""
        category = dict(
            id=1, name='person', supercategory='person', keypoints=JOINTS, skeleton=_SKELETON
        )
        content = dict(images=self.images, annotations=self.persons, categories=[category])
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f'.{file.name}.{os.getpid()}')
        try:
            draft.write_text(json.dumps(content) + '\n')
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def _is_useful(thing: Thing) -> bool:
    assert thing.joints is not None
    tall = thing.box[3] - thing.box[1] >= MIN_HEIGHT
    return bool(tall and (thing.joints[:, 2] == 2).sum() >= MIN_SEEN)


def _annotation(thing: Thing, size: tuple[int, int]) -> dict[str, Any]:
    """``area`` is that of the pixels in sight, the box that of the whole person."""
    assert thing.joints is not None
    x0, y0, x1, y1 = thing.box
    at, flags = thing.joints[:, :2], thing.joints[:, 2]
    at = (at - 0.5).clip(0, np.array(size) - 1)  # (17, 2); 0 stays 0, for joints outside
    marks = np.concatenate([at.round(2), flags[:, None]], axis=1)  # (17, 3)
    return dict(
        bbox=[round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        area=thing.pixels,
        num_keypoints=int((flags > 0).sum()),
        keypoints=[int(v) if i % 3 == 2 else float(v) for i, v in enumerate(marks.ravel())],
    )
