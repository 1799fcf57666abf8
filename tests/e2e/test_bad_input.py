"""Bad input: one clear message, a non-zero exit code, and nothing lost."""

import itertools
import os
from collections.abc import Callable

import cv2
import pytest
import torch

from tests.e2e.job import Job

QUICK = ('train_cfg.max_iters=2', 'train_cfg.val_interval=100')
NUMBER = itertools.count()


def refused(job: Job, *options: str, config: str = 'kd.py', **env: str) -> str:
    """Error output of ``tools/train.py`` when it refuses with exit code 2."""
    done = job.train(config, 'refused', '--cfg-options', *QUICK, *options, check=False, **env)
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'Traceback' not in done.stderr
    return done.stderr


@pytest.fixture
def refused_here(refused_by: Callable[..., str]) -> Callable[..., str]:
    """As ``refused``, in this process."""

    def run(job: Job, *options: str) -> str:
        name = f'experiment_name=refused_{next(NUMBER)}'  # a logger of its own, for this capture
        arguments = ('--work-dir', 'refused', '--cfg-options', name, *QUICK, *options)
        return refused_by('train.py', 'kd.py', *arguments, cwd=job.root)

    return run


def test_missing_config(job: Job) -> None:
    assert "'nowhere.py'" in refused(job, config='nowhere.py')


def test_missing_data_root(job: Job, refused_here: Callable[..., str]) -> None:
    said = refused_here(job, 'train_dataloader.dataset.data_root=nowhere/city')
    assert 'train_dataloader.dataset.data_root' in said and "'nowhere/city'" in said


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('kd.teacher.checkpoint=gone.pth',), ('kd.teacher.checkpoint', "'gone.pth'")),
        (('kd.teacher.checkpoint=None',), ('kd.teacher.checkpoint', 'random=True')),
        (('kd.taps.pixels=decode_head.conv_sag.in',), ('kd.taps.pixels', 'decode_head.conv_seg')),
        (('kd.losses.p2p.type=CIRKDMinibatchLoss',), ('kd.losses.p2p', 'CIRKDMiniBatchLoss')),
        (('kd.losses.p2p.taw=1',), ('kd.losses.p2p', "'taw'", 'tau')),
        (('kd.tabs.x=a',), ("'tabs'", 'taps')),
        (('kd.losses.p2p.on=pixel',), ('kd.losses.p2p.on', 'pixels')),
    ],
)
def test_wrong_section(
    job: Job, refused_here: Callable[..., str], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    said = refused_here(job, *options)
    assert all(word in said for word in words), said


def test_teacher_of_another_architecture(job: Job) -> None:
    said = refused(job, 'kd.teacher.config=plain.py')
    assert 'teacher.pth' in said and 'wrong shape' in said


def test_truncated_teacher(fresh_job: Job, refused_here: Callable[..., str]) -> None:
    path = fresh_job.root / 'teacher.pth'
    path.write_bytes(path.read_bytes()[:5000])
    assert 'truncated or no checkpoint' in refused_here(fresh_job)


def test_student_checkpoint_of_another_architecture(
    job: Job, refused_here: Callable[..., str]
) -> None:
    said = refused_here(job, 'load_from=teacher.pth')
    assert 'teacher.pth' in said and 'wrong shape' in said


def test_other_class_count(fresh_job: Job, refused_here: Callable[..., str]) -> None:
    classes = '_base_ = "./teacher.py"\nmodel = dict(decode_head=dict(num_classes=7))\n'
    (fresh_job.root / 'seven.py').write_text(classes)
    random = ('kd.teacher.checkpoint=None', 'kd.teacher.random=True')
    said = refused_here(fresh_job, 'kd.teacher.config=seven.py', *random)
    assert '4' in said and '7' in said and 'logits' in said


def test_label_outside_the_classes(fresh_job: Job) -> None:
    path = str(fresh_job.root / 'data/ann/3.png')
    labels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    labels[:] = 37
    cv2.imwrite(path, labels)
    said = refused(fresh_job, 'train_dataloader.batch_size=8')
    assert 'label 37' in said and '4 classes' in said and '3.png' in said


def test_more_processes_than_gpus(job: Job) -> None:
    """A host with one GPU, as torch would report it."""
    fake = job.root / 'fake'
    fake.mkdir(exist_ok=True)
    (fake / 'sitecustomize.py').write_text(
        'import torch\n'
        'torch.cuda.is_available = lambda: True\n'
        'torch.cuda.device_count = lambda: 1\n'
    )
    path = os.pathsep.join([str(fake), job.environment()['PYTHONPATH']])
    done = job.train('kd.py', 'refused', processes=2, check=False, PYTHONPATH=path)
    assert done.returncode != 0
    assert '2 processes' in done.stderr and '1 GPU' in done.stderr


def test_nan_stops_and_names(job: Job) -> None:
    done = job.train('kd.py', 'nan', check=False, E2E_NAN_AT='6')
    assert done.returncode == 1
    assert 'iteration 6' in done.stderr and '.png' in done.stderr
    state = job.checkpoint('nan', 4)['state_dict']
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    assert not (job.root / 'nan/iter_8.pth').exists()


@pytest.mark.parametrize('processes', [0, 2])
def test_sigterm_leaves_a_checkpoint(job: Job, processes: int) -> None:
    name = f'term_{processes}'
    done = job.train('kd.py', name, processes=processes, check=False, E2E_TERM_AT='6')
    assert done.returncode != 0
    assert 'saved' in done.stdout + done.stderr and '--resume' in done.stdout + done.stderr
    assert (job.root / name / 'last_checkpoint').read_text().endswith('iter_6.pth')
    job.train('kd.py', name, '--resume', processes=processes)
    assert job.checkpoint(name, 8)['meta']['iter'] == 8


def test_truncated_checkpoint_is_refused_and_the_previous_named(job: Job) -> None:
    job.train('kd.py', 'cut')
    last = job.root / 'cut/iter_8.pth'
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    done = job.train('kd.py', 'cut', '--resume', check=False)
    assert done.returncode == 2
    assert 'iter_8.pth' in done.stderr and 'iter_4.pth' in done.stderr


def test_full_disk_during_a_checkpoint(job: Job) -> None:
    """The second file does not fit, and only one checkpoint is kept."""
    done = job.train(
        'kd.py',
        'small',
        '--cfg-options',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        check=False,
        E2E_FULL_DISK_AT='8',
    )
    assert done.returncode != 0
    assert 'No space left' in done.stderr and 'iter_4.pth' in done.stderr
    assert job.checkpoint('small', 4)['meta']['iter'] == 4
    assert not list((job.root / 'small').glob('*.part'))
