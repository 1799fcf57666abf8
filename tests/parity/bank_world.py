"""Instance banks and their losses on any number of gloo ranks, the same global batches."""

from typing import Any

import torch
from oracles import gen, unit
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from world import share

from kdmm.functional import collective
from kdmm.losses import BankLoss, Batch, CRDLoss, MCLBankLoss, MCLOKDLoss
from kdmm.memory import InstanceBank
from tests.datasets.labelled import LabelsOnly

#: Ways in which CRD draws and scales.
CRD: dict[str, dict[str, Any]] = dict(
    exact=dict(),
    relax=dict(mode='relax', percent=0.7, z_mode='batch', eps=1e-7),
    distinct=dict(replace=False, negatives=4),
    unlabelled=dict(mode='unlabelled', dense=False),
)
#: Rows of one global batch each; images come twice, on one rank, on two ranks and in two batches.
BATCHES = ([5, 3, 5, 5, 1, 3, 0, 7], [2, 2, 9, 4, 4, 5, 6, 8], [1, 0, 3, 1, 9, 9, 9, 3])


class Ten(LabelsOnly):
    METAINFO = dict(classes=('a', 'b', 'c'))
    LABELS = [0, 1, 2, 0, 0, 1, 0, 2, 0, 0]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def banks(dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """The banks after each of two steps; the second has two batches."""
    store = InstanceBank(2, 10, 4, dtype=dtype)
    states = []
    for steps in ((0,), (1, 2)):
        for step in steps:
            rows = unit(gen((8, 2, 4), 0.3 + step), 2)
            store.remember(share(torch.tensor(BATCHES[step])), share(rows).transpose(0, 1))
        store.after_step()
        noise = collective.gather_images(store.noise(8 // collective.world_size(), 5))
        states.append(dict(state_of(store), noise=noise))
    return states


#: The losses with a bank each of two networks.
LOSSES: dict[str, tuple[type[BankLoss], dict[str, Any]]] = dict(
    mcl=(MCLBankLoss, dict(negatives=6)),
    okd=(MCLOKDLoss, dict(negatives=6, tau=0.3)),
    okd_distinct=(MCLOKDLoss, dict(negatives=4, tau=0.3, replace=False, mode='relax')),
)


class _Sum(nn.Module):
    """Module for DDP whose forward is the sum of the parts."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind, options = LOSSES[name]
        self.body = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 7)])
        self.loss = kind((3, 7), num_samples=10, dtype='float64', dim=4, **options)
        self.double().loss.see_dataset(Ten())

    def forward(self, images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        found = self.loss([net(images) for net in self.body], labels, ids)
        return found if isinstance(found, Tensor) else torch.stack([*found.values()]).sum()


class _Distilled(nn.Module):
    """A student whose teacher is a constant function of the images."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(5, 3)
        self.loss = CRDLoss(3, 5, 10, **dict(dict(negatives=6, dtype='float64', dim=4), **options))
        self.double().loss.see_dataset(Ten())

    def forward(self, images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        return self.loss(self.body(images), images.square(), ids, labels)


def training(made: Any) -> dict[str, Any]:
    """Three steps of SGD, whose losses see the banks of the steps before."""
    model = made
    if collective.distributed():
        model = DistributedDataParallel(made, broadcast_buffers=False)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
    values = []
    for step, ids in enumerate(BATCHES):
        labels = torch.tensor(Ten.LABELS)[ids]
        loss = model(share(gen((8, 5), step)), share(labels), share(torch.tensor(ids)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.loss.after_step(Batch(None, ()))
        values.append(collective.sum_over_ranks(loss) / collective.world_size())
    return dict(values=torch.stack(values).detach(), state=state_of(made))


def everything() -> dict[str, Any]:
    dtypes = dict(double=torch.float64, single=torch.float32, half=torch.float16)
    return dict(
        **{name: banks(dtype) for name, dtype in dtypes.items()},
        **{name: training(_Sum(name)) for name in LOSSES},
        **{name: training(_Distilled(**options)) for name, options in CRD.items()},
    )
