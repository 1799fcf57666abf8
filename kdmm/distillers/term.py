"""Terms: a loss with its taps and weight; and objectives that consist of terms."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.datasets.batches import images_in
from kdmm.distillers.builder import build_loss, check_shapes
from kdmm.distillers.connectors import (
    build_connectors,
    channels_of,
    check_classes,
    class_maps,
    describe,
)
from kdmm.distillers.loss_weights import LossWeights, constant_weight
from kdmm.distillers.objective import Objective
from kdmm.distillers.refusals import REMEDIES, refusal, refuse_mixed, refuse_mixing
from kdmm.distillers.section import tap_names
from kdmm.errors import ConfigError, about, refuse_unknown
from kdmm.losses.base import WHOLE, DistillLoss
from kdmm.schedules import Progress
from kdmm.taps import Calls, leaves, trained
from kdmm.utils.tables import plain

_PIPELINE = 'train_dataloader.dataset.pipeline'
#: Context that mixed images do not have, and what a loss does with it.
SINGLE = dict(labels='needs one class an image', sample_ids='remembers each image by its number')


def labels(samples: Sequence[Any]) -> Tensor:
    """Class indices: (B, H, W) of a segmentation batch, (B,) of a classification batch, int64."""
    if samples and hasattr(samples[0], 'gt_sem_seg'):
        return torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in samples]).long()
    if samples and hasattr(samples[0], 'gt_label'):
        refuse_mixed(samples, f'a loss in kd.losses {SINGLE["labels"]}')
        return torch.cat([sample.gt_label for sample in samples]).long()
    raise ConfigError(
        "a loss in kd.losses needs 'labels', but the data samples carry neither gt_sem_seg nor "
        'gt_label',
        key=_PIPELINE,
        fix='Does the training pipeline load annotations?',
    )


def sample_ids(samples: Sequence[Any]) -> Tensor:
    """Number of each image in its data set, (B,) int64 on the CPU."""
    if samples and all(getattr(sample, 'sample_idx', None) is not None for sample in samples):
        refuse_mixed(samples, f'a loss in kd.losses {SINGLE["sample_ids"]}')
        return torch.tensor([int(sample.sample_idx) for sample in samples])
    raise ConfigError(
        "a loss in kd.losses needs 'sample_ids', but the data samples carry no sample_idx",
        key=_PIPELINE,
        fix="Has its last transform (PackInputs) meta_keys without 'sample_idx'? Add it to them; "
        "data sets that derive from MMEngine's BaseDataset give it.",
    )


def keypoint_weights(samples: Sequence[Any]) -> Tensor:
    """Weight of each keypoint of a top-down pose batch, (B, K) float32; 0: not labelled."""
    found = [_keypoint_weights(sample) for sample in samples]
    if found and all(weights is not None for weights in found):
        return torch.cat([torch.as_tensor(weights) for weights in found]).float()
    raise ConfigError(
        "a loss in kd.losses needs 'keypoint_weights', but the data samples carry no "
        'gt_instance_labels.keypoint_weights',
        key=_PIPELINE,
        fix="Does it have MMPose's GenerateTarget before PackPoseInputs?",
    )


def _keypoint_weights(sample: Any) -> Any:
    labels = getattr(sample, 'gt_instance_labels', None)
    return getattr(labels, 'keypoint_weights', None)


#: Context that a loss may name in ``needs``, and functions that read it from data samples.
PROVIDERS: Mapping[str, Callable[[Sequence[Any]], Any]] = dict(
    labels=labels, sample_ids=sample_ids, keypoint_weights=keypoint_weights
)


def gather_context(needs: Sequence[str], samples: Sequence[Any] | None) -> dict[str, Any]:
    """Return the named context of one batch, all of `PROVIDERS`."""
    return {need: PROVIDERS[need](samples or ()) for need in needs}


def gather_contexts(
    losses: Mapping[str, DistillLoss], samples: Sequence[Any] | None
) -> dict[str, dict[str, Any]]:
    """Return the context that each loss needs; what several need is read once."""
    needs = sorted({need for loss in losses.values() for need in loss.needs})
    context = gather_context(needs, samples)
    return {name: {need: context[need] for need in loss.needs} for name, loss in losses.items()}


class WeightedLoss(nn.Module):
    """A loss of ``kd.losses`` with its weight or weights, and schedules of its arguments.

    Args:
        name: The term's name under ``kd.losses``.
        config: The term's dict; see `Term`. What remains in ``arguments`` is for :meth:`build`.
        taps: Known tap names.

    Attributes:
        parts: The weighted parts of the loss, `WHOLE` alone for a scalar.

    Raises:
        ConfigError: For a tap or weight that cannot be.
    """

    loss: DistillLoss
    #: What the loss compares of one image, see `kdmm.losses.base.DistillLoss.least_batch`.
    rows = 1
    progress = Progress()

    def __init__(self, name: str, config: Mapping[str, Any], taps: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.where = name, f'kd.losses.{name}'
        self.arguments = dict(config)
        on = self.arguments.pop('on', None)
        self.taps = tap_names(on, taps, f'{self.where}.on')
        self.several = not isinstance(on, str)
        self.weights = LossWeights(self.arguments.pop('weight', 1.0), f'{self.where}.weight')

    def build(self, facts: Mapping[str, Any]) -> None:
        """Make the loss; ``facts`` are values for arguments that the config leaves out.

        Raises:
            ConfigError: Unknown loss or argument, with the nearest names.
        """
        self.loss, self.schedules = build_loss(self.where, self.arguments, facts)
        kind = type(self.loss).__name__
        refuse_unknown(f'{self.where}: needs of {kind}', self.loss.needs, PROVIDERS)
        self.parts = self.weights.names(self.loss.parts)

    def check_labels(self, student: nn.Module) -> None:
        """Refuse a student that mixes its images, where the loss reads what single ones have.

        Raises:
            ConfigError: As `kdmm.distillers.refusals.refuse_mixing`.
        """
        for need in self.loss.needs:
            if need in SINGLE:
                reason = f'{type(self.loss).__name__} of {self.where} {SINGLE[need]}'
                refuse_mixing(student, reason)

    def check_batch(self, images: int) -> None:
        """Refuse batches of too few images to compare them with each other.

        Args:
            images: In a full batch of one rank.

        Raises:
            ConfigError: Says how many it needs.
        """
        least, kind = self.loss.least_batch(self.rows), type(self.loss).__name__
        if images < least:
            raise ConfigError(
                f'{kind} of {self.where} compares the images of a batch with each other',
                key='train_dataloader.batch_size',
                got=images,
                expected=f'at least {least} on each process',
                fix=REMEDIES['few images'],
            )

    def set_progress(self, progress: Progress) -> None:
        """Move every schedule to ``progress``."""
        self.progress = progress
        self.weights.set_progress(progress)
        for key, schedule in self.schedules.items():
            setattr(self.loss, key, schedule(progress))

    @property
    def idle(self) -> bool:
        """True if nothing is to be computed now: every weight is 0, and there is no memory."""
        return self.weights.is_zero() and not self.loss.stateful

    @property
    def on(self) -> str:
        """Names of the tap or taps in the table at the start."""
        return ', '.join(self.taps)

    @property
    def called(self) -> str:
        """Names of the tap or taps in errors."""
        return f'tap{"s" * self.several} {", ".join(map(repr, self.taps))}'

    def label(self, part: str) -> str:
        """``<name>`` or ``<name>_<part>``."""
        return f'{self.name}_{part}' if part else self.name

    def pick(self, found: Mapping[str, Any]) -> Any:
        """Select the activation that the loss reads, or a tuple of several."""
        return self._one_or_all([found[tap] for tap in self.taps])

    def _one_or_all(self, items: Sequence[Any]) -> Any:
        return tuple(items) if self.several else items[0]

    def run(self, *activations: Any, **context: Any) -> dict[str, Tensor]:
        """Compute the unweighted loss by part, for the parts that have a weight.

        Raises:
            ConfigError: If the loss refuses what it gets.
        """
        try:
            value = self.loss(*activations, **context)
        except ValueError as error:  # shapes, label values: the loss does not know its key
            raise refusal(self.where, error, f'on {self.called}') from error
        values = {WHOLE: value} if isinstance(value, Tensor) else dict(value)
        if values.keys() != set(self.loss.parts):
            raise ConfigError(
                f'{type(self.loss).__name__}.forward gave {_listed(values)}, and the class '
                f'declares {_listed(self.loss.parts)}',
                key=f'{self.where}.type',
                fix=f'Declare parts = {tuple(values)!r} in the class.',
            )
        return {part: values[part] for part in self.parts}

    def weigh(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted log entries, ``kd.loss_<name>`` or ``kd.loss_<name>_<part>``, of `run`'s."""
        return {
            f'kd.loss_{self.label(part)}': self.weights.now(part) * value
            for part, value in values.items()
        }

    def zero_losses(self, activations: Any) -> dict[str, Tensor]:
        """Return exact zeros under the same names, connected to everything that would be trained.

        DDP waits for a gradient of every parameter, be it zero.
        """
        reached = [p for p in self.parameters() if p.requires_grad] + list(trained(activations))
        empty = (x[:0] if x.ndim else x.reshape(1)[:0] for x in reached)  # views, whatever layout
        zero = sum((x.float().sum() for x in empty), torch.zeros(()))
        return {f'kd.loss_{self.label(part)}': zero for part in self.parts}

    def diagnostics(self) -> dict[str, Any]:
        """``kd.<name>_<key>`` for the entries of the loss's ``logged``."""
        return {f'kd.{self.name}_{key}': value for key, value in self.loss.logged.items()}

    def describe_weight(self) -> str:
        """The current weight or weights, for the table at the start."""
        return self.weights.describe()


