"""The base libraries' models that need operators: detection whole, pose by import."""

import importlib

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from kdmm.compat import setup
from kdmm.teachers.zoo import zoo_config

setup()


@pytest.fixture(scope='module')
def detector():
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    model = Config.fromfile(zoo_config('mmdet::_base_/models/faster-rcnn_r50_fpn.py')).model
    model.backbone.update(depth=18, init_cfg=None, _scope_='mmdet')
    model.neck.in_channels = [64, 128, 256, 512]
    model.roi_head.bbox_head.num_classes = 3
    model.train_cfg.rpn_proposal.max_per_img = 20
    model.test_cfg.rcnn.score_thr = 0.0
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(model)


@pytest.fixture
def batch():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    torch.manual_seed(1)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(64, 96),
            ori_shape=(64, 96),
            scale_factor=(1.0, 1.0),
            batch_input_shape=(64, 96),
            pad_shape=(64, 96),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40], [50, 10, 90, 60]]), labels=torch.tensor([0, 2])
    )
    return torch.randn(1, 3, 64, 96), [sample]


def test_faster_rcnn_trains(detector, batch):
    losses = detector.train()(*batch, mode='loss')
    total = sum(
        v if isinstance(v, torch.Tensor) else sum(v) for k, v in losses.items() if 'loss' in k
    )
    total.backward()
    assert total.isfinite()
    gradient = detector.roi_head.bbox_head.shared_fcs[0].weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert detector.backbone.layer2[0].conv1.weight.grad.abs().sum() > 0


def test_faster_rcnn_predicts(detector, batch):
    with torch.no_grad():
        (result,) = detector.eval()(*batch, mode='predict')
    predicted = result.pred_instances
    assert 0 < len(predicted) <= 100
    assert predicted.scores.isfinite().all() and predicted.bboxes.shape[1] == 4


@pytest.mark.parametrize(
    'module', ['mmpose.models', 'mmdet.models', 'mmpretrain.models', 'mmcv.ops']
)
def test_model_packages_import(module):
    pytest.importorskip(module.partition('.')[0])
    importlib.import_module(module)
