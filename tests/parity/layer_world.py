"""L-MCL's losses on any number of gloo ranks, the same global batches."""

from typing import Any

import torch
from bank_world import BATCHES, Ten, state_of
from oracles import gen
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from world import share

from kdmm.functional import collective, gather_images, gather_with_grad
from kdmm.losses import Batch, LMCLBankLoss, LMCLLoss, OwnedOptimizer

WEIGHTS = (0.1, 1.0, 0.1, 1.0)
#: By name, the losses that are those of one process.
LOSSES: dict[str, dict[str, Any]] = dict(
    batch=dict(),
    uniform=dict(matching='uniform'),
    bank=dict(negatives=6),
    published=dict(negatives=6, published_bank=True),
)
#: And the one that is not.
PROCESS = dict(scope='process')


class _Cohort(nn.Module):
    """Two networks of two and three stages."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.ModuleList(nn.Linear(5, width) for width in (4, 4, 3, 3, 3))
        channels, options = ((4, 4), (3, 3, 3)), dict(dim=4, **options)
        self.loss: Any
        if 'negatives' in options:
            self.loss = LMCLBankLoss(channels, 10, dtype='float64', **options)
            self.loss.see_dataset(Ten())
        else:
            self.loss = LMCLLoss(channels, **options)
        self.double()

    def forward(self, images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        found = [layer(images).tanh() for layer in self.body]
        context = [ids] if isinstance(self.loss, LMCLBankLoss) else []
        terms = self.loss([found[:2], found[2:]], labels, *context)
        return sum(
            (w * x for w, x in zip(WEIGHTS, terms.values(), strict=True)), labels.new_zeros(())
        )


def phase(made: _Cohort, batch: list[Tensor], owned: OwnedOptimizer) -> Tensor:
    """Train the matching by the loss behind one step of SGD: a small meta-optimisation."""
    trained = dict(made.named_parameters())
    trained = {name: p for name, p in trained.items() if 'matching' not in name}

    def run(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(made, values, tuple(batch))

    with owned.learning(), made.loss.differentiate_matching():
        grads = torch.autograd.grad(run(trained), list(trained.values()), create_graph=True)
        # the mean over ranks, as of DDP, through which the next gradient passes
        moved = {
            name: p - 0.05 * gather_with_grad(grad[None]).mean(0)
            for (name, p), grad in zip(trained.items(), grads, strict=True)
        }
        outer = run(moved)
        owned.step(outer)
    return outer.detach()


def training(**options: Any) -> dict[str, Any]:
    """Three steps of SGD with a phase behind each."""
    made = _Cohort(**options)
    model: Any = made
    owned = None
    if made.loss.matching is not None:
        owned = OwnedOptimizer(made.loss.matching, lambda p: torch.optim.SGD(p, 0.5))
    if collective.distributed():
        model = DistributedDataParallel(made, broadcast_buffers=False)
    trained = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    values = []
    for step, ids in enumerate(BATCHES):
        labels = torch.tensor(Ten.LABELS)[ids]
        batch = [share(x) for x in (gen((8, 5), step), labels, torch.tensor(ids))]
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.loss.after_step(Batch(None, ()))
        values.append(loss)
        if owned is not None:
            values.append(phase(made, batch, owned))
    mean = [collective.sum_over_ranks(x) / collective.world_size() for x in values]
    return dict(values=torch.stack(mean), state=state_of(made))


def curvature() -> dict[str, Tensor]:
    """First to third derivatives through a gather, of a loss that every rank computes whole."""
    x = share(gen((4, 3), 0.7)).requires_grad_()
    everything = gather_with_grad(x)
    loss = (everything.sin().prod(1).sum() ** 2) + (everything[0] * everything[-1]).sum() ** 3
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    first = first / collective.world_size()  # as of DDP
    weight = share(gen((4, 3), 1.1))
    (second,) = torch.autograd.grad((first.square() * weight).sum(), x, create_graph=True)
    (third,) = torch.autograd.grad((second * weight).sum(), x)
    return {key: gather_images(x) for key, x in dict(one=first, two=second, three=third).items()}


def everything() -> dict[str, Any]:
    return dict(
        **{name: training(**options) for name, options in LOSSES.items()},
        process=training(**PROCESS),
        curvature=curvature(),
    )
