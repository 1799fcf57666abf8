import sys

import pytest
from mmdet.models.backbones import ResNet

from kdmm.errors import ConfigError
from kdmm.transfer import registered
from kdmm.transfer.literal import Unread
from kdmm.transfer.registered import check_types, find_class, parameters_of, require


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
    with pytest.raises(ConfigError, match="mmdet has no 'ResNot'; nearest: ResNe"):
        find_class('ResNot', 'mmdet', trusted=True)


@pytest.mark.parametrize(
    'kind', ['os.system', 'antigravity', 'mmdet.antigravity', 'torch.hub.load']
)
def test_a_checkpoint_cannot_name_anything_else(kind):
    with pytest.raises(ConfigError):
        find_class(kind, 'mmdet', trusted=False)
    assert 'antigravity' not in sys.modules


def test_a_config_of_the_user_can():
    assert find_class('collections.OrderedDict', 'mmdet', trusted=True).__name__ == 'OrderedDict'


@pytest.mark.parametrize(
    'node, message',
    [
        (dict(norm_cfg=dict(type='os.system')), "names 'os.system'"),
        (dict(plugins=[dict(cfg=dict(type='os.system'))]), "names 'os.system'"),
        (dict(depth=Unread('f()')), r'model\.depth=f\(\), which is no literal and is not run'),
        (dict(stages=(1, Unread('f()'))), 'no literal'),
    ],
)
def test_every_type_of_a_checkpoint_is_checked(node, message):
    with pytest.raises(ConfigError, match=message):
        check_types(node, 'mmdet', 'model')


def test_registered_types_pass():
    check_types(dict(type='ResNet', norm_cfg=dict(type='BN'), depth=18), 'mmdet', 'model')


def test_a_library_that_is_not_there_has_a_pip_name(monkeypatch):
    monkeypatch.setattr(registered, 'installed', lambda library: False)
    with pytest.raises(
        ConfigError, match='--to: mmdet is not installed: pip install onedl-mmdetec'
    ):
        require('mmdet', '--to')
    with pytest.raises(ConfigError, match='pip install timm'):
        require('timm', '--to')


def test_one_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    monkeypatch.setattr(registered, 'installed', lambda library: True)
    with pytest.raises(ConfigError, match='--to: timm cannot be imported'):
        require('timm', '--to')


def test_arguments_that_are_handed_on_count():
    from mmdet.models.backbones import ResNetV1d

    assert {'depth', 'style'} <= parameters_of(ResNetV1d)
    assert 'depth' in parameters_of(ResNet) and 'bogus' not in parameters_of(ResNet)


def test_quiet_neither_prints_nor_logs(capsys):
    from mmengine.logging import print_log

    with registered.quiet():
        print('x')
        print_log('y', 'current')
    print('z')
    printed = capsys.readouterr()
    assert printed.out == 'z\n' and 'y' not in printed.err
