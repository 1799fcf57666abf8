"""Images of nothing."""

import pytest
import torch

pytest.importorskip('mmseg')

from kdmm.registry import DATASETS  # noqa: E402


def test_images_and_labels_are_as_a_pipeline_gives_them() -> None:
    data = DATASETS.build(dict(type='kdmm.BlankImages', size=(40, 56), num_classes=3, length=4))
    assert len(data) == 4 and len(data.metainfo['classes']) == 3
    item = data[1]
    assert item['inputs'].shape == (3, 40, 56) and item['inputs'].dtype == torch.uint8
    label = item['data_samples'].gt_sem_seg.data
    assert label.shape == (1, 40, 56) and label.dtype == torch.int64
    assert label.unique().tolist() == [0, 1, 2]
    assert item['data_samples'].img_shape == (40, 56) and item['data_samples'].img_path
    assert torch.equal(data[1]['inputs'], item['inputs'])
    assert not torch.equal(data[2]['inputs'], item['inputs'])
