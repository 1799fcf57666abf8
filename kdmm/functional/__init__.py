"""Pure tensor maths: torch and nothing above it."""

from .collective import (
    all_gather_cat,
    distributed,
    gather_images,
    gather_with_grad,
    global_image_index,
    rank,
    sum_over_ranks,
    world_size,
)
from .divergence import kl_divergence
from .labels import check_labels, resize_labels, valid_labels
from .precision import full_precision, promote
from .relation import memory_kl, pixel_to_pixel_kl
from .rows import map_to_rows, normalize_rows

__all__ = [
    'all_gather_cat',
    'check_labels',
    'distributed',
    'full_precision',
    'gather_images',
    'gather_with_grad',
    'global_image_index',
    'kl_divergence',
    'map_to_rows',
    'memory_kl',
    'normalize_rows',
    'pixel_to_pixel_kl',
    'promote',
    'rank',
    'resize_labels',
    'sum_over_ranks',
    'valid_labels',
    'world_size',
]
