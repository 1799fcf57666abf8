import json
import os
import subprocess
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from kdmm.engine import launch, start_process_group, stop_process_group
from tests.errors import refused

NAMES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


@pytest.fixture
def opened(monkeypatch):
    """Calls of ``init_process_group``, none of which is carried out."""
    calls = []
    monkeypatch.setattr(dist, 'init_process_group', lambda *a, **kw: calls.append((a, kw)))
    for name in NAMES:
        monkeypatch.setenv(name, '')  # so that what is set is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '1')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '29500')
    return calls


def gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)


def test_without_a_launcher_there_is_no_group(opened):
    start_process_group('none')
    assert opened == []


def test_on_cpu_it_is_gloo_with_the_configs_timeout(opened, monkeypatch):
    gpus(monkeypatch, 0)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '64')
    start_process_group('pytorch')
    start_process_group('pytorch', dict(timeout=60, backend='nccl'))
    assert opened == [
        (('gloo',), dict(timeout=timedelta(minutes=30))),
        (('gloo',), dict(timeout=timedelta(minutes=1))),
    ]


def test_a_group_that_exists_is_used(opened, monkeypatch):
    gpus(monkeypatch, 0)
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    start_process_group('pytorch')
    assert opened == []


@pytest.mark.parametrize('processes, devices', [(2, 1), (9, 8)])
def test_more_processes_than_gpus_names_both_numbers(opened, monkeypatch, processes, devices):
    gpus(monkeypatch, devices)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    most = f'at most {devices}, '
    with refused(key='--launcher', got=processes, expected=most, fix='CUDA_VISIBLE_DEVICES=-1'):
        start_process_group('pytorch')
    assert opened == []


@pytest.mark.parametrize('processes', [1, 8])
def test_with_enough_gpus_the_runner_opens_the_group(opened, monkeypatch, processes):
    gpus(monkeypatch, 8)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    start_process_group('pytorch')
    assert opened == []


def slurm(monkeypatch, **values: str) -> None:
    base = dict(SLURM_PROCID='5', SLURM_NTASKS='8', SLURM_LOCALID='1', SLURM_NODELIST='n[1-2]')
    names = ('SLURM_NTASKS_PER_NODE', 'SLURM_STEP_TASKS_PER_NODE', 'MASTER_ADDR', 'MASTER_PORT')
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**base, **values}.items():
        monkeypatch.setenv(name, value)
    answer = SimpleNamespace(stdout='n1\nn2\n')
    monkeypatch.setattr(subprocess, 'run', lambda *a, **kw: answer)


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


@pytest.mark.parametrize(
    'values, local',
    [
        (dict(SLURM_NTASKS_PER_NODE='4'), '4'),
        (dict(SLURM_STEP_TASKS_PER_NODE='4(x2)'), '4'),
        (dict(SLURM_STEP_TASKS_PER_NODE='4,3'), '4'),
        (dict(), '1'),
    ],
)
def test_slurm_is_translated(opened, monkeypatch, values, local):
    gpus(monkeypatch, 0)
    slurm(monkeypatch, **values)
    start_process_group('slurm')
    assert environment() == dict(
        RANK='5', WORLD_SIZE='8', LOCAL_RANK='1', LOCAL_WORLD_SIZE=local,
        MASTER_ADDR='n1', MASTER_PORT='29500',
    )  # fmt: skip
    assert opened[0][0] == ('gloo',)


def test_slurm_respects_a_given_address(opened, monkeypatch):
    gpus(monkeypatch, 0)
    slurm(monkeypatch)
    monkeypatch.setenv('MASTER_ADDR', 'here')
    monkeypatch.setenv('MASTER_PORT', '1234')
    start_process_group('slurm')
    assert environment()['MASTER_ADDR'] == 'here' and environment()['MASTER_PORT'] == '1234'


