"""Steps in which ranks have different numbers of images, and the same images on one rank."""

from typing import Any

import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from oracles import gen, unit
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from kdmm.datasets.batches import may_be_uneven
from kdmm.functional import collective, mutual_contrast, pixel_to_pixel_kl
from kdmm.functional.collective import expect_uneven
from kdmm.memory import ClassQueues, InstanceBank, RowQueue

#: Images of all ranks together; dealt as MMEngine's samplers do.
BATCHES = (3, 2, 5)


def share(x: Tensor) -> Tensor:
    return x[collective.rank() :: collective.world_size()].clone()


def mean(value: Tensor) -> Tensor:
    return collective.sum_over_ranks(value) / collective.world_size()


def dealt(mine: Tensor, images: int) -> Tensor:
    """The gradients of all images, as DDP's mean has them."""
    full = mine.new_zeros(images, *mine.shape[1:])
    full[collective.rank() :: collective.world_size()] = mine
    return mean(full)


def relations() -> list[tuple[Tensor, Tensor]]:
    """Value and gradient of the pairs of pixels, without and with a mask."""
    found = []
    for images in BATCHES:
        for masked in (False, True):
            maps = share(gen((images, 4, 3, 3), images)).requires_grad_()
            valid = share(gen((images, 3, 3), 0.7 * images) > -0.3) if masked else None
            teacher = share(gen((images, 5, 3, 3), 0.2 + images))
            loss = pixel_to_pixel_kl(maps, teacher, scope='global', valid=valid)
            (grad,) = torch.autograd.grad(loss, maps)
            found.append((mean(loss.detach()), dealt(grad, images)))
    return found


def contrasts() -> list[tuple[Tensor, Tensor]]:
    found = []
    for images in BATCHES:
        rows = share(unit(gen((images, 2, 4), images), 2)).requires_grad_()
        labels = collective.all_gather_cat(share(torch.arange(images) % 2))
        everyones = collective.gather_with_grad(rows).transpose(0, 1)
        loss = torch.stack(list(mutual_contrast(everyones, labels))).sum()
        (grad,) = torch.autograd.grad(loss, rows)
        found.append((mean(loss.detach()), dealt(grad, images)))
    return found


def memories() -> dict[str, dict[str, Tensor]]:
    stores = dict(
        bank=InstanceBank(2, 10, 4), queues=ClassQueues(3, 4, 8, 4), rows=RowQueue(40, per_step=7)
    )
    for images in BATCHES:
        embeddings = share(unit(gen((images, 2, 4), images), 2)).transpose(0, 1)
        stores['bank'].remember(share(torch.arange(images) * 3 % 10), embeddings)
        stores['bank'].after_step()
        labels = share(torch.arange(images * 9).view(images, 9) % 4)
        stores['queues'].enqueue(share(unit(gen((images, 9, 4), 1.5 + images), 2)), labels)
        stores['rows'].enqueue(share(gen((images, 3, 6), 2.5 + images)))
    return {name: store.state_dict() for name, store in stores.items()}


def shapes_that_do_not_fit() -> str:
    try:
        collective.all_gather_cat(torch.zeros(2, 3 + collective.rank()))
    except ValueError as error:
        return str(error)
    return ''


def answers() -> dict[str, bool]:
    """Answers of loaders about their batches."""
    five = range(5)

    def loader(sampler: Any, **changes: Any) -> bool:
        return may_be_uneven(DataLoader(five, **{'batch_size': 2, **changes}, sampler=sampler))

    odd = DefaultSampler(five, round_up=False)
    by_ratio = type('ByRatio', (BatchSampler,), {})(DefaultSampler(five), 2, False)
    return dict(
        odd=loader(odd),
        dropped=loader(odd, drop_last=True),
        rounded=loader(DefaultSampler(five)),
        endless=loader(InfiniteSampler(five)),
        own=may_be_uneven(DataLoader(five, batch_sampler=by_ratio)),
        single=loader(odd, batch_size=None),
    )


def everything() -> dict[str, Any]:
    expect_uneven(True)
    try:
        return dict(
            relations=relations(),
            contrasts=contrasts(),
            memories=memories(),
            refusal=shapes_that_do_not_fit(),
            answers=answers(),
        )
    finally:
        expect_uneven(False)
