"""Refuse labels that name no class, before they reach an index operation."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from kdmm.distillers.context import task_facts
from kdmm.errors import ConfigError
from kdmm.hooks.nonfinite import image_names
from kdmm.registry import HOOKS


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Checks the label maps, or labels, of each batch on the CPU, where they still lie.

    Raises:
        ConfigError: Names the value, the number of classes and the image.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Read the number of classes off the head."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        facts = task_facts(model)
        self.num_classes = facts.get('num_classes')
        # of label maps; a classifier's cross-entropy ignores torch's own
        default = 255 if hasattr(model, 'decode_head') else -100
        self.ignore_index = facts.get('ignore_index', default)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """One minimum and maximum per image."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        if self.num_classes is None or not samples:
            return
        for sample, name in zip(samples, image_names(data_batch), strict=True):
            labels = labels_in(sample)
            if labels is None or labels.numel() == 0:
                continue
            wrong = (labels != self.ignore_index) & ((labels < 0) | (labels >= self.num_classes))
            if wrong.any():
                value = int(labels[wrong][0])
                raise ConfigError(
                    f'label {value} in the annotation of {name}: the model has '
                    f'{self.num_classes} classes (0 to {self.num_classes - 1}) and ignores '
                    f'{self.ignore_index}. Is reduce_zero_label, the label map or num_classes off?'
                )


def labels_in(sample: Any) -> Any:
    """The label map of a segmentation sample or the labels of a classification sample, if any."""
    if hasattr(sample, 'gt_sem_seg'):
        return sample.gt_sem_seg.data
    return getattr(sample, 'gt_label', None)
