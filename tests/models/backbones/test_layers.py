import pytest
import torch

from kdmm.models.backbones import CIFARResNet
from kdmm.models.backbones.layers import ChannelShuffle
from kdmm.models.backbones.resnet import PaddedShortcut


@pytest.mark.parametrize('groups', [1, 2, 3, 6])
def test_shuffle_deals_round_and_is_undone_by_the_other_factor(groups):
    x = torch.arange(12.0).reshape(1, 12, 1, 1)
    shuffled = ChannelShuffle(groups)(x)
    per = 12 // groups
    expected = [g * per + i for i in range(per) for g in range(groups)]
    assert shuffled.flatten().tolist() == expected
    assert torch.equal(ChannelShuffle(per)(shuffled), x)


def test_padded_shortcut_drops_pixels_and_adds_zeros():
    x = torch.arange(1.0, 51).view(1, 2, 5, 5)
    y = PaddedShortcut(2, 5, 2)(x)
    assert y.shape == (1, 5, 3, 3)
    assert torch.equal(y[:, :2], x[:, :, [0, 2, 4]][..., [0, 2, 4]]) and not y[:, 2:].any()


# with 10 classes: the depths of arXiv 1512.03385, section 4.2 (0.27, 0.46, 0.85, 1.7 M), counted
# as 9 C_in C_out a convolution, 2 C a norm, 650 of the classifier
@pytest.mark.parametrize(
    ('depth', 'expected'), [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)]
)
def test_padded_shortcuts_have_no_parameters(depth, expected):
    network = CIFARResNet(depth, 'basic', shortcut='pad')
    assert sum(p.numel() for p in network.parameters()) + 650 == expected
    assert network(torch.randn(2, 3, 16, 12))[0].shape == (2, 64, 4, 3)
