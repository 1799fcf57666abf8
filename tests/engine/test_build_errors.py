"""Configs that cannot be built: one message each, with the key and the nearest names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, Registry
from torch import nn
from torch.nn import functional as F

from kdmm.engine import Runner, build_errors, build_runner
from kdmm.engine.build_errors import building
from kdmm.errors import ConfigError
from tests.engine.tiny_run import TinyMetric, by_epoch, config, validated
from tests.errors import refused

# what is changed in a config that can be built (dotted, as --cfg-options), and the fields of the
# error: its key, and words of others
BAD: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'optim_wrapper.type',
     dict(got='AmpOptimWrapper', problem='GPU', fix='Leave --amp out')),
    ({'train_cfg.val_interval': 0}, 'train_cfg.val_interval',
     dict(got=0, expected='a whole number', fix='val_dataloader')),
    ({'train_cfg.val_interval': 'a'}, 'train_cfg.val_interval', dict(got='a')),
    ({'default_hooks.checkpoint.interval': 'a'}, 'default_hooks.checkpoint.interval',
     dict(got='a', expected='a whole number')),
    ({'default_hooks.checkpoint.max_keep_ckpts': 1.5}, 'default_hooks.checkpoint.max_keep_ckpts',
     dict(got=1.5, expected='a whole number')),
    ({'default_hooks.logger.interval': 1.5}, 'default_hooks.logger.interval', dict(got=1.5)),
    ({'model.type': 'TinyNett'}, 'model.type',
     dict(got='TinyNett', problem=('no such model', 'nearest: kdmm.TinyNet'))),
    ({'model.widht': 3}, 'model',
     dict(problem="kdmm.TinyNet: unknown argument 'widht'; nearest: width")),
    ({'model.width': 'a'}, 'model', dict(problem='kdmm.TinyNet: TypeError')),
    ({'model': dict(_delete_=True, width=3)}, 'model',
     dict(got={'width': 3}, expected='dict(type=...)')),
    ({'model.data_preprocessor.men': 3}, 'model.data_preprocessor',
     dict(problem="'men'; nearest: mean")),
    ({'train_dataloader.dataset.type': 'TinyDatta'}, 'train_dataloader.dataset.type',
     dict(got='TinyDatta', problem='TinyData')),
    ({'val_dataloader.dataset.type': 'TinyDatta'}, 'val_dataloader.dataset.type',
     dict(got='TinyDatta', problem='TinyData')),
    ({'train_dataloader.dataset.sise': 3}, 'train_dataloader.dataset',
     dict(problem="kdmm.TinyData: unknown argument 'sise'; nearest: size")),
    ({'train_dataloader.sampler.shufle': 1}, 'train_dataloader.sampler',
     dict(problem=('InfiniteSampler: ', 'nearest: shuffle'))),
    ({'train_dataloader.sampler.type': 'Infinit'}, 'train_dataloader.sampler.type',
     dict(got='Infinit', problem='Infinite')),
    ({'train_dataloader.batchsize': 2}, 'train_dataloader',
     dict(problem=('DataLoader: ', 'nearest: batch_size'))),
    ({'val_dataloader.num_workers': 'two'}, 'val_dataloader',
     dict(problem='DataLoader: TypeError')),
    ({'train_dataloader.dataset': 'x'}, 'train_dataloader.dataset', dict(got='x')),
    ({'train_cfg.type': 'IterBasedTrainLop'}, 'train_cfg.type',
     dict(got='IterBasedTrainLop', problem=('no such loop', 'IterBasedTrainLoop'))),
    ({'train_cfg.maxiters': 3}, 'train_cfg',
     dict(problem=('IterBasedTrainLoop: ', 'nearest: max_iters'))),
    ({'optim_wrapper.type': 'OptimWraper'}, 'optim_wrapper.type',
     dict(got='OptimWraper', problem='nearest: OptimWrapper')),
    ({'optim_wrapper.optimizer.type': 'SDG'}, 'optim_wrapper.optimizer.type',
     dict(got='SDG', problem='nearest: SGD')),
    ({'optim_wrapper.optimizer.lr': 'fast'}, 'optim_wrapper.optimizer', dict(problem='SGD: ')),
    ({'optim_wrapper.optimizer.momentun': 1}, 'optim_wrapper.optimizer',
     dict(problem=('SGD: ', 'nearest: momentum'))),
    ({'optim_wrapper.paramwise_cfg.bias_lr': 1}, 'optim_wrapper.paramwise_cfg',
     dict(problem=("unknown key 'bias_lr'", 'bias_lr_mult'))),
    ({'compile.backend': 'gone'}, 'compile', dict(problem=('InvalidBackend', "'gone'"))),
    ({'optim_wrapper.clip_grad.max_nrm': 1}, 'optim_wrapper.clip_grad',
     dict(problem='nearest: max_norm')),
    ({'optim_wrapper': dict(_delete_=True)}, 'optim_wrapper',
     dict(got={}, expected='dict(optimizer=')),
    ({'param_scheduler': dict(type='PolyLr')}, 'param_scheduler.type',
     dict(got='PolyLr', problem='nearest: PolyLR')),
    ({'param_scheduler': [dict(type='PolyLR', powr=1)]}, 'param_scheduler.0',
     dict(problem=('PolyLR: ', 'nearest: power'))),
    ({'param_scheduler': [dict(type='MultiStepLR')]}, 'param_scheduler.0',
     dict(problem="MultiStepLR: missing 'milestones'")),
    ({'default_hooks.logger.type': 'LogerHook'}, 'default_hooks.logger.type',
     dict(got='LogerHook', problem='LoggerHook')),
    ({'default_hooks.logger.intervall': 1}, 'default_hooks.logger',
     dict(problem=('LoggerHook: ', 'nearest: interval'))),
    ({'custom_hooks': [dict(type='EMAHok')]}, 'custom_hooks.0.type',
     dict(got='EMAHok', problem=('no such hook', 'EMAHook'))),
    ({'custom_hooks': ['EMAHook']}, 'default_hooks, custom_hooks',
     dict(problem=('TypeError', 'EMAHook'))),
    ({'visualizer': dict(type='Visualiser')}, 'visualizer.type',
     dict(got='Visualiser', problem=('no such visualizer', 'Visualizer'))),
    ({'log_processor.windowsize': 3}, 'log_processor', dict(problem=('TypeError', 'windowsize'))),
    ({'val_evaluator.type': 'TinyMetrik'}, 'val_evaluator.type',
     dict(got='TinyMetrik', problem=('no such metric', 'TinyMetric'))),
    ({'val_evaluator': 'TinyMetric'}, 'val_cfg, val_dataloader, val_evaluator',
     dict(problem='evaluator must')),
    ({'randomness.sed': 0}, 'randomness', dict(problem=('TypeError', 'sed'))),
    ({'env_cfg.mp_cfg.x': 1}, 'env_cfg', dict(problem=('TypeError', "'x'"))),
    ({'auto_scale_lr.enable': True}, 'auto_scale_lr', dict(problem='base_batch_size')),
    ({'load_from': 5}, 'checkpoint', dict(got=5, expected='a path or a URL')),
    ({'optim_wrapper.optimizer.lr': 0.0}, 'optim_wrapper.optimizer.lr',
     dict(got=0.0, problem='nothing would be trained')),
    ({'kd': 'yes'}, 'kd', dict(got='yes', expected='a section')),
    ({'kd': ['x']}, 'kd', dict(got=['x'], expected='a section')),
    ({'kd.type': 5}, 'kd.type', dict(got=5, problem='Distiller')),
    ({'kd.teacher.model.type': 'TinyNett'}, 'kd.teacher.model.type',
     dict(got='TinyNett', problem=('no such model', 'kdmm.TinyNet'))),
    ({'kd.teacher.model.widht': 3}, 'kd.teacher.model',
     dict(problem="kdmm.TinyNet: unknown argument 'widht'; nearest: width")),
    ({'kd.teacher.checkpoint': 5, 'kd.teacher.random': False}, 'kd.teacher.checkpoint',
     dict(got=5)),
    ({'kd.losses.kd': 'KDLoss'}, 'kd.losses.kd',
     dict(got='KDLoss', expected='dict(type=..., on=...)')),
    ({'kd.losses.kd.type': 5}, 'kd.losses.kd.type', dict(got=5, problem='no such loss')),
    ({'kd.losses.kd.connector': 'Resize'}, 'kd.losses.kd.connector',
     dict(got='Resize', expected='dict(')),
    ({'kd.losses.kd.weight': 'a'}, 'kd.losses.kd.weight', dict(got='a', expected='a number')),
    ({'kd.taps': 'a.out'}, 'kd.taps', dict(got='a.out', expected='a dict')),
    ({'kd.teacher': 'x'}, 'kd.teacher', dict(got='x', expected='a dict or a list')),
]  # fmt: skip


def changed(work_dir: Path, changes: dict[str, Any]) -> Config:
    """A config that can be built, and these changes of it."""
    cfg = validated(config(work_dir))
    for key in [key for key in changes if '.' not in key and not isinstance(changes[key], dict)]:
        cfg[key] = changes[key]
    cfg.merge_from_dict({key: value for key, value in changes.items() if cfg.get(key) != value})
    return cfg


@pytest.mark.parametrize(('changes', 'key', 'fields'), BAD, ids=[', '.join(c[0]) for c in BAD])
def test_one_message(tmp_path, changes, key, fields):
    with refused(key=key, **fields):
        build_runner(changed(tmp_path, changes)).train()


def test_short_arguments_are_told(tmp_path):
    with refused(key='model', problem='TypeError') as caught:
        build_runner(changed(tmp_path, {'model.width': 'a', 'model.stride': 'x' * 50}))
    assert caught.value.got['width'] == 'a' and 'stride' not in caught.value.got


def test_what_training_raises_is_left_alone(tmp_path, monkeypatch):
    """A bug in a model's step is no mistake in a config."""
    made = Runner.from_cfg(config(tmp_path))

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError('of the step')

    monkeypatch.setattr(made.model, 'train_step', broken, raising=False)
    with pytest.raises(KeyError, match='of the step'):
        made.train()


