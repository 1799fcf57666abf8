"""`Objective`, the base of all kinds of ``kd`` sections, and its attachment to a student."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from kdmm.errors import ConfigError, refuse_unknown
from kdmm.losses.base import Batch
from kdmm.registry import MODELS, OBJECTIVES
from kdmm.renamed import current_names
from kdmm.schedules import Progress

if TYPE_CHECKING:
    from kdmm.distillers.gradient_ratio import Share
    from kdmm.distillers.term import Term
    from kdmm.teachers import Teacher

#: Name of the child that kdmm adds to a model in training; all state of kdmm is under it.
CHILD = 'kd'

#: A student's own losses, computed on the inputs given; with another ``mode=`` than ``'loss'``
#: whatever its forward pass then gives.
OwnLosses = Callable[..., dict[str, Tensor]]

_Kind = TypeVar('_Kind', bound=type['Objective'])


class Training(NamedTuple):
    """Facts of the training that begins, for an objective.

    Attributes:
        optimizers: Of the run, with the learning rates of the present.
        iterations: Of the whole training.
        per_epoch: Iterations of an epoch; 0 in a loop without epochs.
    """

    optimizers: Sequence[torch.optim.Optimizer]
    iterations: int
    per_epoch: int


class Objective(nn.Module):
    """Everything that a run has besides its student; `attach` makes it a child of the student.

    A subclass is a kind of ``kd`` section: `register_objective` gives it the name that ``kd.type``
    has, and the arguments of its ``__init__``, without the student, are the keys of the section.
    Its `forward` gives the losses of a training step.

    Its parameters are trained and its state resumed, as an entry of its own in the checkpoint. It
    belongs to one run: a deep copy of it is None, or, of one that has networks to average, a copy
    of these alone, and a pickle of it is refused. See `Attached` for copies of the student.

    Args of a subclass:
        student: The student, built.
        config: Its model config, where `from_config` says that the objective needs it.
    """

    #: Whether ``__init__`` takes the student's model config as its second argument.
    from_config: ClassVar[bool] = False
    #: Whether `kdmm.engine.split_step` can take a step apart: it has ``student_taps``, ``teachers``
    #: and terms that are computed one after the other.
    by_term: ClassVar[bool] = False
    #: Prefixes of state that is a result, also kept in files that cannot be resumed.
    results: ClassVar[tuple[str, ...]] = ()
    #: Whether the student is trained; else it stays in eval mode.
    trains_student = True
    #: Networks that are only read; they are no children and thus in no state.
    teachers: Sequence['Teacher'] = ()
    #: Modules of the student that other networks of the objective share.
    shared: tuple[str, ...] = ()
    #: Hooks that a run with this objective needs, as configs.
    hooks: list[dict[str, Any]]
    #: Whether gradient shares are measured at iterations that are logged, and in the next one.
    measure = measure_next = False
    #: Gradient ratios that were measured in the last step.
    shares: Sequence['Share'] = ()
    #: Batch of the last training step, until `after_step`.
    batch: Batch | None = None

    def __init__(self) -> None:
        super().__init__()
        self.hooks = []

    @classmethod
    def section_keys(cls) -> dict[str, inspect.Parameter]:
        """Return the keys that a section of this kind may have, with their defaults.

        They are the arguments of ``__init__``, and of the next base class's where it passes others
        on.
        """
        found: dict[str, inspect.Parameter] = {}
        for base in cls.__mro__:
            parameters = inspect.signature(base).parameters.values()
            for parameter in parameters:
                found.setdefault(parameter.name, parameter)
            if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
                break
        taken = ('student', 'config')[: 1 + cls.from_config]
        open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return {k: p for k, p in found.items() if k not in taken and p.kind not in open_ended}

    @classmethod
    def attach_to(cls, student: Mapping[str, Any] | nn.Module, **section: Any) -> nn.Module:
        """Build a student and attach an objective of this kind to it.

        Args:
            student: Model config of a base library, or a built model.
            **section: The keys of the section ``kd``, without ``type``.

        Returns:
            The student: of a subclass of its class, with the same parameter names and prediction.

        Raises:
            ConfigError: If the section is wrong.
        """
        section = current_names('kd', cls, section)
        known = cls.section_keys()
        refuse_unknown('kd', section, known)
        for name, parameter in known.items():
            if parameter.default is parameter.empty and section.get(name) is None:
                raise ConfigError('missing', key=f'kd.{name}')
        if not cls.from_config:
            return attach(student, lambda model: cls(model, **section))  # type: ignore[call-arg]
        if isinstance(student, nn.Module):
            raise ConfigError(
                f'{cls.__name__} builds networks like the student',
                key='student',
                got=type(student).__name__,
                expected='the config of a model, not a built one',
            )
        return attach(student, lambda model: cls(model, student, **section))  # type: ignore[call-arg]

    @classmethod
    def dry_run(cls, section: dict[str, Any]) -> None:
        """Change a section, in place, for a dry run: steps that are measured and not kept.

        No weights are read, and all terms act from the first step.
        """
        teachers = section.get('teacher')
        for teacher in teachers if isinstance(teachers, list) else [teachers]:
            if isinstance(teacher, dict):
                teacher.update(checkpoint=None, random=True)

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """Compute the losses of a training step.

        Args:
            own: Computes the student's own losses.
            inputs: The preprocessed batch, (B, 3, H, W).
            samples: The B data samples of the base library.

        Returns:
            Log name to scalar; those whose names contain ``loss`` are added up by MMEngine.
        """
        raise NotImplementedError

    def set_progress(self, progress: Progress) -> None:
        """Move the schedules; the hook `DistillHook` calls it before each iteration."""

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse to start a training that would be worthless.

        Args:
            loaded: Whether the student's weights came from a checkpoint.
            resumed: Whether all of the run did.

        Raises:
            ConfigError: If something needed is missing.
        """

    def see_training(self, training: Training) -> None:
        """Check the training, before it begins or is resumed.

        Raises:
            ConfigError: If this objective cannot be trained so.
        """

    def see_loader(self, loader: Any) -> None:
        """Check the training loader, before training and when a hook has replaced it."""

    def after_step(self) -> None:
        """Train the objective's own parts and write its memories, after each iteration.

        An override has the batch of the step in ``self.batch``, None if no step was computed, and
        ends with a call of this method.
        """
        self.batch = None

    def upgrade(self, state: dict[str, Any]) -> None:
        """Convert a state of an earlier version to the present form, in place."""

    def networks(self) -> Mapping[str, Any]:
        """Return further networks that are results of the run, by name."""
        return {}

    def each(self) -> Sequence['Term']:
        """Return the terms that the section lists, if it lists any."""
        return ()

    def facts(self) -> list[str]:
        """Describe the objective's contents, as the parts of a line."""
        terms = len(self.each())
        found = [f'{terms} term{"s" * (terms != 1)}'] if terms else []
        sources = ', '.join(str(teacher.source) for teacher in self.teachers)
        found += [f'teacher{"s" * (len(self.teachers) > 1)} {sources}'] if sources else []
        others = ', '.join(self.networks())
        return found + ([f'with {others}'] if others else [])

    def diagnostics(self) -> dict[str, Any]:
        """Return log names and values for an iteration that is logged; nothing adds them up."""
        return {}

    def _apply(self, fn: Any, recurse: bool = True) -> 'Objective':
        for teacher in self.teachers:
            teacher.apply(fn)
        return super()._apply(fn, recurse)

    @property
    def averages(self) -> bool:
        """True if an average of weights (EMA) includes more than the student."""
        return self.averaged() is not None

    def averaged(self) -> nn.Module | None:
        """Return the ``kd`` of an average of the student's weights (EMA); it shares modules."""
        return None

    def __deepcopy__(self, memo: Any) -> nn.Module | None:
        return copy.deepcopy(self.averaged(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f'{type(self).__name__} belongs to a run and is not pickled. Pickle the model, which '
            "gives a plain student, or resume from the run's checkpoints, which have its state"
        )


def register_objective(name: str) -> Callable[[_Kind], _Kind]:
    """Register a kind of ``kd`` section.

    It is found under ``kd.type=name``. In ``model=dict(type='kdmm.<name>', student=..., **kd)``,
    the form in which MMEngine's Runner builds it, the name means the student with the objective.
    """

    def decorate(kind: _Kind) -> _Kind:
        @functools.wraps(kind.attach_to)
        def build(student: Any, **section: Any) -> nn.Module:
            return kind.attach_to(student, **section)

        OBJECTIVES.register_module(name=name, module=kind)
        MODELS.register_module(name=name, module=build)
        return kind

    return decorate


class Attached:
    """Mixin for the class of a student with an attached objective.

    Its training losses are those of ``self.kd``. A copy of such a student is a plain one: an object
    of the base library's class, without the child ``kd``, of the same weights, mode and prediction.
    So is a pickle of it, by `torch.save` or for another process; it can be read where there is no
    kdmm. A deep copy also has what an average of weights needs, such as peers; see
    `Objective.averaged`.
    """

    kd: Objective | None
    #: The student's own class.
    student_class: type

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Compute the objective's losses in mode ``'loss'``; else as the student's own class."""
        own = super().forward  # type: ignore[misc]
        if mode != 'loss' or self.kd is None:
            return own(inputs, data_samples, mode)
        if self.kd.training and torch.is_grad_enabled():
            self.kd.batch = Batch(inputs, data_samples)

        def own_losses(images: Any, mode: str = 'loss') -> Any:
            return own(images, data_samples, mode)

        return self.kd(own_losses, inputs, data_samples)

    def train(self, mode: bool = True) -> Any:
        """Set the mode; a student that is not trained stays in eval mode."""
        super().train(mode)  # type: ignore[misc]
        if self.kd is not None and not self.kd.trains_student:
            for child in self.children():  # type: ignore[attr-defined]
                child.train(mode and child is self.kd)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self, None).__reduce_ex__(0)  # the form that may give another class

    def __deepcopy__(self, memo: Any) -> Any:
        create, arguments, state, *_ = averaged_part(self).__reduce_ex__(0)
        made = memo[id(self)] = create(*arguments)  # known before what refers to it is copied
        made.__setstate__(copy.deepcopy(state, memo))
        return made


def averaged_part(model: Any) -> Any:
    """Return the model that an average of weights (EMA) averages; it shares modules with ``model``.

    It is the plain student with `Objective.averaged` as its ``kd``, or ``model`` itself where no
    objective is attached.
    """
    if not isinstance(model, Attached):
        return model
    objective = model.kd
    return _plain(model, None if objective is None else objective.averaged())


def _plain(model: Any, child: nn.Module | None) -> Any:
    plain = model.student_class.__new__(model.student_class)
    modules = type(model._modules)(model._modules)
    del modules[CHILD]
    vars(plain).update(vars(model), _modules=modules)
    if child is not None:
        plain.add_module(CHILD, child)
    return plain


def rename_total(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's own losses with ``loss`` called ``head.loss``.

    MMEngine logs the sum of all as ``loss``, unless a term of that name, as MMPretrain's heads have
    it, overwrites the sum: the log and the check for finite numbers would not see other terms.
    """
    return {'head.loss' if name == 'loss' else name: value for name, value in losses.items()}


def attach(
    student: Mapping[str, Any] | nn.Module, build: Callable[[nn.Module], Objective]
) -> nn.Module:
    """Give a student an objective as its child ``kd``.

    The result is the student: same class (a subclass made here), same parameter names, same
    prediction. Its copies and pickles are plain students, see `Attached`.

    Args:
        student: Model config of the base library, or a built model.
        build: Makes the objective for the built student. It may draw random numbers, which neither
            change the student's nor repeat them.

    Raises:
        ConfigError: If the student has a child of that name already.
    """
    model = student if isinstance(student, nn.Module) else ROOT_MODELS.build(student)
    if CHILD in dict(model.named_children()):
        raise ConfigError(f'the student already has a child called {CHILD!r}', key='model')
    with torch.random.fork_rng(devices=[]):  # everything is built on the CPU
        torch.manual_seed(int(torch.randint(2**62, ())))
        objective = build(model)
    kind: Any = type(model)
    model.__class__ = _attached_class(kind)
    model.add_module(CHILD, objective)
    return model


@contextmanager
def set_aside(model: nn.Module) -> Iterator[Any]:
    """Detach the objective of a student for the block; yield it, or None if there is none."""
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
def _attached_class(student: type) -> type:
    """Make the class that all attached students of a class share."""
    names = dict(__module__=student.__module__, __qualname__=student.__qualname__)
    return type(student.__name__, (Attached, student), {**names, 'student_class': student})
