import pytest
from mmdet.models.backbones import ResNet
from mmengine.config import Config
from torch import nn

from kdmm.pretrained.architecture import Architecture
from kdmm.transfer.report import compare_inputs, snippet
from kdmm.utils.normalization import Normalization


def target(path='backbone.', **model) -> Architecture:
    return Architecture('mmdet', ResNet, 'x', dict(depth=18), None, model, path)


INIT = dict(type='Pretrained', checkpoint='old', prefix='backbone')


@pytest.mark.parametrize(
    'base, other',
    [
        (dict(depth=18), {}),
        (dict(init_cfg=None), {}),
        (dict(init_cfg=dict(type='Pretrained', checkpoint='old')), {}),
        (dict(init_cfg=INIT), {}),
        (dict(init_cfg=[dict(type='Kaiming', layer='Conv2d')]), {}),
        (dict(init_cfg=dict(type='Kaiming', layer='Conv2d')), {}),
        (dict(depth=18), dict(pretrained='open-mmlab://resnet50_v1c')),
    ],
)
@pytest.mark.parametrize('path', ['backbone.', 'detector.backbone.'])
def test_merged_into_the_config_it_loads_the_file_and_nothing_else(tmp_path, base, other, path):
    model = dict(backbone=base)
    if path.startswith('detector'):
        model = dict(detector=model)
    Config(dict(model=model | other)).dump(tmp_path / 'base.py')
    text = snippet(target(path, **model, **other), "it's.pth", complete=False)
    (tmp_path / 'mine.py').write_text(f"_base_ = './base.py'\n{text}\n")
    cfg = Config.fromfile(tmp_path / 'mine.py').model
    node = cfg
    for name in path.rstrip('.').split('.'):
        node = node[name]
    assert node.init_cfg == dict(type='Pretrained', checkpoint="it's.pth")
    assert cfg.get('pretrained') is None
    assert node.get('depth') == base.get('depth')


def test_a_complete_checkpoint_is_loaded_as_such():
    assert snippet(target(), 'a.pth', complete=True) == "load_from = 'a.pth'"


def test_what_mmengine_cannot_load():
    plain = Architecture('mmdet', nn.Identity, 'x')
    assert snippet(plain, 'a.pth', False) == (
        "model.backbone.load_state_dict(torch.load('a.pth', weights_only=True)['state_dict'])"
    )


RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def test_the_line_on_images():
    ours, theirs = Normalization.of_config(RGB | dict(to_rgb=True)), Normalization.of_config(RGB)
    assert compare_inputs(ours, ours, True).endswith('in source and target')
    assert compare_inputs(ours, theirs, True).startswith('warning: trained on RGB, ')
    assert 'the target config prepares BGR' in compare_inputs(ours, theirs, True)
    assert compare_inputs(ours, None, True).startswith('warning')
    assert compare_inputs(ours, None, False).endswith('prepare the images of the target alike')
    assert 'does not say' in compare_inputs(None, theirs, True)
