"""Attach an objective to a model of a base library, which stays what it was."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from kdmm.distillers.schedules import Progress
from kdmm.errors import ConfigError

if TYPE_CHECKING:
    from kdmm.distillers.shares import Share
    from kdmm.distillers.teacher import Teacher
    from kdmm.distillers.term import Term

#: The one child that a model in training has besides its own; all state of kdmm lies under it.
CHILD = 'kd'


class Objective(nn.Module):
    """What a run has besides its student; the one child that `attach` gives to the student.

    Its parameters are trained and its state resumed, as an entry of its own in the checkpoint. A
    deep copy of it is None: a copy of a student in training (EMA) is just a student. One that has
    networks to average makes a copy of these alone.
    """

    #: Networks that are only read; no children, so that they are in nobody's state.
    teachers: Sequence['Teacher'] = ()
    #: Hooks that a run with this objective needs, as configs.
    hooks: list[dict[str, Any]]
    #: Prefixes of the state that is a result, to be kept in files that cannot be resumed, too.
    results: tuple[str, ...] = ()
    #: Whether a deep copy holds what of it is averaged (EMA); else a copy of it is None.
    averages = False
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

    def __deepcopy__(self, memo: Any) -> nn.Module | None:
        return None


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
    prediction.

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
    kind = type(model)
    model.__class__ = type(kind.__name__, (mixin, kind), {'__module__': kind.__module__})
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
