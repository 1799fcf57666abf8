"""Families of networks: key names, traits, recognition by weights."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from kdmm.pretrained.families import OTHER, family_of, own_names, recognise, resnet_names
from tests.transfer.nets import MM, build, hrnet

NARROW = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
DEEP = NARROW | dict(deep_stem=True, avg_down=True)


def model(name: str) -> nn.Module:
    """Of timm where torchvision has none of that name; without values."""
    with torch.device('meta'):
        known = name in torchvision.models.list_models()
        return torchvision.models.get_model(name) if known else timm.create_model(name)


def traits(net: nn.Module) -> dict:
    return family_of(net).traits(net)


def test_families_go_by_the_names_of_classes():
    resnet = family_of(build('mmpretrain', DEEP))
    assert resnet is family_of(model('resnet18'))
    assert resnet is family_of(build('mmpretrain', dict(type='ResNet_CIFAR', depth=18)))
    assert family_of(build('mmpose', hrnet())) is not resnet
    assert family_of(nn.Linear(2, 2)) is OTHER


def test_heads_are_parts_of_their_own():
    family = family_of(build('mmpose', hrnet()))
    assert family.is_head('incre_modules.0.weight') and not family.is_head('layer1.0.fc.weight')
    assert not OTHER.is_head('incre_modules.0.weight') and OTHER.is_head('fc.weight')


def test_the_libraries_share_one_set_of_names():
    nets = [*(build(library, DEEP) for library in MM), model('resnet18d')]
    raw = [set(net.state_dict()) for net in nets]
    shared = [resnet_names(net.state_dict()) for net in nets]
    shared[4] = {key: name for key, name in shared[4].items() if not key.startswith('fc.')}
    assert raw[0] != raw[1] != raw[4]
    assert all(set(names.values()) == set(shared[0].values()) for names in shared)
    assert all(len(set(names.values())) == len(names) for names in shared)
    mmseg, pose = shared[1], shared[0]
    assert mmseg['stem.6.weight'] == pose['stem.2.conv.weight'] == 'stem.4.weight'
    assert shared[4]['bn1.weight'] == mmseg['stem.7.weight'] == pose['stem.2.bn.weight']
    assert mmseg['layer2.0.downsample.1.weight'] == 'layer2.0.downsample.0.weight'


def test_a_plain_resnet_keeps_its_names_whatever_its_head_is_called():
    net = model('resnet18')
    net.fc = nn.Sequential(nn.Linear(512, 3))
    assert resnet_names(net.state_dict()) == own_names(net.state_dict())


def test_traits_of_resnets():
    plain = dict(type='ResNet', depth=50, base_channels=8)
    found = traits(build('mmdet', plain))
    assert found == dict(
        deep_stem=False,
        avg_down=False,
        style='pytorch',
        norm='BatchNorm eps 1e-05',
        activation='ReLU',
        convolution='Conv2d',
        upsample='none',
    )
    assert traits(build('mmdet', plain | dict(norm_cfg=dict(type='SyncBN')))) == found
    assert traits(build('mmseg', plain | dict(style='caffe')))['style'] == 'caffe'
    assert 'style' not in traits(build('mmdet', NARROW | dict(style='caffe')))
    with torch.device('meta'):
        ours = timm.create_model('resnet50')
    assert traits(ours) == traits(model('resnet50')) == found
    assert traits(model('resnet50d')) == found | dict(deep_stem=True, avg_down=True)


@pytest.mark.parametrize(
    'library, mode', [('mmpose', 'nearest'), ('mmdet', 'nearest'), ('mmseg', 'bilinear')]
)
def test_traits_of_hrnets(library, mode):
    assert traits(build(library, hrnet()))['upsample'] == mode


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_depths(depth):
    found = recognise(model(f'resnet{depth}').state_dict())
    assert found.phrase == f'a ResNet of depth {depth}' and found.model_name == f'resnet{depth}'
    assert found.title == f'ResNet-{depth}' and found.args == dict(type='ResNet', depth=depth)
    assert found.certain == (depth < 50)


@pytest.mark.parametrize(
    'name',
    [
        'resnext50_32x4d',
        'wide_resnet50_2',
        'mobilenet_v2',
        'vgg11',
        'seresnet18',
        'hrnet_w18_small',
    ],
)
def test_others_are_not_guessed(name):
    assert recognise(model(name).state_dict()) is None


@pytest.mark.parametrize('library', MM)
@pytest.mark.parametrize(
    'flags, title, name',
    [
        (dict(deep_stem=True), 'ResNetV1c-18 and width 8', 'resnet18c'),
        (dict(deep_stem=True, avg_down=True), 'ResNetV1d-18 and width 8', 'resnet18d'),
        (dict(avg_down=True), 'ResNet-18 and width 8', 'resnet18'),
    ],
)
def test_variants(library, flags, title, name):
    found = recognise(build(library, NARROW | flags).state_dict())
    assert (found.title, found.model_name, found.certain) == (title, name, False)
    assert found.args == NARROW | flags


def test_variants_of_timm():
    found = recognise(model('resnet18d').state_dict())
    assert (found.title, found.certain) == ('ResNetV1d-18', False)


@pytest.mark.parametrize('library', ['mmpose', 'mmdet'])
def test_hrnets(library):
    found = recognise(build(library, hrnet(6)).state_dict())
    assert found.phrase == 'an HRNet of width 6' and found.model_name == 'hrnet_w6'
    assert found.args == hrnet(6) and not found.certain


@pytest.mark.parametrize('key', ['conv1.weight', 'layer1.0.conv1.weight', 'layer1.0.conv2.weight'])
def test_incomplete_weights_do_not_break_it(key):
    state = model('resnet50').state_dict()
    del state[key]
    assert (recognise(state) is None) == key.startswith('layer')
