"""A distilled student whose weights are measured, on any number of gloo ranks."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from world import share

from kdmm.distillers import Progress, distill
from kdmm.functional import collective
from tests.distillers.tiny_models import build, images, samples, tiny

IMAGES = 4
LOSSES = dict(
    kd=dict(type='KDLoss', on='logits', weight=dict(type='Auto', share=0.3, iterations=3)),
    parts=dict(type='Parts', on='body', weight=dict(one='auto:0.1', two=0.5)),
    gone=dict(type='Parts', on='body', weight=dict(type='StopAt', value=1.0, end=2)),
    both=dict(type='Paired', on=['body', 'logits'], connector=dict(type='Projection')),
)


def student() -> nn.Module:
    """Without what acts per process: batch normalisation and dropout."""
    torch.manual_seed(0)
    plain = build(tiny())
    plain.stem[1], plain.stem[3] = nn.Identity(), nn.Identity()
    return distill(
        plain,
        teacher=dict(model=tiny(6), random=True),
        taps=dict(logits='head.out', body='body.out'),
        losses=LOSSES,
        probe_size=(16, 16),
    ).train()


def steps(count: int = 5) -> dict[str, Any]:
    """Weights and shares of every step, and the student's weights at the end.

    The fourth step waits for the fifth, as in gradient accumulation; 'gone' is idle from the third.
    """
    made = student()
    model = made
    if collective.distributed():
        model = DistributedDataParallel(made, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    found: list[dict[str, torch.Tensor]] = []
    for step in range(count):
        x, batch = images(IMAGES, seed=step), samples(IMAGES, seed=step)
        made.kd.set_progress(Progress(step))
        made.kd.measure_next = step > 0
        waits = step == 3
        with model.no_sync() if waits and model is not made else nullcontext():
            own = batch[collective.rank() :: collective.world_size()]
            losses = model(share(x), own, mode='loss')
            sum(losses.values()).backward()
        if not waits:
            optimizer.step()
            optimizer.zero_grad()
        entries = {f'share {item.label}': item.share for item in made.kd.shares}
        for name, term in made.kd.terms.items():
            for part in term.parts:
                entries[f'weight {name} {part}'] = term.weights.now(part)
        found.append({key: torch.as_tensor(value).clone() for key, value in entries.items()})
    state = {key: value.clone() for key, value in made.state_dict().items()}
    return dict(steps=found, state=state)
