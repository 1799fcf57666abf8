"""Evaluation and checkpoints of peers."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from torch import Tensor

from kdmm.errors import ConfigError
from kdmm.hooks.buffers import common_buffers
from kdmm.hooks.deploy import plain_networks, write_network
from kdmm.registry import HOOKS

ENSEMBLE = 'ensemble'


@HOOKS.register_module()
class PeersHook(Hook):
    """Adds ``peer1/<metric>`` ... to the metrics of each validation, and writes ``peer1.pth`` ...

    The metrics of the first network have their usual names, so that ``save_best`` works. A peer's
    file is written when training ends and holds a plain model of the base library, with averaged
    weights where an `EMAHook` averages them.

    Args:
        ensemble: Report ``ensemble/<metric>`` of the mean logits, too, of models that have logits.
    """

    priority = 'HIGHEST'  # the hooks after it log and judge all metrics

    def __init__(self, ensemble: bool = False) -> None:
        self.ensemble = ensemble
        self.evaluators: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Refuse to choose the first network's checkpoint by a peer's metric.

        Raises:
            ConfigError: If ``save_best`` names a metric that is not the first network's.
        """
        for hook in runner.hooks:
            best = getattr(hook, 'save_best', None) or ()
            for key in [best] if isinstance(best, str) else best:
                if str(key).startswith(('peer', f'{ENSEMBLE}/')):
                    raise ConfigError(
                        'checkpoints hold the first network',
                        key='default_hooks.checkpoint.save_best',
                        got=key,
                        fix='Choose by its own metric; peers are written when training ends.',
                    )

    def before_val_epoch(self, runner: Any) -> None:
        """Copy the evaluator for each peer."""
        names = [name for name, _ in plain_networks(runner.model) if name]
        names += [ENSEMBLE] * self.ensemble
        self.evaluators = {name: copy.deepcopy(runner.val_loop.evaluator) for name in names}

    @torch.no_grad()
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Let the peers predict the same batch."""
        found = [copy.deepcopy(outputs)]  # networks write into the samples that they are given
        device = next(runner.model.parameters()).device.type
        for name, network in plain_networks(runner.model):
            if name:
                network.eval()
                with torch.autocast(device, enabled=runner.val_loop.fp16):
                    made = network.val_step(copy.deepcopy(data_batch))  # type: ignore[operator]
                self.evaluators[name].process(data_samples=made, data_batch=data_batch)
                found.append(made)
        if self.ensemble:
            self._combine(runner, found, data_batch)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics of the peers."""
        if metrics is None:
            return
        size = len(runner.val_dataloader.dataset)
        for name, evaluator in self.evaluators.items():
            found = evaluator.evaluate(size)
            metrics.update({f'{name}/{key}': value for key, value in found.items()})

    def after_train(self, runner: Any) -> None:
        """Write the peers."""
        with averaged(runner), common_buffers(runner):
            for name, network in plain_networks(runner.model):
                if name:
                    write_network(runner, network, f'{name}.pth')

    def _combine(self, runner: Any, found: Sequence[Sequence[Any]], batch: Any) -> None:
        together = [combine(samples) for samples in zip(*found, strict=True)]
        if any(sample is None for sample in together):
            runner.logger.warning(
                'kd.ensemble: no ensemble is evaluated, as the predictions of '
                f'{type(found[0][0]).__name__} have neither class scores nor class maps'
            )
            self.ensemble = False
            del self.evaluators[ENSEMBLE]
            return
        self.evaluators[ENSEMBLE].process(data_samples=together, data_batch=batch)


@contextmanager
def averaged(runner: Any) -> Iterator[None]:
    """Exchange the weights for the averages of an `EMAHook`, if there is one, inside."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in hooks:
        hook.before_val_epoch(runner)
    try:
        yield
    finally:
        for hook in hooks:
            hook.after_val_epoch(runner)


def combine(samples: Sequence[Any]) -> Any | None:
    """Predict one image by the mean of the networks' logits.

    Args:
        samples: MMPretrain's data sample of one image by each network, with ``pred_score``, or
            MMSegmentation's, with ``seg_logits``.

    Returns:
        A data sample like the first; None if there are no scores over at least two classes that
        exclude each other. Its ``features`` (`FeaturesHook`) are those of all networks, one behind
        the other.
    """
    if all('pred_score' in sample for sample in samples):
        scores = torch.stack([sample.pred_score for sample in samples])  # (N, C)
        result = _classified(samples[0], scores.float())
        if result is not None and all('features' in sample for sample in samples):
            result.features = torch.cat([sample.features for sample in samples])  # N x (D,)
        return result
    if all('seg_logits' in sample for sample in samples):
        logits = torch.stack([sample.seg_logits.data for sample in samples])  # (N, C, H, W)
        return _segmented(samples[0], logits.mean(0))
    return None


def _classified(sample: Any, scores: Tensor) -> Any | None:
    # also scores that are no numbers are of classes: all ranks must come to one decision
    if scores.shape[1] < 2 or bool(((scores.sum(1) - 1).abs() > 1e-3).any()):
        return None  # of several labels an image: each score by itself
    # softmax(mean of z) is proportional to exp(mean of log softmax(z))
    mean = scores.clamp_min(torch.finfo(scores.dtype).tiny).log().mean(0).softmax(0)
    result = copy.copy(sample)
    return result.set_pred_score(mean).set_pred_label(mean.argmax(0, keepdim=True))


def _segmented(sample: Any, logits: Tensor) -> Any | None:
    if len(logits) < 2:
        return None  # one channel and a threshold
    result = copy.deepcopy(sample)
    result.seg_logits.data = logits
    result.pred_sem_seg.data = logits.argmax(0, keepdim=True)
    return result
