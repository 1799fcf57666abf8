"""`extract`: what it computes, what it keeps, what it refuses."""

import copy
import pickle

import pytest
import torch
from torch import nn

from kdmm.pruning import extract, finalize
from tests.errors import refused
from tests.pruning.nets import BACKBONES, bare, build, gap, images, outputs, prune

#: Smaller ones, a kind of block each.
BOTH = ('cifar_basic', 'cifar_bottleneck')
SIZES = ((64, 64), (33, 57))


@pytest.fixture(params=BACKBONES)
def masked(request):
    model = bare(request.param)
    prune(model)
    return model


def test_exact_and_interior_compute_the_same(masked):
    for mode in ('exact', 'interior'):
        small = extract(masked, mode).model
        narrow = (96, 64) if type(masked.backbone).__name__ == 'HRNet' else (33, 57)
        for size in ((64, 64), narrow):
            found = gap(outputs(masked, images(*size)), outputs(small, images(*size)))
            assert found < 1e-5, (mode, size, found)


@pytest.mark.parametrize('name', BACKBONES)
def test_what_the_hook_chooses_is_taken_out(name):
    """All of its zero filters in residual blocks; a stem stays, and a shortcut has none."""
    masked = bare(name)
    total = finalize(masked, 0.4)
    found = extract(masked, 'exact')
    gone = sum(found.filters[layer] - len(places) for layer, places in found.kept.items())
    assert gone + sum(found.elsewhere.values()) == total and gone
    assert all(places.numel() for places in found.kept.values())
    assert not any('downsample' in name or 'skip' in name for name in found.elsewhere)


@pytest.mark.parametrize('name', BOTH)
@pytest.mark.parametrize('mode', ['exact', 'interior'])
def test_the_difference_is_rounding(name, mode):
    masked = bare(name).double()
    prune(masked)
    small = extract(masked, mode).model
    for size in SIZES:
        x = images(*size).double()
        assert gap(outputs(masked, x), outputs(small, x)) < 1e-12


@pytest.mark.parametrize('name', BOTH)
@pytest.mark.parametrize('mode', ['fold', 'drop'])
def test_fold_and_drop_differ_unless_batch_norm_was_pruned_too(name, mode):
    found = []
    for decay_bn in (False, True):
        masked = bare(name)
        prune(masked, decay_bn=decay_bn)
        small = extract(masked, mode).model
        found.append(gap(outputs(masked, images()), outputs(small, images())))
    assert found[0] > 1e-3 and found[1] < 1e-5


def test_without_constants_there_is_no_channel_of_ones():
    masked = bare('cifar_basic')
    prune(masked, decay_bn=True)
    exact = extract(masked, 'exact')
    assert exact.constant_inputs == [] and exact.widths == extract(masked, 'drop').widths


def test_a_folded_constant_is_right_in_the_middle():
    """The border is four pixels wide after both blocks of padded convolutions have seen it."""
    masked = bare('cifar_basic')
    prune(masked)
    blocks = [net.backbone.stages[0] for net in (masked, extract(masked, 'fold').model)]
    x = torch.rand(1, 8, 24, 24)
    with torch.no_grad():
        wanted, found = (block(x) for block in blocks)
    middle = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    torch.testing.assert_close(found[middle], wanted[middle], rtol=1e-5, atol=1e-5)
    assert (found - wanted).abs().max() > 1e-2


def test_kept_filters_are_those_that_are_not_zero():
    masked = bare('cifar_basic')
    kept = {name.removeprefix('backbone.'): k for name, k in prune(masked).items()}
    found = extract(masked)
    stem = kept.pop('stem.0')
    assert found.kept.keys() == kept.keys() == found.filters.keys()
    for name, places in kept.items():
        assert torch.equal(found.kept[name], places), name
        assert found.filters[name] == masked.get_submodule(f'backbone.{name}').out_channels
    assert found.elsewhere == {'backbone.stem.0': 8 - len(stem)}
    # 16 of 16 are 16, of 24 15, of 8 5 at rate 0.4
    assert found.widths == {name: len(places) for name, places in kept.items()}
    assert set(found.widths.values()) == {5, 10, 15}
    small = found.model.backbone.stages[1][0]
    assert torch.equal(small.kept, kept['stages.1.0.branch.3'])
    assert small.branch[3].weight.shape == (10, 11, 3, 3)


