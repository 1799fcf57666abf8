"""Persons to learn from without keypoints (needs MMPose)."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmpose.datasets import CocoDataset

from kdmm.datasets.coco_files import check_coco
from kdmm.errors import ConfigError, listed
from kdmm.registry import DATASETS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
ORIENTATION = 0x0112  # of EXIF; from 5 on, width and height change places


@DATASETS.register_module()
class PersonCropDataset(CocoDataset):
    """Boxes of persons in COCO's format, or a folder of pictures of one person each.

    MMPose's ``CocoDataset`` leaves out persons without labelled keypoints. Here a box is enough,
    as in the ``instances_*.json`` of COCO; keypoints, where a file has them, are not read. The rest
    of the pipeline sees 17 joints at zero, which `ShufflePatches` replaces.

    Args:
        ann_file: COCO annotations; empty for a folder of crops, which is searched recursively.
        data_prefix: ``img``: folder of the pictures.
        category: Name of the persons' category in the annotations.
        min_size: Persons whose box is narrower or lower than this many pixels are left out.
        **kwargs: As ``CocoDataset``.

    Raises:
        ConfigError: No folder, no category, no person, ids that repeat, or pictures that are not
            there.
    """

    def __init__(
        self,
        ann_file: str = '',
        category: str = 'person',
        min_size: float = 1,
        **kwargs: Any,
    ) -> None:
        self.category, self.min_size = category, min_size
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry a person."""
        source = self.ann_file or self.data_prefix['img']
        persons = super().load_data_list() if self.ann_file else list(self._crops())
        if not persons:
            what = 'box of category' if self.ann_file else 'picture of'
            raise ConfigError(
                f'there is no {what} {self.category!r} of at least '
                f'{self.min_size:g}x{self.min_size:g} pixels',
                key=str(source),
            )
        if self.ann_file:
            self._check_pictures({person['img_path'] for person in persons})
        return persons

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | None:
        """A person's box, with joints at zero; None for anything else."""
        annotation = raw_data_info['raw_ann_info']
        if 'bbox' not in annotation or annotation.get('category_id') not in self._category_ids:
            return None
        bare = {key: value for key, value in annotation.items() if key != 'segmentation'}
        bare.update(keypoints=[0] * 51, num_keypoints=0)
        return super().parse_data_info(dict(raw_data_info, raw_ann_info=bare))

    def _is_valid_instance(self, data_info: dict[str, Any]) -> bool:  # type: ignore[override]
        """No crowd, and a box of the least size; joints are not asked for."""
        low, high = data_info['bbox'][0, :2], data_info['bbox'][0, 2:]
        return not data_info['iscrowd'] and bool((high - low >= self.min_size).all())

    @cached_property  # asked for once an annotation
    def _category_ids(self) -> set[int]:
        check_coco(self.coco.dataset, repr(self.ann_file))
        categories = self.coco.dataset.get('categories') or []
        found = {entry['id'] for entry in categories if entry['name'] == self.category}
        if not found:
            names = sorted(entry['name'] for entry in categories)
            raise ConfigError(
                f'no category {self.category!r}; it has {listed(names, 20)}', key=self.ann_file
            )
        return found

    def _crops(self) -> Iterable[dict[str, Any]]:
        """Entries of a folder of crops; the box is the picture."""
        from PIL import Image  # a requirement of mmcv; reads no more than the header

        folder = Path(self.data_prefix['img'])
        if not folder.is_dir():
            raise ConfigError('there is no such folder', key='data_prefix.img', got=str(folder))
        paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES)
        for number, path in enumerate(paths):
            try:
                with Image.open(path) as picture:
                    width, height = picture.size
                    if picture.getexif().get(ORIENTATION, 1) >= 5:  # OpenCV will turn it
                        width, height = height, width
            except OSError as error:
                raise ConfigError(f'is no picture ({error})', key=str(path)) from error
            if min(width, height) >= self.min_size:
                yield _whole_picture(number, path, width, height)

    def _check_pictures(self, paths: set[str]) -> None:
        """Local files only; each folder is listed once."""
        there = {
            folder: set(os.listdir(folder)) if os.path.isdir(folder) else set()
            for folder in {os.path.dirname(path) for path in paths if '://' not in path}
        }
        missing = sorted(
            path
            for path in paths
            if '://' not in path and os.path.basename(path) not in there[os.path.dirname(path)]
        )
        if missing:
            raise ConfigError(
                f'{len(missing)} of {len(paths)} pictures are not there, first '
                f'{", ".join(missing[:3])}',
                key=self.ann_file,
                fix='Is data_prefix.img right?',
            )


def _whole_picture(number: int, path: Path, width: int, height: int) -> dict[str, Any]:
    return dict(
        img_id=number,
        id=number,
        img_path=str(path),
        bbox=np.array([[0, 0, width, height]], np.float32),
        bbox_score=np.ones(1, np.float32),
        num_keypoints=0,
        keypoints=np.zeros((1, 17, 2), np.float32),
        keypoints_visible=np.zeros((1, 17), np.float32),
        iscrowd=0,
        category_id=np.array(1),
        raw_ann_info=dict(id=number, image_id=number),
    )
