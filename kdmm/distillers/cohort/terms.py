"""Losses between the peers of a cohort."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdmm.distillers.builder import check_shapes
from kdmm.distillers.connectors import channels_of
from kdmm.distillers.stage_branches import BUILT_IN, Stages
from kdmm.distillers.term import Term, WeightedLoss, shape_of
from kdmm.errors import ConfigError
from kdmm.losses.base import DistillLoss
from kdmm.registry import MODELS
from kdmm.taps import Calls, map_leaves
from kdmm.utils.tables import plain

Activations = Sequence[Mapping[str, Any]]


class MutualTerm(WeightedLoss):
    """Term of a loss that compares all peers at once, such as `MCLLoss`.

    Args:
        name: The term's name under ``kd.losses``.
        config: The term's dict: the loss's arguments, ``on`` and ``weight``.
        taps: Known tap names.
        facts: Values for arguments that the config leaves out. The term adds ``peer_channels``, one
            number a peer, of the stages of a network (`Stages`) a tuple; where the term reads
            several taps, a tuple of these a peer.
        blanks: Of each peer, tap name to activation as training will give them, blank.
        note: Describes their input, as the end of an error message.

    Raises:
        ConfigError: As `Term`.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        taps: Mapping[str, Any],
        facts: Mapping[str, Any],
        blanks: Activations,
        note: str = '',
    ) -> None:
        super().__init__(name, config, taps)
        given = [self.pick(blank) for blank in blanks]
        for tap in self.taps:
            if any(isinstance(blank[tap], Calls) for blank in blanks):
                raise ConfigError(
                    'it is a module that runs several times',
                    key=f'{self.where}.on',
                    got=tap,
                    fix='Choose a call with #k in kd.taps, the first is #1.',
                )
        channels = [tuple(map(_channels, x)) if self.several else _channels(x) for x in given]
        facts = {**facts, 'peer_channels': channels}
        self.build(facts)
        check_shapes(self.where, f'on {self.called}', self.loss, [given], note)

    @property
    def first(self) -> WeightedLoss:
        """The term itself; of a `PairTerm` that of one pair."""
        return self

    def compute(self, activations: Activations, **context: Any) -> dict[str, Tensor]:
        """Compute the unweighted loss by part."""
        return self.run([self.pick(one) for one in activations], **context)

    def zeros(self, activations: Activations) -> dict[str, Tensor]:
        """See `WeightedLoss.zero_losses`."""
        return self.zero_losses([self.pick(one) for one in activations])


class PairTerm(nn.Module):
    """A loss of student and teacher between all ordered pairs of peers (DML, arXiv 1706.00384).

    The sum over pairs (student, teacher) over N - 1; the teacher of a pair gets no gradient.

    Args:
        name, config, taps, facts, blanks, note: As for `MutualTerm`, config as for `Term`.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        taps: Mapping[str, Any],
        facts: Mapping[str, Any],
        blanks: Activations,
        note: str = '',
    ) -> None:
        super().__init__()
        if 'teacher' in config:
            raise ConfigError(
                'a cohort has none, all teach each other',
                key=f'kd.losses.{name}.teacher',
                got=config['teacher'],
            )
        self.name, self.share = name, 1 / (len(blanks) - 1)
        self.ordered = list(permutations(range(len(blanks)), 2))
        self.pairs = nn.ModuleList(
            Term(name, config, taps, facts, {k: (blanks[i][k], blanks[j][k]) for k in taps}, note)
            for i, j in self.ordered
        )

    @property
    def first(self) -> Term:
        """Term of the first pair, for values that are equal in all."""
        return cast(Term, self.pairs[0])

    @property
    def idle(self) -> bool:
        """See `WeightedLoss`."""
        return self.first.idle

    def compute(self, activations: Activations, **context: Any) -> dict[str, Tensor]:
        """Compute the unweighted loss by part."""
        return self._sum(
            term.compute(term.pick(activations[i]), detached(term.pick(activations[j])), **context)
            for term, i, j in self._each()
        )

    def weigh(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted log entries."""
        return self.first.weigh(values)

    def zeros(self, activations: Activations) -> dict[str, Tensor]:
        """See `WeightedLoss.zero_losses`."""
        return self._sum(term.zero_losses(term.pick(activations[i])) for term, i, _ in self._each())

    def _each(self) -> Any:
        return ((cast(Term, t), *pair) for t, pair in zip(self.pairs, self.ordered, strict=True))

    def _sum(self, found: Any) -> dict[str, Tensor]:
        every = list(found)
        return {key: self.share * torch.stack([x[key] for x in every]).sum() for key in every[0]}


CohortTerm = MutualTerm | PairTerm


def cohort_term(name: str, config: Mapping[str, Any], *args: Any) -> CohortTerm:
    """Build the term of a loss of all peers (a class with ``mutual = True``) or of pairs.

    Raises:
        ConfigError: If the config is wrong, or a weight is to be measured.
    """
    kind = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    mutual = isinstance(kind, type) and issubclass(kind, DistillLoss) and kind.mutual
    on = config.get('on')
    for tap in () if mutual else ([on] if isinstance(on, str) else on or ()):
        if tap in BUILT_IN:
            raise ConfigError(
                'this tap has all stages of a network, which mutual losses compare',
                key=f'kd.losses.{name}.on',
                got=tap,
                fix='Tap single stages for pairs: branches.stage1.fc.out.',
            )
    made = (MutualTerm if mutual else PairTerm)(name, config, *args)
    if made.first.weights.autos:
        raise ConfigError(
            "'auto' is measured against one student's task",
            key=f'kd.losses.{name}.weight',
            got=config['weight'],
            fix='Give a cohort numbers or schedules.',
        )
    return made


def _channels(activation: Any) -> Any:
    """Channels of an activation, of `Stages` those of each."""
    if isinstance(activation, Stages):
        return tuple(map(channels_of, activation))
    return channels_of(activation)


def detached(value: Any) -> Any:
    """Detach all tensors of a nested activation."""
    return map_leaves(Tensor.detach, value)


def cohort_table(terms: Sequence[CohortTerm], activations: Activations, stored: int) -> str:
    """Format the table of terms with taps, shapes, losses and weights, and the banks' memory."""
    if not terms:
        return f'Cohort of {len(activations)} networks without losses between them'
    head = ('term', 'tap', *(f'place {i}' for i in range(len(activations))), 'loss', 'weight')
    rows = []
    for term in terms:
        one = term.first
        shapes = [shape_of(one.pick(found)) for found in activations]
        rows.append((term.name, one.on, *shapes, type(one.loss).__name__, one.describe_weight()))
    lines = [f'Cohort of {len(activations)} networks', plain(head, rows)]
    notes = [(term.name, term.first.loss.note()) for term in terms]
    lines += [f'{name}: {note}' for name, note in notes if note]
    if stored:
        lines.append(f'queues and banks: {stored / 2**20:.0f} MiB on each device')
    return '\n'.join(lines)
