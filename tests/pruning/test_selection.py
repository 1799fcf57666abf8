"""Choice of the convolutions to prune, in networks of the base libraries."""

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

pytest.importorskip('mmpretrain')

import kdmm.models  # noqa: E402, F401
from kdmm.pruning import select_prunable  # noqa: E402
from kdmm.pruning.update import pruned_count  # noqa: E402
from tests.errors import refused  # noqa: E402


def names(model, **options):
    return [name for name, *_ in select_prunable(model, **options)]


class Around(nn.Module):
    """A backbone, a neck, a head and what a ``kd`` section would add."""

    def __init__(self, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head or nn.Sequential()
        self.kd = nn.ModuleDict(dict(connector=nn.Conv2d(3, 8, 3)))


def cifar(depth):
    return Around(
        MODELS.build(dict(type='kdmm.CIFARResNet', depth=depth, block='basic', shortcut='pad'))
    )


def resnet(depth, **options):
    return Around(MODELS.build(dict(type='mmpretrain.ResNet', depth=depth, **options)))


# computed from the rule: n of N filters is floor(N P)
@pytest.mark.parametrize(
    ('model', 'convs', 'filters', 'at_30', 'at_40'),
    [
        (lambda: cifar(20), 19, 688, 196, 264),
        (lambda: cifar(32), 31, 1136, 324, 436),
        (lambda: cifar(56), 55, 2032, 580, 780),
        (lambda: cifar(110), 109, 4048, 1156, 1554),
        (lambda: resnet(18), 17, 3904, 1163, 1553),
        (lambda: resnet(34), 33, 7616, 2267, 3031),
        (lambda: resnet(50), 49, 22720, 6791, 9064),
    ],
)
def test_counts(model, convs, filters, at_30, at_40):
    found = [conv.out_channels for _, conv, _ in select_prunable(model())]
    assert (len(found), sum(found)) == (convs, filters)
    assert sum(pruned_count(n, 0.3) for n in found) == at_30
    assert sum(pruned_count(n, 0.4) for n in found) == at_40


def test_whole_numbers_survive_rounding():
    assert [pruned_count(10, rate) for rate in (0.1, 0.3, 0.7, 0.9)] == [1, 3, 7, 9]


def test_norms_of_basic_blocks_and_bottlenecks():
    for model in (resnet(18), resnet(50), cifar(20)):
        for name, conv, norm in select_prunable(model):
            expected = name.replace('conv', 'bn')
            if 'branch' in name or 'stem' in name:
                start, _, number = name.rpartition('.')
                expected = f'{start}.{int(number) + 1}'
            assert norm is model.get_submodule(expected), name
            assert norm.num_features == conv.out_channels


#: Orders in which convolutions and norms are registered and named. In the third layer of this
#: DenseNet the norm in front of a convolution has as many channels as the one behind it.
ORDERS: dict[str, tuple[dict[str, Any], int]] = dict(
    dense=(dict(type='mmpretrain.DenseNet',
                arch=dict(growth_rate=8, depths=[4, 1], init_channels=16)), 12),
    lists=(dict(type='mmpretrain.Res2Net', depth=50, scales=4, base_width=26), 83),
    inverted=(dict(type='mmpretrain.MobileNetV2', widen_factor=0.25), 35),
    branches=(dict(type='mmpretrain.RepVGG', arch='A0'), 44),
    wide=(dict(type='kdmm.CIFARWideResNet', depth=10, widen_factor=1), 7),
    encoder=(dict(type='mmseg.ERFNet'), 71),
)  # fmt: skip
#: Convolutions without a norm that a name or the order tells: in front of a concatenation, of an
#: activation, or of the next block's norm.
WITHOUT = dict(dense=6, wide=4, encoder=37)


@pytest.mark.parametrize('kind', ORDERS)
def test_norms_are_those_that_read_the_output(kind):
    """By the tensors that convolutions give and norms get."""
    pytest.importorskip('mmseg')
    config, convs = ORDERS[kind]
    net = MODELS.build(config)
    net.eval()
    found, given, read = select_prunable(net), {}, {}
    assert len(found) == convs
    for name, conv, _ in found:
        conv.register_forward_hook(lambda *args, name=name: given.update({name: args[2]}))
    for part in net.modules():
        if isinstance(part, _BatchNorm):
            part.register_forward_pre_hook(
                lambda norm, args: read.update(
                    {name: norm for name, value in given.items() if value is args[0]}
                )
            )
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64))
    assert all(norm is None or norm is read[name] for name, _, norm in found)
    assert sum(norm is None for *_, norm in found) == WITHOUT.get(kind, 0)


