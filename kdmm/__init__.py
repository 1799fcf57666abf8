"""Knowledge distillation and self-supervised pretraining for the OpenMMLab libraries.

Importing registers everything under the scope ``kdmm``, and from then on MMEngine's Runners obey
the section ``kd`` of a config, or refuse it.
"""

from kdmm import compat

compat.setup()

from kdmm import datasets, distillers, evaluation, hooks, losses, models  # noqa: E402
from kdmm.engine.dispatch import install  # noqa: E402

install()

__version__ = '0.1.0'

__all__ = [
    '__version__',
    'compat',
    'datasets',
    'distillers',
    'evaluation',
    'hooks',
    'losses',
    'models',
]
