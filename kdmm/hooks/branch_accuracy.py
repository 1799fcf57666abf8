"""Validation of auxiliary branches."""

from typing import Any

import torch
from mmengine.hooks import Hook

from kdmm.distillers.hssakd.branches import hard_labels, views_of
from kdmm.errors import ConfigError
from kdmm.evaluation import JointAccuracy
from kdmm.hooks.ownership import objective_of
from kdmm.registry import HOOKS


@HOOKS.register_module()
class BranchAccuracyHook(Hook):
    """Add `JointAccuracy` of the run's own branches to the metrics of each validation.

    It looks at four views of each validation image through all branches, about ten times what plain
    validation costs. ``save_best='joint/sum'`` chooses a teacher by it.
    """

    priority = 'HIGHEST'  # the hooks after it log and judge all metrics

    def before_train(self, runner: Any) -> None:
        """Refuse a run without validation.

        Raises:
            ConfigError: If the config has none.
        """
        if runner.val_loop is None:
            raise ConfigError('the config has no validation (val_cfg)', key='kd.evaluate_branches')

    @torch.no_grad()
    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Run the branches over the validation data."""
        if metrics is None:
            return
        objective: Any = objective_of(runner.model)
        classifier, metric = objective.branched.classifier, JointAccuracy()
        for batch in runner.val_dataloader:
            data = classifier.data_preprocessor(batch, False)
            views = views_of(data['inputs'], objective.channels_last)
            with torch.autocast(views.device.type, enabled=runner.val_loop.fp16):
                joint = objective.branched.branch_logits(views)
            metric.process(joint, hard_labels(data['data_samples']))  # type: ignore[arg-type]
        metrics.update(metric.evaluate(len(runner.val_dataloader.dataset)))
