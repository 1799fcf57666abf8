"""The same work on several gloo ranks."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(work: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Run ``work(*args)`` on gloo ranks; return each rank's result (plain data and tensors).

    Ranks are forked from a server that has imported the module of ``work`` once.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    ):
        mp.get_context('forkserver').set_forkserver_preload([work.__module__])
        job = (world, folder, work, args)
        mp.start_processes(_rank, job, nprocs=world, start_method='forkserver')
        return [torch.load(Path(folder) / f'{r}.pt', weights_only=True) for r in range(world)]


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world)
    os.environ.update({key: str(value) for key, value in names.items()})  # MMEngine reads them
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=world
    )
    torch.save(work(*args), f'{folder}/{rank}.pt')
    dist.barrier()
    os._exit(0)  # torch 2.1 may wait for ever where gloo's groups are destroyed
