"""The adversarial term on any number of ranks: three steps of a tiny student under DDP."""

from typing import Any
from unittest import mock

import torch
from oracles import gen
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdmm.functional import collective
from kdmm.losses import AdversarialLoss, Batch, base

CLASSES = 5


class Student(nn.Module):
    """Network with the term inside, as DDP wraps it."""

    def __init__(self, norm_cfg: Any) -> None:
        super().__init__()
        torch.manual_seed(collective.rank())  # DDP must make the ranks equal
        self.net = nn.Conv2d(3, CLASSES, 1)
        self.loss = AdversarialLoss(CLASSES, width=8, norm_cfg=norm_cfg)
        self.double()

    def forward(self, images: Tensor, teacher: Tensor) -> Tensor:
        return self.loss(self.net(images), teacher)


def train(norm_cfg: Any, twins: bool) -> dict[str, Any]:
    """Four images a step, dealt to the ranks; ``twins``: such that every rank gets the same."""
    model: nn.Module = Student(norm_cfg)
    inner = model
    if collective.distributed():
        model = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    for step in range(3):
        images, teacher = gen((4, 3, 64, 64), 0.3 + step), 2 * gen((4, CLASSES, 64, 64), 1.1 + step)
        if twins:
            images, teacher = (x[[0, 0, 1, 1]] for x in (images, teacher))
        rank, size = collective.rank(), collective.world_size()
        optimizer.zero_grad()
        model(images[rank::size], teacher[rank::size]).backward()
        optimizer.step()
        inner.loss.after_step(Batch(None, ()))
    flags = [p.requires_grad for p in inner.loss.parameters()]
    state = inner.state_dict()
    for index, moments in state.pop('loss.optimizer._extra_state')['state'].items():
        state.update({f'{key}.{index}': value for key, value in moments.items()})
    return dict(state=state, frozen=not any(flags))


def unreduced() -> dict[str, Any]:
    """The reference's mistake: every rank trains its own discriminator."""
    with mock.patch.object(base, 'mean_over_ranks', lambda x: x):
        return train(None, twins=False)


def everything() -> dict[str, Any]:
    return dict(
        none=train(None, twins=False),
        batch_norm=train(dict(type='BN'), twins=True),
        rank_local_norm=train(dict(type='BN'), twins=False),
        unreduced=unreduced(),
    )
