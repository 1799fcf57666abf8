"""Numbers of images in the batches of the ranks."""

from collections.abc import Sized
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_world_size
from torch.utils.data import BatchSampler


def images_in(loader: Any) -> int | None:
    """Return the images of a full batch of one rank, None where a batch sampler does not say."""
    size = getattr(loader, 'batch_size', None)
    if size is None:
        size = getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
    return size if isinstance(size, int) else None


def may_be_uneven(loader: Any) -> bool:
    """Return whether ranks may have different numbers of images in a step; all ranks call it.

    Not if a plain batch sampler fills every batch, or if each rank has equally many samples to cut
    into batches. Of other batch samplers, such as those that group images by their aspect ratio, it
    is not known.
    """
    if get_world_size() == 1:
        return False
    batches: Any = getattr(loader, 'batch_sampler', None)
    if type(batches) is not BatchSampler:
        size = None
    else:
        drawn = batches.sampler
        full = batches.drop_last or isinstance(getattr(drawn, 'sampler', drawn), InfiniteSampler)
        size = 0 if full else len(drawn) if isinstance(drawn, Sized) else None
    sizes = set(all_gather_object(size))
    return len(sizes) > 1 or None in sizes