class Layer(nn.Module):
    """A layer of a library, as its module's name says."""

    def forward(self, x):
        return F.linear(x, torch.zeros(2, x.shape[-1] + 1))


@pytest.fixture
def library(monkeypatch):
    """Let this file and those of the tiny networks pass for a library's."""
    known = {'tests'} | build_errors._LIBRARIES
    monkeypatch.setattr(build_errors, '_LIBRARIES', known)


def test_what_the_libraries_raise_in_the_first_step(tmp_path, library):
    made = Runner.from_cfg(config(tmp_path, kd=None))
    made.model.body = Layer()
    with refused(key='model.body', problem='Layer in the first step of train: RuntimeError: '):
        made.train()


def test_what_they_raise_later_is_left_alone(tmp_path, library):
    made = Runner.from_cfg(config(tmp_path, kd=None))
    step = made.model.train_step
    made.model.train_step = lambda *args, **kw: (
        step(*args, **kw) if made.iter < 1 else F.linear(torch.zeros(1, 2), torch.zeros(1, 3))
    )
    with pytest.raises(RuntimeError, match='mat1') as raised:
        made.train()
    assert not isinstance(raised.value, ConfigError)


def test_the_same_of_a_users_layer_is_left_alone(tmp_path):
    made = Runner.from_cfg(config(tmp_path, kd=None))
    made.model.body = Layer()
    with pytest.raises(RuntimeError, match='mat1|size mismatch'):
        made.train()


