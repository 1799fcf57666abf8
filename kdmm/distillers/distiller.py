"""`Distiller`: the student itself, with a distillation objective attached."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from kdmm.distillers.context import gather_context, task_facts
from kdmm.distillers.errors import ConfigError, refuse_unknown
from kdmm.distillers.schedules import Progress
from kdmm.distillers.table import start_table
from kdmm.distillers.taps import Taps, require_gradient
from kdmm.distillers.teacher import Teacher
from kdmm.distillers.term import Term
from kdmm.registry import MODELS

#: The one child that a distilled student has besides its own; all state of kdmm lies under it.
CHILD = 'kd'


class Distillation(nn.Module):
    """Everything a run has besides its student: teachers, taps and the terms of the objective.

    Projectors and queues are parameters and buffers of the terms. The teachers are no children. A
    deep copy of it is None: a copy of a distilled student (EMA) is just a student.

    Args:
        student: The network to train.
        teacher: Arguments of `Teacher`, or a list of such dicts.
        taps: Tap name to one path for both networks or ``dict(student=, teacher=)``.
        losses: Term name to the arguments of `Term`.
        probe_size: (H, W) of the blank image that measures the taps when the model is built.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        taps: Mapping[str, Any],
        losses: Mapping[str, Mapping[str, Any]],
        probe_size: tuple[int, int] = (64, 64),
    ) -> None:
        super().__init__()
        teachers: list[Any] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
        for options in teachers:
            if not isinstance(options, Mapping):
                raise ConfigError(f'kd.teacher: expected a dict or a list of them, got {teacher!r}')
            refuse_unknown('kd.teacher', options, _parameters(Teacher))
        self._check(taps, losses, len(teachers))
        self.teachers = [Teacher(**options) for options in teachers]
        sides = {name: _both_sides(name, path) for name, path in taps.items()}
        self.student_taps = Taps(student, {n: s['student'] for n, s in sides.items()}, 'student')
        for index, item in enumerate(self.teachers):
            read = [term.get('on') for term in losses.values() if term.get('teacher', 0) == index]
            item.connect(student, {name: sides[name]['teacher'] for name in read if name in sides})
        shapes = [self._probe(student, item, probe_size) for item in self.teachers]
        facts = task_facts(student)
        self.terms = nn.ModuleDict(
            {
                name: Term(name, config, taps, facts, shapes[config.get('teacher', 0)])
                for name, config in losses.items()
            }
        )
        self._announced = False

    def forward(
        self, student: Mapping[str, Any], inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """The weighted terms for one batch.

        Args:
            student: Tap name to the student's activation.
            inputs: The student's preprocessed batch, (B, 3, H, W).
            samples: The base library's data samples.

        Returns:
            Log name to scalar; every name contains ``loss``, so MMEngine adds them up.
        """
        require_gradient(student)
        seen = [teacher(inputs, samples) for teacher in self.teachers]
        needs = {need for term in self._each() for need in term.needs}
        context = gather_context(sorted(needs), samples)
        if not self._announced:
            print_log(start_table(self._each(), student, seen), 'current')
            self._announced = True
        result: dict[str, Tensor] = {}
        for term in self._each():
            given = {need: context[need] for need in term.needs}
            result.update(term(student[term.on], seen[term.teacher][term.on], **given))
        return result

    def set_progress(self, progress: Progress) -> None:
        """Move the schedules; the hook `DistillHook` calls it before each iteration."""
        for term in self._each():
            term.set_progress(progress)

    def _each(self) -> list[Term]:
        return cast(list[Term], list(self.terms.values()))

    def _apply(self, fn: Any, recurse: bool = True) -> 'Distillation':
        for teacher in self.teachers:
            teacher.apply(fn)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: Any) -> None:
        return None

    @staticmethod
    def _check(taps: Mapping[str, Any], losses: Mapping[str, Any], teachers: int) -> None:
        for key, value in dict(taps=taps, losses=losses).items():
            if not isinstance(value, Mapping) or not value:
                raise ConfigError(f'kd.{key}: expected a dict of at least one entry: {value!r}')
        for name, config in losses.items():
            if not isinstance(config, Mapping) or 'type' not in config:
                raise ConfigError(
                    f'kd.losses.{name}: expected dict(type=..., on=...), got {config!r}'
                )
            if config.get('teacher', 0) not in range(teachers):
                index = config.get('teacher', 0)
                raise ConfigError(f'kd.losses.{name}.teacher: {index!r} of {teachers} teacher(s)')
        unread = set(range(teachers)) - {config.get('teacher', 0) for config in losses.values()}
        if unread:
            raise ConfigError(f'kd.teacher: no term reads teacher {min(unread)}')

    def _probe(
        self, student: nn.Module, teacher: Teacher, size: tuple[int, int]
    ) -> dict[str, tuple[torch.Size, torch.Size]]:
        """Tap name to the shapes that both networks give for a blank image."""
        weight = next(iter(student.parameters()))
        blank = weight.new_zeros(1, 3, *size)
        was_training = student.training
        try:
            student.eval()
            with torch.no_grad(), self.student_taps.record(stop_early=True) as mine:
                student(blank, None, mode='tensor')
            theirs = teacher(blank)
        finally:
            student.train(was_training)
        return {name: (_shape(mine[name]), _shape(theirs[name])) for name in theirs}


