"""`Distillation`: a student learns from teachers through the terms of ``kd.losses``."""

import inspect
from collections.abc import Mapping, Sequence
from logging import WARNING
from typing import Any, cast

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.distillers.builder import task_facts
from kdmm.distillers.gradient_ratio import UnmeasurableError, measure_shares
from kdmm.distillers.loss_weights import constant_weight, switched_on
from kdmm.distillers.objective import OwnLosses, register_objective, rename_total
from kdmm.distillers.probe import probe, sizes_to_try
from kdmm.distillers.section import both_sides, check_section, list_of_teachers, taps_read
from kdmm.distillers.task import TaskWeight, freeze_untrained
from kdmm.distillers.term import Term, TermedObjective, gather_contexts, start_table
from kdmm.distillers.view_checks import check_student_views, check_views
from kdmm.distillers.views import Views, views_of_teachers
from kdmm.errors import ConfigError
from kdmm.losses.base import WHOLE
from kdmm.schedules import Progress
from kdmm.taps import require_gradient, taps_of_student
from kdmm.teachers import Teacher
from kdmm.teachers.inputs import InputAdapter


@register_objective('Distiller')
class Distillation(TermedObjective):
    """Teachers, taps and terms: the section ``kd`` where ``kd.type`` is left out.

    Projectors and queues are parameters and buffers of the terms. The teachers are no children.
    A term whose weight is the number 0 is not built, nor is a teacher that only such terms read.

    Args:
        student: The network to train.
        teacher: Arguments of `Teacher`, or a list of such dicts. Each may have ``inputs``, its own
            view of the batch: ``dict(type=...)`` of a `View`, or a list of them.
        taps: Tap name to ``module.path.in|.out`` for both networks, or ``dict(student=, teacher=)``
            of two.
        losses: Term name to ``dict(type=, on=, weight=, ...)``, the arguments of `Term`.
        task: Weight of the student's own loss, a number or a schedule. With 0 it learns without
            labels, see `TaskWeight`.
        inputs: The student's own view of the batch in training, of views that augment.
        probe_size: (H, W) of the blank image that measures the taps when the model is built; None
            takes what the model is built for, or a small one.
        measure: Whether gradient ratios are measured at the iterations that are logged.
        crop_size: (H, W) of training images, where the model does not say it; ``tools/train.py``
            reads it off the training pipeline.

    Raises:
        ConfigError: Whatever is wrong with the section, found before training starts.
    """

    by_term = True

    def __init__(
        self,
        student: nn.Module,
        teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        taps: Mapping[str, Any],
        losses: Mapping[str, Mapping[str, Any]],
        task: Any = 1.0,
        inputs: Any = None,
        probe_size: tuple[int, int] | None = None,
        measure: bool = True,
        crop_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        known = [*inspect.signature(Teacher).parameters, 'inputs']
        teachers = [dict(options) for options in list_of_teachers(teacher, known)]
        check_section(taps, losses, len(teachers), measure)
        self.task = TaskWeight(task)
        self.measure = measure
        unread = [name for name in taps if name not in taps_read(losses)]
        if unread:
            print_log(f'kd.taps: no loss reads {", ".join(unread)}', 'current', WARNING)
        for name in [name for name in losses if name not in switched_on(losses)]:
            print_log(f'kd.losses.{name}: not built, its weight is 0', 'current')
        losses = switched_on(losses)
        self.task.check(losses)
        if not losses:
            said = 'kd.losses: every weight is 0, so the student is trained as without kd'
            print_log(said, 'current', WARNING)
        used = sorted({config.get('teacher', 0) for config in losses.values()})
        self.view, self.views = Views(inputs, 'kd.inputs'), views_of_teachers(teachers, used)
        size = sizes_to_try(student, probe_size, crop_size)[0]
        self._adapt = None
        if self.view:
            check_student_views(self.view, student, size)
            preprocessor = student.get_submodule('data_preprocessor')
            self._adapt = InputAdapter(preprocessor, preprocessor, self.view)
        self.teachers = [Teacher(**teachers[index]) for index in used]
        sides = {name: both_sides(name, path) for name, path in taps.items()}
        self.student_taps = taps_of_student(student, sides, taps_read(losses))
        probes = {}
        for index, item, views in zip(used, self.teachers, self.views, strict=True):
            read = taps_read(losses, index)
            paths = {name: sides[name]['teacher'] for name in read}
            if views:
                check_views(views, item.module, student, size)
            item.connect(student, paths, views or None, views.geometry == 'moved')
            probes[index] = probe(
                student, self.student_taps, item, probe_size, crop_size, views or None
            )
        facts = task_facts(student)
        self.terms = nn.ModuleDict()
        for name, config in losses.items():
            index = config.get('teacher', 0)
            config = {**config, 'teacher': used.index(index)}
            found = probes[index]
            term = Term(name, config, taps, facts, found.pairs, found.note)
            if self.views[term.teacher].geometry == 'moved':
                term.refuse_places(found.pairs)
            self.terms[name] = term
        self.check_labels(student)
        self.task.announce()
        if self.task.off:
            _, self.task.mode = freeze_untrained(student, self.student_taps, probe_size, crop_size)
        self._announced = False

    @classmethod
    def dry_run(cls, section: dict[str, Any]) -> None:
        """As the base; the student's own loss counts, unless it is left out."""
        super().dry_run(section)
        if 'task' in section:
            section['task'] = constant_weight(section['task'])

    def set_progress(self, progress: Progress) -> None:
        """Move the schedules and the random numbers of views."""
        super().set_progress(progress)
        self.task.set_progress(progress)
        for views in (self.view, *self.views):
            views.progress = progress

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """Compute the student's own losses and the weighted terms, ``kd.loss_<term>``."""
        images = self.seen(inputs, samples)
        with self.student_taps.record() as taps:
            losses = own(images, mode=self.task.mode)
        if not self.task.one:
            losses = self.task.weigh(losses)
        if not self.terms:
            return losses
        return {**rename_total(losses), **self.compute(taps, inputs, samples, losses)}

    def seen(self, inputs: Any, samples: Sequence[Any] | None) -> Any:
        """Return the batch as the student sees it: through its view in training."""
        if self._adapt is None or not self.training:
            return inputs
        return self._adapt(inputs, samples)

    def compute(
        self,
        student: Mapping[str, Any],
        inputs: Any,
        samples: Sequence[Any] | None,
        losses: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms for one batch.

        Args:
            student: Tap name to the student's activation.
            inputs: The student's preprocessed batch, (B, 3, H, W).
            samples: The base library's data samples.
            losses: The student's own losses; weights are measured against them.

        Returns:
            Log name to scalar; every name contains ``loss``, so MMEngine adds them up.
        """
        require_gradient(student)
        busy = [term for term in self.each() if not term.idle]
        outputs = self._teacher_outputs(inputs, samples, {term.teacher for term in busy})
        contexts = gather_contexts({term.name: term.loss for term in busy}, samples)
        if not self._announced:
            print_log(start_table(self.each(), student, outputs, self.memory_bytes()), 'current')
            self._announced = True
        values = {}
        for term in busy:
            pair = term.pick(student), term.pick(outputs[term.teacher])
            values[term.name] = term.compute(*pair, **contexts[term.name])
        if self.training and torch.is_grad_enabled() and losses is not None:
            self._measure(values, student, losses)
        result: dict[str, Tensor] = {}
        for term in self.each():
            idle = term.name not in values
            result.update(
                term.zero_losses(term.pick(student)) if idle else term.weigh(values[term.name])
            )
        return result

    def _measure(self, values: Any, taps: Mapping[str, Any], losses: Mapping[str, Any]) -> None:
        """Measure gradient ratios, if a weight or the log needs them."""
        autos = [auto.name for term in self.each() for auto in term.weights.measuring().values()]
        # a share is one of the task's gradient
        if not (autos or self.measure_next) or self.task.is_zero():
            self.shares = []
            return
        try:
            self.shares = measure_shares(self.each(), values, taps, losses, self.measure_next)
        except UnmeasurableError as error:
            if autos:
                raise ConfigError(
                    f'it cannot be measured ({error})', key=autos[0], fix='Give a number.'
                ) from error
            self.measure = self.measure_next = False
            print_log(
                f'kd.measure: turned off, the graph cannot be measured ({error})',
                'current',
                WARNING,
            )

    def diagnostics(self) -> dict[str, Any]:
        """As the base, with ``kd.weight_task`` where that may change."""
        weight = {'kd.weight_task': self.task.now(WHOLE)} if self.task.scheduled else {}
        return {**super().diagnostics(), **weight}

    def each(self) -> list[Term]:
        """Return the terms in the order of the config."""
        return cast(list[Term], list(self.terms.values()))

    def _teacher_outputs(self, inputs: Any, samples: Any, wanted: set[int]) -> list[Any]:
        """Read the taps of the teachers that a term needs now (in the first step, of all)."""
        return [
            teacher(inputs, samples) if index in wanted or not self._announced else None
            for index, teacher in enumerate(self.teachers)
        ]
