"""Every role of HSSAKD on any number of gloo ranks: what a rank saw of losses and gradients."""

from pathlib import Path
from typing import Any

import torch.distributed as dist
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
