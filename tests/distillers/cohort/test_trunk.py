"""The part that all networks of a cohort share."""

import copy

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

pytest.importorskip('mmpretrain')

from mmpretrain.models import ImageClassifier  # noqa: E402

from kdmm.models import cifar_backbone  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.errors import refused  # noqa: E402
from tests.models.backbones.networks import COUNTS, fill  # noqa: E402

from .networks import (  # noqa: E402
    DML,
    LABELS,
    MCL,
    TRUNK,
    batch,
    calls,
    classifier_config,
    cohort,
    networks,
    step,
    total,
)

RESNET18 = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.ResNet', depth=18),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead', num_classes=1000, in_channels=512,
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
    ),
)  # fmt: skip
STEM18 = [f'backbone.{name}' for name in ('conv1', 'bn1', 'relu', 'maxpool')]
TRUNK18 = [*STEM18, 'backbone.layer1', 'backbone.layer2']
#: Of a ResNet for small images, which has no pooling at its start.
SMALL18 = [path for path in TRUNK18 if not path.endswith('maxpool')]


#: Networks for small images whose trunk is not stem and first stage alone, with that trunk.
FURTHER = {
    'vgg16': ('backbone.stem', 'backbone.stages.0', 'backbone.stages.1', 'backbone.stages.2'),
    'densenet40_12': ('backbone.stem', 'backbone.stages.0', 'backbone.stages.1.0'),
    'densenet_bc40_12': ('backbone.stem', 'backbone.stages.0', 'backbone.stages.1.0'),
}


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def resnet18(**backbone):
    config = copy.deepcopy(RESNET18)
    small = dict(type='mmpretrain.ResNet_CIFAR', stem_channels=4, base_channels=4, **backbone)
    config['backbone'].update(small)  # type: ignore[attr-defined]
    config['head'].update(num_classes=3, in_channels=32)  # type: ignore[attr-defined]
    return config


# parameters


@pytest.mark.parametrize('peers, trunk, expected', [(2, (), 945_512), (4, TRUNK, 1_819_552)])
def test_parameters_of_resnet32(peers, trunk, expected):
    student = classifier_config(100, depth=32, widths=(16, 16, 32, 64))
    assert student['backbone'] == {**cifar_backbone('resnet32'), 'widths': (16, 16, 32, 64)}
    model = cohort(peers, student, trunk=trunk)
    assert parameters(model) == expected
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_parameters_of_resnet18_on_imagenet(monkeypatch):
    monkeypatch.setattr(ImageClassifier, 'init_weights', lambda self: None)  # takes its time
    model = cohort(4, RESNET18, trunk=TRUNK18)
    assert parameters(model) == 44_708_832


#: Parameters of four branches: four networks (``tests/models/backbones/networks.py``) less three
#: trunks. In these: VGG-16's blocks of 64 and 128 channels (convolutions with bias, BN) 260,928, of
#: 256 1,476,864; DenseNet's stem 432, layers 984 x 110, transition 25,920; of DenseNet-BC the stem
#: 648, layers 324 x 50 and 6 x 5,280, transition 4,800.
BRANCHED = {
    'vgg16': 4 * 14_774_436 - 3 * (260_928 + 1_476_864),
    'densenet40_12': 4 * 1_060_132 - 3 * (432 + 108_240 + 25_920),
    'densenet_bc40_12': 4 * 188_092 - 3 * (648 + 16_200 + 31_680 + 4_800),
}


def further(name: str) -> dict:
    config = classifier_config(100)
    config['backbone'] = cifar_backbone(name)
    config['head']['in_channels'] = COUNTS[name].embedding
    return config


# forward and backward


