"""A classifier with branches behind its stages: one pass over four rotations of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmm.distillers.builder import task_facts
from kdmm.distillers.term import labels as labels_of
from kdmm.errors import ConfigError
from kdmm.functional import promote, rotations, unrotated
from kdmm.functional.divergence import kl_divergence
from kdmm.models import AuxiliaryBranches
from kdmm.taps import Taps


class BranchedOutput(NamedTuple):
    """The outputs of one network for the 4B views.

    Attributes:
        logits: Of the main head, (4B, C).
        joint: Of the branches, by name, each (4B, 4C).
        losses: The head's own, on the B unrotated rows.
    """

    logits: Tensor
    joint: dict[str, Tensor]
    losses: dict[str, Tensor]


class BranchedForward:
    """Runs a classifier's trunk once over all views, and its branches on what the stages gave.

    Args:
        classifier: MMPretrain's ``ImageClassifier`` or what has its parts.
        branches: Its branches.
        owner: How errors call it.
        detached: Keep the branches' gradients out of the classifier, and run it without a graph.
    """

    def __init__(
        self,
        classifier: Any,
        branches: AuxiliaryBranches,
        owner: str = 'student',
        detached: bool = False,
    ) -> None:
        self.classifier, self.branches, self.detached = classifier, branches, detached
        self.taps = Taps(classifier, stage_taps(branches), owner)

    def __call__(self, views: Tensor, samples: Sequence[Any]) -> BranchedOutput:
        """Views (4B, 3, S, S), interleaved, and the B data samples."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detached):
            with self.taps.record() as stages:
                features = self.classifier.extract_feat(views)
            logits = self.classifier.head(features)
            own = self.classifier.head.loss(tuple(map(unrotated, features)), samples)
        return BranchedOutput(logits, self.joint(stages), own)

    def joint(self, stages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The branches on the outputs of their stages."""
        found = self.branches([stages[name] for name in self.branches])
        return dict(zip(self.branches, found, strict=True))

    def branch_logits(self, views: Tensor) -> dict[str, Tensor]:
        """Joint logits alone, for evaluation."""
        with self.taps.record(stop_early=True) as stages:
            self.classifier.extract_feat(views)
        return self.joint(stages)


def stage_taps(branches: AuxiliaryBranches) -> dict[str, str]:
    """Tap paths of the stages, within a classifier."""
    return {name: f'backbone.{path}.out' for name, path in branches.taps.items()}


def make_branches(
    classifier: nn.Module,
    stages: Sequence[int] | None = None,
    checkpointing: bool = False,
    owner: str = 'the student',
) -> AuxiliaryBranches:
    """Joint class and rotation branches for a classifier.

    Raises:
        ConfigError: If it is no classifier with a backbone in stages, or knows one class only.
    """
    backbone = getattr(classifier, 'backbone', None)
    classes = task_facts(classifier).get('num_classes')
    head = getattr(classifier, 'head', None)  # a segmentor has others
    if backbone is None or head is None or classes is None:
        raise ConfigError(
            f'kd.type: HSSAKD trains classifiers, and {owner} is a {type(classifier).__name__}: '
            "expected type='ImageClassifier' with a backbone and a head that has num_classes"
        )
    if classes < 2:
        raise ConfigError(
            f'model.head.num_classes: expected 2 or more, got {classes} ({owner}): a softmax over '
            'one class is constant, so there is nothing to learn from its logits'
        )
    return AuxiliaryBranches(backbone, 4 * classes, stages, checkpointing)


def views_of(inputs: Any, channels_last: bool = False) -> Tensor:
    """The four views of a preprocessed batch, (B, 3, S, S) -> (4B, 3, S, S).

    Raises:
        ConfigError: If the images are not square.
    """
    try:
        views = rotations(inputs)
    except ValueError as error:
        raise ConfigError(f'HSSAKD: {error}') from error
    return views.contiguous(memory_format=torch.channels_last) if channels_last else views


def hard_labels(samples: Sequence[Any] | None) -> Tensor:
    """Class of each image, (B,).

    Raises:
        ConfigError: If there is none, or several, or labels are mixed.
    """
    if any('gt_score' in sample for sample in samples or ()):
        raise ConfigError(
            'model.data_preprocessor.batch_augments, or soft labels of the data set: the joint '
            'label of class and rotation needs one class an image. Leave Mixup and CutMix out'
        )
    labels = labels_of(samples or ())
    if len(labels) != len(samples or ()):
        raise ConfigError(
            f'{len(labels)} labels for {len(samples or ())} images: the joint label of class and '
            'rotation needs one class an image, not several'
        )
    return labels


def joint_cross_entropy(joint: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """CE of each branch's logits (4B, 4C) with the joint labels (4B,)."""
    return {f'joint_{name}': F.cross_entropy(promote(q), labels) for name, q in joint.items()}


def branch_divergence(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], temperature: float
) -> dict[str, Tensor]:
    """``T^2 KL(teacher || student)`` of each pair of branches, matched in order."""
    pairs = zip(student.items(), teacher.values(), strict=True)
    return {name: kl_divergence(mine, theirs, temperature) for (name, mine), theirs in pairs}