def test_shortcuts_groups_and_attention_stay():
    for kind in (
        dict(type='mmpretrain.SEResNet', depth=50),
        dict(type='mmpretrain.ResNeXt', depth=50),
        dict(type='mmpretrain.MobileNetV2'),
    ):
        net = MODELS.build(kind)
        found = select_prunable(net)
        assert all(conv.groups == 1 and 'downsample' not in name for name, conv, _ in found)
        assert not any('se_layer' in name for name, *_ in found)
        assert any('conv3' in name or 'conv.' in name for name, *_ in found)


def plugged(**options: Any) -> nn.Module:
    """A ResNet with something inside of its blocks."""
    return MODELS.build(dict(type='mmdet.ResNet', depth=50, base_channels=8, **options))


@pytest.mark.parametrize(
    ('build', 'parts'),
    [
        (lambda: MODELS.build(dict(type='mmpretrain.ResNeSt', depth=50)), ('conv2.fc',)),
        (lambda: plugged(plugins=[dict(cfg=dict(type='NonLocal2d'), position='after_conv2'),
                                  dict(cfg=dict(type='ContextBlock', ratio=0.25),
                                       position='after_conv3')]),
         ('nonlocal_block', 'context_block')),
        (lambda: plugged(dcn=dict(type='DCNv2', deform_groups=1),
                         stage_with_dcn=(False, True, True, True)), ('conv_offset',)),
    ],
)  # fmt: skip
def test_attention_and_offsets_stay(build, parts):
    pytest.importorskip('mmdet')
    net, found = build(), names(build())
    for part in parts:
        assert any(part in name for name, _ in net.named_modules())
        assert not any(part in name for name in found)
    assert {'layer4.2.conv1', 'layer4.2.conv3'} <= set(found)


def test_networks_without_filters_are_refused():
    """Embeddings of patches are no channels, and a normalised weight has no norm to rank."""
    vit = dict(arch='deit-tiny', img_size=32)
    standardised = dict(depth=18, conv_cfg=dict(type='ConvWS'))
    for kind, options in (('VisionTransformer', vit), ('ResNet', standardised)):
        with refused(key='include', problem=kind):
            names(MODELS.build(dict(options, type=f'mmpretrain.{kind}')))


def test_an_encoder_named_as_shortcuts_are_is_pruned():
    pytest.importorskip('mmpose')
    net = MODELS.build(
        dict(type='mmpose.MSPN', unit_channels=8, num_stages=1, num_units=4, num_blocks=[1] * 4)
    )
    start = 'multi_stage_mspn.0.downsample.layer1.0'
    found = set(names(net))
    assert {f'{start}.conv{n}' for n in (1, 2, 3)} <= found
    assert f'{start}.downsample.conv' not in found and net.get_submodule(f'{start}.downsample.conv')


def test_maps_that_a_backbone_gives_stay():
    """CPM's backbone has an output of its own for each stage, without norm and activation."""
    pytest.importorskip('mmpose')
    net = MODELS.build(
        dict(type='mmpose.CPM', in_channels=3, out_channels=5, feat_channels=8, num_stages=3)
    )
    outputs = {name for name, part in net.named_modules()
               if isinstance(part, nn.Conv2d) and part.out_channels == 5}  # fmt: skip
    assert len(outputs) == 3 and not outputs & set(names(net)) and len(names(net)) == 19


