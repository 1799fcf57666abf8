import pytest
from mmengine.config import Config

from kdmm.errors import ConfigError
from kdmm.transfer import in_config, registered
from kdmm.transfer.in_config import from_config, from_text

R18 = dict(type='ResNet', depth=18)


def text(scope='mmdet', **model):
    return Config(dict(default_scope=scope, model=dict(backbone=R18) | model)).pretty_text


def test_what_loads_weights_is_left_out():
    backbone = R18 | dict(init_cfg=dict(type='Pretrained', checkpoint='x'), pretrained='y')
    assert from_text(text(backbone=backbone), 'backbone.', 'mmdet').args == dict(depth=18)


@pytest.mark.parametrize('scope', [None, 'antigravity', 3])
def test_a_library_on_the_word_of_a_checkpoint_is_one_of_ours(scope):
    with pytest.raises(ConfigError, match=f'default_scope={scope!r}, expected one of mmpose'):
        from_text(dict(default_scope=scope, model={}), 'backbone.', 'mmdet')


def test_a_source_library_that_is_not_there(monkeypatch):
    there = registered.installed
    for module in (in_config, registered):
        monkeypatch.setattr(module, 'installed', lambda x: x != 'mmpose' and there(x))
    found = from_text(text('mmpose'), 'backbone.', 'mmdet')
    assert found.library == 'mmdet' and found.kind.__module__.startswith('mmdet')
    assert 'mmpose is not installed, mmdet stands in' in found.origin
    backbone = dict(type='HRNet', extra={})
    for to, model in (('timm', {}), ('mmdet', dict(backbone=backbone))):
        with pytest.raises(ConfigError, match='mmpose is not installed: pip install mmpose'):
            from_text(text('mmpose', **model), 'backbone.', to)


def test_several_backbones_need_a_prefix():
    cfg = dict(default_scope='mmdet', model=dict(
        teacher=dict(backbone=R18), student=dict(backbone=R18 | dict(depth=34))))  # fmt: skip
    with pytest.raises(ConfigError, match=r'several backbones, teacher\.backbone\., student\.b'):
        from_text(cfg, 'backbone.', 'mmdet')
    found = from_text(cfg, 'student.backbone.', 'mmdet')
    assert found.args == dict(depth=34) and found.path == 'student.backbone.'


@pytest.mark.parametrize('kind', ['Distiller', 'HSSAKD', 'HSSAKDTeacher', 'HSSAKDOnline'])
def test_a_distiller_is_its_student(kind):
    teacher = dict(model=dict(backbone=R18 | dict(depth=50)))
    model = dict(type=f'kdmm.{kind}', student=dict(backbone=R18), teacher=teacher)
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


@pytest.mark.parametrize(
    'cfg',
    [
        5,
        'model = 3',
        "default_scope = 'mmdet'\nmodel = 'x'",
        "default_scope = 'mmdet'\nmodel = dict(backbone=dict(depth=3))",
        "default_scope = 'mmdet'\nmodel = dict(backbone=dict(type=3))",
        "default_scope = 'mmdet'\nmodel = dict(backbone='ResNet')",
        "default_scope = 'mmdet'\nmodel = dict(type='kdmm.Distiller')",
        dict(default_scope='mmdet', model=dict(backbone=dict(type=print))),
    ],
)
def test_nonsense_in_a_checkpoint(cfg):
    with pytest.raises(ConfigError, match='the config in the checkpoint'):
        from_text(cfg, 'backbone.', 'mmdet')
