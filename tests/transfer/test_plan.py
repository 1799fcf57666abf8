"""Plans of conversions: the request, its source and target, and what is refused."""

import pytest
import torch
import torchvision
from mmengine.config import Config

from kdmm.pretrained.architecture import Architecture
from kdmm.pretrained.checkpoint import Weights
from kdmm.pretrained.families import family_of, recognise
from kdmm.pretrained.libraries import find_class
from kdmm.transfer import Request
from kdmm.transfer.plan import (
    check_held,
    from_config,
    named,
    plan_of,
    same_in,
    source_of,
    target_of,
)
from tests.errors import refused
from tests.transfer.nets import build, hrnet, write_config

R18 = dict(type='ResNet', depth=18)
NARROW = R18 | dict(base_channels=8, stem_channels=8)


@pytest.mark.parametrize(
    'change, told',
    [
        (dict(to='mmfoo'), dict(got='mmfoo', expected=('one of mmpose, ', 'timm'))),
        (dict(out='none/b.pth'), dict(got='none', problem='no such folder')),
        (dict(out='.'), dict(got='.', problem='is a folder', expected='a file')),
        (dict(out='old.pth'), dict(got='old.pth', problem='exists', fix='--force')),
        (dict(out='./a.pth', force=True), dict(problem='is the file to be read')),
        (dict(out='full.pth', into='full.pth', force=True), dict(problem='is the file to be read')),
        (dict(into='full.pth', to='timm'), dict(problem='libraries only, not of timm')),
        (dict(also=('head',)), dict(fix='Give --into')),
        (dict(size=(64, 16)), dict(got=(64, 16), expected='two numbers of at least 32')),
    ],
)
def test_what_cannot_be_right(tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    for name in ('a.pth', 'old.pth', 'full.pth'):
        (tmp_path / name).touch()
    Request('a.pth', 'mmdet', 'b.pth').check()
    Request('a.pth', 'mmdet', 'old.pth', force=True).check()
    with refused(key=f'--{next(iter(change))}', **told):
        Request(**(dict(checkpoint='a.pth', to='mmdet', out='b.pth') | change)).check()


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
    assert found.provenance == 'the config in the checkpoint'


def test_a_config_file_overrules_it(tmp_path):
    config = write_config(tmp_path / 'c.py', 'mmseg', dict(type='ResNetV1c', depth=50))
    found = source_of(request(source_config=config), weights(dict(cfg=text())))
    assert found.library == 'mmseg' and found.args == dict(depth=50)
    assert found.provenance == f'--source-config {config}'


def test_a_name_is_for_files_without_a_config():
    assert source_of(request(arch='resnet18'), weights()).library == 'torchvision'
    assert source_of(request(arch='resnet18d'), weights()).library == 'timm'
    with refused(key='--arch', got='resnet18', problem="'a.pth' brings its own config"):
        source_of(request(arch='resnet18'), weights(dict(cfg=text())))
    with refused(key='--arch', got='resnet19', problem='timm has no such model; nearest: resnet'):
        named('resnet19')


@pytest.mark.parametrize('name', ['resnet18', 'densenet121'])
def test_the_library_that_is_asked_for_is_preferred(name):
    with torch.device('meta'):
        state = Architecture('timm', name, '').build().state_dict()
        assert named(name, 'timm').library == named(name, 'timm', state).library == 'timm'
        assert named(name, 'mmdet', state).library == 'torchvision'
        assert source_of(request('timm', arch=name), weights(**state)).library == 'timm'


@pytest.mark.parametrize('library', ['timm', 'torchvision'])
def test_the_library_whose_names_a_file_has_is_preferred(library):
    with torch.device('meta'):
        state = Architecture(library, 'convnext_tiny', '').build().state_dict()
        for to in ('timm', 'torchvision', 'mmdet'):
            assert named('convnext_tiny', to, state).library == library


def test_nothing_says_what_it_is():
    flags = '--source-config CONFIG, or --arch NAME'
    with refused(key='checkpoint', problem='(its keys start with backbone. (1))', fix=flags):
        source_of(request(), weights())


def test_targets_of_other_libraries(tmp_path):
    source = source_of(request(), weights(dict(cfg=text())))
    config = write_config(tmp_path / 'c.py', 'mmseg', R18)
    with refused(key='--config', got=config, problem='is a config of mmseg, --to says mmdet'):
        target_of(request(config=config), source, None)
    with refused(key='--config', problem='timm has no configs', fix='--arch'):
        target_of(request('timm', config=config), source, None)
    with refused(key='--arch', problem='missing', fix='Name the model of timm'):
        target_of(request('timm'), source, None)
    assert target_of(request('timm', arch='resnet18'), source, None).kind == 'resnet18'


def test_a_config_without_a_library(tmp_path):
    Config(dict(model=dict(backbone=R18))).dump(tmp_path / 'c.py')
    told = dict(got=str(tmp_path / 'c.py'), problem='has no default_scope')
    with refused(key='--source-config', **told):
        from_config(str(tmp_path / 'c.py'), '--source-config', 'backbone.')
    assert from_config(str(tmp_path / 'c.py'), '--config', 'backbone.', 'mmseg').library == 'mmseg'
    with refused(key='--config: config', got='nope.py', problem='cannot be read'):
        from_config('nope.py', '--config', 'backbone.')


def test_a_config_of_classes_instead_of_names(tmp_path):
    (tmp_path / 'c.py').write_text(
        'from mmdet.models.backbones.resnet import ResNet\nfrom torch.nn import BatchNorm2d\n'
        "default_scope = 'mmdet'\n"
        'model = dict(backbone=dict(type=ResNet, depth=18, norm_cfg=dict(type=BatchNorm2d)))\n'
    )
    found = from_config(str(tmp_path / 'c.py'), '--config', 'backbone.')
    assert found.build().depth == 18


def network(library: str, kind: str, **args) -> Architecture:
    return Architecture(library, find_class(kind, library, True), 'x', args)


def test_arguments_that_a_library_lacks_go():
    made = same_in('mmdet', network('mmseg', 'ResNet', depth=18, multi_grid=None), None)
    assert made.args == dict(depth=18) and made.library == 'mmdet'
    assert made.kind.__module__ == 'mmdet.models.backbones.resnet'


def test_a_type_that_it_lacks_is_written_out():
    made = same_in('mmdet', network('mmseg', 'ResNetV1c', depth=50), None)
    assert made.kind.__name__ == 'ResNet' and made.args == dict(depth=50, deep_stem=True)
    kept = same_in('mmpretrain', network('mmseg', 'ResNetV1c', depth=50), None)
    assert kept.kind.__name__ == 'ResNetV1c' and kept.args == dict(depth=50)


def test_one_that_has_no_other_form_is_asked_for():
    told = "it has no 'CSPDarknet'"
    with refused(key='--to', got='mmseg', problem=told, fix='Name the target with --config'):
        same_in('mmseg', network('mmdet', 'CSPDarknet'), None)


def test_an_abbreviated_hrnet_is_spelled_out():
    made = same_in('mmpose', network('mmpretrain', 'HRNet', arch='w18'), None)
    assert made.args['extra']['stage4']['num_channels'] == (18, 36, 72, 144)


def test_a_type_of_another_scope_keeps_it():
    made = same_in('mmseg', network('mmdet', 'mmpretrain.ResNet_CIFAR', depth=18), None)
    assert made.kind.__module__.startswith('mmpretrain') and made.args == dict(depth=18)


def test_a_file_of_torchvision_is_told_by_its_weights():
    zoo = Architecture('timm', 'resnet18', 'x')
    found = recognise(zoo.build().state_dict())
    assert same_in('mmdet', zoo, found).args == dict(depth=18)
    with refused(key='--config', problem='missing', fix='Name the config of mmdet'):
        same_in('mmdet', zoo, None)
    width = recognise(network('mmdet', 'HRNet', extra=hrnet()['extra']).build().state_dict())
    assert same_in('mmpose', Architecture('timm', 'hrnet', 'x'), width).args == dict(
        extra=hrnet()['extra']
    )


NET = build('mmdet', NARROW)
STATE = NET.state_dict()
HERE = Architecture('mmdet', type(NET), '--source-config c.py')


def held(state, prefix='', everything=None):
    full = everything or {f'{prefix}{key}': value for key, value in state.items()}
    return check_held(Weights(state, prefix, full, {}), HERE, STATE, family_of(NET))


def test_a_checkpoint_is_what_it_is_said_to_be():
    assert held(STATE | {'fc.weight': torch.zeros(1)}).heads == ['fc.weight']
    other = build('mmdet', dict(type='ResNet', depth=34, base_channels=8)).state_dict()
    told = 'it holds a ResNet of depth 34 and width 8, --source-config c.py is a ResNet of depth 18'
    with refused(key='checkpoint', problem=told):
        held(other)
    less = {key: value for key, value in STATE.items() if key != 'layer1.0.conv1.weight'}
    with refused(problem='does not fit --source-config c.py: 1 missing: layer1.0'):
        held(less)


def test_one_that_is_elsewhere():
    everything = {f'student.backbone.{key}': value for key, value in STATE.items()}
    told = (
        'no key of the backbone under it: its keys start with student. (120); try --prefix '
        'student.backbone.'
    )
    with refused(key='--prefix', got='', problem=told):
        held(everything, '', everything)


def plan_to(tmp_path, other, source=NARROW, **more):
    """Of weights of ``source`` for a network of mmdet with other arguments."""
    given = write_config(tmp_path / 'source.py', 'mmpose', source)
    config = write_config(tmp_path / 'target.py', 'mmdet', source | other)
    state = build('mmpose', source).state_dict()
    wanted = Request('a.pth', 'mmdet', 'b.pth', config=config, source_config=given, **more)
    return plan_of(wanted, Weights(state, '', state, {}))


EPS = dict(norm_cfg=dict(type='BN', eps=1e-3))


@pytest.mark.parametrize(
    'other, key, told',
    [
        (
            dict(depth=50),
            'checkpoint',
            ('holds a ResNet of depth 18 and width 8, the target ', ' depth 50'),
        ),
        (
            dict(base_channels=16, stem_channels=16),
            'checkpoint',
            'wants a ResNet of depth 18 and width 16',
        ),
        (dict(deep_stem=True), 'deep_stem', (' False, ', ' True')),
        (dict(avg_down=True), 'avg_down', (' False, ', ' True')),
        (
            EPS,
            'norm',
            (
                'the source (--source-config ',
                'source.py) has BatchNorm eps 1e-05, the target (--config ',
                'target.py) BatchNorm eps 0.001: ',
            ),
        ),
        (dict(norm_cfg=dict(type='GN', num_groups=8)), 'norm', ('BatchNorm', 'GroupNorm')),
        (dict(conv_cfg=dict(type='ConvWS')), 'convolution', (' Conv2d, ', ' ConvWS2d')),
        (
            dict(num_stages=3, out_indices=(0,), strides=(1, 2, 2), dilations=(1, 1, 1)),
            'checkpoint',
            ('30 unexpected: layer4.0.conv1.weight', ' and 22 more'),
        ),
    ],
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, other, key, told):
    with refused(key=key, problem=told, fix=f'--accept {key}' if key == 'norm' else ''):
        plan_to(tmp_path, other, accept=('style', 'upsample'))


def test_a_trait_may_differ_where_it_is_accepted(tmp_path):
    assert plan_to(tmp_path, {}).differing == []
    assert plan_to(tmp_path, EPS, accept=('norm',)).differing == ['norm']


@pytest.mark.parametrize('ours, theirs', [('pytorch', 'caffe'), ('caffe', 'pytorch')])
def test_another_style_is_refused_for_bottlenecks_only(tmp_path, ours, theirs):
    source = dict(type='ResNet', depth=50, base_channels=8, stem_channels=8, style=ours)
    with refused(key='style', problem=('the source ', f' {ours}, ', f'target.py) {theirs}')):
        plan_to(tmp_path, dict(style=theirs), source)
    assert plan_to(tmp_path, dict(style=theirs), NARROW | dict(style=ours)).differing == []


def test_a_bottleneck_is_recognised_where_its_file_states_the_traits():
    """Weights alone do not show the style."""
    with torch.device('meta'):
        net = torchvision.models.resnet50()
    state, traits = net.state_dict(), family_of(net).traits(net)
    other = traits | dict(style='caffe')
    for meta in ({}, dict(transfer=dict(traits=other)), dict(transfer=dict(source={}))):
        told = 'a ResNet of depth 50, ', 'do not show all '
        with refused(key='checkpoint', problem=told, fix='Give --s'):
            source_of(request(), Weights(state, '', state, meta))
    entry = dict(traits=traits, inputs=dict(mean=[1]))
    found = source_of(request(), Weights(state, '', state, dict(transfer=entry)))
    assert (found.kind, found.inputs) == ('resnet50', dict(mean=[1]))
    assert found.provenance == 'recognised by its weights'
