"""Features of a network in the data samples that it predicts."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor, nn

from kdmm.datasets.annotations import read_labels, read_sample_ids
from kdmm.errors import ConfigError, listed
from kdmm.evaluation.few_shot import FewShotMetric, sample_id
from kdmm.hooks.deploy import plain_networks
from kdmm.hooks.ownership import objective_in
from kdmm.registry import HOOKS
from kdmm.taps import Calls, Taps, leaves
from kdmm.utils.models import unwrapped

WHERE = 'FeaturesHook'


@HOOKS.register_module()
class FeaturesHook(Hook):
    """Adds ``features`` (D,), float32 on the CPU, to each data sample of validation and test.

    It reads the pass that predicts, of the run's model and of each peer beside it, so that metrics
    such as `kdmm.evaluation.FewShotMetric` need no pass of their own. Maps (B, C, H, W) are
    averaged over their positions. The predictions stay what they are.

    Of each `FewShotMetric` it checks at the start that the data set has the classes and images for
    its episodes, and that none of its classes is one that the network was trained on: of the
    training data of this run, and of those that the loaded checkpoint says.

    Args:
        tap: Path of the features, see `kdmm.taps.TapPath`. The default is what enters the head of
            a classifier, of several maps the last. ``head.fc.in`` is what enters its linear layer.

    Raises:
        ConfigError: If the tap names no module, or gives no vector an image; for the checks above.
    """

    priority = 'VERY_HIGH'  # features and checks are there before any other hook asks for them

    def __init__(self, tap: str = 'head.in') -> None:
        self.tap = tap
        self._attached = ExitStack()
        self._trained: set[str] = set()
        self._checked: list[Any] = []

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Remember the classes of a checkpoint's training data."""
        meta = checkpoint.get('meta')
        known = meta.get('dataset_meta') if isinstance(meta, dict) else None
        self._trained |= _class_names(known)

    def before_train(self, runner: Any) -> None:
        """Check the metrics of the validation before anything is trained."""
        dataset = runner.train_dataloader.dataset
        self._trained |= _class_names(getattr(dataset, 'metainfo', None))
        self._taps(runner.model)
        if runner.val_loop is not None:
            self._check(runner.val_loop, 'val')

    def before_val(self, runner: Any) -> None:
        """Check the metrics of a run that does not train."""
        self._check(runner.val_loop, 'val')

    def before_test(self, runner: Any) -> None:
        """As `before_val`."""
        self._check(runner.test_loop, 'test')

    def before_val_epoch(self, runner: Any) -> None:
        """Listen to the networks."""
        self._attach(runner.model)

    def before_test_epoch(self, runner: Any) -> None:
        """Listen to the networks."""
        self._attach(runner.model)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Leave the networks as they were."""
        self._attached.close()

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Leave the networks as they were."""
        self._attached.close()

    def _taps(self, model: nn.Module) -> list[tuple[nn.Module, Taps]]:
        return [
            (network, Taps(network, dict(tap=self.tap), name or 'model', WHERE))
            for name, network in _networks(model)
        ]

    def _attach(self, model: nn.Module) -> None:
        self._attached.close()
        for network, taps in self._taps(model):
            for handle in _listen(network, taps, self.tap):
                self._attached.callback(handle.remove)

    def _check(self, loop: Any, stage: str) -> None:
        dataset = loop.dataloader.dataset
        metrics = [one for one in loop.evaluator.metrics if isinstance(one, FewShotMetric)]
        if not metrics or any(dataset is known for known in self._checked):
            return
        key = f'{stage}_dataloader.dataset'
        labels = read_labels(dataset, key).tolist()
        read_sample_ids(dataset, key)  # each has one
        ids = [sample_id(dataset.get_data_info(index)) for index in range(len(labels))]
        known = self._trained & _class_names(getattr(dataset, 'metainfo', None))
        for metric in metrics:
            metric.check(labels, ids)
            if metric.novel and known:
                raise ConfigError(
                    f'the network was trained on {listed(sorted(known), 5)}',
                    key=key,
                    expected='classes that it has not seen',
                    fix='Keep others by kdmm.ClassSubset, or set FewShotMetric.novel=False.',
                )
        self._checked.append(dataset)


def _networks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if objective_in(model) is None:
        yield '', unwrapped(model)
    else:
        yield from plain_networks(model)


def _class_names(metainfo: Any) -> set[str]:
    found = metainfo.get('classes') if isinstance(metainfo, dict) else None
    return set(found) if isinstance(found, list | tuple) else set()


def _listen(network: nn.Module, taps: Taps, path: str) -> list[Any]:
    """Let a network add its features to the samples that it predicts; return handles."""
    passes: list[tuple[ExitStack, dict[str, Any]]] = []

    def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get('mode') == 'predict':
            stack = ExitStack()
            passes.append((stack, stack.enter_context(taps.record())))

    def end(module: nn.Module, args: Any, kwargs: dict[str, Any], samples: Any) -> None:
        if kwargs.get('mode') == 'predict':
            stack, found = passes.pop()
            stack.close()
            rows = rows_of(found['tap'], len(samples), path)
            for sample, row in zip(samples, rows, strict=True):
                sample.features = row

    return [
        network.register_forward_pre_hook(begin, with_kwargs=True),
        network.register_forward_hook(end, with_kwargs=True),
    ]


def rows_of(value: Any, count: int, path: str) -> Tensor:
    """Return one vector an image, (B, D), of an activation: a tensor, or the last of several.

    Args:
        value: What the tap gave.
        count: B.
        path: The tap, for the error.

    Raises:
        ConfigError: If there is none, or there are several calls of the module.
    """
    found = [] if isinstance(value, Calls) else list(leaves(value))
    # (B, C, H, W) -> (B, C)
    features = [x.float().mean((2, 3)) if x.dim() == 4 else x.float() for x in found[-1:]]
    if not features or features[0].dim() != 2 or len(features[0]) != count:
        shapes = [tuple(x.shape) for x in leaves(value)]
        raise ConfigError(
            f'it gives {listed(shapes)} for {count} images',
            key=f'{WHERE}.tap',
            got=path,
            expected='a vector or a map of each image, of one call',
        )
    return features[0].cpu()
