"""Child registries of MMEngine's roots, scope ``kdmm``.

A config names kdmm's classes as ``kdmm.Name`` from any default scope.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='kdmm',
    locations=['kdmm.losses', 'kdmm.models', 'kdmm.distillers'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='kdmm', locations=['kdmm.hooks'])
# the integrations need a base library
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='kdmm',
    locations=['kdmm.datasets', 'kdmm.datasets.integrations'],
)
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='kdmm', locations=['kdmm.datasets']
)
LOOPS = Registry(
    'loop',
    parent=MMENGINE_LOOPS,
    scope='kdmm',
    locations=['kdmm.engine.profiling', 'kdmm.engine.loops'],
)
RUNNERS = Registry(
    'runner', parent=MMENGINE_RUNNERS, scope='kdmm', locations=['kdmm.engine.runner']
)
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='kdmm', locations=['kdmm.evaluation'])
# derives from mmcv, which takes its time to import
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='kdmm',
    locations=[
        'kdmm.datasets',
        'kdmm.datasets.colour',
        'kdmm.datasets.second_image',
        'kdmm.datasets.shuffle_patches',
    ],
)
SCHEDULES = Registry('schedule', scope='kdmm', locations=['kdmm.schedules'])
OBJECTIVES = Registry('objective', scope='kdmm', locations=['kdmm.distillers'])
