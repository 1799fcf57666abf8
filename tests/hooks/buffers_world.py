"""Runs on two gloo ranks whose BatchNorm layers see different images."""

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook, Hook
from torch import Tensor

from kdmm.engine import Runner
from kdmm.hooks.buffers import common_values, differing
from kdmm.hooks.ownership import objective_in
from kdmm.registry import HOOKS
from tests.engine.tiny_run import KD, config, validated
from tests.ranks import on_ranks

EMA = dict(type='EMAHook', momentum=0.1)
ALL = dict(EMA, update_buffers=True)


def state_of(runner: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in runner.model.module.state_dict().items()}


@HOOKS.register_module(force=True)
class WatchHook(Hook):
    """Keeps what validation sees, and what training goes on with."""

    def before_train(self, runner: Any) -> None:
        runner.validated, runner.trained = [], []

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == 0:
            runner.validated.append(state_of(runner))

    def after_val(self, runner: Any) -> None:
        runner.trained.append(state_of(runner))


def trained(folder: Path, kd: Any = KD, every: int = 2, **changes: Any) -> dict[str, Any]:
    """Four iterations with a validation and a file every so many."""
    cfg = validated(config(folder, kd=kd, **changes), every)
    cfg.launcher, cfg.default_hooks.checkpoint.interval = 'pytorch', every
    cfg.custom_hooks = [dict(type='kdmm.WatchHook'), *cfg.get('custom_hooks', [])]
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (objective_in(runner.model) is None) == (kd is None)
    end = state_of(runner)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            end |= {f'average.{k}': v.clone() for k, v in hook.ema_model.state_dict().items()}
    return dict(validated=runner.validated, trained=runner.trained, end=end)


def pieces(rank: int) -> dict[str, Any]:
    """The parts of the hook on tensors of several kinds."""
    own = dict(
        third=torch.tensor([1 / 3, float(rank)]),
        half=torch.tensor([1.5, 2.0 * rank], dtype=torch.bfloat16),
        count=torch.tensor(7 + rank),
        flag=torch.tensor([bool(rank), True]),
        swapped=torch.tensor([rank, 1 - rank]),
        equal=torch.full((5,), 1 / 7),
        empty=torch.zeros(0),
    )
    names = differing(own)
    return dict(names=names, common=common_values({name: own[name] for name in names}))


@mock.patch('mmengine.runner.runner.collect_env', dict)
def everything(folder: Path) -> dict[str, Any]:
    resumed = dict(resume=True, load_from=str(folder / 'whole/iter_2.pth'))
    found = dict(
        whole=trained(folder / 'whole'),
        average=trained(folder / 'average', custom_hooks=[EMA]),
        buffers=trained(folder / 'buffers', custom_hooks=[ALL]),
        buffers_unseen=trained(folder / 'buffers_unseen', every=100, custom_hooks=[ALL]),
        unseen=trained(folder / 'unseen', every=100),
        plain=trained(folder / 'plain', kd=None),
    )
    dist.barrier()
    found['resumed'] = trained(folder / 'resumed', **resumed)
    resumed['load_from'] = str(folder / 'buffers/iter_2.pth')
    found['buffers_resumed'] = trained(folder / 'buffers_resumed', custom_hooks=[ALL], **resumed)
    found['pieces'] = pieces(dist.get_rank())
    return found


def on_two_ranks() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each rank's results, and the files of all runs by ``run/name``."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = on_ranks(everything, 2, Path(folder))
        files = {
            f'{path.parent.name}/{path.stem}': torch.load(path, weights_only=False)
            for path in Path(folder).glob('*/iter_*.pth')
        }
        return ranks, files