@pytest.mark.parametrize('peers', [2, 4])
@pytest.mark.parametrize('student, trunk', [(None, TRUNK), (resnet18(), SMALL18)])
def test_branches_of_equal_weights_say_what_one_network_says(peers, student, trunk):
    """Weights that depend on shapes only make every branch the single network."""
    images, samples = batch(*LABELS)
    single = fill(MODELS.build(copy.deepcopy(student or classifier_config())))
    model = fill(cohort(peers, student, trunk=trunk))
    found = logits_of(model)
    model(images.double(), samples, mode='loss')
    assert len(found) == peers
    for logits in found:
        torch.testing.assert_close(logits, single(images.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('name', FURTHER)
def test_branches_of_further_networks(name):
    """They say what one network says, and have what is left of the parameters."""
    images, samples = batch(*LABELS[:2], size=32)
    single = fill(MODELS.build(further(name)))
    model = fill(cohort(4, further(name), trunk=FURTHER[name]))
    found = logits_of(model)
    model(images.double(), samples, mode='loss')
    for logits in found:
        torch.testing.assert_close(logits, single(images.double()), rtol=1e-12, atol=1e-12)
    assert len(found) == 4 and parameters(model) == BRANCHED[name]


def logits_of(model) -> list:
    """A list that gets all networks' logits."""
    found: list = []
    for network in networks(model):
        network.head.fc.register_forward_hook(lambda module, args, z: found.append(z.detach()))
    return found


def plain(state, config=None):
    """The base library's network of these weights, and of no others."""
    network = MODELS.build(copy.deepcopy(config or classifier_config()))
    network.load_state_dict(state, strict=True)
    return network.train()


@pytest.mark.parametrize('losses', [{}, {**DML, **MCL}], ids=['none', 'both'])
def test_runs_once_and_counts_its_statistics_once(losses):
    """Also when the taps were measured at the start, with blank images."""
    model = cohort(3, trunk=TRUNK, losses=losses)
    alone = plain(without_kd(model))
    for norm in alone.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.reset_running_stats()
    counted = calls({path: model.get_submodule(path) for path in TRUNK})
    step(model)
    alone(*batch(*LABELS), mode='loss')
    assert counted == dict.fromkeys(TRUNK, 1)
    own, expected = model.state_dict(), dict(alone.named_buffers())
    assert sum('num_batches' in key for key in expected) > 6
    for key, value in expected.items():
        assert torch.equal(own[key], value), key


def test_gradients_are_sums_over_the_branches():
    """As of whole networks that start with the same weights."""
    model = cohort(3, trunk=TRUNK).double()
    images, samples = batch(*LABELS)
    every = [plain(without_kd(network)).double() for network in networks(model)]
    total(model(images.double(), samples, mode='loss')).backward()
    for network in every:
        total(network(images.double(), samples, mode='loss')).backward()
    for network, alone in zip(networks(model), every, strict=True):
        own = dict(network.named_parameters())
        for key, parameter in alone.named_parameters():
            expected = parameter.grad
            if key.startswith(tuple(TRUNK)):
                expected = sum(dict(x.named_parameters())[key].grad for x in every)
                own[key] = model.get_parameter(key)
            torch.testing.assert_close(own[key].grad, expected, rtol=1e-9, atol=1e-12)


def without_kd(network) -> dict:
    return {key: value for key, value in network.state_dict().items() if key[:3] != 'kd.'}


def test_activations_that_are_computed_again_change_nothing():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        model = cohort(3, classifier_config(with_cp=again), trunk=TRUNK, losses=DML)
        step(model, lr=0.0)
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    assert_same(*gradients)


def test_outputs_on_the_way_are_the_students():
    """Of a backbone that gives the outputs of shared stages, too, as segmentors read them."""
    student = resnet18(out_indices=(0, 1, 3))
    model = cohort(2, student, trunk=SMALL18)
    found = []
    for network in networks(model):
        network.backbone.register_forward_hook(lambda module, args, out: found.append(out))
    step(model)
    own, others = found
    assert own[0] is others[0] and own[1] is others[1]
    assert own[2].shape == others[2].shape and not torch.equal(own[2], others[2])


# as networks of their own


def test_state_is_a_plain_networks():
    model = cohort(3, trunk=TRUNK)
    step(model)
    images = batch(*LABELS)[0]
    model.eval()
    for network in networks(model):
        state = without_kd(network)
        alone = plain(state).eval()
        assert list(state) == list(alone.state_dict())
        assert torch.equal(network(images), alone(images))


def test_loading_a_network_loads_what_it_shares():
    model, other = cohort(2, trunk=TRUNK), plain(without_kd(cohort(2)))
    model.kd.peers['peer1'].load_state_dict(other.state_dict(), strict=True)
    images = batch(*LABELS)[0]
    model.eval()
    assert torch.equal(model.kd.peers['peer1'](images), other.eval()(images))
    for path in TRUNK:
        assert_same(
            dict(model.get_submodule(path).state_dict()),
            dict(other.get_submodule(path).state_dict()),
        )


def test_a_copy_has_a_trunk_of_its_own():
    """An average of weights (EMA) is one."""
    model = cohort(2, trunk=TRUNK)
    images = batch(*LABELS)[0]
    copied = copy.deepcopy(model).eval()
    assert copied.kd.peers['peer1'].backbone.stem.trunk.student is copied
    before = copied.kd.peers['peer1'](images)
    step(model, lr=1.0)
    assert torch.equal(copied.kd.peers['peer1'](images), before)
    with torch.no_grad():
        copied.backbone.stem[0].weight.zero_()
    assert not torch.equal(copied.kd.peers['peer1'](images), before)
    assert model.backbone.stem[0].weight.any()
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in copied.named_parameters()] == names
    assert not copied.kd.state_dict().keys() - model.kd.state_dict().keys()


def test_a_module_that_is_replaced_is_replaced_for_all():
    """As MMEngine replaces BN by SyncBN and the reverse; one forgotten would stay in train mode."""
    model = cohort(2, resnet18(), trunk=SMALL18)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    for path in SMALL18:
        assert model.kd.peers['peer1'].get_submodule(path).owner is model.get_submodule(path)
    model = revert_sync_batchnorm(model).eval()
    images, peer = batch(*LABELS)[0], model.kd.peers['peer1']
    expected = plain(peer.state_dict(), resnet18()).eval()(images)
    assert torch.equal(peer(images), expected)


# what is refused


@pytest.mark.parametrize(
    'trunk, got, fields',
    [
        (['backbone.stem1'], 'backbone.stem1', dict(problem='nearest: backbone.stem')),
        (
            ['backbone', 'backbone.stem'],
            'backbone.stem',
            dict(problem='no module of the peer'),
        ),
        ('backbone.stem', 'backbone.stem', dict(expected='a list of modules')),
        ([''], '', dict(problem='no such module')),
    ],
)
def test_what_is_no_list_of_modules_is_refused(trunk, got, fields):
    with refused(key='kd.trunk', got=got, **fields):
        cohort(2, trunk=trunk)


def test_peers_without_such_modules_are_refused():
    told = 'no module of the peer, a ImageClassifier'
    with refused(key='kd.trunk', got='backbone.stem', problem=told):
        cohort([resnet18()], trunk=TRUNK)


def test_a_forgotten_activation_is_refused():
    """It would change its input, in place."""
    trunk = [path for path in SMALL18 if not path.endswith('relu')]
    model = cohort(2, resnet18(), trunk=trunk)
    with refused(key='kd.trunk', problem=('in place', 'such as relu')):
        step(model)


@pytest.mark.parametrize('forgotten', range(3))
def test_a_forgotten_layer_is_refused(forgotten):
    """The peers would run one of their own that nothing trains."""
    trunk = [*TRUNK, 'backbone.stages.1']
    left = trunk.pop(forgotten)
    student = classifier_config(widths=(3, 3, 3, 8))  # it would fit everywhere
    if forgotten == 2:  # nothing is left out: the trunk ends earlier
        step(cohort(2, student, trunk=trunk))
        return
    with refused(key='kd.trunk', problem=left):
        step(cohort(2, student, trunk=trunk))
