"""Configs that cannot be built: one message each, with the key and the nearest names."""

from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, Registry
from torch import nn
from torch.nn import functional as F

from kdmm.engine import Runner, build_runner
from kdmm.engine import building as building_module
from kdmm.engine.building import building
from kdmm.errors import ConfigError
from tests.engine.tiny_run import TinyMetric, by_epoch, config, validated

# what is changed in a config that can be built (dotted, as --cfg-options), how the message begins,
# and a word further on
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({'optim_wrapper.type': 'AmpOptimWrapper'}, "optim_wrapper.type: 'AmpOptimWrapper'", 'GPU'),
    ({'train_cfg.val_interval': 0}, 'train_cfg.val_interval: 0, expected a whole number', ''),
    ({'train_cfg.val_interval': 'a'}, "train_cfg.val_interval: 'a', expected", 'val_dataloader'),
    ({'default_hooks.checkpoint.interval': 'a'}, 'default_hooks.checkpoint.interval: exp', "'a'"),
    ({'default_hooks.checkpoint.max_keep_ckpts': 1.5}, 'default_hooks.checkpoint.max_keep', '1.5'),
    ({'default_hooks.logger.interval': 1.5}, 'default_hooks.logger.interval: expected', '1.5'),
    ({'model.type': 'TinyNett'}, "model.type: no model 'TinyNett'", 'nearest: kdmm.TinyNet'),
    ({'model.widht': 3}, 'model (kdmm.TinyNet): unknown argument', "'widht'; nearest: width"),
    ({'model.width': 'a'}, 'model (kdmm.TinyNet): TypeError', "width='a'"),
    ({'model': dict(_delete_=True, width=3)}, 'model: expected dict(type=...)', "{'width': 3}"),
    ({'model.data_preprocessor.men': 3}, 'model.data_preprocessor (', "'men'; nearest: mean"),
    ({'train_dataloader.dataset.type': 'TinyDatta'}, 'train_dataloader.dataset.type', 'TinyData'),
    ({'val_dataloader.dataset.type': 'TinyDatta'}, 'val_dataloader.dataset.type', 'TinyData'),
    ({'train_dataloader.dataset.sise': 3}, 'train_dataloader.dataset (kdmm.TinyData)', 'size'),
    ({'train_dataloader.sampler.shufle': 1}, 'train_dataloader.sampler (Inf', 'nearest: shuffle'),
    ({'train_dataloader.sampler.type': 'Infinit'}, 'train_dataloader.sampler.type', 'Infinite'),
    ({'train_dataloader.batchsize': 2}, 'train_dataloader (DataLoader)', 'nearest: batch_size'),
    ({'val_dataloader.num_workers': 'two'}, 'val_dataloader (DataLoader)', "num_workers='two'"),
    ({'train_dataloader.dataset': 'x'}, 'train_dataloader.dataset: expected', "'x'"),
    ({'train_cfg.type': 'IterBasedTrainLop'}, 'train_cfg.type: no loop', 'IterBasedTrainLoop'),
    ({'train_cfg.maxiters': 3}, 'train_cfg (IterBasedTrainLoop): unk', 'nearest: max_iters'),
    ({'optim_wrapper.type': 'OptimWraper'}, 'optim_wrapper.type: no', 'nearest: OptimWrapper'),
    ({'optim_wrapper.optimizer.type': 'SDG'}, 'optim_wrapper.optimizer.type: no', 'nearest: SGD'),
    ({'optim_wrapper.optimizer.lr': 'fast'}, 'optim_wrapper.optimizer (SGD)', "lr='fast'"),
    ({'optim_wrapper.optimizer.momentun': 1}, 'optim_wrapper.optimizer (SGD)', 'momentum'),
    ({'optim_wrapper.paramwise_cfg.bias_lr': 1}, 'optim_wrapper.paramwise_cfg: un', 'bias_lr_mult'),
    ({'compile.backend': 'gone'}, 'compile: InvalidBackend', "'gone'"),
    ({'optim_wrapper.clip_grad.max_nrm': 1}, 'optim_wrapper.clip_grad: ', 'nearest: max_norm'),
    ({'optim_wrapper': dict(_delete_=True)}, 'optim_wrapper: expected dict(optimizer=', ''),
    ({'param_scheduler': dict(type='PolyLr')}, 'param_scheduler.type: no', 'nearest: PolyLR'),
    ({'param_scheduler': [dict(type='PolyLR', powr=1)]}, 'param_scheduler.0 (PolyLR)', 'power'),
    ({'param_scheduler': [dict(type='MultiStepLR')]}, 'param_scheduler.0 (', 'milestones'),
    ({'default_hooks.logger.type': 'LogerHook'}, 'default_hooks.logger.type', 'LoggerHook'),
    ({'default_hooks.logger.intervall': 1}, 'default_hooks.logger (', 'nearest: interval'),
    ({'custom_hooks': [dict(type='EMAHok')]}, 'custom_hooks.0.type: no hook', 'EMAHook'),
    ({'custom_hooks': ['EMAHook']}, 'default_hooks, custom_hooks: TypeError', 'EMAHook'),
    ({'visualizer': dict(type='Visualiser')}, 'visualizer.type: no visualizer', 'Visualizer'),
    ({'log_processor.windowsize': 3}, 'log_processor: TypeError', 'windowsize'),
    ({'val_evaluator.type': 'TinyMetrik'}, 'val_evaluator.type: no metric', 'TinyMetric'),
    ({'val_evaluator': 'TinyMetric'}, 'val_cfg, val_dataloader, val_evaluator: ', 'evaluator must'),
    ({'randomness.sed': 0}, 'randomness: TypeError', 'sed'),
    ({'env_cfg.mp_cfg.x': 1}, 'env_cfg: TypeError', "'x'"),
    ({'auto_scale_lr.enable': True}, 'auto_scale_lr: ', 'base_batch_size'),
    ({'load_from': 5}, 'checkpoint: expected a path or a URL, got 5', ''),
    ({'optim_wrapper.optimizer.lr': 0.0}, 'optim_wrapper.optimizer.lr: 0', 'nothing would'),
    ({'kd': 'yes'}, 'kd: expected a section', "got 'yes'"),
    ({'kd': ['x']}, 'kd: expected a section', "got ['x']"),
    ({'kd.type': 5}, 'kd.type: no such kind; ', 'got 5'),
    ({'kd.losses.kd': 'KDLoss'}, "kd.losses.kd: expected dict(type=..., on=...), got 'KDLoss'", ''),
    ({'kd.losses.kd.type': 5}, 'kd.losses.kd.type: no loss 5', ''),
    ({'kd.losses.kd.connector': 'Resize'}, 'kd.losses.kd.connector: expected dict(', "'Resize'"),
    ({'kd.losses.kd.weight': 'a'}, 'kd.losses.kd.weight: expected a number', "'a'"),
    ({'kd.taps': 'a.out'}, 'kd.taps: expected a dict', "'a.out'"),
    ({'kd.teacher': 'x'}, 'kd.teacher: expected a dict or a list', "'x'"),
    ({'kd.teacher.model.type': 'TinyNett'}, 'kd.teacher.model.type: no model', 'kdmm.TinyNet'),
    ({'kd.teacher.model.widht': 3}, 'kd.teacher.model (kdmm.TinyNet): unknown', 'nearest: width'),
    ({'kd.teacher.checkpoint': 5, 'kd.teacher.random': False}, 'kd.teacher.checkpoint', 'got 5'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'begins', 'word'), BAD, ids=[', '.join(c[0]) for c in BAD])