class Distilled:
    """Mixed into the student's class: its training loss gains the terms of ``self.kd``."""

    kd: Distillation | None

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """As the student's own; in mode ``'loss'`` with the distillation terms added."""
        if mode != 'loss' or self.kd is None:
            return super().forward(inputs, data_samples, mode)  # type: ignore[misc]
        with self.kd.student_taps.record() as student:
            losses = super().forward(inputs, data_samples, mode)  # type: ignore[misc]
        losses.update(self.kd(student, inputs, data_samples))
        return losses


@MODELS.register_module(name='Distiller')
def distill(
    student: Mapping[str, Any] | nn.Module,
    teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    taps: Mapping[str, Any] | None = None,
    losses: Mapping[str, Mapping[str, Any]] | None = None,
    probe_size: tuple[int, int] = (64, 64),
    **unknown: Any,
) -> nn.Module:
    """Attach a distillation objective to a student.

    The result is the student: same class (a subclass made here), same parameter names, same
    prediction. Its training loss has the terms added, and one child, ``kd``, owns what they keep.
    Configs reach it as ``kdmm.Distiller`` or, through ``tools/train.py``, as the section ``kd``.

    Args:
        student: Model config of the base library, or a built model.
        teacher: See `Teacher`; a list for several.
        taps: Tap name to ``module.path.in|.out``, or ``dict(student=, teacher=)`` of two.
        losses: Term name to ``dict(type=, on=, weight=, ...)``; see `Term`.
        probe_size: See `Distillation`.
        **unknown: Refused, with the nearest known keys.

    Raises:
        ConfigError: Whatever is wrong with the section, found before training starts.
    """
    refuse_unknown('kd', unknown, ('teacher', 'taps', 'losses', 'probe_size'))
    for key, value in dict(teacher=teacher, taps=taps, losses=losses).items():
        if value is None:
            raise ConfigError(f'kd.{key}: missing')
    model = student if isinstance(student, nn.Module) else ROOT_MODELS.build(student)
    if CHILD in dict(model.named_children()):
        raise ConfigError(f'the student already has a child called {CHILD!r}')
    # the student's initialisation must not depend on what is attached to it
    with torch.random.fork_rng(devices=[]):  # everything is built on the CPU
        objective = Distillation(model, teacher, taps, losses, probe_size)  # type: ignore[arg-type]
    kind = type(model)
    model.__class__ = type(kind.__name__, (Distilled, kind), {'__module__': kind.__module__})
    model.add_module(CHILD, objective)
    return model


def _both_sides(name: str, path: Any) -> dict[str, str]:
    if isinstance(path, str):
        return {'student': path, 'teacher': path}
    if isinstance(path, Mapping) and set(path) == {'student', 'teacher'}:
        return dict(path)
    raise ConfigError(f'kd.taps.{name}: expected a path or dict(student=, teacher=), got {path!r}')


def _shape(value: Any) -> torch.Size:
    first = value[0] if isinstance(value, tuple | list) else value
    return first.shape


def _parameters(cls: type) -> list[str]:
    return list(inspect.signature(cls).parameters)
