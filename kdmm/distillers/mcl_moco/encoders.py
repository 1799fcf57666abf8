"""Queries, keys and queue of each MoCo in a cohort."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError
from kdmm.functional import collective, normalize_rows


def check_networks(networks: Mapping[str, Any]) -> None:
    """Refuse networks that are no MoCo, and MoCos whose rows cannot be compared.

    Args:
        networks: By the name that errors call them; the first is the student.

    Raises:
        ConfigError: Names the network.
    """
    first = ''
    for name, network in networks.items():
        if not _is_moco(network):
            raise ConfigError(
                f"MCLMoCo trains MMPretrain's MoCo, and {name} is another model",
                key='model.type',
                got=type(network).__name__,
                expected="model=dict(type='MoCo', ...)",
            )
        temperature = getattr(network.head, 'temperature', None)
        if not isinstance(temperature, int | float) or not temperature > 0:
            raise ConfigError(
                f'of {name}, whose head is a {type(network.head).__name__}',
                key='model.head.temperature',
                got=temperature,
                expected='a ContrastiveHead with a positive temperature',
            )
        size, length = network.queue.shape
        if size < 2:
            raise ConfigError(
                f'of {name}: rows of unit length with one channel are all alike',
                key='model.feat_dim',
                got=size,
                expected='2 or more',
            )
        facts = f'feat_dim={size}, queue_len={length}, head.temperature={temperature:g}'
        first = first or facts
        if facts != first:
            raise ConfigError(f'{name} has {facts}, the student has {first}', key='kd.peers')


def queries_of(networks: Sequence[Any], images: Tensor) -> Tensor:
    """Unit rows (N, B, D) of the query encoders, for images (B, 3, H, W)."""
    return torch.stack([_unit(net, net.neck(net.backbone(images))[0]) for net in networks])


@torch.no_grad()
def keys_of(networks: Sequence[Any], images: Tensor, layout: torch.memory_format) -> Tensor:
    """Update the key encoders by their momentum, then compute their unit rows (N, B, D).

    All of them see one shuffle of the images of all ranks, which their batch normalisation needs.
    """
    from mmpretrain.models.utils import batch_shuffle_ddp, batch_unshuffle_ddp

    shuffled, restore = batch_shuffle_ddp(images)
    shuffled = shuffled.contiguous(memory_format=layout)
    keys = []
    for net in networks:
        net.encoder_k.update_parameters(nn.Sequential(net.backbone, net.neck))
        keys.append(_unit(net, net.encoder_k(shuffled)[0]))
    return batch_unshuffle_ddp(torch.stack(keys, 1), restore).transpose(0, 1)


@torch.no_grad()
def enqueue(networks: Sequence[Any], keys: Tensor) -> None:
    """Write the keys (N, B, D) of all ranks over the oldest ones, in global image order."""
    gathered = collective.gather_images(keys.transpose(0, 1))  # (W * B, N, D)
    for net, rows in zip(networks, gathered.unbind(1), strict=True):
        length = net.queue.shape[1]
        slots = (net.queue_ptr + torch.arange(len(rows), device=rows.device)) % length
        net.queue.index_copy_(1, slots, rows.T.to(net.queue.dtype))
        net.queue_ptr.copy_((net.queue_ptr + len(rows)) % length)


def _unit(network: Any, rows: Tensor) -> Tensor:
    if rows.shape[1:] != network.queue.shape[:1]:
        raise ConfigError(
            f'the neck gives rows of shape {tuple(rows.shape[1:])}, and the queue holds rows of '
            'this length',
            key='model.feat_dim',
            got=network.queue.shape[0],
        )
    return normalize_rows(rows)


def _is_moco(network: nn.Module) -> bool:
    try:
        from mmpretrain.models import MoCo
    except ImportError:
        return False
    return isinstance(network, MoCo)
