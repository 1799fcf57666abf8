"""Attach an objective to a model of a base library, which stays what it was."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from kdmm.errors import ConfigError
from kdmm.schedules import Progress

if TYPE_CHECKING:
    from kdmm.distillers.shares import Share
    from kdmm.distillers.term import Term
    from kdmm.teachers.teacher import Teacher

#: The one child that a model in training has besides its own; all state of kdmm lies under it.
CHILD = 'kd'


class Objective(nn.Module):
    """What a run has besides its student; the one child that `attach` gives to the student.

    Its parameters are trained and its state resumed, as an entry of its own in the checkpoint. It
    belongs to one run: a deep copy of it is None, or, of one that has networks to average, a copy
    of these alone, and a pickle of it is refused. See `Attached` for copies of the student.
    """

    #: Networks that are only read; no children, so that they are in nobody's state.
    teachers: Sequence['Teacher'] = ()
    #: Hooks that a run with this objective needs, as configs.
    hooks: list[dict[str, Any]]
    #: Prefixes of the state that is a result, to be kept in files that cannot be resumed, too.
    results: tuple[str, ...] = ()
    #: Whether gradient shares are measured at iterations that are logged, and in the next one.
    measure = measure_next = False
    #: What was measured in the last step.
    shares: Sequence['Share'] = ()

    def __init__(self) -> None:
        super().__init__()
        self.hooks = []

    def set_progress(self, progress: Progress) -> None:
        """Move the schedules; the hook `DistillHook` calls it before each iteration."""

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse to train.

        Args:
            loaded: Whether the student's weights came from a checkpoint.
            resumed: Whether all of the run did.

        Raises:
            ConfigError: If training would be worthless.
        """

    def see_loader(self, loader: Any) -> None:
        """Called before training, with the training loader."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def networks(self) -> Mapping[str, Any]:
        """Networks beside the student that the run gives back, too, by name."""
        return {}

    def each(self) -> Sequence['Term']:
        """The terms that the section lists, if it lists any."""
        return ()

    def facts(self) -> list[str]:
        """What the objective consists of, as the parts of a line."""
        terms, parts = len(self.each()), getattr(self, 'parts', ())
        found = [f'{terms} term{"s" * (terms != 1)}'] if terms else []
        found += [f'{"parts" if len(parts) > 1 else "part"} {" + ".join(parts)}'] if parts else []
        sources = ', '.join(str(teacher.source) for teacher in self.teachers)
        found += [f'teacher{"s" * (len(self.teachers) > 1)} {sources}'] if sources else []
        others = ', '.join(self.networks())
        return found + ([f'with {others}'] if others else [])

    def diagnostics(self) -> dict[str, Any]:
        """Log names to values, asked for at iterations that are logged; nothing adds them up."""
        return {}

    def _apply(self, fn: Any, recurse: bool = True) -> 'Objective':
        for teacher in self.teachers:
            teacher.apply(fn)
        return super()._apply(fn, recurse)

    @property
    def averages(self) -> bool:
        """Whether an average of the student's weights (EMA) has something beside them."""
        return self.averaged() is not None

    def averaged(self) -> nn.Module | None:
        """What an average of the student's weights (EMA) has as its ``kd``; it shares modules."""
        return None

    def __deepcopy__(self, memo: Any) -> nn.Module | None:
        return copy.deepcopy(self.averaged(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f'{type(self).__name__} belongs to a run and is not pickled. Pickle the model, which '
            "gives a plain student, or resume from the run's checkpoints, which have its state"
        )


class Attached:
    """What the class of a student has that an objective was attached to.

    A copy of such a student is a plain one: an object of the base library's class, without the
    child ``kd``, of the same weights, mode and prediction. So is a pickle of it, by `torch.save` or
    for another process; it can be read where there is no kdmm. What an average of its weights needs
    beside it, a deep copy has: peers, see `Objective.averaged`.
    """

    #: The student's own class.
    student_class: type

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self, None).__reduce_ex__(0)  # the form that may give another class

    def __deepcopy__(self, memo: Any) -> Any:
        create, arguments, state, *_ = averaged_part(self).__reduce_ex__(0)
        made = memo[id(self)] = create(*arguments)  # known before what refers to it is copied
        made.__setstate__(copy.deepcopy(state, memo))
        return made


def averaged_part(model: Any) -> Any:
    """What an average of a student's weights (EMA) is one of, sharing modules with ``model``.

    That is the plain student, with what `Objective.averaged` says as its ``kd``; ``model`` itself
    where no objective is attached.
    """
    if not isinstance(model, Attached):
        return model
    objective = model.kd  # type: ignore[attr-defined]
    return _plain(model, None if objective is None else objective.averaged())


def _plain(model: Any, child: nn.Module | None) -> Any:
    plain = model.student_class.__new__(model.student_class)
    modules = type(model._modules)(model._modules)
    del modules[CHILD]
    vars(plain).update(vars(model), _modules=modules)
    if child is not None:
        plain.add_module(CHILD, child)
    return plain


def beside_a_total(losses: Mapping[str, Any]) -> dict[str, Any]:
    """A model's own losses with ``loss`` called ``head.loss``.

    MMEngine logs the sum of all as ``loss``, unless a term of that name, as MMPretrain's heads have
    it, overwrites the sum: the log and the check for finite numbers would not see other terms.
    """
    return {'head.loss' if name == 'loss' else name: value for name, value in losses.items()}


def attach(
    student: Mapping[str, Any] | nn.Module, mixin: type, build: Callable[[nn.Module], Objective]
) -> nn.Module:
    """The student with an objective as its child ``kd``.

    The result is the student: same class (a subclass made here), same parameter names, same
    prediction. Its copies and pickles are plain students, see `Attached`.

    Args:
        student: Model config of the base library, or a built model.
        mixin: Its methods come before those of the student's class.
        build: Makes the objective for the built student. It may draw random numbers, which neither
            change the student's nor repeat them.

    Raises:
        ConfigError: If the student has a child of that name already.
    """
    model = student if isinstance(student, nn.Module) else ROOT_MODELS.build(student)
    if CHILD in dict(model.named_children()):
        raise ConfigError(f'the student already has a child called {CHILD!r}')
    with torch.random.fork_rng(devices=[]):  # everything is built on the CPU
        torch.manual_seed(int(torch.randint(2**62, ())))
        objective = build(model)
    kind: Any = type(model)
    model.__class__ = _class_with(mixin, kind)
    model.add_module(CHILD, objective)
    return model


@contextmanager
def set_aside(model: nn.Module) -> Iterator[Any]:
    """Make a distilled student just a student inside. Yields its objective, None without one."""
    kept = getattr(model, CHILD, None)
    if kept is None:
        yield None
        return
    setattr(model, CHILD, None)
    try:
        yield kept
    finally:
        setattr(model, CHILD, kept)


@functools.cache
def _class_with(mixin: type, student: type) -> type:
    """The one class of all students of a class that have this mixin."""
    names = dict(__module__=student.__module__, __qualname__=student.__qualname__)
    return type(student.__name__, (mixin, Attached, student), {**names, 'student_class': student})
