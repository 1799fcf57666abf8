import timm
import torch
import torchvision
from torch import nn

from kdmm.transfer.families import OTHER, family_of, own_names, resnet_names
from tests.transfer.nets import build, hrnet

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


def test_families_go_by_the_names_of_classes():
    resnet = family_of(build('mmpretrain', DEEP))
    assert resnet is family_of(torchvision.models.resnet18())
    assert resnet is family_of(build('mmpretrain', dict(type='ResNet_CIFAR', depth=18)))
    assert family_of(build('mmpose', hrnet())) is not resnet
    assert family_of(nn.Linear(2, 2)) is OTHER


def test_heads_are_parts_of_their_own():
    family = family_of(build('mmpose', hrnet()))
    assert family.is_head('incre_modules.0.weight') and not family.is_head('layer1.0.fc.weight')
    assert not OTHER.is_head('incre_modules.0.weight') and OTHER.is_head('fc.weight')


def traits(library, config):
    net = build(library, config)
    return family_of(net).traits(net)


def test_traits_of_resnets():
    plain = dict(type='ResNet', depth=50, base_channels=8)
    found = traits('mmdet', plain)
    assert found == dict(
        deep_stem=False,
        avg_down=False,
        style='pytorch',
        norm='BatchNorm eps 1e-05',
        activation='ReLU',
        convolution='Conv2d',
        upsample='none',
    )
    assert traits('mmdet', plain | dict(norm_cfg=dict(type='SyncBN'))) == found
    assert traits('mmseg', plain | dict(style='caffe'))['style'] == 'caffe'
    assert 'style' not in traits('mmdet', dict(type='ResNet', depth=18, style='caffe'))
    for name, deep, pools in (('resnet50', False, False), ('resnet50d', True, True)):
        with torch.device('meta'):
            net = timm.create_model(name)
        got = family_of(net).traits(net)
        assert got == found | dict(deep_stem=deep, avg_down=pools)


def test_traits_of_hrnets():
    assert traits('mmpose', hrnet())['upsample'] == 'nearest'
    assert traits('mmdet', hrnet())['upsample'] == 'nearest'
    assert traits('mmseg', hrnet())['upsample'] == 'bilinear'
