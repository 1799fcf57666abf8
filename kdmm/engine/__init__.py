"""Runner, command lines, checks of configs, and profiling."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdmm.config import load_config, model_config, use_amp
    from kdmm.engine.checks import check_data
    from kdmm.engine.launch import start_process_group, stop_process_group
    from kdmm.engine.runner import Runner, build_runner

__all__ = [
    'Runner',
    'build_runner',
    'check_data',
    'load_config',
    'model_config',
    'start_process_group',
    'stop_process_group',
    'use_amp',
]

_HOMES = dict(
    Runner='kdmm.engine.runner',
    build_runner='kdmm.engine.runner',
    check_data='kdmm.engine.checks',
    load_config='kdmm.config',
    model_config='kdmm.config',
    start_process_group='kdmm.engine.launch',
    stop_process_group='kdmm.engine.launch',
    use_amp='kdmm.config',
)


def __getattr__(name: str) -> Any:
    """Import what is asked for; ``import kdmm`` needs `kdmm.engine.dispatch` alone."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_HOMES[name]), name)
