"""Let every Runner of MMEngine obey a section ``kd`` or refuse it.

`install` is part of ``import kdmm``. A Runner with neither a section nor an objective stays
MMEngine's own. The modules that others need are imported when there is one.
"""

import copy
import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.runner import FlexibleRunner
from mmengine.runner import Runner as BaseRunner

from kdmm.config import SECTION, kind_of, nearly_section, section_of, split_model
from kdmm.errors import ConfigError

_MARK = '_kdmm'


def install() -> None:
    """Patch MMEngine's Runners to check their arguments. May be called again."""
    if hasattr(BaseRunner.__init__, _MARK):
        return
    for kind, name, wrap in (
        (BaseRunner, '__init__', _patched_init),
        (BaseRunner, 'train', _patched_train),
        (FlexibleRunner, '__init__', _patched_flexible_init),
    ):
        wrapped = wrap(getattr(kind, name))
        setattr(wrapped, _MARK, True)
        setattr(kind, name, wrapped)


@functools.cache
def runner_class_for(kind: type[BaseRunner]) -> type[BaseRunner]:
    """Return the Runner class that serves ``kind``: a subclass of both for a user's own class."""
    from kdmm.engine.runner import Runner

    if issubclass(kind, Runner):
        return kind
    if kind is BaseRunner:
        return Runner
    return type(kind.__name__, (Runner, kind), {'__module__': kind.__module__})


def objective_in(model: Any) -> Any:
    """Return the objective that was attached to a model, None without one."""
    if 'kdmm.distillers' not in sys.modules:  # so none can have been attached
        return None
    from kdmm.hooks.ownership import objective_in

    return objective_in(model)


def describe_run(runner: Any) -> str:
    """Describe a run in one line: its objective, or plain training."""
    objective = objective_in(runner.model)
    if objective is None:
        near = nearly_section(runner.cfg)
        doubt = (
            f'. The config has {near!r}, which kdmm does not read: call it {SECTION}'
            if near
            else ''
        )
        return f'no section {SECTION}: plain training{doubt}'
    section = section_of(runner.cfg)
    kind = kind_of(section) if section else type(objective).__name__
    return f'{SECTION}: {", ".join([kind, *objective.facts()])}'


def _patched_init(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        if _normalise(given.arguments):
            kind: Any = type(self)
            self.__class__ = runner_class_for(kind)
        init(*given.args, **given.kwargs)
        if objective_in(self.model) is not None and not _is_served(self):
            raise ConfigError(
                f'{type(self).__name__} built one with an objective of kdmm and would train it '
                'without its hooks',
                key='model',
                fix=f'Write the section {SECTION}, or '
                "model=dict(type='kdmm.Distiller', student=..., ...).",
            )

    return run


def _is_served(runner: Any) -> bool:
    from kdmm.engine.runner import Runner

    return isinstance(runner, Runner)


def _patched_flexible_init(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        if _normalise(given.arguments):
            raise ConfigError(
                f'with a {SECTION} section',
                key='runner_type',
                got=type(self).__name__,
                expected="MMEngine's Runner or a subclass of it",
                fix='Take another Runner, or leave the section out.',
            )
        init(self, *args, **kwargs)

    return run


def _patched_train(train: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(train)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        line = describe_run(self)
        plain = objective_in(self.model) is None
        doubtful = plain and nearly_section(self.cfg) is not None
        self.logger.log(logging.WARNING if doubtful else logging.INFO, line)
        return train(self, *args, **kwargs)

    return run


def _normalise(given: dict[str, Any]) -> bool:
    """Bring the arguments of a Runner into the usual form, a student and a section.

    Returns:
        Whether the run has an objective.
    """
    cfg, model = given.get('cfg'), given.get('model')
    student, section = split_model(model)
    if section is None:
        return section_of(cfg) is not None or objective_in(model) is not None
    if section_of(cfg) is not None:
        raise ConfigError(
            f'there is a section {SECTION}, too, and one run has one objective',
            key='model.type',
            got=given['model']['type'],
            fix='Give either.',
        )
    config = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(dict(cfg or {}))
    config.model, config[SECTION] = student, section
    given['model'], given['cfg'] = student, config
    return True
