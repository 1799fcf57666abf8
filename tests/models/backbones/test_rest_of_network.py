"""`new_stage` and `new_tail` give what HSSAKD's branches are made of."""

import pytest
import torch
from torch import nn

from kdmm.errors import ConfigError
from kdmm.models import StagedBackbone
from tests.models.backbones.networks import Classifier, backbone, classifier, fill, fix

# parameters of the branches with their Linear to 400; sum of abs and first of the last one's logits
BRANCHES = {
    'resnet20': ([283_344, 231_696, 247_952], 4054.836829, -5.351479),
    'resnet56': ([838_608, 675_600, 691_856], 12262.795238, -18.503133),
    'resnet8x4': ([1_251_984, 1_021_840, 1_283_472], 1386.148999, -0.829646),
    'resnet32x4': ([7_156_368, 5_744_528, 6_006_160], 5924.451159, -3.066478),
    'wrn16_2': ([708_560, 577_040, 642_704], 776.788038, -0.906470),
    'wrn40_1': ([560_816, 453_584, 470_032], 756.006766, -0.991044),
    'wrn40_2': ([2_186_192, 1_758_736, 1_824_400], 772.847436, -0.629050),
    'vgg13': ([9_577_104, 9_355_152, 8_468_880, 9_648_528], 684.647065, -0.019426),
    'mobilenetv2_stride1': ([1_191_768, 1_180_080, 1_048_688, 1_250_960], 729.503437, -0.098412),
    'shufflenetv1': ([1_198_540, 901_240, 1_018_960], 5650.662931, 0.928649),
    'shufflenetv2_1x1': ([1_632_716, 1_388_536, 1_498_736], 715.939823, -0.087699),
}


def branches(network: StagedBackbone) -> list[Classifier]:
    channels = network.stage_channels
    last = len(channels) - 1
    rests = [[network.new_stage(k) for k in range(done + 1, last + 1)] for done in range(last)]
    rests.append([network.new_stage(last, in_channels=channels[last], stride=1)])
    return [
        Classifier(nn.Sequential(*rest, network.new_tail()), network.tail_channels, 400)
        for rest in rests
    ]


@pytest.mark.parametrize('name', BRANCHES)
def test_counts(name):
    counts = [sum(p.numel() for p in b.parameters()) for b in branches(backbone(name))]
    assert counts == BRANCHES[name][0]


@pytest.mark.parametrize('name', BRANCHES)
def test_rests_continue_the_network_and_the_last_stage_repeats(name):
    network, x = classifier(name), fix((4, 3, 32, 32), 0)
    rests = [fill(branch) for branch in branches(network.trunk)]
    network.trunk.out_indices = tuple(range(len(rests) + 1))
    with torch.no_grad():
        maps = fill(network).trunk(x)
        logits = network(x)
        joint = [rest(stage) for rest, stage in zip(rests, maps[:-1], strict=True)]
    for found in joint[:-1]:
        torch.testing.assert_close(found[:, :100], logits, rtol=1e-12, atol=1e-12)
    found = torch.stack([joint[-1].abs().sum(), joint[-1][0, 0]])
    expected = torch.tensor(BRANCHES[name][1:], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_weights_are_fresh():
    network = backbone('wrn16_2')
    own = {id(p) for p in network.parameters()}
    stages = [network.new_stage(2), network.new_stage(2), network.new_tail()]
    fresh = [id(p) for stage in stages for p in stage.parameters()]
    assert len(set(fresh)) == len(fresh) and not own & set(fresh)


def test_negative_index_counts_from_the_end():
    network = backbone('resnet20')
    assert network.new_stage(-1)[0].branch[0].in_channels == 32


@pytest.mark.parametrize(('channels', 'stride'), [(480, 1), (960, 2)])
def test_shuffle_unit_refuses_what_it_cannot_join(channels, stride):
    with pytest.raises(ConfigError, match=f'in_channels={channels} at stride {stride}'):
        backbone('shufflenetv1').new_stage(2, channels, stride)
