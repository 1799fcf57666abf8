"""N processes on the same total batch do what one does."""

import pytest
import torch
from torch import Tensor

from tests.e2e.job import Job

# normalisation and dropout act per process by definition: taken out; all terms see the whole batch
OPTIONS = (
    '--cfg-options',
    'model.decode_head.dropout_ratio=0',
    'model.auxiliary_head.dropout_ratio=0',
    'kd.losses.p2p.scope=global',
    'kd.losses.memory.denominator=global',
    'train_cfg.max_iters=3',
    'train_cfg.val_interval=100',
    'default_hooks.checkpoint.interval=3',
)
GROUP_NORM = """
_base_ = './kd.py'
norm_cfg = dict(type='GN', num_groups=2, _delete_=True)
model = dict(backbone=dict(norm_cfg=norm_cfg), decode_head=dict(norm_cfg=norm_cfg),
             auxiliary_head=dict(norm_cfg=norm_cfg))
kd = dict(teacher=dict(config='teacher.py'),
          losses=dict(memory=dict(norm_cfg=dict(type='GN', num_groups=2))))
custom_hooks = []
"""


def flat(entry: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in entry.values()])


@pytest.fixture(scope='module')
def one(job: Job) -> Job:
    (job.root / 'group_norm.py').write_text(GROUP_NORM)
    job.train('group_norm.py', 'world_1', *OPTIONS)
    return job


@pytest.mark.parametrize('processes', [2, 4])
def test_same_queues_loss_and_weights(one: Job, processes: int) -> None:
    name = f'world_{processes}'
    size = f'train_dataloader.batch_size={4 // processes}'
    one.train('group_norm.py', name, *OPTIONS, size, processes=processes)
    single, several = one.checkpoint('world_1', 3), one.checkpoint(name, 3)
    for key, value in single['kdmm'].items():
        other = several['kdmm'][key]
        if 'ptr' in key or 'count' in key or 'step' in key:
            assert torch.equal(value, other), key
        else:
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=key)
    # three steps of SGD: the weights differ if any gradient did
    torch.testing.assert_close(
        flat(single['state_dict']), flat(several['state_dict']), rtol=1e-4, atol=1e-6
    )
