"""Refuse labels outside the range of classes, before an operation indexes with them."""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from kdmm.datasets.label_survey import survey_labels, survey_warning
from kdmm.distillers.builder import output_head, task_facts
from kdmm.errors import ConfigError
from kdmm.evaluation.few_shot import FewShotMetric
from kdmm.hooks.nonfinite import image_names
from kdmm.registry import HOOKS
from kdmm.utils.models import unwrapped


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Checks label maps, and labels of images and boxes, in training, validation and test.

    Before the first iteration the main process looks at the annotations of up to 200 label maps, or
    10,000 annotations that need no file, spread over each data set, for two seconds at most, and
    warns of classes that never occur. After that each batch is checked on the CPU, where its labels
    still lie. Data that only a `FewShotMetric` judges has classes that the head does not know.

    Raises:
        ConfigError: Names the value, the number of classes and the image.
    """

    priority = 'VERY_HIGH'
    num_classes: int | None = None
    #: Whether the labels of this validation or test are other classes than the head's.
    foreign = False

    def before_train(self, runner: Any) -> None:
        """Read the number of classes off the head; survey the labels of some samples."""
        self._read_model(runner.model)
        self._survey(runner, 'train', 'val')

    def before_val(self, runner: Any) -> None:
        """Read the model for a run that only validates; labels that its metrics ignore pass."""
        self._read_model(runner.model)
        self._read_metrics(getattr(runner, 'val_evaluator', None))

    def before_test(self, runner: Any) -> None:
        """Check as before training."""
        self._read_model(runner.model)
        self._read_metrics(getattr(runner, 'test_evaluator', None))
        self._survey(runner, 'test')

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Check one batch."""
        self._check(data_batch, self.ignored[:1])

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Check one batch."""
        if not self.foreign:
            self._check(data_batch, self.ignored)

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Check one batch."""
        if not self.foreign:
            self._check(data_batch, self.ignored)

    def _read_model(self, model: Any) -> None:
        model = unwrapped(model)
        facts = task_facts(model)
        kinds = (kind.__name__ for kind in type(output_head(model)).__mro__)
        # a region proposal network knows one class, whatever its boxes are of
        self.num_classes = None if 'RPNHead' in kinds else facts.get('num_classes')
        # of label maps; a classifier's cross-entropy ignores torch's own
        default = 255 if hasattr(model, 'decode_head') else -100
        self.ignored = [facts.get('ignore_index', default)]

    def _read_metrics(self, evaluator: Any) -> None:
        self.foreign = only_few_shot(evaluator)
        for metric in getattr(evaluator, 'metrics', ()):
            if isinstance(getattr(metric, 'ignore_index', None), int):
                self.ignored.append(metric.ignore_index)

    def _survey(self, runner: Any, *stages: str) -> None:
        """Warn, once a data set, of classes that never occur."""
        for stage in stages if is_main_process() else ():
            loop = getattr(runner, f'{stage}_loop', None)
            dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
            survey = survey_labels(dataset)
            if survey is None:
                continue
            key = f'{stage}_dataloader'
            ignored = [*self.ignored, getattr(dataset, 'ignore_index', 255)]
            foreign = only_few_shot(getattr(loop, 'evaluator', None))
            if self.num_classes is not None and survey.kind != 'persons' and not foreign:
                for label, where in survey.wrong(self.num_classes, ignored):
                    raise self._wrong(label, where, key)
            warning = survey_warning(survey, key)
            if warning:
                runner.logger.warning(warning)

    def _check(self, data_batch: Any, ignored: list[int]) -> None:
        """Compare the labels of each image with the number of classes."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        if self.num_classes is None or not samples:
            return
        for sample, name in zip(samples, image_names(data_batch), strict=True):
            for labels in labels_in(sample):
                wrong = (labels < 0) | (labels >= self.num_classes)
                for value in ignored:
                    wrong &= labels != value
                if wrong.any():
                    raise self._wrong(int(labels[wrong][0]), name)

    def _wrong(self, label: int, name: str, key: str = '') -> ConfigError:
        assert self.num_classes is not None
        return ConfigError(
            f'label {label} in the annotation of {name}: the model has {self.num_classes} classes '
            f'(0 to {self.num_classes - 1}) and ignores {self.ignored[0]}',
            key=key,
            fix='Is reduce_zero_label, the label map or num_classes off?',
        )


def only_few_shot(evaluator: Any) -> bool:
    """Return whether all metrics of an evaluator are `FewShotMetric`, of which there is one."""
    metrics = getattr(evaluator, 'metrics', ())
    return bool(metrics) and all(isinstance(metric, FewShotMetric) for metric in metrics)


def labels_in(sample: Any) -> Iterator[Any]:
    """Yield the label map of a segmentation sample, or the labels of an image or of boxes."""
    if hasattr(sample, 'gt_sem_seg'):
        yield sample.gt_sem_seg.data
    elif getattr(sample, 'gt_label', None) is not None:
        yield sample.gt_label
    elif hasattr(getattr(sample, 'gt_instances', None), 'labels'):
        yield sample.gt_instances.labels
