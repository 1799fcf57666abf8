"""Reference losses of a blind network in jigsaw pretraining, and checks at its start."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from kdmm.datasets import PatchGrid, SeededDataset
from kdmm.errors import ConfigError
from kdmm.evaluation import JigsawMetric
from kdmm.hooks.jigsaw_checks import check_validation, puzzles_of
from kdmm.registry import HOOKS
from kdmm.utils.models import unwrapped


@HOOKS.register_module()
class JigsawHook(Hook):
    """Log the losses of a network that does not see the image beside the loss.

    ``loss_zero`` is the loss of all-zero heatmaps, ``loss_blind`` that of the best output that
    does not depend on the image: the mean of the targets. A run that stays at ``loss_blind`` has
    learnt where the cells are and nothing of what they show; if it is there after ``patience`` of
    the training, a warning says so. Between them, for a calibrated network, ``loss / loss_zero`` is
    one minus the mean certainty.

    Checked at the start: `ShufflePatches` and one codec are in the pipeline, in this order and with
    nothing behind that moves pixels; the head has a channel for each patch; no flip test (it swaps
    joints); for `JigsawMetric`, heatmaps and the same puzzles in validation; and augmentation that
    differs from epoch to epoch (MMEngine seeds workers anew each epoch, with the same seeds).

    The levels are those of ``KeypointMSELoss`` on one output; with another loss there are none.

    Args:
        patience: Share of the iterations after which a blind network is reported.
        margin: Blind means above this share of ``loss_blind``.

    Raises:
        ConfigError: Names the key to change.
    """

    priority = 'NORMAL'  # behind RuntimeInfoHook, which logs the loss, before the LoggerHook

    def __init__(self, patience: float = 0.1, margin: float = 0.98) -> None:
        self.patience, self.margin = patience, margin
        self.levels: dict[str, float] = {}

    def before_train(self, runner: Any) -> None:
        """Check the config and compute the levels."""
        model, loader = unwrapped(runner.model), runner.train_dataloader
        _check_test_cfg(model)
        shuffle, codec = puzzles_of(loader.dataset)
        _check_channels(model, shuffle.grid)
        _check_workers(loader)
        loop = runner.val_loop
        if loop and any(isinstance(metric, JigsawMetric) for metric in loop.evaluator.metrics):
            check_validation(shuffle, loop.dataloader.dataset, model.test_cfg)
        slots, prior = slot_maps(codec, shuffle.grid.centres()), shuffle.prior()
        self.levels = {}
        if _is_plain_mse(model.head):
            scale = model.head.loss_module.loss_weight
            self.levels = {k: level * scale for k, level in loss_levels(slots, prior).items()}
        else:
            runner.logger.warning('Jigsaw: no levels, they are of KeypointMSELoss on one output')
        text = ''.join(f'{name} {level:.6f}, ' for name, level in self.levels.items())
        runner.logger.info(f'Jigsaw: {text}chance {prior.max(axis=1).mean():.4f}')

    def before_val(self, runner: Any) -> None:
        """Check what the metric needs."""
        _check_test_cfg(unwrapped(runner.model))

    def before_test(self, runner: Any) -> None:
        """Check what the metric needs."""
        _check_test_cfg(unwrapped(runner.model))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the levels and look for a plateau."""
        for name, level in self.levels.items():
            runner.message_hub.update_scalar(f'train/{name}', level)
        when = max(1, round(self.patience * runner.max_iters))
        if runner.iter + 1 != when or not self._can_be_blind():
            return
        loss = runner.message_hub.get_scalar('train/loss_kpt').mean(min(when, 50))
        if loss > self.margin * self.levels['loss_blind']:
            runner.logger.warning(
                f'Jigsaw: after {when} iterations the loss is {loss:.6f}, and a network that sees '
                f'nothing has {self.levels["loss_blind"]:.6f}: so far little or nothing '
                'was learnt. If it does not fall soon, is the learning rate right?'
            )

    def _can_be_blind(self) -> bool:
        """False with one permutation, or none, whose targets need no image."""
        levels = self.levels
        return bool(levels) and levels['loss_blind'] > 0.01 * levels['loss_zero']


def slot_maps(codec: Any, centres: np.ndarray) -> np.ndarray:
    """Encode target heatmaps (K, H, W) of peaks at the centres of the cells (K, 2).

    Raises:
        ConfigError: If the codec makes something else of them.
    """
    visible = np.ones((1, len(centres)), np.float32)
    maps = codec.encode(keypoints=centres[None], keypoints_visible=visible).get('heatmaps')
    if maps is None or len(maps) != len(centres):
        raise ConfigError(
            'the puzzles need one heatmap a patch',
            key='GenerateTarget.encoder',
            got=type(codec).__name__,
            expected='MSRAHeatmap, MegviiHeatmap or UDPHeatmap with heatmap_type=gaussian',
        )
    return maps


def loss_levels(slots: np.ndarray, prior: np.ndarray) -> dict[str, float]:
    """Compute mean squared errors of outputs that do not depend on the image.

    Args:
        slots: Target heatmap of each cell, (K, H, W).
        prior: How often channel k has the target of cell s, (K, K).

    Returns:
        ``loss_zero``: of zeros; ``loss_blind``: of the mean target of each channel, which no other
        such output undercuts.
    """
    flat = slots.reshape(len(slots), -1).astype(np.float64)
    zero = float((prior @ (flat**2).mean(axis=1)).mean())
    return dict(loss_zero=zero, loss_blind=zero - float(((prior @ flat) ** 2).mean()))


def _check_test_cfg(model: Any) -> None:
    test_cfg: Mapping[str, Any] = model.test_cfg or {}
    if test_cfg.get('flip_test'):
        raise ConfigError(
            'it would swap joints, and there are patches',
            key='model.test_cfg.flip_test',
            got=test_cfg['flip_test'],
            fix='Set it to False.',
        )


def _check_channels(model: Any, grid: PatchGrid) -> None:
    channels = getattr(getattr(model, 'head', None), 'out_channels', None)
    if channels != grid.count:
        raise ConfigError(
            key='model.head.out_channels',
            got=channels,
            expected=f'{grid.count}, the patches of a grid of {grid.rows}x{grid.cols}',
        )


def _check_workers(loader: Any) -> None:
    short_lived = loader.num_workers and not loader.persistent_workers
    if short_lived and not isinstance(loader.dataset, SeededDataset):
        raise ConfigError(
            'each epoch would see the puzzles of the first',
            key='train_dataloader.persistent_workers',
            got=False,
            fix='Set it to True, or reproducible=True in the config.',
        )


def _is_plain_mse(head: Any) -> bool:
    """Return whether the loss is one ``KeypointMSELoss`` of one output."""
    loss = type(getattr(head, 'loss_module', None)).__name__
    return loss == 'KeypointMSELoss' and not hasattr(head, 'num_stages')
