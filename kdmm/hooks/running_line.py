"""The running line: each term's weight and share of the gradient, beside its value in the log."""

import math
from typing import Any

from mmengine.hooks import Hook, LoggerHook

from kdmm.distillers.gradient_ratio import Share
from kdmm.hooks.ownership import objective_of
from kdmm.registry import HOOKS

#: Shares of the task's gradient outside of which a term deserves a word.
LOWEST, HIGHEST = 0.01, 10.0

ADVICE = {
    'zero': 'it trains nothing through its taps: look at its labels and its taps, or drop it',
    'not finite': "the term's or the task's gradient at the taps is no number, or the task has "
    'none there: look at its inputs, try a higher temperature or bfloat16',
    'small': 'it hardly matters: raise the weight, drop the term, or let it be measured with '
    "weight='auto:0.1'",
    'large': "it drowns the task: lower the weight, or let it be measured with weight='auto:0.1'",
}


@HOOKS.register_module()
class RunningLineHook(Hook):
    """Logs ``kd.weight_<term>`` and ``kd.share_<term>`` where the `LoggerHook` writes a line.

    The share is the norm of the weighted term's gradient at the student's taps over that of the
    task's. It is measured in the iterations that are logged, and in no others; ``kd.measure=False``
    leaves it out. A share of zero, no number, under 1 % or over 10 is a warning, once each time a
    term gets into such a state. What losses keep in ``logged`` is written as
    ``kd.<term>_<key>``.

    These entries go to the log past the model's outputs, in which MMEngine adds up whatever has
    'loss' in its name.
    """

    priority = 'NORMAL'  # before the LoggerHook, after DistillHook

    def __init__(self) -> None:
        self._state: dict[str, str] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Ask for the shares if this iteration will be logged."""
        objective = objective_of(runner.model)
        objective.measure_next = objective.measure and is_logged(runner, batch_idx)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Hand the entries to the log."""
        if not is_logged(runner, batch_idx):
            return
        objective = objective_of(runner.model)
        for share in objective.shares:
            _log(runner, f'kd.weight_{share.label}', share.weight)
            _log(runner, f'kd.share_{share.label}', share.share)
            self._judge(runner, share)
        for key, value in objective.diagnostics().items():
            _log(runner, key, value)

    def _judge(self, runner: Any, share: Share) -> None:
        value = float(share.share)
        state = state_of(value) if share.wanted else ''
        if state and state != self._state.get(share.label):
            runner.logger.warning(
                f'kd.losses.{share.label} (loss {float(share.loss):.4g}, weight '
                f'{float(share.weight):.4g}): its gradient at {share.taps} is {value:.3g} of the '
                f"task's, {state}: {ADVICE[state]}"
            )
        self._state[share.label] = state


def state_of(share: float) -> str:
    """One of `ADVICE`, or the empty string."""
    if not math.isfinite(share):
        return 'not finite'
    if share == 0:
        return 'zero'
    return 'small' if share < LOWEST else 'large' if share > HIGHEST else ''


def is_logged(runner: Any, batch_idx: int) -> bool:
    """Return whether a `LoggerHook` writes a line after this training iteration."""
    loader = runner.train_dataloader
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            last = hook.end_of_epoch(loader, batch_idx)
            whole = not hook.ignore_last or len(loader) <= hook.interval
            if hook.every_n_inner_iters(batch_idx, hook.interval) or (last and whole):
                return True
    return False


def _log(runner: Any, name: str, value: Any) -> None:
    """Log the value of this iteration, without an average over older ones."""
    runner.message_hub.log_scalars.pop(f'train/{name}', None)
    runner.message_hub.update_scalar(f'train/{name}', value)
