"""Entries of a checkpoint: the student's, and those of its objective."""

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from kdmm.checkpoints import ENTRY
from kdmm.distillers import CHILD, Objective
from kdmm.registry import HOOKS
from kdmm.utils.models import unwrapped

#: Prefix of the objective's keys in the state of a model in training.
PREFIX = f'{CHILD}.'
#: The entry for weights as trained, where `ENTRY` has their averages.
TRAINED = f'{ENTRY}_ema'


def objective_of(model: nn.Module) -> Objective:
    """The objective attached to a (possibly wrapped) student."""
    return getattr(unwrapped(model), CHILD)


def objective_in(model: Any) -> Objective | None:
    """As `objective_of`; None for a model that has none, or is not built yet."""
    inner = unwrapped(model)
    found = getattr(inner, CHILD, None) if isinstance(inner, nn.Module) else None
    return found if isinstance(found, Objective) else None


def extra_states(module: nn.Module) -> dict[str, Any]:
    """Entries of ``get_extra_state``, which some MMEngine versions do not save."""
    state = module.state_dict()
    return {key: value for key, value in state.items() if key.endswith('_extra_state')}


@HOOKS.register_module()
class OwnershipHook(Hook):
    """Keeps the student's ``state_dict`` free of other entries.

    In the file, ``state_dict`` (and ``ema_state_dict``) holds the student's keys under their own
    names, so that the base library loads it strictly; projectors, queues, peers, measured weights
    and losses' extra state are in the entry ``kdmm``. Files that cannot be resumed (no optimizer,
    as ``save_best`` writes them) have in it what is a result of the run, if anything is.

    Where an `EMAHook` averages peers, too, their averages are in ``kdmm``, as the student's are in
    ``state_dict``, and their weights as trained in ``kdmm_ema``. This hook must then come after it.
    """

    priority = 'VERY_HIGH'  # other hooks see the student's keys alone

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Move the objective's keys to entries of their own."""
        entry = pop_prefix(checkpoint['state_dict'], PREFIX)
        trained = pop_prefix(checkpoint.get('ema_state_dict', {}), f'module.{PREFIX}')
        objective = objective_of(runner.model) if runner is not None else None
        if objective is not None:
            entry = {**extra_states(objective), **entry}
        if 'optimizer' in checkpoint:
            checkpoint.setdefault(ENTRY, entry)
            if trained:
                checkpoint.setdefault(TRAINED, trained)
        elif objective is not None and objective.results:
            results = {key: entry[key] for key in entry if key.startswith(objective.results)}
            checkpoint.setdefault(ENTRY, results)


def pop_prefix(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Remove the keys with a prefix, and return them without it."""
    metadata = getattr(state, '_metadata', {})
    for key in [key for key in metadata if f'{key}.'.startswith(prefix)]:
        del metadata[key]
    keys = [key for key in state if key.startswith(prefix)]
    return {key.removeprefix(prefix): state.pop(key) for key in keys}
