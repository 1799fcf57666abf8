"""One pass of a classifier and its branches over four rotations of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdmm.distillers.refusals import refuse_mixed
from kdmm.distillers.stage_branches import branch_losses, stage_taps
from kdmm.distillers.term import labels as labels_of
from kdmm.errors import ConfigError
from kdmm.functional import rotations, unrotated
from kdmm.functional.divergence import kl_divergence
from kdmm.models import AuxiliaryBranches
from kdmm.taps import Taps

#: Why mixed images are refused.
JOINT = 'the joint label of class and rotation needs one class an image'


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
    """Run a classifier once over all views, and its branches on the outputs of the stages.

    Args:
        classifier: MMPretrain's ``ImageClassifier`` or what has its parts.
        branches: Its branches.
        owner: Its name in errors.
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
            with self.taps.record() as stages:  # name to (4B, C_l, h_l, w_l)
                features = self.classifier.extract_feat(views)  # a tuple, (4B, D)
            logits = self.classifier.head(features)  # (4B, D) -> (4B, C)
            # (4B, D) -> (B, D), the unrotated rows
            own = self.classifier.head.loss(tuple(map(unrotated, features)), samples)
        # (4B, C_l, h_l, w_l) -> (4B, 4C), each branch
        return BranchedOutput(logits, self.branches(stages), own)

    def branch_logits(self, views: Tensor) -> dict[str, Tensor]:
        """Compute the joint logits alone, for evaluation."""
        with self.taps.record(stop_early=True) as stages:
            self.classifier.extract_feat(views)
        return self.branches(stages)


def views_of(inputs: Any, channels_last: bool = False) -> Tensor:
    """Make the four views of a preprocessed batch, (B, 3, S, S) -> (4B, 3, S, S).

    Raises:
        ConfigError: If the images are not square.
    """
    try:
        views = rotations(inputs)  # row 4 b + r: image b by r quarter turns
    except ValueError as error:
        raise ConfigError(str(error), key='train_dataloader.dataset.pipeline') from error
    return views.contiguous(memory_format=torch.channels_last) if channels_last else views


def hard_labels(samples: Sequence[Any] | None) -> Tensor:
    """Class of each image, (B,).

    Raises:
        ConfigError: If there is none, or several, or labels are mixed.
    """
    refuse_mixed(samples or (), JOINT)
    labels = labels_of(samples or ())
    if len(labels) != len(samples or ()):
        raise ConfigError(
            f'it gives {len(labels)} labels for {len(samples or ())} images',
            key='train_dataloader.dataset',
            expected='one class an image, for the joint label of class and rotation',
        )
    return labels


def joint_cross_entropy(joint: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Compute each branch's cross-entropy with the joint labels (4B,), logits (4B, 4C)."""
    return {f'joint_{name}': value for name, value in branch_losses(joint, labels).items()}


def branch_divergence(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], temperature: float
) -> dict[str, Tensor]:
    """``T^2 KL(teacher || student)`` of each pair of branches, matched in order."""
    pairs = zip(student.items(), teacher.values(), strict=True)
    return {name: kl_divergence(mine, theirs, temperature) for (name, mine), theirs in pairs}
