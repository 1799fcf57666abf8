"""What must hold of a run with an objective."""

from collections.abc import Iterable
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log

from kdmm.distillers import ConfigError, Objective, Progress
from kdmm.distillers.weights import ENTRY, load_strictly
from kdmm.hooks.ownership import PREFIX, TRAINED, objective_of
from kdmm.registry import HOOKS


def check_average(hooks: Iterable[Hook], objective: Objective) -> None:
    """Refuse averages of weights that would not fit what lies beside them.

    Raises:
        ConfigError: If an `EMAHook` averages buffers, or a student whose branches are a result.
    """
    for hook in hooks:
        if not isinstance(hook, EMAHook):
            continue
        if hook.ema_cfg.get('update_buffers'):
            raise ConfigError(
                'EMAHook.update_buffers=True: MMEngine cannot average the buffers of a model that '
                'has parameters of kd beside its own. Leave it out'
            )
        if objective.results and not objective.averages:
            raise ConfigError(
                'EMAHook: the file would hold an averaged network with branches or peers that are '
                'not. Leave it out of this run'
            )


def iterations_per_epoch(loader: Any, world_size: int) -> float:
    """Iterations in which all ranks together see the data set once."""
    sampler = getattr(loader.sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler):  # says the whole data set's length on each rank
        return len(loader) / world_size
    return len(loader)


@HOOKS.register_module()
class DistillHook(Hook):
    """Moves schedules, watches over the teachers, restores what `OwnershipHook` wrote.

    ``tools/train.py`` registers both for every config with a ``kd`` section. After each iteration
    losses that train something of their own do so.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Remember the teachers' weights."""
        objective = objective_of(runner.model)
        objective.check_start(runner._has_loaded, runner._resume)
        objective.see_loader(runner.train_dataloader)
        check_average(runner.hooks, objective)
        teachers = objective.teachers
        self._fingerprints = [teacher.fingerprint() for teacher in teachers]
        for teacher in teachers:
            print_log(f'Teacher {type(teacher.module).__name__}: {teacher.source}', runner.logger)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Move the schedules to the iteration that begins."""
        epoch = runner.iter / iterations_per_epoch(runner.train_dataloader, runner.world_size)
        objective_of(runner.model).set_progress(Progress(runner.iter, epoch))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Losses that train something of their own take their step."""
        objective_of(runner.model).after_step()

    def after_train(self, runner: Any) -> None:
        """A teacher that changed is an error in the code, and the results are worthless."""
        for index, teacher in enumerate(objective_of(runner.model).teachers):
            if teacher.fingerprint() != self._fingerprints[index]:
                raise RuntimeError(f'the weights of teacher {index} changed during training')

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Restore the entry when a run is resumed."""
        if not runner._resume:
            return
        if ENTRY not in checkpoint or 'optimizer' not in checkpoint:  # a teacher's best has the one
            raise ConfigError(
                'this checkpoint has no distillation state or no optimizer, so it cannot be '
                'resumed with a kd section: it comes from a plain run or was written for '
                'deployment. Start a new run from it with load_from instead of resume'
            )
        entry, trained = checkpoint[ENTRY], checkpoint.get(TRAINED, {})
        if trained and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ConfigError(
                'this checkpoint holds averages of the networks (EMAHook), and the config has no '
                'EMAHook: it cannot be resumed without it'
            )
        raw = {**entry, **trained}
        load_strictly(objective_of(runner.model), raw, 'the distillation state')
        for key in trained:  # for the EMAHook, which exchanges them
            checkpoint['state_dict'][f'{PREFIX}{key}'] = entry[key]
            checkpoint['ema_state_dict'][f'module.{PREFIX}{key}'] = raw[key]
