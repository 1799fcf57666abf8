"""Training k iterations, dying, and training k more equals training 2k, to the bit."""

import pytest

from tests.e2e.job import Job, assert_same

EXTRAS = (
    '--cfg-options',
    'optim_wrapper.clip_grad.max_norm=1.0',
    'optim_wrapper.accumulative_counts=2',
)
WORKERS = ('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')


@pytest.mark.parametrize('processes', [0, 2])
def test_killed_and_resumed_equals_uninterrupted(job: Job, processes: int) -> None:
    options = (*EXTRAS, *(WORKERS if processes == 0 else ()))
    size = () if processes == 0 else ('train_dataloader.batch_size=2',)
    names = f'whole_{processes}', f'killed_{processes}'
    job.train('kd.py', names[0], *options, *size, processes=processes)
    died = job.train(
        'kd.py', names[1], *options, *size, processes=processes, check=False, E2E_KILL_AT='6'
    )
    assert died.returncode != 0
    assert not (job.root / names[1] / 'iter_8.pth').exists()
    job.train('kd.py', names[1], '--resume', *options, *size, processes=processes)

    whole, resumed = (job.checkpoint(name, 8) for name in names)
    for entry in ('state_dict', 'ema_state_dict', 'kdmm', 'optimizer', 'param_schedulers'):
        assert_same(whole[entry], resumed[entry], entry)
    assert whole['kdmm']['terms.memory.loss.queues.step'] == 8
    assert not any(key.startswith('kd.') for key in whole['state_dict'])
