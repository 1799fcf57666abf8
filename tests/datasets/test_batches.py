"""Equal batches on all ranks: tests/hooks/test_distill.py."""

import pytest
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from kdmm.datasets.batches import images_in

ITEMS = range(9)


class Silent:
    """A batch sampler that does not say how large its batches are."""

    def __iter__(self):
        return iter([[0, 1], [2]])


@pytest.mark.parametrize(('options', 'images'), [
    (dict(batch_size=3), 3),
    (dict(batch_sampler=BatchSampler(SequentialSampler(ITEMS), 4, False)), 4),
    (dict(batch_sampler=Silent()), None),
    (dict(batch_size=None), None),
])  # fmt: skip
def test_images_in_a_full_batch(options, images):
    assert images_in(DataLoader(ITEMS, **options)) == images
