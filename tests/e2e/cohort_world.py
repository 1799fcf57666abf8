"""Cohorts on any number of gloo ranks: what a rank saw of losses, gradients and metrics."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.e2e.hssakd_world import GROUP_NORM, watched

TAPS = dict(logits='head.fc.out', embedding='head.fc.in')
MCL = dict(
    type='MCLLoss', on='embedding', dim=8, tau=0.5,
    weight=dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0),
)  # fmt: skip
DML = dict(type='KDLoss', on='logits')
OKDDIP = dict(type='OKDDipLoss', on=['logits', 'embedding'])
CL = dict(type='EnsembleKDLoss', on='logits', learners='all', target='others')
LAYERS = dict(MCL, type='LMCLLoss', on='stages')
TRUNK = [f'backbone.{name}' for name in ('conv1', 'gn1', 'relu', 'layer1', 'layer2')]
LATER = dict(type='Linear', start=0.0, stop=1.0, begin=1, end=2)
KINDS: dict[str, dict[str, Any]] = dict(
    mcl=dict(peers=3, losses=dict(mcl=MCL)),
    trunk=dict(peers=2, trunk=TRUNK, losses=dict(mcl=MCL, dml=DML)),
    later=dict(
        peers=2,
        losses=dict(mcl=dict(MCL, weight=dict(vcl=LATER, icl=LATER)), dml=dict(DML, weight=LATER)),
    ),
    layers=dict(
        type='LMCL',
        peers=2,
        branches=dict(stages='inner', blocks=1),
        meta=dict(every=2),
        losses=dict(mcl=LAYERS),
    ),
    unrolled_layers=dict(
        type='LMCL',
        peers=2,
        branches=dict(stages=[1], blocks=1),
        losses=dict(mcl=LAYERS),
        meta=dict(every=3, steps=1, form='unrolled'),
    ),
    online=dict(peers=3, trunk=TRUNK, trunk_gradient='mean', losses=dict(okddip=OKDDIP, cl=CL)),
)


def everything(data: Path, folder: Path) -> dict[str, Any]:
    """Three iterations of 2 classes x 2 images of each kind."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    sampler = dict(_delete_=True, type='kdmm.PKSampler', classes_per_batch=2 // world)
    sampler['samples_per_class'] = 2
    found = {}
    for kind, section in KINDS.items():
        kd = {**dict(type='Cohort', taps=TAPS), **section}
        options: Any = dict(backbone=GROUP_NORM, train_dataloader__sampler=sampler)
        run, seen = watched(kd, data, folder / kind, **options)
        inner = run.model.module if dist.is_initialized() else run.model
        found[kind] = dict(seen, state=dict(inner.state_dict()))
    return found
