"""VID's regressors and CC's embeddings: trained with the student, resumed, in no student's file."""

from types import SimpleNamespace
from typing import Any

import torch

from kdmm.checkpoints import ENTRY
from kdmm.distillers import distill
from kdmm.engine import Runner
from kdmm.hooks.ownership import objective_of
from tests.distillers.tiny_models import CLASSES, build, images, tiny
from tests.engine.tiny_run import KD, config, runner

VID = dict(
    vid=dict(type='VIDLoss', on=['body', 'early'], connector=dict(type='Pool')),
    nst=dict(type='NSTLoss', on=['body', 'early'], connector=dict(type='Pool')),
)
TAPS = dict(body='body.out', early='stem.0.out')


def load(path: Any) -> dict[str, Any]:
    return torch.load(path, weights_only=False)


def trained(tmp_path: Any, name: str, **options: Any) -> Runner:
    losses = dict(_delete_=True, **VID)
    made = runner(tmp_path / name, kd__losses=losses, kd__taps=TAPS, **options)
    made.train()
    return made


def test_vid_in_a_run(tmp_path):
    """Two taps of 4 channels in the student and 6 in the teacher."""
    run = trained(tmp_path, 'whole')
    loss = objective_of(run.model).terms['vid'].loss
    assert [r.mean[0].weight.shape for r in loss.regressors] == [(6, 4, 1, 1)] * 2
    updated = {id(p) for group in run.optim_wrapper.param_groups for p in group['params']}
    assert {id(p) for p in loss.parameters()} <= updated
    first, last = (load(tmp_path / f'whole/iter_{step}.pth') for step in (2, 4))
    assert list(last['state_dict']) == list(build(tiny()).state_dict())
    keys = {f'terms.vid.loss.{key}' for key in loss.state_dict()}
    assert len(keys) == 8 and set(last[ENTRY]) == keys  # NST has none
    assert all(not torch.equal(first[ENTRY][key], last[ENTRY][key]) for key in keys)
    assert loss.logged['variance'] < 5


def test_vid_is_resumed_to_the_bit(tmp_path):
    whole = trained(tmp_path, 'whole')
    trained(tmp_path, 'half', iters=2)
    cfg = config(tmp_path / 'half', kd=dict(KD, taps=TAPS, losses=VID))
    cfg.load_from, cfg.resume = str(tmp_path / 'half/iter_2.pth'), True
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    assert resumed.iter == 4
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_cc_learns_both_embeddings():
    classifier = dict(type='kdmm.TinyClassifier')
    model = distill(
        classifier,
        teacher=dict(model=dict(classifier, width=6), random=True),
        taps=dict(pooled='head.in'),
        losses=dict(cc=dict(type='CCLoss', on='pooled', dim=5, weight=0.02)),
        probe_size=(16, 16),
    ).train()
    loss = model.kd.terms['cc'].loss
    assert (loss.student_embedding.in_features, loss.teacher_embedding.in_features) == (4, 6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    samples = [SimpleNamespace(gt_label=torch.tensor([k % CLASSES])) for k in range(4)]
    found = model(images(4), samples, mode='loss')
    sum(value for name, value in found.items() if 'loss' in name).backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        assert not torch.equal(before[key], value), key
    assert {'kd.cc_student_norm', 'kd.cc_teacher_norm'} <= set(model.kd.diagnostics())
    assert 'kd.terms.cc.loss.teacher_embedding.weight' in before
