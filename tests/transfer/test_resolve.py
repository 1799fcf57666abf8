import pytest
import torch
from mmengine.config import Config

from kdmm.errors import ConfigError
from kdmm.transfer import Request
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.resolve import named, source_of, target_of
from tests.transfer.nets import write_config

R18 = dict(type='ResNet', depth=18)


def weights(meta=None, prefix='backbone.', **state):
    tensors = state or {'conv1.weight': torch.zeros(1)}
    full = {f'{prefix}{key}': value for key, value in tensors.items()}
    return Weights(tensors, prefix, full, meta or {})


def text(scope='mmdet', **model):
    return Config(dict(default_scope=scope, model=dict(backbone=R18) | model)).pretty_text


def request(to='mmdet', **more):
    return Request('a.pth', to, 'b.pth', **more)


@pytest.mark.parametrize('key', ['cfg', 'config'])
def test_a_checkpoint_speaks_for_itself(key):
    found = source_of(request(), weights({key: text(data_preprocessor=dict(mean=[1]))}))
    assert found.library == 'mmdet' and found.args == dict(depth=18)
    assert found.kind.__module__.startswith('mmdet') and found.inputs == dict(mean=[1])
    assert found.origin == 'the config in the checkpoint'


def test_a_config_file_overrules_it(tmp_path):
    config = write_config(tmp_path / 'c.py', 'mmseg', dict(type='ResNetV1c', depth=50))
    found = source_of(request(source_config=config), weights(dict(cfg=text())))
    assert found.library == 'mmseg' and found.args == dict(depth=50)
    assert found.origin == f'--source-config {config}'


def test_a_name_is_for_files_without_a_config():
    assert source_of(request(arch='resnet18'), weights()).library == 'torchvision'
    assert source_of(request(arch='resnet18d'), weights()).library == 'timm'
    with pytest.raises(ConfigError, match='--arch: .a.pth. brings its own config'):
        source_of(request(arch='resnet18'), weights(dict(cfg=text())))
    with pytest.raises(ConfigError, match="--arch: timm has no model 'resnet19'; nearest: resnet"):
        named('resnet19')


@pytest.mark.parametrize('name', ['resnet18', 'densenet121'])
def test_the_library_that_is_asked_for_is_preferred(name):
    keys = Architecture('timm', name, '').build().state_dict()
    state = {key: torch.zeros(1) for key in keys}
    assert named(name, 'timm').library == named(name, 'timm', state).library == 'timm'
    assert named(name, 'mmdet', state).library == 'torchvision'
    assert source_of(request('timm', arch=name), weights(**state)).library == 'timm'


def test_the_library_whose_names_a_file_has_is_preferred():
    for library in ('timm', 'torchvision'):
        state = Architecture(library, 'convnext_tiny', '').build().state_dict()
        for to in ('timm', 'torchvision', 'mmdet'):
            assert named('convnext_tiny', to, state).library == library


def test_nothing_says_what_it_is():
    with pytest.raises(ConfigError, match=r'give --source-config CONFIG, or --arch NAME .*\(its '
                       r'keys start with backbone\. \(1\)\)'):  # fmt: skip
        source_of(request(), weights())


def test_targets_of_other_libraries(tmp_path):
    source = source_of(request(), weights(dict(cfg=text())))
    config = write_config(tmp_path / 'c.py', 'mmseg', R18)
    with pytest.raises(ConfigError, match='is a config of mmseg, --to says mmdet'):
        target_of(request(config=config), source, None)
    with pytest.raises(ConfigError, match='--config: timm has no configs'):
        target_of(request('timm', config=config), source, None)
    with pytest.raises(ConfigError, match='--arch: say which model of timm this is'):
        target_of(request('timm'), source, None)
    assert target_of(request('timm', arch='resnet18'), source, None).kind == 'resnet18'
