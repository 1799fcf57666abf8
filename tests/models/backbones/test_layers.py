import pytest
import torch

from kdmm.models.backbones.layers import ChannelShuffle


@pytest.mark.parametrize('groups', [1, 2, 3, 6])
def test_shuffle_deals_round_and_is_undone_by_the_other_factor(groups):
    x = torch.arange(12.0).reshape(1, 12, 1, 1)
    shuffled = ChannelShuffle(groups)(x)
    per = 12 // groups
    expected = [g * per + i for i in range(per) for g in range(groups)]
    assert shuffled.flatten().tolist() == expected
    assert torch.equal(ChannelShuffle(per)(shuffled), x)
