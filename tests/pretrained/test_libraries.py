"""Classes and models of the base libraries, by name."""

import sys

import pytest
import timm
import torch
import torchvision
from mmdet.models.backbones import ResNet

from kdmm.pretrained import libraries
from kdmm.pretrained.libraries import find_class, parameters_of, require
from tests.errors import refused


@pytest.mark.parametrize('kind', ['ResNet', 'mmdet.ResNet', 'mmdet.models.backbones.resnet.ResNet'])
@pytest.mark.parametrize('trusted', [True, False])
def test_finds_a_registered_class(kind, trusted):
    assert find_class(kind, 'mmdet', trusted) is ResNet


def test_finds_those_of_other_scopes_and_of_the_root():
    from mmpretrain.models.backbones import ResNet as Other

    assert find_class('mmpretrain.ResNet', 'mmdet', trusted=False) is Other
    assert find_class('SyncBN', 'mmdet', trusted=False).__name__ == 'SyncBatchNorm'
    assert find_class('mmcv.ReLU', 'mmdet', trusted=False).__name__ == 'ReLU'


def test_names_the_nearest():
    with refused(key='type', got='ResNot', problem='mmdet has no such class; nearest: ResNe'):
        find_class('ResNot', 'mmdet', trusted=True)


@pytest.mark.parametrize(
    'kind', ['os.system', 'antigravity', 'mmdet.antigravity', 'torch.hub.load']
)
def test_a_checkpoint_cannot_name_anything_else(kind):
    with refused(got=kind):
        find_class(kind, 'mmdet', trusted=False)
    assert 'antigravity' not in sys.modules


def test_a_config_of_the_user_can():
    assert find_class('collections.OrderedDict', 'mmdet', trusted=True).__name__ == 'OrderedDict'


def test_a_library_that_is_not_there_has_a_pip_name(monkeypatch):
    monkeypatch.setattr(libraries, 'installed', lambda library: False)
    with refused(key='--to', problem='mmdet is not installed: pip install onedl-mmdetec'):
        require('mmdet', '--to')
    with refused(key='--to', problem='pip install timm'):
        require('timm', '--to')


def test_one_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / 'broken_zoo.py').write_text("raise ImportError('built for another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    with refused(key='--to', problem=('broken_zoo cannot be imported', 'another numpy')):
        require('broken_zoo', '--to')


def test_arguments_that_are_handed_on_count():
    from mmdet.models.backbones import ResNetV1d

    assert {'depth', 'style'} <= parameters_of(ResNetV1d)
    assert 'depth' in parameters_of(ResNet) and 'bogus' not in parameters_of(ResNet)


def test_quiet_neither_prints_nor_logs(capsys):
    from mmengine.logging import print_log

    with libraries.silenced_logs():
        print('x')
        print_log('y', 'current')
    print('z')
    printed = capsys.readouterr()
    assert printed.out == 'z\n' and 'y' not in printed.err


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_unknown_models_and_their_nearest(library):
    libraries.check_model_name(library, 'resnet50')
    told = f'{library} has no such model; nearest: ', 'resnet50'
    with refused(key='--arch', got='resnet5o', problem=told):
        libraries.check_model_name(library, 'resnet5o')


@pytest.mark.parametrize(
    'library, name', [('torchvision', 'resnet18'), ('timm', 'resnet18'), ('torchvision', 'vgg11')]
)
def test_without_a_classifier(library, name):
    with torch.device('meta'):
        keys = set(libraries.build_model(library, name).state_dict())
        whole = (
            torchvision.models.get_model(name)
            if library == 'torchvision'
            else timm.create_model(name)
        ).state_dict()
    assert keys < set(whole)
    assert {key.split('.')[0] for key in set(whole) - keys} <= {'fc', 'classifier'}


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_the_code_that_is_printed_loads_the_file(library, tmp_path):
    net = libraries.build_model(library, 'resnet18')
    torch.save(net.state_dict(), tmp_path / 'a.pth')
    scope: dict = {}
    exec(libraries.model_code(library, 'resnet18', str(tmp_path / 'a.pth')), scope)
    assert all(map(torch.equal, net.state_dict().values(), scope['model'].state_dict().values()))
    loaded = libraries.load_model(library, 'resnet18', str(tmp_path / 'a.pth'))
    assert torch.equal(loaded.conv1.weight, net.conv1.weight)


def test_inputs():
    assert libraries.model_inputs('torchvision', 'resnet18')['mean'] == [123.675, 116.28, 103.53]
    assert libraries.model_inputs('timm', 'resnet18')['std'] == pytest.approx(
        [58.395, 57.12, 57.375]
    )
    assert libraries.model_inputs('timm', 'tf_efficientnet_b0.ap_in1k') == dict(
        mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True
    )
