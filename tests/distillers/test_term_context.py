from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from kdmm.distillers.builder import task_facts
from kdmm.distillers.term import gather_context, gather_contexts
from tests.distillers.tiny_models import Distance, seg_samples, segmentor
from tests.errors import refused

PIPELINE = 'train_dataloader.dataset.pipeline'


def test_labels_of_a_segmentation_batch():
    batch = seg_samples(3, 8)
    labels = gather_context(['labels'], batch)['labels']
    assert labels.shape == (3, 8, 8) and labels.dtype == torch.int64
    assert torch.equal(labels[1], batch[1].gt_sem_seg.data[0])


def test_labels_of_a_classification_batch():
    batch = [SimpleNamespace(gt_label=torch.tensor([k])) for k in (2, 0)]
    assert gather_context(['labels'], batch)['labels'].tolist() == [2, 0]


def test_mixed_images_have_no_one_class():
    """Mixup leaves ``gt_label`` as it was and adds the shares of the classes."""
    batch = [SimpleNamespace(gt_label=torch.tensor([k])) for k in (2, 0)]
    batch[1].gt_score = torch.tensor([0.7, 0.0, 0.3])
    with refused(key='model.data_preprocessor.batch_augments', fix='Mixup', problem='one class'):
        gather_context(['labels'], batch)


def test_mixed_images_have_no_one_number():
    """A bank would keep the mixture in the row of one of its images."""
    batch = [SimpleNamespace(sample_idx=k) for k in (2, 0)]
    batch[1].gt_score = torch.tensor([0.7, 0.0, 0.3])
    with refused(key='model.data_preprocessor.batch_augments', fix='Mixup', problem='its number'):
        gather_context(['sample_ids'], batch)


@pytest.mark.parametrize('batch', [None, [], [SimpleNamespace()]])
def test_a_batch_without_labels(batch):
    with refused(key=PIPELINE, problem="needs 'labels'", fix='load annotations'):
        gather_context(['labels'], batch)


def test_ids_of_a_batch():
    batch = [SimpleNamespace(sample_idx=index) for index in (7, 0, 2**40)]
    ids = gather_context(['sample_ids'], batch)['sample_ids']
    assert ids.tolist() == [7, 0, 2**40] and ids.dtype == torch.int64


@pytest.mark.parametrize(
    'batch', [None, [], [SimpleNamespace(sample_idx=3), SimpleNamespace()]], ids=str
)
def test_a_batch_without_ids(batch):
    with refused(key=PIPELINE, problem="needs 'sample_ids'", fix=('PackInputs', "'sample_idx'")):
        gather_context(['sample_ids'], batch)


def test_each_loss_gets_what_it_needs_and_no_more():
    losses = {name: Distance() for name in ('none', 'ids', 'both')}
    losses['ids'].needs = ('sample_ids',)
    losses['both'].needs = ('labels', 'sample_ids')
    batch = [SimpleNamespace(sample_idx=k, gt_label=torch.tensor([3])) for k in (4, 5)]
    found = gather_contexts(losses, batch)
    assert {name: set(context) for name, context in found.items()} == {
        name: set(loss.needs) for name, loss in losses.items()
    }
    assert found['both']['sample_ids'] is found['ids']['sample_ids']


def test_keypoint_weights_of_a_pose_batch():
    """As MMPose packs them: (1, K) of each person, in `gt_instance_labels`."""
    transforms = pytest.importorskip('mmpose.datasets.transforms')
    batch = []
    for weights in ([1, 0, 0.5], [0, 0, 1]):
        item = dict(img=np.zeros((2, 2, 3), np.uint8), keypoints=np.zeros((1, 3, 2)))
        item['keypoint_weights'] = np.array([weights], np.float32)
        batch.append(transforms.PackPoseInputs()(item)['data_samples'])
    found = gather_context(['keypoint_weights'], batch)['keypoint_weights']
    assert found.tolist() == [[1, 0, 0.5], [0, 0, 1]] and found.dtype == torch.float32
    del batch[1].gt_instance_labels.keypoint_weights
    with refused(key=PIPELINE, problem="needs 'keypoint_weights'", fix='GenerateTarget'):
        gather_context(['keypoint_weights'], batch)


@pytest.mark.parametrize('batch', [None, [], [SimpleNamespace()]])
def test_a_batch_without_keypoint_weights(batch):
    with refused(key=PIPELINE, problem="needs 'keypoint_weights'"):
        gather_context(['keypoint_weights'], batch)


def test_mmpretrain_packs_ids_unless_told_otherwise():
    transforms = pytest.importorskip('mmpretrain.datasets.transforms')
    item = dict(img=np.zeros((2, 2, 3), np.uint8), sample_idx=11, gt_label=1)
    packed = transforms.PackInputs()(item)['data_samples']
    assert gather_context(['sample_ids'], [packed])['sample_ids'].tolist() == [11]
    packed = transforms.PackInputs(meta_keys=('img_path',))(item)['data_samples']
    with refused(key=PIPELINE, fix='Add it to them'):
        gather_context(['sample_ids'], [packed])


def test_nothing_is_read_that_no_loss_needs():
    assert gather_context([], None) == {}


def test_facts_of_a_segmentor():
    model = MODELS.build(segmentor(4, classes=5))
    model.decode_head.ignore_index = 7
    assert task_facts(model) == dict(num_classes=5, ignore_index=7)


def test_facts_of_a_cascade_are_the_last_stages():
    model = nn.Module()
    model.decode_head = nn.ModuleList([nn.Module(), nn.Module()])
    model.decode_head[0].num_classes, model.decode_head[1].num_classes = 2, 9
    assert task_facts(model) == dict(num_classes=9)


def test_a_model_without_a_known_head_has_no_facts():
    assert task_facts(nn.Linear(1, 1)) == {}
