import pytest
import torch
from mmengine.config import Config

from kdmm.errors import ConfigError
from kdmm.transfer import Request, registered, resolve
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.resolve import from_config, from_text, named, source_of, target_of
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


def test_what_loads_weights_is_left_out():
    backbone = R18 | dict(init_cfg=dict(type='Pretrained', checkpoint='x'), pretrained='y')
    assert from_text(text(backbone=backbone), 'backbone.', 'mmdet').args == dict(depth=18)


def test_a_name_is_for_files_without_a_config():
    assert source_of(request(arch='resnet18'), weights()).library == 'torchvision'
    assert source_of(request(arch='resnet18d'), weights()).library == 'timm'
    with pytest.raises(ConfigError, match='--arch: .a.pth. brings its own config'):
        source_of(request(arch='resnet18'), weights(dict(cfg=text())))
    with pytest.raises(ConfigError, match="--arch: timm has no model 'resnet19'; nearest: resnet"):
        named('resnet19')


def test_nothing_says_what_it_is():
    with pytest.raises(ConfigError, match=r'give --source-config CONFIG, or --arch NAME .*\(its '
                       r'keys start with backbone\. \(1\)\)'):  # fmt: skip
        source_of(request(), weights())


@pytest.mark.parametrize('scope', [None, 'antigravity', 3])
def test_a_library_on_the_word_of_a_checkpoint_is_one_of_ours(scope):
    with pytest.raises(ConfigError, match=f'default_scope={scope!r}, expected one of mmpose'):
        source_of(request(), weights(dict(cfg=dict(default_scope=scope, model={}))))


def test_a_source_library_that_is_not_there(monkeypatch):
    there = registered.installed
    for module in (resolve, registered):
        monkeypatch.setattr(module, 'installed', lambda x: x != 'mmpose' and there(x))
    found = source_of(request('mmdet'), weights(dict(cfg=text('mmpose'))))
    assert found.library == 'mmdet' and found.kind.__module__.startswith('mmdet')
    assert 'mmpose is not installed, mmdet stands in' in found.origin
    backbone = dict(type='HRNet', extra={})
    for to, model in (('timm', {}), ('mmdet', dict(backbone=backbone))):
        with pytest.raises(ConfigError, match='mmpose is not installed: pip install mmpose'):
            source_of(request(to), weights(dict(cfg=text('mmpose', **model))))


def test_several_backbones_need_a_prefix():
    cfg = dict(default_scope='mmdet', model=dict(
        teacher=dict(backbone=R18), student=dict(backbone=R18 | dict(depth=34))))  # fmt: skip
    with pytest.raises(ConfigError, match=r'several backbones, teacher\.backbone\., student\.b'):
        from_text(cfg, 'backbone.', 'mmdet')
    found = from_text(cfg, 'student.backbone.', 'mmdet')
    assert found.args == dict(depth=34) and found.path == 'student.backbone.'


def test_a_distiller_is_its_student():
    teacher = dict(model=dict(backbone=R18 | dict(depth=50)))
    model = dict(type='kdmm.Distiller', student=dict(backbone=R18), teacher=teacher)
    found = from_text(dict(default_scope='mmdet', model=model), 'backbone.', 'mmdet')
    assert found.args == dict(depth=18) and found.path == 'backbone.'


def test_a_config_without_a_backbone_or_a_scope(tmp_path):
    with pytest.raises(ConfigError, match='its model has no backbone'):
        from_text(dict(default_scope='mmdet', model=dict(type='x')), 'backbone.', 'mmdet')
    Config(dict(model=dict(backbone=R18))).dump(tmp_path / 'c.py')
    with pytest.raises(ConfigError, match="--source-config: .*c.py' has no default_scope"):
        from_config(str(tmp_path / 'c.py'), '--source-config', 'backbone.')
    assert from_config(str(tmp_path / 'c.py'), '--config', 'backbone.', 'mmseg').library == 'mmseg'
    with pytest.raises(ConfigError, match='--config: config: .nope.py. cannot be read'):
        from_config('nope.py', '--config', 'backbone.')


def test_a_config_of_classes_instead_of_names(tmp_path):
    (tmp_path / 'c.py').write_text(
        'from mmdet.models.backbones.resnet import ResNet\nfrom torch.nn import BatchNorm2d\n'
        "default_scope = 'mmdet'\n"
        'model = dict(backbone=dict(type=ResNet, depth=18, norm_cfg=dict(type=BatchNorm2d)))\n'
    )
    found = from_config(str(tmp_path / 'c.py'), '--config', 'backbone.')
    assert found.build().depth == 18


SOURCE = dict(cfg=text())


def test_targets_of_other_libraries(tmp_path):
    source = source_of(request(), weights(SOURCE))
    config = write_config(tmp_path / 'c.py', 'mmseg', R18)
    with pytest.raises(ConfigError, match='is a config of mmseg, --to says mmdet'):
        target_of(request(config=config), source, None)
    with pytest.raises(ConfigError, match='--config: timm has no configs'):
        target_of(request('timm', config=config), source, None)
    with pytest.raises(ConfigError, match='--arch: say which model of timm this is'):
        target_of(request('timm'), source, None)
    assert target_of(request('timm', arch='resnet18'), source, None).kind == 'resnet18'
