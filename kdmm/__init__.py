"""Knowledge distillation and self-supervised pretraining for the OpenMMLab libraries.

From the import on MMEngine's Runners obey the section ``kd`` of a config, or refuse it, and
registries find kdmm's classes under the scope ``kdmm``. A room is imported when it is asked for.
Where MMEngine is not installed, `kdmm.functional` alone can be used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdmm import (
        compat,
        datasets,
        distillers,
        evaluation,
        functional,
        hooks,
        losses,
        memory,
        models,
        pruning,
        teachers,
    )

__version__ = '0.1.0'

__all__ = [
    '__version__',
    'compat',
    'datasets',
    'distillers',
    'evaluation',
    'functional',
    'hooks',
    'losses',
    'memory',
    'models',
    'pruning',
    'teachers',
]


def __getattr__(name: str) -> Any:
    """Import a room of the package."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name != 'functional':
        from kdmm.compat.versions import check_versions

        check_versions()  # MMEngine may be missing
    return import_module(f'{__name__}.{name}')


def _set_up() -> None:
    """Let the base libraries find kdmm."""
    from kdmm.compat import setup

    setup()  # refuses versions before anything fails obscurely
    import kdmm.registry  # noqa: F401
    from kdmm.engine.dispatch import install

    install()


if find_spec('mmengine') is not None:
    _set_up()
