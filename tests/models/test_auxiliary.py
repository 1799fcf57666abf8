"""Auxiliary branches against counts and logits of the authors' code (docs/methods/hssakd.md)."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdmm.config import load_config
from kdmm.models import AuxiliaryBranches, staging_of
from kdmm.registry import MODELS
from tests.errors import refused
from tests.models.backbones.networks import FAMILIES, Classifier, backbone, classifier, fill, fix

# parameters of each branch with its Linear; sum of abs and first of the last one's logits
CIFAR = {
    'resnet20': ([283_344, 231_696, 247_952], 4054.836829, -5.351479),
    'resnet56': ([838_608, 675_600, 691_856], 12262.795238, -18.503133),
    'resnet8x4': ([1_251_984, 1_021_840, 1_283_472], 1386.148999, -0.829646),
    'resnet32x4': ([7_156_368, 5_744_528, 6_006_160], 5924.451159, -3.066478),
    'wrn16_2': ([708_560, 577_040, 642_704], 776.788038, -0.906470),
    'wrn40_1': ([560_816, 453_584, 470_032], 756.006766, -0.991044),
    'wrn40_2': ([2_186_192, 1_758_736, 1_824_400], 772.847436, -0.629050),
    'vgg13': ([9_577_104, 9_355_152, 8_468_880, 9_648_528], 684.647065, -0.019426),
    'mobilenetv2_stride1': ([1_191_768, 1_180_080, 1_048_688, 1_250_960], 729.503437, -0.098412),
    'shufflenetv1': ([1_198_540, 901_240, 1_018_960], 5650.662931, 0.928649),
    'shufflenetv2_1x1': ([1_632_716, 1_388_536, 1_498_736], 715.939823, -0.087699),
    'resnet50': ([24_102_288, 22_882_704, 15_784_336, 14_207_376], 4024.634122, -0.704931),
}
# the same of MMPretrain's ResNet, then sum and sum of abs of the main logits
IMAGENET = {
    18: (
        ([13_071_008, 12_545_440, 10_445_728, 11_493_280], 12099.953256, -0.616199),
        (-346.320350, 1722.458096),
    ),
    34: (
        ([23_105_184, 21_988_768, 15_166_368, 16_213_920], 17732.099664, -0.659608),
        (-477.134403, 2362.747989),
    ),
    50: (
        ([31_478_688, 30_259_104, 23_160_736, 21_583_776], 18605.040529, -0.878369),
        (-928.052220, 2573.651453),
    ),
}


# of all branches but the last together, 100 classes; as in the public code of arXiv 2207.11518
INNER = dict(
    resnet32=809_096,
    resnet56=1_475_208,
    resnet110=2_011_080,
    wrn16_2=1_208_200,
    wrn40_2=3_867_528,
    wrn28_4=10_089_032,
    shufflenetv2_half=827_768,
    shufflenetv2=2_406_252,
)
CONFIGS = Path(__file__).parents[2] / 'configs/mcl'


def resnet(depth: int, **options) -> nn.Module:
    pytest.importorskip('mmpretrain')
    out_indices = options.pop('out_indices', (3,))
    config = dict(type='mmpretrain.ResNet', depth=depth, out_indices=out_indices)
    return MODELS.build({**config, **options})


def counts(trunk: nn.Module, outputs: int, **options) -> list[int]:
    with torch.device('meta'):  # no weights, only shapes
        branches = AuxiliaryBranches(trunk, outputs, **options)
    return [sum(p.numel() for p in branch.parameters()) for branch in branches.values()]


def run(network: Classifier, branches: AuxiliaryBranches, x) -> tuple[Tensor, list[Tensor]]:
    """Logits of the network and of the branches, under weights that depend on shapes only."""
    fill(network), fill(branches)
    maps: dict[str, Tensor] = {}
    for name, path in branches.taps.items():
        tap = network.trunk.get_submodule(path)
        tap.register_forward_hook(lambda _, args, output, name=name: maps.update({name: output}))
    with torch.no_grad():
        logits = network(x)
        return logits, list(branches(maps).values())


def check_last(logits: Tensor, joint: Tensor, expected: tuple[float, ...]) -> None:
    """The last branch repeats the last stage: another function than the network."""
    assert (joint[:, : logits.shape[1]] - logits).abs().max() > 1e-3
    found = torch.stack([joint.abs().sum(), joint[0, 0]])
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize('name', CIFAR)
def test_cifar_counts(name):
    assert counts(backbone(name), 400) == CIFAR[name][0]


#: By hand, as tests/models/backbones/networks.py: the network without its Linear, less stem and
#: stages in front, and 400 rows of a Linear. VGG-16's stages: 38,976, 221,952, 1,476,864,
#: 5,902,848, 7,082,496. DenseNet's first, 108,240, and second, 324,240; its last again is behind a
#: transition from 448 to 304 channels, 137,088.
FURTHER = {
    'vgg16': [14_889_360, 14_667_408, 13_190_544, 7_287_696, 7_287_696],
    'densenet40_12': [1_086_160, 761_920, 805_984],
}


@pytest.mark.parametrize('name', FURTHER)
def test_counts_of_further_networks(name):
    assert counts(backbone(name), 400) == FURTHER[name]


@pytest.mark.parametrize('depth', IMAGENET)
def test_imagenet_counts(depth):
    assert counts(resnet(depth), 4000) == IMAGENET[depth][0][0]


@pytest.mark.parametrize('name', INNER)
def test_inner_branches_of_layer_wise_mcl(name):
    """A class an output, nothing behind the last stage, where the classifier is."""
    config = load_config(str(CONFIGS / f'baseline_{name}_cifar100.py'))
    assert sum(counts(MODELS.build(config.model.backbone), 100, stages='inner')) == INNER[name]


@pytest.mark.parametrize(
    ('depth', 'expected'), [(18, 14_626_488), (34, 14_626_488), (50, 27_669_944)]
)
def test_inner_branches_of_one_block_a_stage(depth, expected):
    assert sum(counts(resnet(depth), 1000, stages='inner', blocks=1)) == expected
    assert sum(counts(resnet(depth), 1000, stages='inner', blocks=9)) == sum(
        counts(resnet(depth), 1000)[:-1]
    )


def shufflenet() -> nn.Module:
    pytest.importorskip('mmpretrain')
    return MODELS.build(dict(type='mmpretrain.ShuffleNetV2', widen_factor=1.0))


def test_inner_branches_of_shufflenet():
    """Of L-MCL on ImageNet: two units a stage in the first branch, full copies in the others.

    The first of the two halves the size, the other is the basic unit.
    """
    found = counts(shufflenet(), 1000, stages='inner', blocks=[2, None, None])
    assert len(found) == 3 and sum(found) == 6_119_796
    assert found[1:] == counts(shufflenet(), 1000, stages='inner')[1:]


def test_branches_of_shufflenet_are_the_rest_of_the_network():
    """Of the same weights, the same output; behind the last stage at the same size."""
    network = shufflenet()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean), nn.init.uniform_(part.running_var, 0.5, 2)
    network.eval()  # MMPretrain's returns nothing
    branches = AuxiliaryBranches(network, 8, [0, 1, 2, 3]).eval()
    assert branches.taps['stage1'] == 'maxpool' and branches.taps['stage4'] == 'layers.2'
    x = network.maxpool(network.conv1(torch.randn(2, 3, 64, 64)))
    maps = {'stage1': x}
    for index, stage in enumerate(network.layers[:3]):
        x = stage(x)
        maps[f'stage{index + 2}'] = x
    for index in range(3):
        branch = branches[f'stage{index + 1}']
        for own, theirs in zip(branch.stages, network.layers[index:3], strict=True):
            own.load_state_dict(theirs.state_dict())
        branch.tail.load_state_dict(network.layers[3].state_dict())
        pooled = network.layers[3](x).mean((2, 3))
        torch.testing.assert_close(branch(maps[f'stage{index + 1}']), branch.fc(pooled))
    (last,) = branches['stage4'].stages
    assert last(x).shape == x.shape and len(last) == 4


@pytest.mark.parametrize('blocks', [[1, 1], [1, None, 0], '1'])
def test_wrong_lists_of_blocks(blocks):
    with refused(key='kd.blocks', got=blocks, expected='a list of 3'):
        counts(resnet(18), 8, stages='inner', blocks=blocks)


@pytest.mark.parametrize('blocks', [0, 1.5, True])
def test_wrong_numbers_of_blocks(blocks):
    with refused(key='kd.blocks', got=blocks):
        counts(resnet(18), 8, blocks=blocks)


def test_blocks_of_a_network_that_has_no_choice():
    with refused(key='kd.blocks', got=1, problem='CIFARResNet'):
        counts(backbone('resnet20'), 8, blocks=1)


def test_a_network_of_one_stage_has_no_inner_ones():
    one = dict(num_stages=1, strides=(1,), dilations=(1,))
    with refused(key='kd.stages', got='inner', problem='one stage'):
        counts(resnet(18, **one, out_indices=(0,)), 8, stages='inner')


@pytest.mark.parametrize('name', CIFAR)
def test_cifar_last_branch(name):
    network = classifier(name)
    last = len(CIFAR[name][0]) - 1
    branches = AuxiliaryBranches(network.trunk, 400, stages=(last,))
    logits, (joint,) = run(network, branches, fix((4, 3, 32, 32), 0))
    check_last(logits, joint, CIFAR[name][1:])


@pytest.mark.parametrize('depth', IMAGENET)
def test_imagenet_last_branch(depth):
    trunk = resnet(depth)
    network = Classifier(trunk, trunk.feat_dim, 1000)
    branches = AuxiliaryBranches(trunk, 4000, stages=(3,))
    logits, (joint,) = run(network, branches, fix((2, 3, 224, 224), 0))
    expected, main = IMAGENET[depth]
    check_last(logits, joint, expected[1:])
    found = torch.stack([logits.sum(), logits.abs().sum()])
    torch.testing.assert_close(found, torch.tensor(main, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', [*FAMILIES, 'resnet18'])
def test_the_others_are_the_rest_of_the_network(name):
    if name == 'resnet18':
        trunk = resnet(18)
        network = Classifier(trunk, trunk.feat_dim)
    else:
        network = classifier(name)
    branches = AuxiliaryBranches(network.trunk, 400)
    logits, joint = run(network, branches, fix((2, 3, 32, 32), 0))
    for found in joint[:-1]:
        torch.testing.assert_close(found[:, :100], logits, rtol=1e-12, atol=1e-11)
    assert (joint[-1][:, :100] - logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    'options',
    [
        dict(type='mmpretrain.ResNeXt', depth=50, groups=32, width_per_group=4),
        dict(type='mmpretrain.ResNetV1d', depth=50),
        dict(type='mmpretrain.SEResNet', depth=50),
    ],
    ids=['next', 'v1d', 'se'],
)
def test_relatives_of_resnet(options):
    pytest.importorskip('mmpretrain')
    trunk = MODELS.build(dict(options))
    branches = AuxiliaryBranches(trunk, 8)
    for index, branch in enumerate(list(branches.values())[:-1], 1):
        rest = [
            p.shape for k in range(index, 4) for p in getattr(trunk, f'layer{k + 1}').parameters()
        ]
        assert [p.shape for p in branch.stages.parameters()] == rest


def test_drop_path_continues():
    trunk = resnet(18, drop_path_rate=0.4)
    stage = staging_of(trunk).new_stage(2)
    rates = [block.drop_path.drop_prob for block in stage]  # type: ignore[attr-defined]
    assert rates == [block.drop_path.drop_prob for block in trunk.layer3] and min(rates) > 0


def test_weights_are_fresh():
    network = backbone('wrn16_2')
    own = {id(p) for p in network.parameters()}
    fresh = [id(p) for p in AuxiliaryBranches(network, 8).parameters()]
    assert len(set(fresh)) == len(fresh) and not own & set(fresh)


def test_negative_index_counts_from_the_end():
    assert backbone('resnet20').new_stage(-1)[0].branch[0].in_channels == 32


@pytest.mark.parametrize(
    'name, kaiming, linear',
    [
        ('resnet20', True, 'no bias'),
        ('wrn16_2', True, 'no bias'),
        ('shufflenetv1', True, 'no bias'),
        ('mobilenetv2_stride1', True, 'small'),
        ('resnet50', True, 'torch'),
        ('vgg8', False, 'torch'),
        ('shufflenetv2_1x1', False, 'torch'),
    ],
)
def test_initialisation(name, kaiming, linear):
    """Normal with variance 2/fan_out, or torch's: uniform in +-1/sqrt(fan_in), biases too."""
    branch = AuxiliaryBranches(backbone(name), 400)['stage1']
    conv = max(
        (m for m in branch.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel()
    )
    fan_in, fan_out = (
        size * conv.weight[0, 0].numel() for size in (conv.weight.shape[1], conv.weight.shape[0])
    )
    expected = (2 / fan_out) ** 0.5 if kaiming else (1 / (3 * fan_in)) ** 0.5
    assert float(conv.weight.std()) == pytest.approx(expected, rel=0.03)
    assert (float(conv.weight.abs().max()) < fan_in**-0.5) == (not kaiming)
    fc = branch.fc
    std = 0.01 if linear == 'small' else (3 * fc.in_features) ** -0.5
    assert float(fc.weight.std()) == pytest.approx(std, rel=0.03)
    assert (float(fc.bias.abs().max()) > 0) == (linear == 'torch')


def test_chosen_stages():
    branches = AuxiliaryBranches(backbone('resnet20'), 8, stages=(0, 2))
    assert branches.taps == {'stage1': 'stages.0', 'stage3': 'stages.2'}


@pytest.mark.parametrize(
    'stages, told',
    [
        ((0, 1, 2, 3), dict(problem='CIFARResNet has 3 stages (0 to 2)')),
        ((3,), dict(problem='has 3 stages')),
        *(
            (stages, dict(expected='ascending indices'))
            for stages in ((), (1, 0), (1, 1), (-1,), 2, (0.0,), '01')
        ),
    ],
)
def test_stages_that_are_not_there(stages, told):
    with refused(key='kd.stages', got=stages, **told):
        AuxiliaryBranches(backbone('resnet20'), 8, stages)


def test_a_backbone_without_stages():
    with refused(key='model.backbone', problem='Sequential does not say what its stages are'):
        AuxiliaryBranches(nn.Sequential(nn.Conv2d(3, 4, 3)), 8)


def test_checkpointing_is_bit_equal():
    network = backbone('vgg8')
    plain = AuxiliaryBranches(network, 8)
    other = AuxiliaryBranches(network, 8, checkpointing=True)
    other.load_state_dict(plain.state_dict())
    results = []
    for branches in (plain, other):
        maps = [fix((2, c, s, s), 0).float() for c, s in ((64, 8), (128, 4), (256, 2), (512, 2))]
        logits = list(branches(dict(zip(branches, maps, strict=True))).values())
        sum((q**2).sum() for q in logits).backward()
        results.append([*logits, *(p.grad for p in branches.parameters()), *branches.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
