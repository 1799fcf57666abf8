"""Branches behind the stages of a classifier, for objectives of any method."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kdmm.distillers.builder import task_facts
from kdmm.distillers.probe import Size, blank_taps
from kdmm.errors import ConfigError
from kdmm.functional import promote
from kdmm.models import AuxiliaryBranches
from kdmm.taps import Taps

#: Prefix of tap paths that read a branch instead of the network.
PREFIX = 'branches.'


class StageBranches(nn.Module):
    """Branches of one network, with the taps that feed them and the taps in them.

    Args:
        network: A classifier; only read.
        taps: Tap name to a path within the branches, for instance ``stage1.fc.in``.
        owner: Name of the network in errors.
        options: Of `make_branches`.

    Raises:
        ConfigError: As `make_branches`; for a path that no module of a branch has.
    """

    def __init__(
        self, network: nn.Module, taps: Mapping[str, str], owner: str, **options: Any
    ) -> None:
        super().__init__()
        self.branches = make_branches(network, owner=owner, **options)
        self.stages = Taps(network, stage_taps(self.branches), owner)
        self.taps = Taps(self.branches, taps, f'branches of {owner}')

    def forward(self, stages: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Stage outputs (B, C_l, h_l, w_l) -> logits (B, K) by branch, activations by tap."""
        with self.taps.record() as found:
            logits = self.branches(stages)
        return logits, found

    def blank(
        self, network: nn.Module, size: Size | None, crop: Size | None, of: nn.Module
    ) -> dict[str, Any]:
        """Return blank activations of the taps as training will give them, see `blank_taps`."""
        stages, _ = blank_taps(network, self.stages, size, crop, of)
        was_training = self.training
        self.eval()
        _, found = self({name: value.contiguous() for name, value in stages.items()})
        self.train(was_training)
        return found


def branch_losses(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Compute each branch's cross-entropy: logits (B, K) and labels (B,) -> a scalar a branch."""
    return {name: F.cross_entropy(promote(z), labels) for name, z in logits.items()}


def stage_taps(branches: AuxiliaryBranches) -> dict[str, str]:
    """Tap paths of the stages, within a classifier."""
    return {name: f'backbone.{path}.out' for name, path in branches.taps.items()}


def make_branches(
    classifier: nn.Module,
    stages: Sequence[int] | None = None,
    checkpointing: bool = False,
    owner: str = 'the student',
    per_class: int = 1,
) -> AuxiliaryBranches:
    """Build branches with ``per_class`` logits for each class of a classifier.

    Args:
        classifier: MMPretrain's ``ImageClassifier`` or what has its parts.
        stages: See `AuxiliaryBranches`.
        checkpointing: Compute the branches' activations again in the backward pass.
        owner: How errors call it.
        per_class: 1 for the classes themselves.

    Raises:
        ConfigError: If it is no classifier with a backbone in stages, or knows one class only.
    """
    backbone = getattr(classifier, 'backbone', None)
    classes = task_facts(classifier).get('num_classes')
    head = getattr(classifier, 'head', None)  # a segmentor has others
    if backbone is None or head is None or classes is None:
        raise ConfigError(
            f'branches belong to classifiers, and {owner} is a {type(classifier).__name__}',
            key='model.type',
            expected="'ImageClassifier' with a backbone and a head that has num_classes",
        )
    if classes < 2:
        raise ConfigError(
            f'of {owner}: a softmax over one class is constant, so there is nothing to learn from '
            'its logits',
            key='model.head.num_classes',
            got=classes,
            expected='2 or more',
        )
    return AuxiliaryBranches(backbone, per_class * classes, stages, checkpointing)
