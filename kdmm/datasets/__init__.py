"""Data sets: CamVid and the generated scenes of the quick start.

``CamVidDataset`` derives from a class of MMSegmentation and is imported on first use, so that
importing kdmm is quick.
"""

from typing import Any

from .blank import BlankImages
from .seeded import SeededDataset, SeededSampler

__all__ = ['BlankImages', 'CamVidDataset', 'SeededDataset', 'SeededSampler']


def __getattr__(name: str) -> Any:
    if name == 'CamVidDataset':
        from .camvid import CamVidDataset

        return CamVidDataset
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
