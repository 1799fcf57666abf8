"""A config made ready for measuring."""

from pathlib import Path

import pytest
from mmengine.config import Config

from kdmm.engine.dry_run import crop_size, only_term, to_blank_data, to_dry_run
from kdmm.hooks import PretrainedBackboneHook
from tests.errors import refused


@pytest.fixture
def cfg() -> Config:
    """Of a segmentation run, with all that must not happen while it is measured."""
    terms = dict(
        kd=dict(type='KDLoss', on='logits', weight=dict(type='Linear', start=0, stop=2, end=9)),
        auto=dict(type='KDLoss', on='logits', weight='auto:0.1'),
        parts=dict(type='X', on='y', weight=dict(pixel=0.1, region='auto:0.2', off=0)),
        typed=dict(type='X', on='y', weight=dict(type='Auto', share=0.1)),
        plain=dict(type='X', on='y'),
        off=dict(type='X', on='y', weight=0.0),
    )
    weights = dict(type='Pretrained', checkpoint='torchvision://x')
    return Config(
        dict(
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(size=(32, 48)),
                pretrained='open-mmlab://x',
                backbone=dict(init_cfg=weights, stages=[dict(init_cfg=weights)]),
                decode_head=dict(num_classes=5, init_cfg=dict(type='Normal')),
            ),
            kd=dict(teacher=[dict(config='a', checkpoint='zoo')], losses=terms),
            train_dataloader=dict(
                batch_size=3,
                dataset=dict(pipeline=[dict(type='RandomCrop', crop_size=(64, 96))]),
            ),
            val_dataloader=dict(),
            val_evaluator=dict(),
            val_cfg=dict(),
            load_from='x.pth',
            param_scheduler=[dict()],
            default_hooks=dict(visualization=dict(type='V'), checkpoint=dict(type='C')),
            custom_hooks=[dict(type='EMAHook')],
            train_cfg=dict(max_iters=10),
        )
    )


def test_only_the_step_is_left(cfg: Config, tmp_path: Path) -> None:
    to_dry_run(cfg, dict(type='L', iters=2), str(tmp_path))
    assert cfg.train_cfg == dict(type='L', iters=2) and cfg.load_from is None
    assert cfg.val_dataloader is cfg.val_cfg is cfg.test_evaluator is cfg.param_scheduler is None
    assert set(cfg.default_hooks.values()) == {None} and 'visualization' not in cfg.default_hooks
    assert cfg.custom_hooks == [dict(type='EMAHook')], 'EMA is part of the step'
    assert 'pretrained' not in cfg.model and cfg.model.backbone == dict(stages=[{}])
    assert cfg.model.decode_head.init_cfg == dict(type='Normal')
    assert cfg.kd.teacher[0] == dict(config='a', checkpoint=None, random=True)


def test_a_hook_that_compares_the_file_goes_with_it(cfg: Config, tmp_path: Path) -> None:
    for kind in ('kdmm.PretrainedBackboneHook', PretrainedBackboneHook):
        cfg.custom_hooks = [dict(type='EMAHook'), dict(type=kind)]
        to_dry_run(cfg, dict(type='L'), str(tmp_path))
        assert cfg.custom_hooks == [dict(type='EMAHook')]


def test_every_term_takes_part_from_the_first_step(cfg: Config, tmp_path: Path) -> None:
    to_dry_run(cfg, dict(type='L'), str(tmp_path))
    weights = {name: term.weight for name, term in cfg.kd.losses.items()}
    assert weights == dict(
        kd=1.0, auto=1.0, parts=dict(pixel=0.1, region=1.0, off=0), typed=1.0, plain=1.0, off=0.0
    )


def test_one_term_alone(cfg: Config) -> None:
    only_term(cfg, 'plain')
    on = [name for name, term in cfg.kd.losses.items() if term.get('weight', 1) != 0]
    assert on == ['plain']
    with refused(key='kd.losses', problem="'plane'; nearest: plain"):
        only_term(cfg, 'plane')


def test_the_pipeline_says_the_crop(cfg: Config) -> None:
    assert crop_size(cfg) == (64, 96)
    cfg.train_dataloader.dataset.pipeline[0].crop_size = 80
    assert crop_size(cfg) == (80, 80)
    cfg.train_dataloader.dataset.pipeline = []
    assert crop_size(cfg) == (32, 48)
    del cfg.model['data_preprocessor']
    with refused(key='crop_size', fix='--size HEIGHT WIDTH'):
        crop_size(cfg)


def test_blank_data(cfg: Config) -> None:
    to_blank_data(cfg)
    found = dict(type='kdmm.BlankImages', size=(64, 96), num_classes=5, task='segmentation')
    found['length'] = 256
    assert cfg.train_dataloader == dict(batch_size=3, dataset=found)
    to_blank_data(cfg, (40, 56))
    assert cfg.train_dataloader.dataset.size == (40, 56)
    assert cfg.model.data_preprocessor.size == (40, 56), 'or images would be padded to another'
    cfg.model.pop('decode_head')
    with refused(key='model', expected='a segmentation or classification model'):
        to_blank_data(cfg)
    cfg.model.head = dict(type='LinearClsHead', num_classes=7)
    to_blank_data(cfg)
    assert cfg.train_dataloader.dataset.task == 'classification'
    assert cfg.train_dataloader.dataset.num_classes == 7
    cfg.kd = dict(losses=dict(crd=dict(num_samples=50000, replace=False), other=dict()))
    to_blank_data(cfg)
    assert cfg.kd.losses == dict(crd=dict(num_samples=256, replace=True), other=dict())


def test_blank_data_has_the_channels_and_second_images_that_the_networks_read(cfg: Config) -> None:
    cfg.model.backbone = dict(type='ResNet', in_channels=2)
    views = [[dict(type='SecondImage', key='depth', channels=1)], dict(type='kdmm.SecondImage')]
    cfg.kd = dict(teacher=[dict(inputs=view) for view in views])
    to_blank_data(cfg)
    dataset = cfg.train_dataloader.dataset
    assert dataset.channels == 2 and dataset.second == dict(depth=1, img2=3)


def test_hssakd_needs_no_weights_and_writes_nothing(cfg: Config, tmp_path: Path) -> None:
    cfg.kd = dict(type='HSSAKDTeacher')
    to_dry_run(cfg, dict(type='L'), str(tmp_path))
    nothing = dict(recalibrate=False, evaluate_branches=False)
    assert cfg.kd == dict(type='HSSAKDTeacher', random=True, **nothing)
    cfg.kd = dict(type='kdmm.HSSAKD', teacher=dict(config='a.py', checkpoint='b.pth'))
    to_dry_run(cfg, dict(type='L'), str(tmp_path))
    assert cfg.kd.teacher == dict(config='a.py', checkpoint=None, random=True)
    assert cfg.kd.recalibrate is False
