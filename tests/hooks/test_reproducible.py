import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner as BaseRunner

from kdmm.datasets import SeededDataset
from kdmm.datasets.seeded import stream_of
from kdmm.hooks import StepSeedHook
from kdmm.registry import HOOKS
from tests.engine.tiny_run import TinyData, by_epoch, config


def draws(**changes: int) -> tuple[float, float, float]:
    fake = SimpleNamespace(**{**dict(seed=1, iter=5, rank=0), **changes})
    random.random(), np.random.rand(), torch.rand(3)  # whatever was drawn before
    StepSeedHook().before_train_iter(fake, 0)
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_the_same_step_draws_the_same():
    assert draws() == draws()


def test_seed_iteration_and_rank_count_for_every_generator():
    seen = [draws(), draws(seed=2), draws(iter=6), draws(rank=1), draws(seed=5, iter=1)]
    for generator in zip(*seen, strict=True):
        assert len(set(generator)) == len(seen)


def test_it_runs_before_other_hooks():
    assert StepSeedHook.priority == 'VERY_HIGH'


# data that hooks change


@HOOKS.register_module(force=True)
class RebuildHook(Hook):
    """As MMPose's YOLOXPoseModeSwitchHook: MMEngine's own Runner builds a loader, without seed."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before_train_epoch(self, runner) -> None:
        if self.at == runner.epoch:
            runner.train_loop.dataloader = BaseRunner.build_dataloader(runner.cfg.train_dataloader)

    def after_train_iter(self, runner, *_, **__) -> None:
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator') and self.at == runner.iter:
            loop.dataloader = BaseRunner.build_dataloader(runner.cfg.train_dataloader)
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
            iter(loop.dataloader)


@HOOKS.register_module(force=True)
class SeesHook(Hook):
    """Keeps what the network is given."""

    def before_train(self, runner) -> None:
        runner.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        runner.seen.append(torch.stack(list(data_batch['inputs'])))


def ran(cfg, *hooks: dict, noise: int = 0):
    cfg.custom_hooks = [*hooks, dict(type='kdmm.SeesHook')]
    np.random.seed(noise)  # whatever ran before
    made = BaseRunner.from_cfg(cfg)
    made.train()
    return made


def with_workers(cfg):
    """Those of the hook's loader have begun with its data set as it was."""
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    return cfg


@pytest.mark.parametrize('change', [by_epoch, lambda cfg: cfg, with_workers])
def test_a_loader_that_a_hook_builds_goes_on_with_the_stream(tmp_path, change):
    """As if the run had kept its own loader, whatever drew numbers before."""
    whole = ran(change(config(tmp_path / 'a')))
    switched = ran(change(config(tmp_path / 'b')), dict(type='kdmm.RebuildHook', at=1), noise=5)
    stream = stream_of(switched.train_loop.dataloader)
    assert stream is not None and stream is not stream_of(whole.train_loop.dataloader)
    assert isinstance(switched.train_loop.dataloader.dataset, SeededDataset)
    assert len(whole.seen) == len(switched.seen)
    for first, second in zip(whole.seen, switched.seen, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(whole.seen[0], whole.seen[-1])


def test_without_the_section_a_hooks_loader_is_left_alone(tmp_path):
    cfg = by_epoch(config(tmp_path, kd=None))
    made = ran(cfg, dict(type='kdmm.RebuildHook', at=1))
    assert stream_of(made.train_loop.dataloader) is None
    assert type(made.train_loop.dataloader.dataset) is TinyData


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
def test_the_base_libraries_pipeline_switches_arrive(tmp_path, monkeypatch, library):
    """From the second epoch on the network sees what the second pipeline gives."""
    module = pytest.importorskip(f'{library}.engine.hooks')
    monkeypatch.setattr(TinyData, 'pipeline', staticmethod(lambda image: image), raising=False)
    drawn = TinyData.__getitem__

    def piped(self, index):
        item = drawn(self, index)
        return dict(item, inputs=self.pipeline(item['inputs']))

    monkeypatch.setattr(TinyData, '__getitem__', piped)
    zeros = [torch.zeros_like]
    if library == 'mmdet':
        hook = module.PipelineSwitchHook(switch_epoch=1, switch_pipeline=zeros)
    else:
        hook = module.SwitchRecipeHook([dict(action_epoch=2, train_pipeline=zeros)])
    cfg = by_epoch(config(tmp_path))
    cfg.custom_hooks = [dict(type='kdmm.SeesHook')]
    made = BaseRunner.from_cfg(cfg)
    made.register_hook(hook)
    made.train()
    assert [bool(batch.any()) for batch in made.seen] == [True] * 4 + [False] * 4


def test_a_loader_that_is_given_built(tmp_path):
    cfg = config(tmp_path / 'a', iters=2)
    loader = BaseRunner.build_dataloader(cfg.train_dataloader, seed=9)
    cfg.custom_hooks = [dict(type='kdmm.SeesHook')]
    made = BaseRunner(
        cfg.model, str(tmp_path / 'a'), loader, train_cfg=cfg.train_cfg, cfg=cfg,
        optim_wrapper=cfg.optim_wrapper, custom_hooks=cfg.custom_hooks, randomness=cfg.randomness,
    )  # fmt: skip
    made.train()
    for first, second in zip(made.seen, ran(config(tmp_path / 'b', iters=2)).seen, strict=True):
        assert torch.equal(first, second)
