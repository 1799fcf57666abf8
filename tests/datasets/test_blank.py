"""Images of nothing."""

import pytest
import torch

pytest.importorskip('mmseg')

from kdmm.registry import DATASETS  # noqa: E402
from tests.errors import refused  # noqa: E402


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


def test_images_with_one_label() -> None:
    pytest.importorskip('mmpretrain')
    config = dict(type='kdmm.BlankImages', size=(8, 8), num_classes=3, task='classification')
    data = DATASETS.build(config)
    labels = torch.cat([data[index]['data_samples'].gt_label for index in range(32)])
    assert labels.unique().tolist() == [0, 1, 2]
    assert data[3]['data_samples'].img_path == 'blank image 3'


def test_another_task_is_refused() -> None:
    with refused(key='BlankImages.task', got='pose', expected=('segmentation', 'classification')):
        DATASETS.build(dict(type='kdmm.BlankImages', size=(8, 8), num_classes=3, task='pose'))


def test_further_images_and_other_channels():
    config = dict(type='kdmm.BlankImages', size=(8, 6), num_classes=3, task='classification',
                  channels=2, second=dict(depth=1))  # fmt: skip
    item = DATASETS.build(config)[3]
    assert item['inputs'].shape == (2, 8, 6) and item['data_samples'].depth.shape == (8, 6, 1)
