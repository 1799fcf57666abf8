"""Several networks' predictions as one."""

import copy

import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from kdmm.hooks.peers import combine
from tests.functional.test_mutual import fix


def classified(logits: Tensor):
    structures = pytest.importorskip('mmpretrain.structures')
    sample = structures.DataSample(metainfo=dict(img_path='a.png')).set_gt_label(1)
    scores = logits.softmax(0)
    return sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))


def segmented(logits: Tensor):
    structures = pytest.importorskip('mmseg.structures')
    return structures.SegDataSample(
        seg_logits=PixelData(data=logits),
        pred_sem_seg=PixelData(data=logits.argmax(0, keepdim=True)),
        gt_sem_seg=PixelData(data=torch.zeros(1, *logits.shape[1:])),
    )


@pytest.mark.parametrize('networks', [1, 2, 3])
def test_classes_by_the_mean_logits(networks):
    logits = [9 * fix((5,), i).float() for i in range(networks)]
    samples = [classified(z) for z in logits]
    before = copy.deepcopy(samples)
    found = combine(samples)
    mean = torch.stack(logits).mean(0)
    torch.testing.assert_close(found.pred_score, mean.softmax(0))
    assert found.pred_label.tolist() == [int(mean.argmax())]
    assert found.gt_label.tolist() == [1] and found.img_path == 'a.png'
    for sample, old in zip(samples, before, strict=True):
        assert torch.equal(sample.pred_score, old.pred_score)
        assert torch.equal(sample.pred_label, old.pred_label)


def test_the_mean_of_scores_would_be_another():
    """One network that is sure outweighs two that are not."""
    samples = [classified(torch.tensor(z)) for z in ([6.0, 0.0], [0.0, 1.5], [0.0, 1.5])]
    assert torch.stack([sample.pred_score for sample in samples]).mean(0).argmax() == 1
    assert combine(samples).pred_label.tolist() == [0]


def test_scores_that_are_0_stay_finite():
    found = combine([classified(torch.tensor(z)) for z in ([200.0, 0, 0], [0, 200.0, 0.0])])
    assert found.pred_score.isfinite().all()
    torch.testing.assert_close(found.pred_score, torch.tensor([0.5, 0.5, 0.0]))


def test_scores_that_are_no_numbers_are_still_scores():
    """Of networks that diverged: another rank, with other images, must not think otherwise."""
    found = combine([classified(torch.tensor([torch.nan, 0.0])), classified(torch.zeros(2))])
    assert found.pred_score.isnan().all()


def test_maps_by_the_mean_logits():
    logits = [fix((4, 3, 5), i).float() for i in range(3)]
    samples = [segmented(z) for z in logits]
    found = combine(samples)
    mean = torch.stack(logits).mean(0)
    torch.testing.assert_close(found.seg_logits.data, mean)
    assert torch.equal(found.pred_sem_seg.data, mean.argmax(0, keepdim=True))
    assert found.pred_sem_seg.data.dtype == samples[0].pred_sem_seg.data.dtype
    assert found.gt_sem_seg.data.shape == (1, 3, 5)
    for sample, z in zip(samples, logits, strict=True):
        assert torch.equal(sample.seg_logits.data, z)
        assert torch.equal(sample.pred_sem_seg.data, z.argmax(0, keepdim=True))


def test_scores_that_exclude_nothing_have_no_ensemble():
    """Of several labels an image, of one class, of boxes."""
    several = classified(torch.zeros(3)).set_pred_score(torch.tensor([0.9, 0.8, 0.1]))
    assert combine([several, several]) is None
    assert combine([classified(torch.zeros(1))] * 2) is None
    assert combine([segmented(torch.zeros(1, 2, 2))] * 2) is None
    assert combine([BaseDataElement(bboxes=torch.zeros(1, 4))] * 2) is None
    assert combine([classified(torch.zeros(3)), BaseDataElement()]) is None
