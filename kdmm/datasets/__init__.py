"""Data sets and transforms: CamVid, person crops, jigsaw puzzles, subsets.

What derives from mmcv or a task library is imported on first use, so that importing kdmm is quick.
"""

from typing import Any

from ..compat.packages import require
from .annotations import number_sources
from .blank import BlankImages
from .class_sampler import PKSampler
from .class_subset import ClassSubset
from .puzzle import PatchGrid
from .seeded import SeededDataset, SeededSampler
from .stratified import StratifiedSubset

_LATE = dict(
    BothImages='second_image',
    CamVidDataset='camvid',
    PersonCropDataset='person_crops',
    ShufflePatches='shuffle_patches',
    ToChrominance='colour',
    ToLuminance='colour',
)

__all__ = [
    'BlankImages',
    'BothImages',
    'CamVidDataset',
    'ClassSubset',
    'PKSampler',
    'PatchGrid',
    'PersonCropDataset',
    'SeededDataset',
    'SeededSampler',
    'ShufflePatches',
    'StratifiedSubset',
    'ToChrominance',
    'ToLuminance',
    'number_sources',
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(require(f'{__name__}.{_LATE[name]}', f'kdmm.{name}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
