"""Scenarios that give the same result on any number of ranks."""

from typing import Any

import torch
from oracles import gen, lab, naive_p2p, unit
from torch.nn.parallel import DistributedDataParallel

from kdmm.functional import (
    all_gather_cat,
    collective,
    gather_images,
    gather_with_grad,
    pixel_to_pixel_kl,
)
from kdmm.losses import CIRKDMemoryLoss
from kdmm.memory import ClassQueues, RowQueue

IMAGES = 4
SIZES = dict(pixel_size=70, region_size=7)  # wrap around within three steps


def share(x: torch.Tensor) -> torch.Tensor:
    """This rank's images of a global batch."""
    return x[collective.rank() :: collective.world_size()].clone()


def global_maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return gen((IMAGES, 6, 4, 6), 0.3), gen((IMAGES, 10, 4, 6), 1.1), lab(IMAGES, 8, 12, 3)


def averaged(grad: torch.Tensor) -> torch.Tensor:
    """This rank's image gradients under DDP's mean, collected in global order."""
    return gather_images(grad / collective.world_size())


def p2p(valid_only: bool) -> dict[str, Any]:
    student, teacher, labels = (share(x) for x in global_maps())
    student.requires_grad_()
    valid = labels[:, ::2, ::2] != 255 if valid_only else None
    loss = pixel_to_pixel_kl(student, teacher, chunk=7, scope='global', valid=valid)
    (grad,) = torch.autograd.grad(loss, student)
    mean = collective.sum_over_ranks(loss) / collective.world_size()
    return dict(value=mean, grad=averaged(grad))


def whole_loss_on_every_rank() -> dict[str, Any]:
    student, teacher, _ = (share(x) for x in global_maps())
    student.requires_grad_()
    loss = naive_p2p(gather_with_grad(student), all_gather_cat(teacher))
    (grad,) = torch.autograd.grad(loss, student)
    return dict(value=loss.detach(), grad=averaged(grad))


def local_slice(x: torch.Tensor) -> torch.Tensor:
    """The mistake: keep this rank's part of the gradient and forget what the others owe."""
    return x.chunk(collective.world_size())[collective.rank()]


def mutated(scenario: Any, *args: Any) -> dict[str, Any]:
    original = collective.reduce_scatter_sum
    collective.reduce_scatter_sum = local_slice
    try:
        return scenario(*args)
    finally:
        collective.reduce_scatter_sum = original


def queues(mode: str, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    store = ClassQueues(3, 10, **SIZES, mode=mode, dtype=dtype)
    states = []
    for step in range(3):
        features = unit(gen((IMAGES, 96, 10), 0.4 + step), 2)
        labels = lab(IMAGES, 8, 12, 3).flatten(1).roll(step, 1)
        store.enqueue(share(features), share(labels))
        keys = store.draw(5, 2)
        state = {k: v.clone() for k, v in store.state_dict().items()}
        states.append(dict(state, keys=keys.rows, mask=keys.mask))
    return states


def row_queue() -> list[dict[str, torch.Tensor]]:
    """Three steps of six out of 40 rows into 14 slots."""
    store = RowQueue(14, 6, torch.float64)
    states = []
    for step in range(3):
        store.enqueue(share(unit(gen((IMAGES, 10, 7), 0.4 + step), 2)))
        state = {k: v.clone() for k, v in store.state_dict().items()}
        states.append(dict(state, keys=store.draw(5)[0]))
    return states


class _Terms(torch.nn.Module):
    """Module for DDP whose forward is the sum of the parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loss = CIRKDMemoryLoss(
            6, 10, 3, **SIZES, queue_dtype='float64', denominator='global', norm_cfg=None
        ).double()

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return sum(self.loss(*args).values())


def memory() -> dict[str, Any]:
    """Two steps with images 1 and 3 wholly ignored: with two ranks, all that rank 1 has."""
    model = _Terms()
    if collective.distributed():
        model = DistributedDataParallel(model, broadcast_buffers=False)
    student, teacher, labels = global_maps()
    labels[1::2] = 255
    for _ in range(2):
        model.zero_grad()
        loss = model(share(student), share(teacher), share(labels))
        loss.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    return dict(value=collective.sum_over_ranks(loss) / collective.world_size(), grads=grads)


def everything() -> dict[str, Any]:
    return dict(
        p2p=p2p(False),
        p2p_valid=p2p(True),
        p2p_mutated=mutated(p2p, False) if collective.distributed() else None,
        whole=whole_loss_on_every_rank(),
        whole_mutated=mutated(whole_loss_on_every_rank) if collective.distributed() else None,
        queues_class=queues('class', torch.float64),
        queues_legacy=queues('legacy', torch.float64),
        queues_half=queues('class', torch.float16),
        row_queue=row_queue(),
        memory=memory(),
    )
