import timm
import torch

from kdmm.transfer.families import family_of
from tests.transfer.nets import build, hrnet


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