def test_interior_leaves_the_ends_of_blocks():
    masked = bare('cifar_bottleneck')
    prune(masked)
    found = extract(masked, 'interior')
    assert len(found.widths) == 12 and not any(name.endswith('.6') for name in found.widths)
    assert type(found.model.backbone.stages[0][0]) is type(masked.backbone.stages[0][0])


def test_the_model_is_only_read():
    masked = bare('cifar_basic').train()
    prune(masked)
    before = copy.deepcopy(masked.state_dict())
    small = extract(masked).model
    assert small.training and masked.training
    after = masked.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in after)


def test_a_layer_of_zeros_keeps_one_filter():
    masked = bare('cifar_basic')
    prune(masked)
    masked.backbone.stages[1][0].branch[0].weight.data.zero_()
    masked.backbone.stages[2][1].branch[3].weight.data.zero_()
    found = extract(masked)
    assert found.widths['stages.1.0.branch.0'] == found.widths['stages.2.1.branch.3'] == 1
    assert gap(outputs(masked, images()), outputs(found.model, images())) < 1e-5


def test_blocks_without_zero_filters_stay():
    masked = bare('cls_basic')
    prune(masked.backbone.layer2)
    found = extract(masked)
    assert {name.split('.')[0] for name in found.widths} == {'layer2'}
    assert type(found.model.backbone.layer1[0]) is type(masked.backbone.layer1[0])
    assert gap(outputs(masked, images()), outputs(found.model, images())) < 1e-5


def test_frozen_parts_stay_frozen():
    masked = bare('cls_basic')
    net = build(dict(BACKBONES['cls_basic'], frozen_stages=1))
    masked.backbone = net
    masked.train()
    prune(masked)
    small = extract(masked).model
    assert not any(v.requires_grad for v in small.backbone.layer1.parameters())
    for name, part in masked.named_modules():
        assert small.get_submodule(name).training == part.training, name
    small.train()
    for name in ('conv1', 'bn1', 'layer1'):
        part = small.backbone.get_submodule(name)
        assert not any(value.requires_grad for value in part.parameters())
        assert not any(part.training for part in part.modules() if hasattr(part, 'momentum'))
    assert all(value.requires_grad for value in small.backbone.layer2.parameters())
    assert small.backbone.layer2[0].bn1.training


def test_copies_dtypes_and_pickles():
    masked = bare('cifar_basic')
    prune(masked)
    small = extract(masked).model
    wanted = outputs(small, images())
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert gap(wanted, outputs(other, images())) == 0
    double = copy.deepcopy(small).double()
    assert double.backbone.stages[0][0].constants.dtype == torch.float64
    assert double.backbone.stages[0][0].kept.dtype == torch.int64
    assert gap(wanted, [x.float() for x in outputs(double, images().double())]) < 1e-5
    assert all(value.is_meta for value in copy.deepcopy(small).to('meta').state_dict().values())


@pytest.mark.filterwarnings('ignore:.torch.jit.trace')
@pytest.mark.parametrize('name', BOTH)
def test_traces_and_exports(name):
    masked = bare(name)
    prune(masked)
    small = extract(masked).model
    wanted = small(images())[-1]
    with torch.no_grad():
        traced = torch.jit.trace(small, images(32, 32))
        exported = torch.export.export(small, (images(),)).module()
    assert gap([wanted], [traced(images())[-1]]) < 1e-6
    assert gap([wanted], [exported(images())[-1]]) < 1e-6


