"""Runs with an objective: schedules, fixed teachers, averages, resuming."""

from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor

from kdmm.checkpoints import ENTRY, load_strictly
from kdmm.datasets.batches import may_be_uneven
from kdmm.distillers import ConfigError, Objective, Progress
from kdmm.distillers.objective import Training, averaged_part
from kdmm.errors import TrainingError
from kdmm.functional.collective import expect_uneven
from kdmm.hooks.ownership import PREFIX, TRAINED, objective_of
from kdmm.registry import HOOKS
from kdmm.teachers.teacher import Teacher

#: The entry of a checkpoint file that says who taught: a list of sources and fingerprints.
TEACHERS = f'{ENTRY}_teachers'


def check_average(hooks: Iterable[Hook], objective: Objective) -> None:
    """Refuse averages of weights that do not fit the other networks of the file.

    Raises:
        ConfigError: If an `EMAHook` averages a student whose branches are a result, or the buffers
            of networks that share a trunk.
    """
    for hook in hooks:
        if not isinstance(hook, EMAHook):
            continue
        if hook.ema_cfg.get('update_buffers') and objective.shared:
            raise ConfigError(
                'MMEngine then averages each entry of the state, and a trunk that networks share '
                '(kd.trunk) has an entry in each of them, so its average would move several times '
                'an iteration',
                key='EMAHook.update_buffers',
                got=hook.ema_cfg['update_buffers'],
                fix='Leave out one of the two.',
            )
        if objective.results and not objective.averages:
            raise ConfigError(
                'the file would hold an averaged network with branches or peers that are not',
                key='EMAHook',
                fix='Leave it out of this run.',
            )


def link_average(hooks: Iterable[Hook]) -> None:
    """Show each `EMAHook` those parts of the model that its average has.

    When it exchanges the two, MMEngine's hook pairs the parameters, and with ``update_buffers`` all
    buffers behind them, by their order. Parameters of losses would come between.
    """
    for hook in hooks:
        if isinstance(hook, EMAHook):
            hook.src_model = averaged_part(hook.src_model)


def iterations_per_epoch(loader: Any, world_size: int) -> float:
    """Iterations in which all ranks together see the data set once."""
    sampler = getattr(loader.sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler):  # says the whole data set's length on each rank
        return max(len(loader), 1) / world_size  # 0 with drop_last and a large batch
    return len(loader)


def training_of(runner: Any) -> Training:
    """Return what an objective may know of the training of a runner."""
    wrappers = runner.optim_wrapper
    every = wrappers.values() if isinstance(wrappers, OptimWrapperDict) else [wrappers]
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    return Training(
        [wrapper.optimizer for wrapper in every],
        runner.max_iters,
        len(runner.train_dataloader) if by_epoch else 0,
    )


class TeacherChangedError(TrainingError):
    """A teacher's weights are not those that training began with."""


