"""Branches behind the stages of a classifier, for objectives of any method."""

from collections.abc import Collection, Mapping, Sequence
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
#: Taps that every network with branches has, see `Stages`: pooled embeddings (B, d) and logits
#: (B, K), which enter and leave the last layer of the stages' classifiers.
BUILT_IN = dict(stages='in', stage_logits='out')
_OWN = 'own'


class Stages(tuple):
    """One activation for each branch of a network, shallow stages first, then the network's own."""


class StageBranches(nn.Module):
    """Branches of one network, with the taps that feed them and the taps in them.

    Args:
        network: A classifier; only read.
        taps: Tap name to a path within the branches, for instance ``stage1.fc.in``.
        owner: Name of the network in errors.
        read: Those of `BUILT_IN` that terms read; of the network itself, see `own_stage_taps`.
        options: Of `make_branches`.

    Raises:
        ConfigError: As `make_branches`; for a path that no module of a branch has.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, str],
        owner: str,
        read: Collection[str] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        self.branches = make_branches(network, owner=owner, **options)
        self.stages = Taps(network, stage_taps(self.branches), owner)
        built_in = {_part(tap, name): f'{name}.fc.{BUILT_IN[tap]}'
                    for tap in read for name in self.branches}  # fmt: skip
        self.taps = Taps(self.branches, {**taps, **built_in}, f'branches of {owner}')

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


def own_stage_taps(network: nn.Module, owner: str, read: Collection[str]) -> dict[str, str]:
    """Paths of a network's own part of the `BUILT_IN` taps that are read, by name.

    Args:
        network: A classifier.
        owner: Its name in errors.
        read: Those that are read.

    Raises:
        ConfigError: If its head has not one linear layer that gives the logits.
    """
    if not read:
        return {}
    classes, head = task_facts(network).get('num_classes'), getattr(network, 'head', None)
    layers = [
        name
        for name, part in (head.named_modules() if isinstance(head, nn.Module) else ())
        if isinstance(part, nn.Linear) and part.out_features == classes
    ]
    if len(layers) != 1:
        raise ConfigError(
            f'the taps {" and ".join(BUILT_IN)} read the linear layer that gives the logits, and '
            f'the head of {owner}, a {type(head).__name__}, has {len(layers)} of {classes} outputs',
            key='model.head.type',
            expected="a head with one, such as 'LinearClsHead'",
        )
    return {_part(tap, _OWN): f'head.{layers[0]}.{BUILT_IN[tap]}' for tap in read}


def gather_stages(found: dict[str, Any], read: Collection[str]) -> None:
    """Put the parts of `BUILT_IN` taps together, in place, as `Stages` under the tap's name."""
    for tap in read:
        own = found.pop(_part(tap, _OWN))
        parts = [found.pop(name) for name in list(found) if name.startswith(_part(tap, ''))]
        found[tap] = Stages([*parts, own])


def _part(tap: str, stage: str) -> str:
    return f'{tap}: {stage}'


def branch_losses(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Compute each branch's cross-entropy: logits (B, K) and labels (B,) -> a scalar a branch."""
    return {name: F.cross_entropy(promote(z), labels) for name, z in logits.items()}


def stage_taps(branches: AuxiliaryBranches) -> dict[str, str]:
    """Tap paths of the stages, within a classifier."""
    return {name: f'backbone.{path}.out' for name, path in branches.taps.items()}


def make_branches(
    classifier: nn.Module,
    stages: Sequence[int] | str | None = None,
    checkpointing: bool = False,
    owner: str = 'the student',
    per_class: int = 1,
    blocks: int | Sequence[int | None] | None = None,
) -> AuxiliaryBranches:
    """Build branches with ``per_class`` logits for each class of a classifier.

    Args:
        classifier: MMPretrain's ``ImageClassifier`` or what has its parts.
        stages: See `AuxiliaryBranches`.
        checkpointing: Compute the branches' activations again in the backward pass.
        owner: How errors call it.
        per_class: 1 for the classes themselves.
        blocks: See `AuxiliaryBranches`.

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
    return AuxiliaryBranches(backbone, per_class * classes, stages, checkpointing, blocks)
