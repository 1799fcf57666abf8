"""``tools/profile.py`` as a user runs it."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.e2e.job import ROOT, Job

TOOL = str(ROOT / 'tools/profile.py')
TERMS = ('kd', 'p2p', 'memory')
QUICK = ('--iters', '2', '--warmup', '1')


def figures(job: Job, name: str) -> dict:
    return json.loads((job.root / name).read_text())


@pytest.mark.slow
def test_real_data(job: Job) -> None:
    arguments = ['kd.py', *QUICK, '--json', 'profile.json', '--cfg-options']
    options = ['train_dataloader.batch_size=3', 'model.test_cfg.mode=whole']
    done = job.run([sys.executable, TOOL, *arguments, *options])
    found = figures(job, 'profile.json')
    assert found['batch_size'] == 3 and found['world_size'] == 1 and found['device'] == 'cpu'
    wanted = ['data wait', 'preprocessing', 'student forward', 'teacher forward']
    wanted += [f'{term} {way}' for way in ('forward', 'backward') for term in TERMS]
    wanted += ['student backward', 'optimizer', 'communication']
    assert set(wanted) <= set(found['parts'])
    assert found['parts']['communication']['ms'] == 0
    assert all(row['ms'] > 0 for name, row in found['parts'].items() if name != 'communication')
    held, memory = found['memory']['held'], found['memory']
    for name in ('parameters', 'gradients', 'optimizer state', 'teacher', 'queues'):
        assert held[name] > 0
    assert held['weight average'] == pytest.approx(held['parameters'], rel=0.1), 'EMAHook'
    assert memory['estimate_mib'] == pytest.approx(
        sum(held.values()) + max(memory['passing'].values())
    )
    assert 0.7 < memory['ratio'] < 1.4 and not memory['not_estimated']
    before, after = done.stdout.split('before the first step')[1].split('part ')
    assert 'estimate' in before and 'measured peak' in after
    assert not list(job.root.glob('work_dirs')), 'nothing is left behind'


@pytest.mark.slow
def test_two_processes(job: Job) -> None:
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2']
    command += ['--master_port', '29613', TOOL, 'kd.py', '--launcher', 'pytorch', *QUICK]
    done = job.run([*command, '--json', 'two.json'])
    found = figures(job, 'two.json')
    assert found['world_size'] == 2 and found['parts']['communication']['ms'] > 0
    held = found['memory']['held']
    assert held['gradients'] == pytest.approx(2 * held['parameters']), "DDP's buckets"
    assert done.stdout.count('before the first step') == 1


@pytest.mark.slow
def test_without_the_data(job: Job) -> None:
    absent = ['--cfg-options', 'train_dataloader.dataset.data_root=nowhere/city']
    done = job.run([sys.executable, TOOL, 'kd.py', *QUICK, *absent], check=False)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert "'nowhere/city'" in done.stderr
    synthetic = ['--synthetic', '--size', '32', '64', '--json', 'blank.json']
    job.run([sys.executable, TOOL, 'plain.py', *QUICK, *synthetic, *absent])
    found = figures(job, 'blank.json')
    assert found['memory']['held']['batch'] == pytest.approx(2 * 4 * 3 * 32 * 64 * 4 / 2**20)
    assert not any('teacher' in name for name in found['parts'])


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('gone.py',), ('config', "'gone.py'")),
        (('kd.py', '--size', '32', '32'), ('--size', '--synthetic')),
        (('kd.py', '--iters', '0'), ('--iters', 'at least 1')),
        (('kd.py', '--cfg-options', 'kd.losses.p2p.on=pixel'), ('kd.losses.p2p.on', 'pixels')),
    ],
)
def test_refuses(
    job: Job,
    refused_by: Callable[..., str],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    said = refused_by('profile.py', *arguments, cwd=job.root)
    assert all(word in said for word in words), said


def test_the_tool_does_not_hide_the_standard_module() -> None:
    tools = str(ROOT / 'tools')
    code = f'import sys; sys.path.insert(0, {tools!r}); import cProfile, profile;'
    done = subprocess.run(
        [sys.executable, '-c', f'{code} print(profile.Profile, profile.__file__)'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and str(ROOT) not in done.stdout, done.stdout + done.stderr