class TeacherGuard:
    """Detects changes of a teacher's weights.

    Args:
        teacher: Its weights now are the right ones.

    Attributes:
        fingerprint: SHA-256 of the right weights.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.fingerprint = teacher, teacher.fingerprint()
        states = [part.state_dict(keep_vars=True) for part in teacher.parts]  # not its caches
        self._tensors = [x for state in states for x in state.values() if isinstance(x, Tensor)]
        self._versions = self._counters()

    def changed(self) -> bool:
        """Compare all weights."""
        self._versions = self._counters()
        return self.teacher.fingerprint() != self.fingerprint

    def touched(self) -> bool:
        """Compare version counters, which miss writes through ``.data`` (ResNet-101: 0.2 ms)."""
        return self._counters() != self._versions

    def _counters(self) -> list[tuple[int, int]]:
        return [(0 if x.is_inference() else x._version, x.data_ptr()) for x in self._tensors]


@HOOKS.register_module()
class DistillHook(Hook):
    """Sets schedules, checks the teachers, restores the entry that `OwnershipHook` wrote.

    ``tools/train.py`` registers both for every config with a ``kd`` section. After each iteration
    losses that train something of their own do so.

    The teachers' fingerprints are in each file that can be resumed, as ``kdmm_teachers``; a run is
    resumed with the same teachers only. A teacher that changes during training is an error: what
    the counters of autograd show after the iteration, anything else before the next file.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.guards: list[TeacherGuard] = []
        self._looked = False
        self._loader: Any = None

    def before_train(self, runner: Any) -> None:
        """Remember the teachers' weights."""
        objective = objective_of(runner.model)
        objective.check_start(runner._has_loaded, runner._resume)
        objective.see_training(training_of(runner))
        self._see_loader(runner)
        check_average(runner.hooks, objective)
        link_average(runner.hooks)
        self.guards = [TeacherGuard(teacher) for teacher in objective.teachers]
        for teacher in objective.teachers:
            print_log(f'Teacher {type(teacher.module).__name__}: {teacher.source}', runner.logger)

    def before_val(self, runner: Any) -> None:
        """Connect a moving average of the student, also in a run that does not train."""
        link_average(runner.hooks)

    def before_test(self, runner: Any) -> None:
        """Connect a moving average, as before validation."""
        link_average(runner.hooks)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set schedules to the iteration that begins."""
        self._looked = False
        if runner.train_dataloader is not self._loader:  # a hook has replaced it
            self._see_loader(runner)
        epoch = runner.iter / iterations_per_epoch(runner.train_dataloader, runner.world_size)
        objective_of(runner.model).set_progress(Progress(runner.iter, epoch))

    def _see_loader(self, runner: Any) -> None:
        """Give the objective its data set, and the collectives the kind of batches."""
        self._loader = runner.train_dataloader
        objective_of(runner.model).see_loader(self._loader)
        expect_uneven(may_be_uneven(self._loader))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Let losses that train networks of their own do their step; check the teachers."""
        objective_of(runner.model).after_step()
        if any(guard.touched() for guard in self.guards):
            self._check_teachers(runner)

    def before_writing(self, runner: Any) -> None:
        """Refuse to write a checkpoint after a teacher has changed.

        Raises:
            TeacherChangedError: Names it.
        """
        if not self._looked:  # several files of one iteration cost one look
            self._check_teachers(runner)
            self._looked = True

    def after_train(self, runner: Any) -> None:
        """Check the teachers for the last time."""
        self._check_teachers(runner)

    def _check_teachers(self, runner: Any) -> None:
        for index, guard in enumerate(self.guards):
            if guard.changed():
                raise TeacherChangedError(
                    f'kd.teacher: the weights of teacher {index} ({guard.teacher.source}) changed '
                    f'during training, at iteration {runner.iter + 1} or since the last file. '
                    'Something in the model, a hook or the optimizer writes to them; what was '
                    'trained since is worthless'
                )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Write sources and fingerprints of the teachers into the file."""
        if self.guards and 'optimizer' in checkpoint:
            checkpoint[TEACHERS] = [
                dict(source=guard.teacher.source, fingerprint=guard.fingerprint)
                for guard in self.guards
            ]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restore the entry when a run is resumed."""
        if not runner._resume:
            return
        if ENTRY not in checkpoint or 'optimizer' not in checkpoint:  # a teacher's best has the one
            raise ConfigError(
                'this checkpoint has no distillation state or no optimizer, so it cannot be '
                'resumed with a kd section: it comes from a plain run or was written for '
                'deployment',
                key='resume',
                fix='Start a new run from it with load_from instead of resume.',
            )
        entry, trained = checkpoint[ENTRY], checkpoint.get(TRAINED, {})
        if trained and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ConfigError(
                'this checkpoint holds averages of the networks (EMAHook), and the config has no '
                'EMAHook: it cannot be resumed without it',
                key='resume',
            )
        _check_same_teachers(objective_of(runner.model).teachers, checkpoint.get(TEACHERS))
        objective, raw = objective_of(runner.model), {**entry, **trained}
        objective.upgrade(raw)
        load_strictly(objective, raw, 'the distillation state')
        for key in trained:  # for the EMAHook, which exchanges them
            checkpoint['state_dict'][f'{PREFIX}{key}'] = entry[key]
            checkpoint['ema_state_dict'][f'module.{PREFIX}{key}'] = raw[key]


def _check_same_teachers(
    teachers: Sequence[Teacher], written: Sequence[Mapping[str, str]] | None
) -> None:
    """Refuse to resume with teachers other than those of the file.

    Args:
        teachers: Of this run.
        written: What the file says; None for one of kdmm 0.1, which says nothing.

    Raises:
        ConfigError: Names the teacher and its source.
    """
    remedy = (
        'Give the teacher that the run began with, or start a new run from the student in this '
        'file: load_from=<this file>, without --resume.'
    )
    if written is None:
        if teachers:
            print_log(
                'kd.teacher: the checkpoint does not say which teacher it was trained with (it is '
                'of kdmm 0.1), so it cannot be compared with the one of the config',
                'current',
                WARNING,
            )
        return
    if len(teachers) != len(written):
        raise ConfigError(
            f'{len(teachers)} teacher(s), but the resumed run had {len(written)}',
            key='kd.teacher',
            fix=remedy,
        )
    for index, (teacher, was) in enumerate(zip(teachers, written, strict=True)):
        if teacher.fingerprint() != was['fingerprint']:
            raise ConfigError(
                f'teacher {index} ({teacher.source}) has other weights than the one of the resumed '
                f'run ({was["source"]}), or is in another dtype',
                key='kd.teacher',
                fix=remedy,
            )
