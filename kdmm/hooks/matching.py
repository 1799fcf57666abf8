"""A picture of the matching of layers, at the end of training."""

from pathlib import Path
from typing import Any

import cv2
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from kdmm.errors import ConfigError
from kdmm.hooks.ownership import objective_of
from kdmm.losses.layer_matching import MatchedLayers
from kdmm.registry import HOOKS
from kdmm.visualization import matching_sheet

#: Name of the picture in the work dir, and to the visualizer.
NAME = 'matching'


@HOOKS.register_module()
class MatchingHook(Hook):
    """Draw the mean weights between the layers of a cohort's networks (L-MCL, arXiv 2207.11518).

    They are those of the last epoch, over all its images; in loops without epochs those since the
    last multiple of the validation interval. When training ends, the first rank writes them as
    ``matching.png`` into the work dir and gives them to the visualizer's backends.

    Raises:
        ConfigError: At the start, if no term of the objective matches layers.
    """

    def before_train(self, runner: Any) -> None:
        """Look for the loss that matches layers."""
        matched_layers(runner.model)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Begin a new mean in the first iteration of an epoch, which is not entered on resuming."""
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            begins = batch_idx == 0
        else:
            begins = runner.iter % loop.val_interval == 0
        if begins:
            matched_layers(runner.model).reset_matching_mean()

    @master_only
    def after_train(self, runner: Any) -> None:
        """Write the picture."""
        loss = matched_layers(runner.model)
        sheet = matching_sheet(loss.matching_mean().cpu().numpy(), loss.matching_rows())
        cv2.imwrite(str(Path(runner.work_dir) / f'{NAME}.png'), sheet[..., ::-1])
        runner.visualizer.add_image(NAME, sheet, step=runner.iter)


def matched_layers(model: Any) -> MatchedLayers:
    """The loss of a run's objective that matches layers; the first one, if there are several.

    Raises:
        ConfigError: If there is none.
    """
    found = [part for part in objective_of(model).modules() if isinstance(part, MatchedLayers)]
    if not found:
        raise ConfigError(
            'no term of the objective matches layers',
            key='custom_hooks',
            got='kdmm.MatchingHook',
            fix='Leave it out, or take LMCLLoss or LMCLBankLoss.',
        )
    return found[0]
