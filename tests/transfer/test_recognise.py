import pytest
import timm
import torch
import torchvision

from kdmm.transfer.recognise import recognise
from tests.transfer.nets import build, hrnet


def model(name):
    with torch.device('meta'):
        return torchvision.models.get_model(name)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_depths(depth):
    found = recognise(model(f'resnet{depth}').state_dict())
    assert found.phrase == f'a ResNet of depth {depth}' and found.model_name == f'resnet{depth}'
    assert found.title == f'ResNet-{depth}' and found.args == dict(type='ResNet', depth=depth)
    assert found.certain == (depth < 50)


@pytest.mark.parametrize('name', ['resnext50_32x4d', 'wide_resnet50_2', 'mobilenet_v2', 'vgg11'])
def test_others_are_not_guessed(name):
    assert recognise(model(name).state_dict()) is None


def test_nor_blocks_with_more_in_them():
    with torch.device('meta'):
        assert recognise(timm.create_model('seresnet18').state_dict()) is None


@pytest.mark.parametrize('library', ['mmpose', 'mmseg', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize(
    'flags, title, name',
    [
        (dict(deep_stem=True), 'ResNetV1c-18 and width 8', 'resnet18c'),
        (dict(deep_stem=True, avg_down=True), 'ResNetV1d-18 and width 8', 'resnet18d'),
        (dict(avg_down=True), 'ResNet-18 and width 8', 'resnet18'),
    ],
)
def test_variants(library, flags, title, name):
    config = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
    found = recognise(build(library, config | flags).state_dict())
    assert (found.title, found.model_name, found.certain) == (title, name, False)
    assert found.args == config | flags


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


def test_an_hrnet_of_another_form_is_not_one():
    with torch.device('meta'):
        assert recognise(timm.create_model('hrnet_w18_small').state_dict()) is None