def test_metrics_have_a_first_step(tmp_path, library, monkeypatch):
    def wrong(*_: Any) -> None:
        raise KeyError('metrics mIuO')

    monkeypatch.setattr(TinyMetric, 'compute_metrics', wrong)
    told = 'TinyMetric in the first step of val: KeyError: metrics mIuO'
    with refused(key='metric', problem=told):
        Runner.from_cfg(validated(config(tmp_path, kd=None))).train()


def test_a_batch_of_one_under_batch_norm(tmp_path):
    """Also where it is the last one of an epoch."""
    made = Runner.from_cfg(by_epoch(config(tmp_path, kd=None)))
    step = made.model.train_step
    made.model.train_step = lambda *args, **kw: (
        step(*args, **kw) if made.iter < 3 else nn.BatchNorm1d(2)(torch.zeros(1, 2))
    )
    with refused(key='train_dataloader', problem='one image', fix='drop_last=True'):
        made.train()


def test_an_unknown_runner_type(tmp_path):
    told = ('no such runner', 'nearest: Runner')
    with refused(key='runner_type', got='Runer', problem=told):
        build_runner(config(tmp_path, kd=None, runner_type='Runer'))


def test_errors_that_name_the_class_are_unwrapped():
    """As MMEngine 0.10 raises them: once a level, with the class before the message."""
    registry = Registry('thing', scope='mmengine')

    class Inner:
        def __init__(self, size: int) -> None: ...

    class Outer:
        def __init__(self, inner: dict) -> None:
            try:
                registry.build(inner)
            except (TypeError, ConfigError) as error:
                raise type(error)(f'class `Inner` in some/file.py: {error}')  # noqa: B904

    class Refusing:
        def __init__(self) -> None:
            raise ConfigError(key='size', got=3, expected='4')

    for kind in (Inner, Outer, Refusing):
        registry.register_module(module=kind)
    cfg = Config(dict(model=dict(type='Outer', inner=dict(type='Inner', sise=3))))
    told = "Inner: unknown argument 'sise'; nearest: size"
    with refused(key='model.inner', problem=told), building(cfg, 'x'):
        registry.build(cfg.model)
    cfg.model.inner = dict(type='Refusing')
    with pytest.raises(ConfigError) as caught, building(cfg, 'x'):  # `refused` looks through it
        registry.build(cfg.model)
    assert (caught.value.key, caught.value.got, caught.value.expected) == ('size', 3, '4')


