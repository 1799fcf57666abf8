"""Peers are evaluated and written as the network that the run keeps."""

from typing import Any

import torch
from mmengine.hooks import Hook
from torch import nn

from kdmm.errors import ConfigError
from kdmm.hooks.deploy import plain_networks, write_network
from kdmm.registry import HOOKS


@HOOKS.register_module()
class PeersHook(Hook):
    """Adds ``peer1/<metric>`` ... to the metrics of each validation, and writes ``peer1.pth`` ...

    The metrics of the first network have their usual names, so that ``save_best`` works. A peer's
    file is written when training ends and holds a plain model of the base library.
    """

    priority = 'HIGHEST'  # the hooks after it log and judge all metrics

    def before_train(self, runner: Any) -> None:
        """Refuse to keep the first network's weights at another's best epoch.

        Raises:
            ConfigError: If ``save_best`` names a peer's metric.
        """
        for hook in runner.hooks:
            best = getattr(hook, 'save_best', None) or ()
            for key in [best] if isinstance(best, str) else best:
                if str(key).startswith('peer'):
                    raise ConfigError(
                        f'save_best={key!r}: checkpoints hold the first network. Choose by its own '
                        'metric; peers are written when training ends'
                    )

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Evaluate the others."""
        for name, network in plain_networks(runner.model):
            if name and metrics is not None:
                found = evaluate(runner, network)
                metrics.update({f'{name}/{key}': value for key, value in found.items()})

    def after_train(self, runner: Any) -> None:
        """Write the others."""
        for name, network in plain_networks(runner.model):
            if name:
                write_network(runner, network, f'{name}.pth')


@torch.no_grad()
def evaluate(runner: Any, network: nn.Module) -> dict[str, float]:
    """The metrics of the validation loop for ``network``, a model of the base library."""
    loader, evaluator = runner.val_dataloader, runner.val_loop.evaluator
    network.eval()
    with torch.autocast(_device_type(network), enabled=runner.val_loop.fp16):
        for batch in loader:
            outputs = network.val_step(batch)  # type: ignore[operator]
            evaluator.process(data_samples=outputs, data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))


def _device_type(network: nn.Module) -> str:
    return next(network.parameters()).device.type