def test_too_many_slurm_tasks_are_refused_too(opened, monkeypatch):
    gpus(monkeypatch, 2)
    slurm(monkeypatch, SLURM_NTASKS_PER_NODE='4')
    with refused(key='--launcher', got=4, expected='at most 2, '):
        start_process_group('slurm')


def test_slurm_outside_of_a_job_is_a_config_error(opened, monkeypatch):
    gpus(monkeypatch, 0)
    slurm(monkeypatch)
    monkeypatch.delenv('SLURM_PROCID')
    with refused(key='--launcher', got='slurm', problem='no task of a Slurm job', fix='srun'):
        start_process_group('slurm')


def test_pytorch_without_torchrun_is_a_config_error(monkeypatch):
    gpus(monkeypatch, 0)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with refused(key='--launcher', got='pytorch', problem='not set', fix='torchrun'):
        start_process_group('pytorch')


def test_mpi_is_translated(opened, monkeypatch):
    monkeypatch.delenv('MASTER_ADDR')
    monkeypatch.delenv('MASTER_PORT')
    gpus(monkeypatch, 0)
    monkeypatch.delenv('RANK')
    monkeypatch.delenv('WORLD_SIZE')
    monkeypatch.setenv('LOCAL_RANK', '0')  # the command line's default gives way
    for name, value in dict(RANK='1', SIZE='2', LOCAL_RANK='1', LOCAL_SIZE='2').items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    start_process_group('mpi')
    assert environment() == dict(
        RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', LOCAL_WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1', MASTER_PORT='29500',
    )  # fmt: skip


def test_mpi_on_several_nodes_needs_an_address(opened, monkeypatch):
    monkeypatch.delenv('MASTER_ADDR')
    monkeypatch.delenv('MASTER_PORT')
    gpus(monkeypatch, 0)
    for name, value in dict(RANK='1', SIZE='2', LOCAL_RANK='0', LOCAL_SIZE='1').items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    with refused(key='--launcher', got='mpi', problem='several nodes', fix='MASTER_ADDR'):
        start_process_group('mpi')


def test_stopping_without_a_group_is_harmless():
    stop_process_group()


@pytest.fixture
def one_of_two(opened, monkeypatch):
    """The second process; how long it would have slept."""
    naps: list[float] = []
    monkeypatch.setenv('RANK', '1')
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)
    monkeypatch.delenv(launch.COLLECTED, raising=False)
    monkeypatch.setattr(launch.time, 'sleep', naps.append)
    return naps


def test_a_message_is_left_for_the_launcher_script(one_of_two, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(launch.COLLECTED, '1')
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    launch.report('kd.x: wrong')
    left = json.loads((tmp_path / 'error.json').read_text())
    assert left['message'] == 'kd.x: wrong' and left['expected'] is True
    assert capsys.readouterr().err == '' and one_of_two == []


def test_without_it_the_first_process_speaks_first(one_of_two, monkeypatch, capsys):
    launch.report('kd.x: wrong')
    assert one_of_two == [launch.PATIENCE] and capsys.readouterr().err == 'kd.x: wrong\n'
    monkeypatch.setenv('RANK', '0')
    launch.report('kd.x: wrong')
    assert one_of_two == [launch.PATIENCE]


@pytest.mark.parametrize(
    ('name', 'value'),
    [('RANK', 'one'), ('WORLD_SIZE', '2.0'), ('MASTER_PORT', 'http'), ('LOCAL_RANK', 'x')],
)
def test_numbers_of_the_environment(opened, monkeypatch, name, value):
    gpus(monkeypatch, 0)
    monkeypatch.setenv(name, value)
    with refused(key=name, got=value, expected='a number', problem='--launcher pytorch'):
        start_process_group('pytorch')
    assert opened == []


def test_the_address_of_the_first_process(opened, monkeypatch):
    monkeypatch.delenv('MASTER_ADDR')
    with refused(key='--launcher', got='pytorch', problem='MASTER_ADDR not set'):
        start_process_group('pytorch')
