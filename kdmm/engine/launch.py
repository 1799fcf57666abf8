"""Process groups on CPU and GPU, with checks of the launch environment."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from kdmm.errors import ConfigError

#: Set by tools/torchrun.py, which prints the errors of its processes.
COLLECTED = 'KDMM_ERRORS_COLLECTED'
#: Seconds that other processes wait before they print a message that the first may have printed.
PATIENCE = 5.0


def start_process_group(launcher: str, dist_cfg: dict[str, Any] | None = None) -> None:
    """Open a gloo process group on CPU, which MMEngine does not do.

    With CUDA it only checks that every process of this node has a device and leaves the rest to
    the Runner.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        dist_cfg: ``env_cfg.dist_cfg`` of the config; ``timeout`` (seconds) is respected.

    Raises:
        ConfigError: More processes on this node than GPUs; both numbers are named.
    """
    if launcher == 'none' or dist.is_initialized():
        return
    if launcher == 'slurm':
        _environment_from_slurm()
    elif launcher == 'mpi':
        _environment_from_mpi()
    needed = ['RANK', 'WORLD_SIZE']
    if all(name in os.environ for name in needed):
        needed += ['MASTER_ADDR', 'MASTER_PORT']
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f'{", ".join(missing)} not set',
            key='--launcher',
            got=launcher,
            fix='Start with torchrun (tools/dist_train.sh), srun or mpirun, or leave --launcher '
            'out.',
        )
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_PORT', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        if not os.environ.get(name, '0').isdigit():
            raise ConfigError(
                f'the environment variable of --launcher {launcher}',
                key=name,
                got=os.environ[name],
                expected='a number',
            )
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if torch.cuda.is_available():
        devices = torch.cuda.device_count()
        if processes > devices:
            raise ConfigError(
                f'{processes} processes on this node, which has {devices} GPU(s)',
                key='--launcher',
                got=processes,
                expected=f'at most {devices}, one for each',
                fix=f'Start at most {devices}, or hide the GPUs with CUDA_VISIBLE_DEVICES=-1 to '
                'run on CPU. Under Slurm do not bind one GPU to each task: every task must see '
                'all of its node.',
            )
        return
    seconds = (dist_cfg or {}).get('timeout', 1800)
    dist.init_process_group('gloo', timeout=timedelta(seconds=seconds))


def stop_process_group() -> None:
    """Close the process group, if there is one, after a barrier.

    When a rank leaves early, launchers end the others, perhaps while they write.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def report(text: str, expected: bool = True) -> None:
    """Report why this process fails; equal reports of several processes appear once.

    ``tools/torchrun.py`` prints the files of all processes at the end. Without it the text is
    printed here.

    Args:
        text: A message, or a formatted traceback.
        expected: Whether it is a message. Messages are preferred to tracebacks, which are often
            consequences in other processes.
    """
    path = os.environ.get('TORCHELASTIC_ERROR_FILE') if os.environ.get(COLLECTED) else None
    if path:
        content = dict(
            message=text, timestamp=int(time.time()), time=time.time(), expected=expected
        )
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(content, file)
        return
    if _rank() > 0:  # the launcher ends this process meanwhile, if the first one has failed, too
        time.sleep(PATIENCE)
    print(text, file=sys.stderr, flush=True)


def _rank() -> int:
    text = os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))
    return int(text) if text.isdigit() else 0


def _environment_from_slurm() -> None:
    nodes = os.environ.get('SLURM_NODELIST', '127.0.0.1')
    if 'MASTER_ADDR' not in os.environ:
        try:
            names = subprocess.run(
                ['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True, check=True
            ).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(
                f'scontrol does not say the first node ({error})',
                key='--launcher',
                got='slurm',
                fix='Set MASTER_ADDR.',
            ) from error
        os.environ['MASTER_ADDR'] = names[0]
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'SLURM_PROCID' not in os.environ:
        raise ConfigError(
            'this is no task of a Slurm job',
            key='--launcher',
            got='slurm',
            fix='Start it with srun.',
        )
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')
    per_node = os.environ.get('SLURM_NTASKS_PER_NODE', os.environ.get('SLURM_STEP_TASKS_PER_NODE'))
    digits = (per_node or '1').split('(')[0].split(',')[0]
    os.environ.setdefault('LOCAL_WORLD_SIZE', digits)


def _environment_from_mpi() -> None:
    for name, source in (
        ('RANK', 'OMPI_COMM_WORLD_RANK'),
        ('WORLD_SIZE', 'OMPI_COMM_WORLD_SIZE'),
        ('LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        ('LOCAL_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_SIZE'),
    ):
        if source in os.environ:
            os.environ[name] = os.environ[source]
    if 'MASTER_ADDR' not in os.environ:
        if os.environ.get('WORLD_SIZE') != os.environ.get('LOCAL_WORLD_SIZE'):
            raise ConfigError(
                'on several nodes',
                key='--launcher',
                got='mpi',
                fix='Set MASTER_ADDR to the first node.',
            )
        os.environ['MASTER_ADDR'] = '127.0.0.1'
    os.environ.setdefault('MASTER_PORT', '29500')
