"""Random images, for measuring a run without its data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kdmm.errors import ConfigError, listed
from kdmm.registry import DATASETS


@DATASETS.register_module()
class BlankImages:
    """Noise with labels, as the pipeline of a real data set gives them.

    Args:
        size: (height, width) in pixels.
        num_classes: Labels are 0 to this, exclusively.
        length: Number of images; each is the same whenever it is asked for.
        task: ``'segmentation'`` (label maps of random tiles) or ``'classification'``.
        channels: Of the images.
        second: Name of a field to channels, for further images of the same size that the data
            samples carry, see `kdmm.distillers.views.SecondImage`.

    Raises:
        ConfigError: If the task is another.
    """

    def __init__(
        self,
        size: tuple[int, int],
        num_classes: int,
        length: int = 256,
        task: str = 'segmentation',
        channels: int = 3,
        second: Mapping[str, int] | None = None,
    ) -> None:
        self.size, self.num_classes, self.length = tuple(size), num_classes, length
        self.channels, self.second = channels, dict(second or {})
        samples = dict(segmentation=self._tiles, classification=self._label)
        if task not in samples:
            raise ConfigError(
                key='BlankImages.task', got=task, expected=f'one of {listed(samples)}'
            )
        self._sample = samples[task]
        names = tuple(map(str, range(num_classes)))
        self.metainfo = dict(classes=names, palette=[[i % 256] * 3 for i in range(num_classes)])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng(index)
        image = random.integers(0, 256, (self.channels, *self.size), dtype=np.uint8)
        others = {
            key: random.integers(0, 256, (*self.size, channels), dtype=np.uint8)
            for key, channels in self.second.items()
        }
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), self.size)
        meta = dict(shapes, img_path=f'blank image {index}', sample_idx=index, **others)
        return dict(inputs=torch.from_numpy(image), data_samples=self._sample(random, meta))

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Label and number of an image, for samplers and losses that ask for those of all."""
        return dict(gt_label=index % self.num_classes, sample_idx=index)

    def _tiles(self, random: np.random.Generator, meta: dict[str, Any]) -> Any:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        height, width = self.size
        tiles = random.integers(0, self.num_classes, (1, -(-height // 16), -(-width // 16)))
        label = tiles.repeat(16, 1).repeat(16, 2)[:, :height, :width]
        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(label.copy()))
        return sample

    def _label(self, random: np.random.Generator, meta: dict[str, Any]) -> Any:
        from mmpretrain.structures import DataSample

        return DataSample(metainfo=meta).set_gt_label(meta['sample_idx'] % self.num_classes)