def test_half_precision_by_autocast():
    masked = bare('cls_basic')
    prune(masked)
    small = extract(masked).model
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        found = small(images())
        x = torch.randn(2, 8, 8, 8)  # float32 on the way round, bfloat16 through the branch
        block = small.backbone.layer1[0](x)
    assert gap(outputs(small, images()), [x.float() for x in found]) < 0.1
    assert block.dtype == torch.bfloat16
    assert gap([small.backbone.layer1[0](x).detach()], [block.float()]) < 0.1


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_reach_all_weights(with_cp):
    """Recomputed or not, they are the same, and statistics count a batch once."""
    found = []
    for recompute in (False, with_cp):
        masked = bare('cls_basic')
        masked.backbone = build(dict(BACKBONES['cls_basic'], with_cp=recompute, drop_path_rate=0.0))
        prune(masked)
        small = extract(masked).model
        assert small.backbone.layer1[0].with_cp is recompute
        small.train()
        torch.manual_seed(0)
        small(images())[-1].square().mean().backward()
        assert all(value.grad is not None for value in small.parameters())
        counts = [v for k, v in small.state_dict().items() if k.endswith('tracked')]
        assert all(int(count) == 1 for count in counts)
        found.append([value.grad for value in small.parameters()])
    assert gap(found[0][:1], found[1][:1]) < 1e-5


def test_no_zero_filter():
    with refused(key='checkpoint', problem='it has no zero filter in the 12 convolutions'):
        extract(bare('cifar_basic'))


def test_no_zero_filter_inside_blocks():
    model = bare('cifar_basic')
    for stage in model.backbone.stages:
        for block in stage:
            block.branch[3].weight.data[0] = 0
    with refused(key='checkpoint', problem="mode 'interior' leaves the ends of blocks"):
        extract(model, 'interior')
    assert len(extract(model).widths) == 6


def test_only_zero_filters_that_stay():
    model = bare('cifar_basic')
    model.backbone.stem[0].weight.data[:3] = 0
    with refused(key='checkpoint', problem='3 in others, which stay'):
        extract(model)


@pytest.mark.parametrize(
    'backbone, expected',
    [
        (dict(type='kdmm.CIFARVGG', depth=8), 'a backbone of basic blocks or bottlenecks'),
        (dict(type='mmpretrain.MobileNetV2'), 'a backbone of basic blocks or bottlenecks'),
    ],
)
def test_unknown_backbones(backbone, expected):
    model = bare('cifar_basic')
    model.backbone = build(backbone)
    prune(model)
    with refused(key='model.backbone', got=type(model.backbone).__name__, expected=expected):
        extract(model)


def test_no_backbone():
    with refused(key='model.backbone', problem='Linear has none'):
        extract(nn.Linear(2, 2))


def test_extracted_twice():
    model = bare('cifar_basic')
    prune(model)
    small = extract(model).model
    with refused(key='model.backbone', problem='the network was extracted before'):
        extract(small)


def test_unknown_mode():
    with refused(key='mode', got='precise', expected='one of exact, fold, drop, interior'):
        extract(bare('cifar_basic'), 'precise')


@pytest.mark.parametrize(
    'change, problem',
    [
        (dict(norm_cfg=dict(type='GN', num_groups=2)), 'is no BatchNorm with running statistics'),
        (dict(conv_cfg=dict(type='ConvWS')), 'is no plain convolution of one group'),
        (dict(plugins=[dict(cfg=dict(type='ContextBlock', ratio=0.5), position='after_conv3')]),
         'it has plugins'),
    ],
)  # fmt: skip
def test_blocks_of_other_parts(change, problem):
    model = bare('det_bottleneck')
    model.backbone = build(BACKBONES['det_bottleneck'] | change)
    prune(model)
    with refused(key='model.backbone', problem=('layer1.0', problem)):
        extract(model)
