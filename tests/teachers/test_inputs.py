import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import PixelData

from kdmm.teachers.inputs import InputAdapter

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=False)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)


def segmentation(pad_val: float = 0, size: tuple = (32, 40), **options: object):
    kind = 'mmseg.SegDataPreProcessor'
    return MODELS.build(
        dict(type=kind, _scope_='mmseg', pad_val=pad_val, size=size, **copy.deepcopy(options))
    )


def raw_batch() -> dict:
    """An image of the crop's size, and two smaller ones that get padded."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    sizes = [(32, 40), (20, 40), (32, 17)]
    inputs = [torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=generator) for s in sizes]
    labels = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *s).long())) for s in sizes]
    return dict(inputs=inputs, data_samples=labels)


@pytest.mark.parametrize('teacher', [HALF, CAFFE, dict(IMAGENET, std=[1.0] * 3), {}])
@pytest.mark.parametrize('student', [IMAGENET, CAFFE, {}])
@pytest.mark.parametrize('pads', [(0, 0), (0, -1.5), (3, 0)])
def test_the_teacher_sees_its_own_preprocessing(student, teacher, pads):
    mine, theirs = segmentation(pads[0], **student), segmentation(pads[1], **teacher)
    expected = theirs(raw_batch(), training=True)['inputs']
    batch = mine(raw_batch(), training=True)
    kept = batch['inputs'].clone()
    result = InputAdapter(mine, theirs)(batch['inputs'], batch['data_samples'])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-3 if not teacher else 1e-4)
    assert torch.equal(batch['inputs'], kept)  # the student's input is left alone


def test_the_padding_matters_in_the_case_above():
    mine, theirs = segmentation(0, **IMAGENET), segmentation(0, **HALF)
    batch = mine(raw_batch(), training=True)
    without = InputAdapter(mine, theirs)(batch['inputs'], None)
    expected = theirs(raw_batch(), training=True)['inputs']
    assert not torch.allclose(without[1:], expected[1:], atol=1e-2)
    assert torch.allclose(without[0], expected[0], atol=1e-4)


def test_equal_preprocessing_is_passed_through():
    adapter = InputAdapter(segmentation(**IMAGENET), segmentation(size=(8, 8), **IMAGENET))
    inputs = torch.randn(1, 3, 4, 4)
    assert adapter.identity and adapter(inputs, None) is inputs


@pytest.mark.parametrize(
    'change', [dict(mean=[123.675, 116.28, 0]), dict(std=[1.0, 57.12, 57.375]),
               dict(bgr_to_rgb=False), dict(pad_val=1)]
)  # fmt: skip
def test_each_difference_counts(change):
    assert not InputAdapter(
        segmentation(**IMAGENET), segmentation(**{**IMAGENET, **change})
    ).identity


def test_what_is_no_tensor_passes():
    adapter = InputAdapter(segmentation(**IMAGENET), segmentation(**HALF))
    inputs = [torch.ones(3, 2, 2)]
    assert adapter(inputs, None) is inputs


def test_samples_without_a_shape_are_not_padded():
    mine, theirs = segmentation(**IMAGENET), segmentation(5, **IMAGENET)
    inputs = torch.randn(1, 3, 4, 4)
    result = InputAdapter(mine, theirs)(inputs, [SimpleNamespace()])
    torch.testing.assert_close(result, inputs, rtol=1e-5, atol=1e-4)