def test_joints_of_resolutions_are_known_by_what_is_beside_them():
    """DenseNet of timm and torchvision also has children named transition1."""
    parts = dict(conv0=nn.Conv2d(3, 4, 3), norm0=nn.BatchNorm2d(4),
                 transition1=nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))  # fmt: skip
    net = nn.Module()
    for key, part in parts.items():
        net.add_module(key, part)
    assert names(net) == ['conv0', 'transition1.0']
    net.add_module('stage2', nn.Sequential(nn.Conv2d(4, 4, 1)))
    assert names(net) == ['stage2.0']


SMALL = dict(base_channels=8, stem_channels=8)
SEGMENTOR: dict[str, Any] = dict(
    type='mmseg.EncoderDecoder', backbone=dict(type='mmseg.ResNetV1c', depth=18, **SMALL),
    decode_head=dict(type='mmseg.ASPPHead', in_channels=64, channels=16, num_classes=4, in_index=3,
                     dilations=(1, 3), norm_cfg=dict(type='BN')),
)  # fmt: skip
DETECTOR: dict[str, Any] = dict(
    type='mmdet.RetinaNet', backbone=dict(type='mmdet.ResNet', depth=18, **SMALL),
    neck=dict(type='mmdet.FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type='mmdet.RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=2,
        anchor_generator=dict(type='mmdet.AnchorGenerator', octave_base_scale=4, ratios=[1.0],
                              scales_per_octave=1, strides=[8, 16, 32, 64, 128]),
    ),
)  # fmt: skip
ESTIMATOR: dict[str, Any] = dict(
    type='mmpose.TopdownPoseEstimator', backbone=dict(type='mmpose.ResNet', depth=18, **SMALL),
    head=dict(type='mmpose.HeatmapHead', in_channels=64, out_channels=5, deconv_out_channels=(8,),
              deconv_kernel_sizes=(4,), conv_out_channels=(8,), conv_kernel_sizes=(3,),
              loss=dict(type='mmpose.KeypointMSELoss')),
)  # fmt: skip


@pytest.mark.parametrize(
    ('config', 'stem', 'pattern', 'added', 'output'),
    [
        (SEGMENTOR, 3, '^decode_head', 4, 'decode_head.conv_seg'),  # 2 of ASPP, pooled, bottleneck
        (DETECTOR, 1, '^(neck|bbox_head)', 12, 'bbox_head.retina_cls'),  # FPN: 4 + 4, towers: 2 + 2
        (ESTIMATOR, 1, '^head', 1, 'head.final_layer'),
    ],
)
def test_whole_models(config, stem, pattern, added, output):
    """By default the backbone; by include the neck and the head, without its output."""
    library = config['type'].split('.')[0]
    pytest.importorskip(library)
    model = MODELS.build(ConfigDict(config, _scope_=library))
    default = names(model)
    assert len(default) == 16 + stem and all(name.startswith('backbone.') for name in default)
    more = set(names(model, include=[pattern])) - set(default)
    assert len(more) == added and isinstance(model.get_submodule(output), nn.Conv2d)
    assert output not in more


def test_backbones_of_networks_in_a_model():
    """Semi-supervised detectors hold a student and a teacher."""
    model = nn.Module()
    model.student = Around(cifar(8).backbone, nn.Sequential(nn.Conv2d(64, 3, 1)))
    model.teacher = Around(cifar(8).backbone).requires_grad_(False)
    found = names(model)
    assert len(found) == 7 and all(name.startswith('student.backbone.') for name in found)


def test_hrnet_is_pruned_inside_its_blocks():
    small = {
        f'stage{n}': dict(
            num_modules=1, num_branches=n, block='BOTTLENECK' if n == 1 else 'BASIC',
            num_blocks=(1,) * n, num_channels=(4, 8, 12, 16)[:n],
        )
        for n in (1, 2, 3, 4)
    }  # fmt: skip
    net = MODELS.build(dict(type='mmpretrain.HRNet', extra=small))
    found = names(net)
    assert 'layer1.0.conv1' in found and 'stage4.0.branches.3.0.conv2' in found
    assert all(name.startswith(('layer1.', 'stage')) for name in found)
    assert not any('fuse' in name or 'downsample' in name for name in found)


