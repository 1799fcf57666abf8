"""Losses of relations within the batch, and VID, on any number of gloo ranks."""

from typing import Any

import torch
from oracles import gen
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from world import averaged, share

from kdmm.functional import all_gather_cat, collective
from kdmm.losses import CCLoss, DISTLoss, PKTLoss, RKDLoss, SPLoss, VIDLoss

IMAGES = 6
#: Loss by name and scope, and the channels of student and teacher.
LOSSES = {
    'sp': (lambda scope: SPLoss(scope=scope), (6, 9)),
    'sp, rows': (lambda scope: SPLoss('rows', scope), (6, 9)),
    'pkt': (lambda scope: PKTLoss(scope=scope), (6, 9)),
    'rkd': (lambda scope: RKDLoss(scope=scope), (6, 9)),
    'dist': (lambda scope: DISTLoss(2.0, scope=scope), (6, 6)),
}


def total(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else sum(found.values(), torch.zeros(()))


def features(channels: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return gen((IMAGES, channels[0]), 0.3), gen((IMAGES, channels[1]), 1.1)


def relation(name: str, scope: str) -> dict[str, Any]:
    """Mean of the ranks' values, and the images' gradients under DDP's mean."""
    make, channels = LOSSES[name]
    student, teacher = (share(x) for x in features(channels))
    student.requires_grad_()
    loss = total(make(scope)(student, teacher))
    (grad,) = torch.autograd.grad(loss, student)
    mean = collective.sum_over_ranks(loss) / collective.world_size()
    return dict(value=mean, grad=averaged(grad), each=all_gather_cat(loss[None]))


def training(loss: nn.Module, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> dict[str, Any]:
    """Parameters after three steps on this rank's images."""
    model: Any = loss.double()
    if collective.distributed():
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        pair = (share(gen((IMAGES, *shape), 0.3 + step)) for shape in shapes)
        optimizer.zero_grad()
        model(*pair).backward()
        optimizer.step()
    return {key: value.clone() for key, value in loss.state_dict().items()}


def everything() -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(
        {f'{name}, {scope}': relation(name, scope) for name in LOSSES
         for scope in ('global', 'local')},
        vid=training(VIDLoss(3, 5), ((3, 4, 4), (5, 4, 4))),
        cc=training(CCLoss(3, 5, dim=4), ((3,), (5,))),
    )  # fmt: skip