class Term(WeightedLoss):
    """``weight * loss(*connector(student, teacher))`` on one tap or several.

    Args:
        name: The term's name under ``kd.losses``.
        config: The term's dict: the loss's own arguments plus ``on`` (a tap, or a list of taps: the
            loss then gets tuples), ``weight`` (number, schedule or ``'auto:<share>'``, or part name
            to those), ``connector`` (dict, or a list of dicts) and ``teacher`` (index). Any numeric
            argument of the loss may be a schedule.
        taps: Known tap names.
        facts: Values for arguments that the config leaves out: ``num_classes`` and the like. The
            term adds ``student_channels`` and ``teacher_channels`` (behind the connectors) and
            ``tap_channels`` (of the student, before them); tuples if it reads several taps.
        pairs: Tap name to (student, teacher) activations as training will give them, blank.
        note: Describes their input, as the end of an error message.

    Raises:
        ConfigError: Unknown loss, tap or argument, with the nearest names; shapes that the loss
            refuses.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        taps: Mapping[str, Any],
        facts: Mapping[str, Any],
        pairs: Mapping[str, tuple[Any, Any]],
        note: str = '',
    ) -> None:
        super().__init__(name, config, taps)
        self.teacher = self.arguments.pop('teacher', 0)
        self.calls = 1
        levels = self._levels(
            self._one_or_all([pairs[tap][0] for tap in self.taps]),
            self._one_or_all([pairs[tap][1] for tap in self.taps]),
        )
        self.calls = len(levels)
        facts, link = dict(facts), self.arguments.pop('connector', None)
        given = list(zip(*levels[0], strict=True)) if self.several else [levels[0]]
        self.connector, bridged = build_connectors(
            f'{self.where}.connector', link, facts, given, self.several
        )
        facts['tap_channels'] = self._one_or_all([channels_of(s) for s, _ in given])
        facts['student_channels'] = self._one_or_all([channels_of(s) for s, _ in bridged])
        facts['teacher_channels'] = self._one_or_all([channels_of(t) for _, t in bridged])
        self.build(facts)
        check_classes(self.where, self.connector, self.loss)
        self._check_levels(levels, note)

    def forward(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """Weighted log entries: ``kd.loss_<name>`` or ``kd.loss_<name>_<part>``."""
        return self.weigh(self.compute(student, teacher, **context))

    def compute(self, student: Any, teacher: Any, **context: Any) -> dict[str, Tensor]:
        """Compute the unweighted loss by part, for the parts that have a weight.

        Of a module that runs several times, as a detector's head does on every level of its
        pyramid, it is the sum over the calls, each compared with its own.
        """
        levels = self._levels(student, teacher)
        if len(levels) != self.calls:
            raise ConfigError(
                f'{self.called} runs {len(levels)} time(s) in training and {self.calls} time(s) '
                'when the model is built',
                key=f'{self.where}.on',
                fix='A module that runs once an image cannot be tapped; of one that runs once a '
                'level choose a call with #k, the first is #1.',
            )
        if self.connector is not None and 'labels' in context:
            for link in class_maps(self.connector):
                context['labels'] = link.remap(context['labels'])
        values = [self.run(*self._bridge(*level), **context) for level in levels]
        if len(values) == 1:
            return values[0]
        return {part: torch.stack([v[part] for v in values]).sum() for part in values[0]}

    def refuse_places(self, pairs: Mapping[str, tuple[Any, Any]]) -> None:
        """Refuse to compare what has places, as the teacher sees the content elsewhere.

        Args:
            pairs: As in ``__init__``.

        Raises:
            ConfigError: If an activation behind the connectors is a map, or rows of tokens.
        """
        sides = [self._one_or_all([pairs[tap][i] for tap in self.taps]) for i in (0, 1)]
        bridged = [self._bridge(*level) for level in self._levels(*sides)]
        mapped = [x for x in leaves(bridged) if x.ndim > 2 and x.shape[2:].numel() > 1]
        if mapped:
            raise ConfigError(
                f'on {self.called}, {shape_of(mapped[0])}: the view of its teacher '
                "(kd.teacher.inputs) declares geometry = 'moved', so the content lies elsewhere",
                key=self.where,
                fix='Tap what has no places, such as pooled features or logits of whole images.',
            )

    def _bridge(self, student: Any, teacher: Any) -> tuple[Any, Any]:
        return (student, teacher) if self.connector is None else self.connector(student, teacher)

    def _levels(self, student: Any, teacher: Any) -> list[tuple[Any, Any]]:
        """Return the pairs that are compared: one, or one a call of a module that runs often.

        Raises:
            ConfigError: If the numbers of calls differ, or several taps are to be compared at once.
        """
        if self.several:
            for tap, *sides in zip(self.taps, student, teacher, strict=True):
                if any(isinstance(side, Calls) for side in sides):
                    raise ConfigError(
                        'it is a module that runs several times, which a term on several taps does '
                        'not take',
                        key=f'{self.where}.on',
                        got=tap,
                        fix='Name taps that choose a call with #k, the first is #1.',
                    )
            return [(student, teacher)]
        counts = [len(x) if isinstance(x, Calls) else 1 for x in (student, teacher)]
        if counts[0] != counts[1]:
            raise ConfigError(
                f'the module of {self.called} runs {counts[0]} time(s) in the student and '
                f'{counts[1]} time(s) in the teacher',
                key=f'{self.where}.on',
                fix='A module that runs once an image cannot be tapped; of one that runs once a '
                'level choose calls with #k, the first is #1: dict(student=..., teacher=...) in '
                'kd.taps.',
            )
        return list(zip(student, teacher, strict=True)) if counts[0] > 1 else [(student, teacher)]

    def _check_levels(self, levels: list[tuple[Any, Any]], note: str) -> None:
        """Check the activations of every call by the loss.

        Raises:
            ConfigError: If it refuses one, or cannot be computed several times a step.
        """
        if self.calls > 1 and (self.loss.stateful or self.loss.one_activation):
            raise ConfigError(
                f'{self.called} runs {self.calls} times, and {type(self.loss).__name__} keeps a '
                'memory of one activation a step',
                key=f'{self.where}.on',
                fix='Choose a call with #k, the first is #1.',
            )
        for number, level in enumerate(levels, start=1):
            call = f', call #{number}' * (self.calls > 1)
            place = f'on {self.called}{call}'
            try:
                bridged = self._bridge(*level)
            except (ValueError, RuntimeError, AttributeError) as error:
                raise refusal(self.where, error, place, note) from error
            check_shapes(self.where, place, self.loss, bridged, note)
            if self.loss.least_images > 1:
                rows = self.loss.rows_in(bridged[0])  # of one blank image
                self.rows = rows if number == 1 else min(self.rows, rows)


class TermedObjective(Objective):
    """Objective that consists of terms.

    Attributes:
        terms: Name to `WeightedLoss`, in the order of the config; subclasses fill it.
    """

    terms: nn.ModuleDict

    @classmethod
    def dry_run(cls, section: dict[str, Any]) -> None:
        """As the base; scheduled and measured weights become 1."""
        super().dry_run(section)
        for term in (section.get('losses') or {}).values():
            term['weight'] = constant_weight(term.get('weight', 1.0))

    def set_progress(self, progress: Progress) -> None:
        """Move the schedules of all terms."""
        for term in self._weighted():
            term.set_progress(progress)

    def check_labels(self, student: nn.Module) -> None:
        """Refuse a student that mixes its images, where a loss reads what single ones have."""
        for term in self._weighted():
            term.check_labels(student)

    def see_loader(self, loader: Any) -> None:
        """Show the training data to all losses, and compare their least batch with the loader's."""
        images = images_in(loader)
        for term in self._weighted():
            if images is not None:
                term.check_batch(images)
            try:
                term.loss.see_dataset(loader.dataset)
            except ConfigError as error:
                raise refusal(term.where, error) from error

    def after_step(self) -> None:
        """Let all losses train their own parts and write their memories."""
        if self.batch is not None:
            for term in self._weighted():
                term.loss.after_step(self.batch)
        super().after_step()

    def upgrade(self, state: dict[str, Any]) -> None:
        """Convert the losses' state of an earlier version to the present form.

        Raises:
            ConfigError: If a loss refuses it; names the term.
        """
        places = {term.loss: term.where for term in self._weighted()}
        for name, part in self.named_modules():
            if isinstance(part, DistillLoss):
                with about(places.get(part, f'kd.{name}')):
                    part.upgrade(state, f'{name}.')

    def memory_bytes(self) -> int:
        """Return the memory of all queues and banks on each device."""
        return sum(term.loss.memory_bytes() for term in self._weighted())

    def diagnostics(self) -> dict[str, Any]:
        """Return ``kd.<term>_<key>`` for the entries of the losses' ``logged``."""
        return {
            key: value for term in self._weighted() for key, value in term.diagnostics().items()
        }

    def _weighted(self) -> list[WeightedLoss]:
        return [part for part in self.terms.modules() if isinstance(part, WeightedLoss)]