@pytest.mark.parametrize(
    ('norm', 'key', 'fields'),
    [
        (dict(type='BNN'), '.type', dict(got='BNN', problem='nearest: ')),
        (
            dict(type='BN', momentun=1),
            '',
            dict(problem="BN: unknown argument 'momentun'; nearest: momentum"),
        ),
    ],
)
def test_layers_that_mmcv_looks_up(norm, key, fields):
    pytest.importorskip('mmpretrain')
    backbone = dict(type='ResNet', depth=18, norm_cfg=norm)
    model = dict(_scope_='mmpretrain', type='ImageClassifier', backbone=backbone)
    cfg = Config(dict(norm_cfg=norm, model=model))
    with refused(key=f'model.backbone.norm_cfg{key}', **fields), building(cfg, 'x'):
        MODELS.build(cfg.model)


def test_a_name_that_is_not_in_the_config_is_not_given_a_key_of_its_own():
    cfg = Config(dict(model=dict(type='mmpretrain.ImageClassifier', backbone=dict(type='x.Y'))))
    told = 'mmpretrain.ClsDataPreprocessor'
    with refused(key='model', got='ClsDataPreprocessor', problem=told), building(cfg, 'x'):
        MODELS.build(cfg.model)


def test_kdmms_own_names_are_offered_with_their_scope():
    cfg = Config(dict(custom_hooks=[dict(type='RecalibrateBNHook')]))
    told = 'nearest: kdmm.RecalibrateBNHook'
    with refused(key='custom_hooks.0.type', problem=told), building(cfg, 'x'):
        HOOKS.build(cfg.custom_hooks[0])
