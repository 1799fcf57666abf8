"""Images of nothing, for measuring a run without its data."""

from typing import Any

import numpy as np
import torch

from kdmm.registry import DATASETS


@DATASETS.register_module()
class BlankImages:
    """Noise with label maps of random tiles, as the pipeline of a segmentation data set gives them.

    Args:
        size: (height, width) in pixels.
        num_classes: Labels are 0 to this, exclusively.
        length: Number of images; each is the same whenever it is asked for.
    """

    def __init__(self, size: tuple[int, int], num_classes: int, length: int = 256) -> None:
        self.size, self.num_classes, self.length = tuple(size), num_classes, length
        names = tuple(map(str, range(num_classes)))
        self.metainfo = dict(classes=names, palette=[[i % 256] * 3 for i in range(num_classes)])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        random = np.random.default_rng(index)
        height, width = self.size
        image = random.integers(0, 256, (3, height, width), dtype=np.uint8)
        tiles = random.integers(0, self.num_classes, (1, -(-height // 16), -(-width // 16)))
        label = tiles.repeat(16, 1).repeat(16, 2)[:, :height, :width]
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), self.size)
        sample = SegDataSample(metainfo=dict(shapes, img_path=f'blank image {index}'))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(label.copy()))
        return dict(inputs=torch.from_numpy(image), data_samples=sample)