def test_one_message(tmp_path, changes, begins, word):
    cfg = validated(config(tmp_path))
    for key in [key for key in changes if '.' not in key and not isinstance(changes[key], dict)]:
        cfg[key] = changes[key]
    cfg.merge_from_dict({key: value for key, value in changes.items() if cfg.get(key) != value})
    with pytest.raises(ConfigError) as refused:
        build_runner(cfg).train()
    said = str(refused.value)
    assert said.startswith(begins) and word in said and '\n' not in said, said


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
    known = {'tests'} | building_module._LIBRARIES
    monkeypatch.setattr(building_module, '_LIBRARIES', known)


def test_what_the_libraries_raise_in_the_first_step(tmp_path, library):
    made = Runner.from_cfg(config(tmp_path, kd=None))
    made.model.body = Layer()
    with pytest.raises(ConfigError, match=r'^model\.body \(Layer\): RuntimeError: .*first step'):
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
    with pytest.raises(ConfigError, match=r'^metric \(TinyMetric\): KeyError: .*mIuO.* of val'):
        Runner.from_cfg(validated(config(tmp_path, kd=None))).train()


def test_a_batch_of_one_under_batch_norm(tmp_path):
    """Also where it is the last one of an epoch."""
    made = Runner.from_cfg(by_epoch(config(tmp_path, kd=None)))
    step = made.model.train_step
    made.model.train_step = lambda *args, **kw: (
        step(*args, **kw) if made.iter < 3 else nn.BatchNorm1d(2)(torch.zeros(1, 2))
    )
    with pytest.raises(ConfigError, match='^train_dataloader: .*one image.*drop_last=True'):
        made.train()


def test_an_unknown_runner_type(tmp_path):
    with pytest.raises(ConfigError, match="^runner_type: no runner 'Runer' .*nearest: Runner"):
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
            except TypeError as error:
                raise TypeError(f'class `Inner` in some/file.py: {error}')  # noqa: B904

    registry.register_module(module=Inner)
    registry.register_module(module=Outer)
    cfg = Config(dict(model=dict(type='Outer', inner=dict(type='Inner', sise=3))))
    with (
        pytest.raises(ConfigError, match=r"^model\.inner \(Inner\): .*'sise'; nearest: size"),
        building(cfg, 'x'),
    ):
        registry.build(cfg.model)


@pytest.mark.parametrize(
    ('norm', 'told'),
    [
        (dict(type='BNN'), r"^model\.backbone\.norm_cfg\.type: no model 'BNN' .*nearest: "),
        (dict(type='BN', momentun=1), r"norm_cfg \(BN\): unknown argument 'momentun'; .*momentum"),
    ],
)
def test_layers_that_mmcv_looks_up(norm, told):
    pytest.importorskip('mmpretrain')
    backbone = dict(type='ResNet', depth=18, norm_cfg=norm)
    model = dict(_scope_='mmpretrain', type='ImageClassifier', backbone=backbone)
    cfg = Config(dict(norm_cfg=norm, model=model))
    with pytest.raises(ConfigError, match=told), building(cfg, 'x'):
        MODELS.build(cfg.model)


def test_a_name_that_is_not_in_the_config_is_not_given_a_key_of_its_own():
    cfg = Config(dict(model=dict(type='mmpretrain.ImageClassifier', backbone=dict(type='x.Y'))))
    told = "^model: no model 'ClsDataPreprocessor' .*mmpretrain.ClsDataPreprocessor"
    with pytest.raises(ConfigError, match=told), building(cfg, 'x'):
        MODELS.build(cfg.model)


def test_kdmms_own_names_are_offered_with_their_scope():
    cfg = Config(dict(custom_hooks=[dict(type='RecalibrateBNHook')]))
    told = r'^custom_hooks\.0\.type: .*nearest: kdmm\.RecalibrateBNHook'
    with pytest.raises(ConfigError, match=told), building(cfg, 'x'):
        HOOKS.build(cfg.custom_hooks[0])
