"""Choice of the convolutions to prune, in networks of the base libraries."""

import pytest
from mmengine.registry import MODELS
from torch import nn

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
        (lambda: cifar(56), 55, 2032, 580, 780),
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


def test_norms_of_lists():
    """Res2Net has a list of convolutions and one of norms."""
    net = MODELS.build(dict(type='mmpretrain.Res2Net', depth=50, scales=4, base_width=26))
    found = {name: norm for name, _, norm in select_prunable(net)}
    assert found['layer1.0.convs.1'] is net.get_submodule('layer1.0.bns.1')
    assert all(found.values())


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
    model = cifar(20)
    nn.utils.parametrizations.weight_norm(model.backbone.stages[0][0].branch[0])
    with refused(key='exclude', fix='stages'):
        names(model)