def start_table(
    terms: Sequence[Term],
    student: Mapping[str, Any],
    teachers: Sequence[Mapping[str, Any]],
    stored: int,
) -> str:
    """Format the table of terms with taps, shapes, losses and weights, and the queues' memory."""
    head = ('term', 'tap', 'teacher', 'student', 'connector', 'loss', 'weight')
    rows = []
    for term in terms:
        rows.append(
            (
                term.name,
                term.on,
                shape_of(term.pick(teachers[term.teacher])),
                shape_of(term.pick(student)),
                describe(term.connector),
                type(term.loss).__name__,
                term.describe_weight(),
            )
        )
    lines = ['Distillation', plain(head, rows)]
    lines += [f'{term.name}: {term.loss.note()}' for term in terms if term.loss.note()]
    if stored:
        lines.append(f'queues and banks: {stored / 2**20:.0f} MiB on each device')
    return '\n'.join(lines)


def shape_of(value: Any) -> str:
    """Write a shape as the table does, of each item of a tuple."""
    if isinstance(value, tuple | list):
        return ', '.join(shape_of(item) for item in value)
    return 'x'.join(map(str, value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _listed(parts: Iterable[str]) -> str:
    names = [part for part in parts if part != WHOLE]
    return f'the parts {", ".join(names)}' if names else 'a scalar'
