"""Small cohorts of classifiers."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.distillers.hssakd.classifiers import batch, build, classifier_config, total

#: All of them between the places of a cohort.
TAPS = dict(logits='head.fc.out', embedding='head.fc.in')
MCL = dict(
    mcl=dict(
        type='MCLLoss', on='embedding', dim=8,
        weight=dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0),
    )
)  # fmt: skip
DML = dict(dml=dict(type='KDLoss', on='logits', temperature=2.0))
TRUNK = ['backbone.stem', 'backbone.stages.0']
LABELS = (0, 2, 0, 2)


def cohort(peers: Any = 2, student: dict[str, Any] | None = None, **section: Any) -> Any:
    """In train mode, with ``section`` as in a config; no losses between the networks by default."""
    if section.get('losses'):
        section.setdefault('taps', TAPS)
    return build('Cohort', student, peers=peers, **section).train()


def networks(model: Any) -> list[Any]:
    """By place."""
    others = list(model.kd.networks().values())
    return [*others[: model.kd.keep], model, *others[model.kd.keep :]]


def step(model: nn.Module, lr: float = 0.1, labels: tuple[int, ...] = LABELS) -> dict[str, Tensor]:
    """One of plain SGD; the losses."""
    model.zero_grad()
    losses = model(*batch(*labels), mode='loss')
    total(losses).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= lr * parameter.grad
    return losses


def calls(modules: dict[str, nn.Module]) -> dict[str, int]:
    """Count the calls of each from now on."""
    counted = dict.fromkeys(modules, 0)

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            counted[name] += 1

        return hook

    for name, module in modules.items():
        module.register_forward_hook(count(name))
    return counted


__all__ = [
    'DML', 'LABELS', 'MCL', 'TAPS', 'TRUNK', 'batch', 'calls', 'classifier_config', 'cohort',
    'networks', 'step', 'total',
]  # fmt: skip
