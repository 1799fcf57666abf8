"""Build a loss or a connector from its config and from facts of the student's model."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdmm.distillers.refusals import refusal
from kdmm.errors import ConfigError, nearest, refuse_unknown
from kdmm.losses.base import DistillLoss
from kdmm.registry import MODELS
from kdmm.renamed import current_names
from kdmm.schedules import Progress, Schedule, build_schedule, is_schedule


def build_part(
    where: str, config: Mapping[str, Any], facts: Mapping[str, Any], what: str = 'loss'
) -> nn.Module:
    """Build a registered module, its unset arguments filled from ``facts`` where it has them.

    Args:
        where: The config key, for errors.
        config: ``dict(type=..., ...)``; a class may stand in place of its name.
        facts: Values for arguments that the config leaves out.
        what: Name of such a module in errors.

    Raises:
        ConfigError: For an unknown type or argument, a missing one, or whatever the module refuses.
    """
    cls = _class_of(where, config, what)
    arguments = current_names(where, cls, config)
    arguments['_scope_'] = 'kdmm'  # an inherited config may name the scope already
    kind = arguments.get('type')
    known = inspect.signature(cls).parameters
    refuse_unknown(where, (key for key in arguments if key not in ('type', '_scope_')), known)
    for key, value in facts.items():
        if key in known:
            arguments.setdefault(key, value)
    missing = [name for name in _required(known) if name not in arguments]
    if missing:
        raise ConfigError(f'{kind}: missing {", ".join(missing)}', key=where)
    try:
        return MODELS.build(arguments)
    except (TypeError, ValueError) as error:
        raise refusal(where, error) from error


def task_facts(student: nn.Module) -> dict[str, int]:
    """``num_classes`` and ``ignore_index`` of the student, where its head has them."""
    head = output_head(student)
    names = ('num_classes', 'ignore_index')
    return {name: getattr(head, name) for name in names if hasattr(head, name)}


def output_head(student: nn.Module) -> nn.Module | None:
    """The head whose classes are the task's; of a cascade the last stage."""
    for owner in (student, getattr(student, 'roi_head', None)):  # two-stage detectors
        for name in ('decode_head', 'head', 'bbox_head'):
            head = getattr(owner, name, None)
            if isinstance(head, nn.ModuleList):
                head = head[-1]
            if head is not None:
                return head
    return None


def build_loss(
    where: str, arguments: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[DistillLoss, dict[str, Schedule]]:
    """Build a loss, and the schedules of those of its arguments that have one.

    Raises:
        ConfigError: As `build_part`; for a schedule of an argument that the loss does not keep.
    """
    arguments = current_names(where, _class_of(where, arguments, 'loss'), arguments)
    schedules = {
        key: build_schedule(value, f'{where}.{key}')
        for key, value in arguments.items()
        if is_schedule(value)
    }
    start = {key: schedule(Progress()) for key, schedule in schedules.items()}
    loss = build_part(where, {**arguments, **start}, facts)
    if not isinstance(loss, DistillLoss):
        raise ConfigError(
            f'{type(loss).__name__} is no DistillLoss',
            key=f'{where}.type',
            fix='Derive the class from kdmm.losses.DistillLoss, which says what a loss may declare '
            '(needs, parts, stateful) and do (check, after_step).',
        )
    if type(loss).forward is nn.Module.forward:
        raise ConfigError(
            f'{type(loss).__name__} defines no forward',
            key=f'{where}.type',
            fix='Define forward(student, teacher, **context), or forward(peers, **context) of a '
            'mutual loss.',
        )
    for key in schedules:
        if not isinstance(getattr(loss, key, None), int | float):
            raise ConfigError(
                'it cannot be a schedule, as it is read only once', key=f'{where}.{key}'
            )
    return loss, schedules


def check_shapes(
    where: str, place: str, loss: DistillLoss, activations: Sequence[Any], note: str
) -> None:
    """Check by the loss activations of the shapes that training will give.

    Args:
        where: The config key, for errors.
        place: The tap or taps, as errors call them.
        loss: Its ``check`` takes the arguments of ``forward``.
        activations: Blank ones.
        note: For which input they are, as the end of the problem.

    Raises:
        ConfigError: With the loss's message, which names both shapes.
    """
    try:
        loss.check(*activations)
    except ValueError as error:
        raise refusal(where, error, place, note) from error
    except (AttributeError, TypeError) as error:
        if all(isinstance(activation, Tensor) for activation in activations):
            raise
        raise ConfigError(
            f'{place}, {type(loss).__name__} compares tensors, and the tap gives a tuple',
            key=where,
            fix='Choose an item with [i], the first is [0].',
        ) from error


def _class_of(where: str, config: Any, what: str) -> Any:
    if not isinstance(config, Mapping):
        raise ConfigError(key=where, got=config, expected='dict(type=..., ...)')
    kind = config.get('type')
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if not callable(cls):
        near = nearest(str(kind), MODELS.module_dict)
        raise ConfigError(f'no such {what}; {near}', key=f'{where}.type', got=kind)
    return cls


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in open_ended
    ]
