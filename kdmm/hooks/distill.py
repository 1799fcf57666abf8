"""Who owns what in a checkpoint, and what must hold of a distillation run."""

from collections.abc import Iterable
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from kdmm.distillers import CHILD, ConfigError, Objective, Progress
from kdmm.distillers.weights import ENTRY, load_strictly
from kdmm.registry import HOOKS


def objective_of(model: nn.Module) -> Objective:
    """The objective attached to a (possibly wrapped) student."""
    inner = model.module if is_model_wrapper(model) else model
    return getattr(inner, CHILD)


def extra_states(module: nn.Module) -> dict[str, Any]:
    """What modules give as ``get_extra_state``; some MMEngine versions do not save it."""
    state = module.state_dict()
    return {key: value for key, value in state.items() if key.endswith('_extra_state')}


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
        if objective.is_result:
            raise ConfigError(
                'EMAHook: the file would hold an averaged classifier with branches or peers that '
                'are not. Leave it out of runs that train teachers or peers'
            )


def iterations_per_epoch(loader: Any, world_size: int) -> float:
    """Iterations in which all ranks together see the data set once."""
    sampler = getattr(loader.sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler):  # says the whole data set's length on each rank
        return len(loader) / world_size
    return len(loader)


@HOOKS.register_module()
class DistillHook(Hook):
    """Keeps the student's ``state_dict`` pure, moves schedules, watches over the teachers.

    ``tools/train.py`` registers it for every config with a ``kd`` section. In the file,
    ``state_dict`` (and an EMA copy) holds the student's keys under their own names, so that the
    base library loads it strictly; projectors, queues, measured weights and losses' extra state
    are in the entry ``kdmm``. Files that cannot be resumed (no optimizer, as ``save_best`` writes
    them) get no such entry, unless it is a result of the run. After each iteration losses that
    train something of their own do so.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Remember the teachers' weights."""
        objective = objective_of(runner.model)
        objective.check_start(runner._has_loaded, runner._resume)
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

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Move ``kd.*`` from the student's state to an entry of its own."""
        state = checkpoint['state_dict']
        prefix = f'{CHILD}.'
        kept = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
        metadata = getattr(state, '_metadata', {})
        for key in [key for key in metadata if key == CHILD or key.startswith(prefix)]:
            del metadata[key]
        objective = objective_of(runner.model) if runner is not None else None
        if 'optimizer' in checkpoint or (objective is not None and objective.is_result):
            entry = {key.removeprefix(prefix): kept[key] for key in kept}
            extra = extra_states(objective) if objective is not None else {}
            checkpoint.setdefault(ENTRY, {**extra, **entry})

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
        load_strictly(objective_of(runner.model), checkpoint[ENTRY], 'the distillation state')
