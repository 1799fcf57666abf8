"""Checkpoints of one plain network, for use without kdmm."""

import os
from collections.abc import Iterator
from typing import Any

from mmengine.dist import is_main_process
from mmengine.runner.checkpoint import save_checkpoint, weights_to_cpu
from torch import nn

from kdmm.distillers import CHILD
from kdmm.hooks.checkpoint import ATOMIC
from kdmm.hooks.nonfinite import NonFiniteError, non_finite
from kdmm.hooks.ownership import objective_of
from kdmm.utils.models import unwrapped


def plain_networks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the network that a run keeps as its model, named '', and ``'peer1'`` ... beside it."""
    yield '', unwrapped(model)
    yield from objective_of(model).networks().items()


def write_network(runner: Any, network: nn.Module, filename: str) -> None:
    """Write the weights of ``network`` alone into the work dir (first rank), atomically.

    Raises:
        NonFiniteError: If one of them is no number.
    """
    if not is_main_process():
        return
    state = network.state_dict()
    for key in [key for key in state if key.startswith(f'{CHILD}.')]:
        del state[key]
    for key in non_finite(state):
        raise NonFiniteError(f'{key} is not finite: {filename} is not written')
    meta = dict(
        cfg=runner.cfg.pretty_text,
        dataset_meta=getattr(runner.train_dataloader.dataset, 'metainfo', None),
        epoch=runner.epoch,
        iter=runner.iter,
        seed=runner.seed,
        experiment_name=runner.experiment_name,
    )
    path = os.path.join(runner.work_dir, filename)
    content = dict(meta=meta, state_dict=weights_to_cpu(state))
    save_checkpoint(content, path, backend_args=dict(backend=ATOMIC))
    runner.logger.info(f'Wrote {path}')
