"""Small MoCos, what they are shown, and the same steps on any number of gloo ranks."""

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdmm.functional import collective
from tests.models.backbones.networks import fix

TAU, MOMENTUM = 0.2, 0.1
BATCH_NORM = dict(type='kdmm.CIFARResNet', depth=8, block='basic', widths=(4, 4, 4, 8))
GROUP_NORM = dict(
    type='mmpretrain.ResNet_CIFAR',
    depth=18,
    stem_channels=4,
    base_channels=1,
    norm_cfg=dict(type='GN', num_groups=1),
)


def moco_config(backbone: dict[str, Any] = BATCH_NORM, **changes: Any) -> dict[str, Any]:
    """Rows of length 5, a queue of 12."""
    return (
        dict(
            type='mmpretrain.MoCo',
            queue_len=12,
            feat_dim=5,
            momentum=MOMENTUM,
            backbone=dict(backbone),
            neck=dict(
                type='mmpretrain.LinearNeck',
                in_channels=8,
                out_channels=5,
                gap_dim=2,
                norm_cfg=None,
            ),
            head=dict(
                type='mmpretrain.ContrastiveHead',
                loss=dict(type='mmpretrain.CrossEntropyLoss'),
                temperature=TAU,
            ),
        )
        | changes
    )


def build(student: dict[str, Any] | None = None, **section: Any) -> Any:
    """A cohort in double precision, in training."""
    made = MODELS.build(dict(type='kdmm.MCLMoCo', student=student or moco_config(), **section))
    made.init_weights()
    return made.double().train()


def views(images: int = 4, step: int = 0) -> list[Tensor]:
    """(B, 3, 8, 8), twice."""
    return [fix((images, 3, 8, 8), 10 * step + view) for view in (1, 2)]


def total(losses: dict[str, Tensor]) -> Tensor:
    """The total that MMEngine adds up."""
    return torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all its tensors."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def training(backbone: dict[str, Any]) -> dict[str, Any]:
    """Four steps of SGD on the same global batches; each rank draws random numbers of its own."""
    torch.manual_seed(0)
    made = build(moco_config(backbone))
    if collective.distributed():
        torch.manual_seed(collective.rank())
        made.queue.copy_(torch.randn_like(made.queue) if collective.rank() else made.queue)
    model = DistributedDataParallel(made) if collective.distributed() else made
    optimizer = torch.optim.SGD(made.parameters(), 0.1, momentum=0.9)
    seen: list[Tensor] = []
    for net in (made, *made.kd.networks().values()):
        net.encoder_k.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    values = []
    for step in range(4):
        torch.manual_seed(100 * collective.rank() + step)
        shared = [view[collective.rank() :: collective.world_size()] for view in views(4, step)]
        losses = model(shared, None, mode='loss')
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        values.append(collective.sum_over_ranks(total(losses)) / collective.world_size())
    return dict(values=torch.stack(values), state=snapshot(made), seen=torch.stack(seen))


def everything() -> dict[str, Any]:
    """With a norm that acts on each image, and with one that acts on a rank's batch."""
    return dict(group=training(GROUP_NORM), batch=training(BATCH_NORM))
