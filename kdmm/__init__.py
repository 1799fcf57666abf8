"""Knowledge distillation and self-supervised pretraining for the OpenMMLab libraries.

Importing registers everything under the scope ``kdmm``.
"""

from kdmm import compat

compat.setup()

from kdmm import datasets, distillers, evaluation, hooks, losses, models  # noqa: E402

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
