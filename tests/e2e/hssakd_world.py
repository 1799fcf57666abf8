"""Every role of HSSAKD on any number of gloo ranks: what a rank saw of losses and gradients."""

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from torch import Tensor

from tests.e2e.tiny_hssakd import MMPRETRAIN, SMALL, Run, classifier, config, train

#: Batch normalisation acts per process; MMPretrain's ResNet has branches of its own norm.
GROUP_NORM = dict(MMPRETRAIN, norm_cfg=dict(type='GN', num_groups=2))
TEACHER = dict(model=dict(classifier(GROUP_NORM), _scope_='mmpretrain'), random=True)
ROLES: dict[str, dict[str, Any]] = dict(
    frozen=dict(type='HSSAKDTeacher', random=True),
    joint=dict(type='HSSAKDTeacher', joint=True, evaluate_branches=True),
    student=dict(type='HSSAKD', teacher=TEACHER),
    online=dict(type='HSSAKDOnline'),
)


class Watch(Hook):
    """Keeps the losses of each iteration, and the gradients that the optimizer is given."""

    def __init__(self) -> None:
        self.losses: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def before_train(self, runner: Any) -> None:
        model = runner.model.module if runner.distributed else runner.model

        def keep(*_: Any) -> None:
            own = model.named_parameters()
            self.gradients.append({k: p.grad.clone() for k, p in own if p.grad is not None})

        runner.optim_wrapper.optimizer.register_step_pre_hook(keep)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.losses.append({key: value.detach().clone() for key, value in outputs.items()})


def watched(kd: dict[str, Any], data: Path, work_dir: Path, **options: Any) -> tuple[Run, Any]:
    """An epoch of three iterations; the run, and what was seen."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    watch = Watch()
    cfg = config(
        data,
        work_dir,
        kd,
        epochs=1,
        launcher='pytorch' if world > 1 else 'none',
        train_dataloader__batch_size=4 // world,
        param_scheduler=None,
        default_hooks__checkpoint__save_best=None,
        **options,
    )
    run = train(cfg, watch)
    metrics = {
        key: float(value.current())
        for key, value in run.runner.message_hub.log_scalars.items()
        if key.startswith('val/') and not key.endswith('time')
    }
    return run, dict(losses=watch.losses, gradients=watch.gradients, metrics=metrics)


def everything(data: Path, folder: Path) -> dict[str, Any]:
    """Of all roles; and with batch normalisation what is written besides."""
    found = {
        role: watched(kd, data, folder / role, backbone=GROUP_NORM)[1] for role, kd in ROLES.items()
    }
    kd = dict(type='HSSAKDTeacher', joint=True)
    as_they_are = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    for name, checkpointing in (('kept', False), ('recomputed', True)):
        options = dict(kd, checkpointing=checkpointing)
        run, seen = watched(
            options,
            data,
            folder / name,
            backbone=SMALL,
            train_dataloader__dataset__pipeline=as_they_are,
        )
        inner = run.model.module if dist.is_initialized() else run.model
        found[name] = dict(seen, state=dict(inner.state_dict()))
    return found


def _rank(rank: int, world: int, data: str, folder: str, port: str) -> None:
    torch.set_num_threads(1)
    names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world)
    os.environ.update({key: str(value) for key, value in names.items()})
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    dist.init_process_group('gloo')
    torch.save(everything(Path(data), Path(folder)), f'{folder}/{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


def on_two_ranks(data: Path, folder: Path) -> list[dict[str, Any]]:
    """Each rank's results."""
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
        port = store.port
        del store
        mp.get_context('forkserver').set_forkserver_preload(['tests.e2e.hssakd_world'])
        mp.start_processes(
            _rank, (2, str(data), str(folder), str(port)), nprocs=2, start_method='forkserver'
        )
    return [torch.load(folder / f'{rank}.pt', weights_only=True) for rank in range(2)]
