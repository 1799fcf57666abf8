"""BatchNorm statistics of unrotated images, computed anew when training ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import EMAHook, Hook
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdmm.compat.packages import require
from kdmm.distillers import CHILD
from kdmm.errors import ConfigError
from kdmm.hooks.deploy import plain_networks, write_network
from kdmm.registry import HOOKS


@HOOKS.register_module()
class RecalibrateBNHook(Hook):
    """Writes ``recalibrated.pth`` when training ends: the same weights, other running statistics.

    HSSAKD estimates running statistics on the mixture of four rotations, while a deployed network
    sees unrotated images, and detectors freeze them. MMPretrain's precise BN averages them over
    unrotated, augmented training images. The run's own checkpoints, which the papers' figures
    belong to, stay as trained. Of peers come ``peer1_recalibrated.pth`` and so on.

    Args:
        num_samples: Training images, over all ranks; at least one batch is used.
    """

    priority = 'LOW'

    def __init__(self, num_samples: int = 8192) -> None:
        if type(num_samples) is not int or num_samples < 1:
            raise ConfigError(
                key='kd.recalibrate.num_samples',
                got=num_samples,
                expected='a positive whole number',
            )
        self.num_samples = num_samples

    def before_train(self, runner: Any) -> None:
        """Refuse runs that cannot be recalibrated when training ends.

        Raises:
            ConfigError: If MMPretrain is missing, or the loader's batches have no fixed size, since
                it has a batch sampler.
        """
        require('mmpretrain', "kd.recalibrate (False does without): MMPretrain's precise BN")
        if runner.train_dataloader.batch_size is None:
            raise ConfigError(
                "train_dataloader.batch_sampler leaves the batch size open, which MMPretrain's "
                'precise BN needs',
                key='kd.recalibrate',
                fix='Give batch_size and sampler, or recalibrate=False.',
            )

    def after_train(self, runner: Any) -> None:
        """Recalibrate, write, and put back what training left."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            runner.logger.warning(
                'kd.recalibrate: no recalibrated.pth, the weights that count are averages (EMAHook)'
            )
            return
        for name, network in plain_networks(runner.model):
            prepare(network)
            if not any(part.training for part in statistics_of(network)):
                runner.logger.info('kd.recalibrate: no running statistics were trained')
                continue
            with kept_statistics(network):
                self._recalibrate(runner, network)
                write_network(runner, network, '_'.join(filter(None, [name, 'recalibrated.pth'])))

    def _recalibrate(self, runner: Any, network: nn.Module) -> None:
        from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats

        loader = runner.train_dataloader
        least = loader.batch_size * runner.world_size
        update_bn_stats(network, loader, max(self.num_samples, least), runner.logger)
        network.eval()


def prepare(network: nn.Module) -> None:
    """Let only those BN layers of the base library's model train that keep running statistics."""
    network.train()
    for part in network.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            part.eval()  # nothing to update; it normalises by the batch in either mode
    for name, child in network.named_children():
        if name == CHILD:
            child.eval()


def statistics_of(network: nn.Module) -> list[_BatchNorm]:
    """The BN layers of the base library's model."""
    return [part for part in network.modules() if isinstance(part, _BatchNorm)]


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Put back the running statistics of all BN layers."""
    layers = statistics_of(network)
    kept = [
        {name: value.clone() for name, value in part.named_buffers(recurse=False)}
        for part in layers
    ]
    try:
        yield
    finally:
        for part, buffers in zip(layers, kept, strict=True):
            for name, value in buffers.items():
                setattr(part, name, value)
