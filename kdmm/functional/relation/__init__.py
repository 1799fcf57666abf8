"""Relation losses of CIRKD (arXiv 2204.06986).

- `textbook`: what is computed, in a dozen lines of PyTorch that keep every map.
- `losses`: the functions that kdmm's losses call, with all options. They choose the form.
- `streamed`: rows of the map block by block, the gradient formed in the forward pass.
- `symmetric`: the relation of rows to themselves from half of the map's tiles.
- `fused`: the same on CUDA in Triton's `kernels`, which keep no block in device memory.
"""

from . import textbook
from .losses import memory_kl, pixel_to_pixel_kl

__all__ = ['memory_kl', 'pixel_to_pixel_kl', 'textbook']
