"""Everything that the segmentation losses keep (connectors, a discriminator with its optimizer, a
queue of channels) is resumed to the bit on two ranks, and is in no student's file."""

import torch

from tests.e2e.job import Job, assert_same

FAMILY = """
_base_ = './kd.py'
custom_hooks = [dict(type='AccidentHook')]
connector = dict(type='Projection', bias=False)
kd = dict(losses=dict(
    _delete_=True,
    fitnet=dict(type='FitNetLoss', on='pixels', connector=connector),
    cwd=dict(type='CWDLoss', on='pixels', connector=connector),
    ifvd=dict(type='IFVDLoss', on='pixels'),
    skd=dict(type='SKDLoss', on='pixels'),
    csd=dict(type='CSDLoss', on='logits'),
    psd=dict(type='PSDLoss', on=['pixels', 'logits'], reduction='image'),
    channel=dict(type='CIRKDChannelLoss', on='pixels', pool=2, queue_size=40, per_step=16, keys=20,
                 weight=dict(batch=1.0, mse=100.0, memory=0.1)),
    adv=dict(type='AdversarialLoss', on='logits', width=8, weight=0.1,
             connector=dict(type='Resize', to=(64, 64)))))
"""


def test_killed_and_resumed_equals_uninterrupted(job: Job) -> None:
    (job.root / 'family.py').write_text(FAMILY)
    size = ('--cfg-options', 'train_dataloader.batch_size=2')
    job.train('family.py', 'family_whole', *size, processes=2)
    died = job.train('family.py', 'family_killed', *size, processes=2, check=False, E2E_KILL_AT='6')
    assert died.returncode != 0
    job.train('family.py', 'family_killed', '--resume', *size, processes=2)

    whole, resumed = (job.checkpoint(name, 8) for name in ('family_whole', 'family_killed'))
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(whole[entry], resumed[entry], entry)
    kept = whole['kdmm']
    adam = kept['terms.adv.loss.optimizer._extra_state']['state'][0]
    assert adam['step'] == 8 and adam['exp_avg'].any()
    assert kept['terms.channel.loss.queue.step'] == 8
    assert {'terms.fitnet.connector.conv.weight', 'terms.cwd.connector.conv.weight'} <= set(kept)
    assert set(whole['state_dict']) == set(student_keys(job))
    first = torch.load(job.root / 'family_whole/iter_4.pth', weights_only=False)['kdmm']
    for key in ('terms.adv.loss.discriminator.layers.0.weight', 'terms.cwd.connector.conv.weight'):
        assert not torch.equal(first[key], kept[key]), key


def student_keys(job: Job) -> list[str]:
    """Of the plain student of the base library."""
    from mmengine.registry import MODELS

    from kdmm.teachers.teacher import load_model_config

    spec, scope = load_model_config(str(job.root / 'plain.py'))
    return list(MODELS.build(dict(spec, _scope_=scope)).state_dict())
