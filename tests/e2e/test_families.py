"""Models of every family are distilled, as students and as teachers, by two iterations of a run."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from kdmm.engine import build_runner, load_config
from kdmm.utils.models import without_pretrained
from tests.e2e.tiny_boxes import COCO, shrink_detection, write_coco
from tests.e2e.tiny_data import shrink, walk, write_tiny_data
from tests.e2e.tiny_pose import shrink_pose, write_people

_NUMBER = itertools.count()
_STAGES = [8, 16, 32, 64]
_COCO_CLASSES = ('person', 'car')


def detector(path: str, root: Path) -> Config:
    """A detector of two classes on ResNet-18 of an eighth of the width, and four images."""
    pytest.importorskip('mmdet')
    write_coco(root / 'data', COCO, _COCO_CLASSES)
    cfg = load_config(f'mmdet::{path}')
    shrink_detection(cfg, root / 'data', root / 'run')
    cfg.model.backbone.update(
        depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1
    )
    channels = _STAGES if 'rcnn' in path or 'retinanet' in path else _STAGES[-1:]
    cfg.model.neck.in_channels = channels
    walk(cfg.model, lambda node: node.update(num_classes=2) if 'num_classes' in node else None)
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.metainfo = dict(classes=_COCO_CLASSES)
    return cfg


def retinanet(root: Path) -> Config:
    cfg = detector('retinanet/retinanet_r18_fpn_1x_coco.py', root)
    cfg.model.neck.out_channels = 8
    cfg.model.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=2)
    return cfg


def faster_rcnn(root: Path) -> Config:
    cfg = detector('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', root)
    cfg.model.neck.out_channels = 8
    cfg.model.rpn_head.update(in_channels=8, feat_channels=8)
    cfg.model.roi_head.bbox_roi_extractor.out_channels = 8
    cfg.model.roi_head.bbox_head.update(in_channels=8, fc_out_channels=16)
    return cfg


def detr(root: Path) -> Config:
    cfg = detector('detr/detr_r50_8xb2-150e_coco.py', root)
    # its pipeline has a choice of crops for large images
    cfg.train_dataloader.dataset.pipeline = copy.deepcopy(cfg.val_dataloader.dataset.pipeline)
    cfg.model.num_queries = 10
    cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    return cfg


def rtmpose(root: Path) -> Config:
    pytest.importorskip('mmpose')
    write_people(root / 'data')
    cfg = load_config('mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py')
    shrink_pose(cfg, root / 'data', root / 'run')
    cfg.model.head.in_featuremap_size = (3, 4)
    cfg.custom_hooks = []  # a pipeline that changes at epoch 390, an average
    # its augmentations need another package
    skipped = ('Albumentation',)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [t for t in pipeline if t.type not in skipped]
    return cfg


def heatmap(root: Path) -> Config:
    pytest.importorskip('mmpose')
    write_people(root / 'data')
    cfg = load_config(
        'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'
    )
    shrink_pose(cfg, root / 'data', root / 'run')
    cfg.model.backbone.update(depth=18, base_channels=8, stem_channels=8)
    cfg.model.head.update(in_channels=64, deconv_out_channels=(8, 8, 8))
    return cfg


def mask2former(root: Path) -> Config:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    cfg = load_config('mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py')
    write_tiny_data(cfg, root / 'data')
    shrink(cfg, root / 'run')
    cfg.model = without_pretrained(cfg.model)
    cfg.model.backbone.update(depth=18, base_channels=8, stem_channels=8)
    head = cfg.model.decode_head
    head.update(in_channels=_STAGES, num_queries=10)
    head.pixel_decoder.encoder.num_layers = 1
    head.transformer_decoder.num_layers = 2
    head.train_cfg.num_points = 64
    return cfg


#: Name to the config, and what is tapped: a place that is overwritten, all calls of a head, ...
FAMILIES: dict[str, tuple[Callable[[Path], Config], dict[str, Any]]] = dict(
    one_stage=(
        retinanet,
        dict(
            maps='neck.out[0]',
            tower='bbox_head.cls_convs.0.conv.out#1',
            classes='bbox_head.retina_cls.out',
        ),
    ),
    two_stage=(
        faster_rcnn,
        dict(
            maps='neck.out[1]', block='backbone.layer2.0.bn1.out', proposals='rpn_head.rpn_cls.out'
        ),
    ),
    queries=(
        detr,
        dict(maps='neck.out[0]', block='backbone.layer4.1.bn1.out', classes='bbox_head.fc_cls.out'),
    ),
    simcc=(rtmpose, dict(maps='backbone.out[-1]', last='head.final_layer.out')),
    heatmap=(
        heatmap,
        dict(
            maps='head.final_layer.out', norm='head.deconv_layers.1.out', first='backbone.bn1.out'
        ),
    ),
    masks=(
        mask2former,
        dict(
            maps='backbone.out[3]',
            norm='backbone.layer4.1.bn1.out',
            masks='decode_head.pixel_decoder.mask_feature.out',
        ),
    ),
)


def train(cfg: Config, teacher: Any, weights: Path, taps: dict[str, Any]) -> Any:
    """Two iterations without validation; the runner."""
    cfg.kd = dict(
        teacher=dict(model=teacher, checkpoint=str(weights)),
        taps=taps,
        losses={name: dict(type='FitNetLoss', on=name) for name in taps},
    )
    for name in ('val', 'test'):
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{name}_{key}'] = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    cfg.default_hooks.pop('visualization', None)
    cfg.default_hooks.logger.interval = 1
    cfg.auto_scale_lr = dict(enable=False)
    cfg.experiment_name = f'families_{next(_NUMBER)}'
    cfg.randomness = dict(seed=0)
    with mock.patch('mmengine.runner.runner.collect_env', dict):
        runner = build_runner(cfg)
        runner.train()
    return runner


def built(cfg: Config) -> tuple[Any, nn.Module]:
    """The config of the model alone, and the model with initial weights."""
    spec = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        spec.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    spec['_scope_'] = cfg.default_scope
    torch.manual_seed(5)
    model = MODELS.build(copy.deepcopy(spec))
    model.init_weights()
    return spec, model


@pytest.mark.parametrize('family', FAMILIES)
def test_distilled_and_equal_networks_are_at_zero(family: str, tmp_path: Path) -> None:
    """Two iterations with finite values; then the student gets the teacher's weights."""
    make, taps = FAMILIES[family]
    cfg = make(tmp_path)
    spec, teacher = built(cfg)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    runner = train(cfg, spec, tmp_path / 'teacher.pth', taps)
    logged = runner.message_hub.log_scalars
    for name in taps:
        values = logged[f'train/kd.loss_{name}'].data[0]
        assert len(values) == 2 and all(0 < value < float('inf') for value in values), name
    model = runner.model
    state = torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)['state_dict']
    teacher.load_state_dict(state, strict=True)  # the file is the plain student's
    model.load_state_dict(torch.load(tmp_path / 'teacher.pth')['state_dict'], strict=False)
    model.eval()
    batch = model.data_preprocessor(next(iter(runner.train_dataloader)), True)
    with torch.no_grad(), model.kd.student_taps.record() as mine:
        losses = model(**batch, mode='loss')
    assert all(float(losses[f'kd.loss_{name}']) < 1e-12 for name in taps)
    theirs = model.kd.teachers[0](batch['inputs'], batch['data_samples'])
    for name in {'tower', 'block', 'norm', 'first'} & taps.keys():
        for found in (mine[name], theirs[name]):  # activations work in place behind these
            assert found.min() < 0, f'{name} is what an activation made of it'


def test_a_detector_of_another_kind_teaches(tmp_path: Path) -> None:
    """Pyramids are paired by stride: the second level of one is the first of the other."""
    teacher_cfg, cfg = faster_rcnn(tmp_path / 'teacher'), retinanet(tmp_path)
    spec, teacher = built(teacher_cfg)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    taps = dict(maps=dict(student='neck.out[0]', teacher='neck.out[1]'))
    runner = train(cfg, spec, tmp_path / 'teacher.pth', taps)
    values = runner.message_hub.log_scalars['train/kd.loss_maps'].data[0]
    assert all(0 < value < float('inf') for value in values)