def test_frozen_stages_stay():
    model = Around(MODELS.build(dict(type='mmpretrain.ResNet', depth=18, frozen_stages=2)))
    model.train()
    model.backbone.train()
    assert not any(name.startswith(('backbone.conv1', 'backbone.layer1', 'backbone.layer2'))
                   for name in names(model))  # fmt: skip


class Head(nn.Module):
    """mmcv's ConvModule without a norm, then an output layer."""

    def __init__(self) -> None:
        super().__init__()
        from mmcv.cnn import ConvModule

        self.tower = ConvModule(8, 8, 3)
        self.before = ConvModule(8, 8, 1, norm_cfg=dict(type='BN'), order=('norm', 'act', 'conv'))
        self.output = nn.Conv2d(8, 3, 1)


def test_include_adds_and_exclude_removes():
    model = Around(cifar(20).backbone, Head())
    default = names(model)
    assert all(name.startswith('backbone.') for name in default)
    assert names(model, include=['^head']) == [*default, 'head.tower.conv', 'head.before.conv']
    less = names(model, exclude=[r'stages\.2', 'stem'])
    assert 0 < len(less) < len(default) and not any('stages.2' in name for name in less)
    assert names(model, include=['^head'], exclude=['head']) == default
    behind = {name: norm for name, _, norm in select_prunable(model, ['^head'])}
    assert behind['head.tower.conv'] is None and behind['head.before.conv'] is None


def test_outputs_cannot_be_included():
    model = Around(cifar(20).backbone, nn.Sequential(nn.Conv2d(64, 8, 1), nn.ReLU()))
    model.head.append(nn.Conv2d(8, 3, 1))
    assert [name for name in names(model, include=['^head']) if 'head' in name] == ['head.0']
    with refused(key='include', got=r'^head\.2', problem='head.2'):
        names(model, include=[r'^head\.2'])


def test_shortcuts_by_include():
    model = resnet(18)
    assert len(names(model, include=['downsample'])) == 17 + 3


def test_what_kd_adds_is_never_pruned():
    model = cifar(20)
    with refused(key='include', got='^kd'):
        names(model, include=['^kd'])
    assert len(names(model, include=['.'])) == 19


def test_refused():
    model = cifar(20)
    with refused(key='exclude', got='layer1', fix='backbone'):
        names(model, exclude=['layer1'])
    with refused(key='include', got='('):
        names(model, include=['('])
    with refused(key='include', got='head'):
        names(model, include='head')
    with refused(key='include'):
        names(nn.Linear(3, 3))
    with refused(key='include'):
        names(model, exclude=['.'])


def test_shared_and_computed_weights_are_refused():
    model = cifar(20)
    first, second = model.backbone.stages[0][0].branch[0], model.backbone.stages[0][1].branch[0]
    second.weight = first.weight
    with refused(key='exclude', fix='stages'):
        names(model)
    names(model, exclude=[r'stages\.0\.1\.branch\.0'])
    model = Around(cifar(20).backbone, nn.Linear(3, 3))
    model.head.weight = model.backbone.stages[0][0].branch[0].weight
    with refused(key='exclude', problem='head', fix='stages'):  # not pruned, but changed with it
        names(model)
    model = cifar(20)
    model.again = model.backbone  # one module with two names is pruned once
    assert len(names(model)) == 19
    model = cifar(20)
    nn.utils.parametrizations.weight_norm(model.backbone.stages[0][0].branch[0])
    with refused(key='exclude', fix='stages'):
        names(model)
    model = cifar(20)
    sharded: Any = model.backbone.stages[0][0].branch[0].weight
    sharded.placements = ()  # of a DTensor
    with refused(key='model_wrapper_cfg.type', fix='DDP'):
        names(model)
