"""`Auto`: a weight that is measured, not guessed."""

import math
from logging import WARNING
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.errors import ConfigError, refuse_unknown

FORM = "'auto:0.1' or dict(type='Auto', share=0.1, iterations=20)"


class Auto(nn.Module):
    """A weight that gives a term ``share`` of the task's gradient at the taps the term reads.

    ``weight = share * sum |dL_task/dtaps| / sum |dL_term/dtaps|`` (L2 norms; sums over the
    iterations measured so far), from the first iteration on and frozen after ``iterations`` of
    them. An iteration in which a norm is zero or not finite does not count, and while there is none
    that counts the weight is 1. All of it is state of the run, so a resumed run continues to the
    bit. Our own device: published weights hold for one resolution, batch size and pair of networks.

    Args:
        name: How log lines call the weight.
        share: Of the task's gradient norm.
        iterations: How many are measured.
    """

    def __init__(self, name: str, share: float, iterations: int = 20) -> None:
        super().__init__()
        self.name, self.share, self.iterations = name, share, iterations
        self.register_buffer('task_sum', torch.zeros(()))
        self.register_buffer('term_sum', torch.zeros(()))
        self.register_buffer('count', torch.zeros((), dtype=torch.int64))
        self.register_buffer('seen', torch.zeros((), dtype=torch.int64))
        self.register_buffer('frozen', torch.zeros((), dtype=torch.bool))
        self.measuring, self._seen = True, 0  # what the buffers say, without a look at the device
        self.register_load_state_dict_post_hook(_read_back)

    def value(self) -> Tensor:
        """The weight, a scalar: the running estimate, in the end the frozen one."""
        return torch.where(self.count > 0, self.share * self.task_sum / self.term_sum, 1.0)

    def observe(self, task: Tensor, term: Tensor) -> None:
        """Count the gradient norms of one iteration (of the unweighted term)."""
        good = torch.isfinite(task) & torch.isfinite(term) & (task > 0) & (term > 0)
        self.task_sum += torch.where(good, task, 0.0)
        self.term_sum += torch.where(good, term, 0.0)
        self.count += good
        self.seen += 1
        self._seen += 1
        if self._seen % self.iterations == 0:
            self._settle()

    def _settle(self) -> None:
        counted = int(self.count)  # the only wait for the device
        bad = f'{self._seen - counted} of {self._seen} measured iterations'
        if counted:
            self.frozen.fill_(True)
            self.measuring = False
            print_log(
                f'{self.name}: frozen at {float(self.value()):.6g} '
                f"(share {self.share:g} of the task's gradient, {counted} iterations)",
                'current',
            )
        if counted < self._seen:
            print_log(
                f'{self.name}: a gradient at the taps was zero or not finite in {bad}; they do not '
                'count' + ('' if counted else ', so the weight stays 1 and measuring goes on'),
                'current',
                WARNING,
            )

    def extra_repr(self) -> str:
        """Arguments."""
        return f'share={self.share:g}, iterations={self.iterations}'

    task_sum: Tensor
    term_sum: Tensor
    count: Tensor
    seen: Tensor
    frozen: Tensor


def is_auto(value: Any) -> bool:
    """Whether a config value asks for `Auto`."""
    if isinstance(value, dict):
        return value.get('type') == 'Auto'
    return isinstance(value, str) and value.split(':')[0].strip().lower() == 'auto'


def build_auto(value: Any, where: str) -> Auto:
    """``'auto:<share>'`` or ``dict(type='Auto', share=, iterations=)`` as an `Auto`.

    Raises:
        ConfigError: If the share is no positive number or the iterations no positive integer.
    """
    options = dict(value) if isinstance(value, dict) else dict(share=_number(value))
    options.pop('type', None)
    refuse_unknown(where, options, ('share', 'iterations'))
    share, iterations = options.get('share'), options.get('iterations', 20)
    positive = isinstance(share, int | float) and 0 < share < math.inf
    if not positive or type(iterations) is not int or iterations < 1:
        raise ConfigError(
            f'{where}: expected {FORM}, share a positive number and iterations a positive integer, '
            f'got {value!r}'
        )
    return Auto(where, float(share), iterations)  # type: ignore[arg-type]


def _number(text: str) -> float | None:
    try:
        return float(text.partition(':')[2])
    except ValueError:
        return None


def _read_back(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Auto)
    module._seen, module.measuring = int(module.seen), not bool(module.frozen)
