"""Pictures of solved puzzles during training."""

from copy import deepcopy
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook

from kdmm.hooks.jigsaw_checks import check_packed
from kdmm.registry import HOOKS
from kdmm.utils.models import unwrapped
from kdmm.visualization import jigsaw_sheet


@HOOKS.register_module()
class JigsawSheetHook(Hook):
    """Add a sheet of puzzles of the current batch to the visualizer's backends.

    The network looks at them in eval mode and is left as it was.

    Args:
        interval: Iterations between sheets.
        samples: Puzzles on a sheet, at most the batch of the first rank.

    Raises:
        ConfigError: At the start, if the samples will not say what their puzzles are.
    """

    def __init__(self, interval: int = 1000, samples: int = 4) -> None:
        self.interval, self.samples = interval, samples

    def before_train(self, runner: Any) -> None:
        """Check that the samples will say what their puzzles are."""
        check_packed(runner.train_dataloader.dataset, 'train_dataloader.dataset')

    @master_only
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw a sheet every ``interval`` iterations."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        images = list(data_batch['inputs'][: self.samples])
        samples = deepcopy(data_batch['data_samples'][: self.samples])
        sheet = jigsaw_sheet(images, solve(runner.model, images, samples))
        runner.visualizer.add_image('jigsaw', sheet, step=runner.iter + 1)


def solve(model: Any, images: list[torch.Tensor], samples: list[Any]) -> list[Any]:
    """Return the data samples with predicted heatmaps; all modules keep their modes."""
    model = unwrapped(model)
    modes, test_cfg = {part: part.training for part in model.modules()}, model.test_cfg
    model.eval()
    model.test_cfg = {**(test_cfg or {}), 'output_heatmaps': True, 'flip_test': False}
    try:
        with torch.no_grad():
            return model.test_step(dict(inputs=images, data_samples=samples))
    finally:
        model.test_cfg = test_cfg
        for part, training in modes.items():
            part.training = training
