import timm
import torchvision
from torch import nn

from kdmm.transfer.key_names import own_names, resnet_names
from tests.transfer.nets import build

DEEP = dict(
    type='ResNet', depth=18, base_channels=8, stem_channels=8, deep_stem=True, avg_down=True
)


def test_the_libraries_share_one_set_of_names():
    nets = [build(library, DEEP) for library in ('mmpose', 'mmseg', 'mmdet', 'mmpretrain')]
    nets.append(timm.create_model('resnet18d', num_classes=0))
    raw = [set(net.state_dict()) for net in nets]
    shared = [resnet_names(net.state_dict()) for net in nets]
    assert raw[0] != raw[1] != raw[4]
    assert all(set(names.values()) == set(shared[0].values()) for names in shared)
    assert all(len(set(names.values())) == len(names) for names in shared)
    mmseg, pose = shared[1], shared[0]
    assert mmseg['stem.6.weight'] == pose['stem.2.conv.weight'] == 'stem.4.weight'
    assert shared[4]['bn1.weight'] == mmseg['stem.7.weight'] == pose['stem.2.bn.weight']
    assert mmseg['layer2.0.downsample.1.weight'] == 'layer2.0.downsample.0.weight'


def test_a_plain_resnet_keeps_its_names_whatever_its_head_is_called():
    net = torchvision.models.resnet18()
    net.fc = nn.Sequential(nn.Linear(512, 3))
    assert resnet_names(net.state_dict()) == own_names(net.state_dict())
