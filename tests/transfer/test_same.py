import pytest

from kdmm.errors import ConfigError
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.recognise import recognise
from kdmm.transfer.registered import find_class
from kdmm.transfer.same import same_in
from tests.transfer.nets import hrnet


def source(library: str, kind: str, **args) -> Architecture:
    return Architecture(library, find_class(kind, library, True), 'x', args)


def test_arguments_that_a_library_lacks_go():
    made = same_in('mmdet', source('mmseg', 'ResNet', depth=18, multi_grid=None), None)
    assert made.args == dict(depth=18) and made.library == 'mmdet'
    assert made.kind.__module__ == 'mmdet.models.backbones.resnet'


def test_a_type_that_it_lacks_is_written_out():
    made = same_in('mmdet', source('mmseg', 'ResNetV1c', depth=50), None)
    assert made.kind.__name__ == 'ResNet' and made.args == dict(depth=50, deep_stem=True)
    kept = same_in('mmpretrain', source('mmseg', 'ResNetV1c', depth=50), None)
    assert kept.kind.__name__ == 'ResNetV1c' and kept.args == dict(depth=50)


def test_one_that_has_no_other_form_is_asked_for():
    with pytest.raises(
        ConfigError, match="mmseg has no 'CSPDarknet'.*name the target with --config"
    ):
        same_in('mmseg', source('mmdet', 'CSPDarknet'), None)


def test_an_abbreviated_hrnet_is_spelled_out():
    made = same_in('mmpose', source('mmpretrain', 'HRNet', arch='w18'), None)
    assert made.args['extra']['stage4']['num_channels'] == (18, 36, 72, 144)


def test_a_type_of_another_scope_keeps_it():
    made = same_in('mmseg', source('mmdet', 'mmpretrain.ResNet_CIFAR', depth=18), None)
    assert made.kind.__module__.startswith('mmpretrain') and made.args == dict(depth=18)


def test_a_file_of_torchvision_is_told_by_its_weights():
    zoo = Architecture('timm', 'resnet18', 'x')
    found = recognise(zoo.build().state_dict())
    assert same_in('mmdet', zoo, found).args == dict(depth=18)
    with pytest.raises(ConfigError, match='--config: name the config of mmdet'):
        same_in('mmdet', zoo, None)
    width = recognise(source('mmdet', 'HRNet', extra=hrnet()['extra']).build().state_dict())
    assert same_in('mmpose', Architecture('timm', 'hrnet', 'x'), width).args == dict(
        extra=hrnet()['extra']
    )
