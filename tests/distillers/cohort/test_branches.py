"""Branches behind the stages of the networks of a plain cohort."""

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('mmpretrain')

from kdmm.distillers import Progress  # noqa: E402
from kdmm.losses import DistillLoss  # noqa: E402
from kdmm.registry import MODELS  # noqa: E402
from tests.distillers.hssakd.classifiers import batch, total  # noqa: E402
from tests.errors import refused  # noqa: E402

from .networks import LABELS, TRUNK, calls, classifier_config, cohort, networks  # noqa: E402

WIDER = classifier_config(widths=(4, 4, 8, 12))
TAPS = {
    **{f'embedding{i}': f'branches.stage{i}.fc.in' for i in (1, 2, 3)},
    **{f'logits{i}': f'branches.stage{i}.fc.out' for i in (1, 2, 3)},
    'head': 'head.fc.out',
}


@MODELS.register_module(force=True)
class StagePairs(DistillLoss):
    """Squared distances of embeddings, in a common space, of all stages of all pairs of peers."""

    mutual = True

    def __init__(self, peer_channels: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.channels = [tuple(channels) for channels in peer_channels]
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(channels, 2) for channels in peer) for peer in peer_channels
        )

    def forward(self, peers: Sequence[tuple[Tensor, ...]]) -> Tensor:
        rows = [
            torch.stack([head(x) for head, x in zip(heads, peer, strict=True)])
            for heads, peer in zip(self.heads, peers, strict=True)
        ]
        pairs = permutations(rows, 2)
        return torch.stack([(a[:, None] - b[None]).square().mean() for a, b in pairs]).mean()


PAIRS = dict(pairs=dict(type='StagePairs', on=[f'embedding{i}' for i in (1, 2, 3)]))


def made(**section):
    return cohort(**{**dict(branches=True, taps=TAPS, losses=PAIRS), **section})


def test_each_branch_learns_the_labels():
    """The logged values are the cross-entropy of what the branch's classifier gives."""
    model = made(peers=3, losses=dict(p=dict(type='StagePairs', on=['logits1', 'head'])))
    seen: dict[str, Tensor] = {}
    for name, part in model.kd.branches.items():
        for stage, branch in part.branches.items():
            branch.fc.register_forward_hook(
                lambda _, args, z, key=(name, stage): seen.update({key: z})
            )
    losses = model(*batch(*LABELS), mode='loss')
    assert len(seen) == 9
    for (name, stage), logits in seen.items():  # type: ignore[str-unpack]
        start = 'kd.loss' if name == 'student' else f'kd.{name}_loss'
        expected = nn.functional.cross_entropy(logits, torch.tensor(LABELS))
        torch.testing.assert_close(losses[f'{start}_branches_{stage}'], expected)


def test_every_network_and_branch_runs_once_and_is_trained():
    model = made(peers=2)
    parts = {f'{i}': net.backbone for i, net in enumerate(networks(model))}
    parts |= {
        f'{name} {stage}': branch
        for name, part in model.kd.branches.items()
        for stage, branch in part.branches.items()
    }
    counted = calls(parts)
    total(model(*batch(*LABELS), mode='loss')).backward()
    assert set(counted.values()) == {1} and len(counted) == 8
    assert all(p.grad is not None for p in model.parameters())


def test_a_loss_of_all_stages_knows_every_peers_channels():
    """Of networks of different width; the gradients reach the stages through the branches."""
    model = made(peers=[WIDER])
    assert model.kd.terms['pairs'].loss.channels == [(8, 8, 8), (12, 12, 12)]
    losses = model(*batch(*LABELS), mode='loss')
    for net in networks(model):
        first = net.backbone.stages[0]
        grads = torch.autograd.grad(
            losses['kd.loss_pairs'], list(first.parameters()), retain_graph=True
        )
        assert all(grad.any() for grad in grads)


def test_the_student_is_untouched_by_them():
    """The same keys, and the losses of a cohort without branches."""
    plain, model = cohort(2), made(peers=2, losses={})
    model.load_state_dict(plain.state_dict(), strict=False)
    own = [key for key in model.state_dict() if not key.startswith('kd.')]
    assert own == [key for key in plain.state_dict() if not key.startswith('kd.')]
    expected, losses = (net(*batch(*LABELS), mode='loss') for net in (plain, model))
    assert all(torch.equal(losses[key], value) for key, value in expected.items())
    assert len(losses) == len(expected) + 2 * 3
    assert any(key.startswith('kd.branches.peer1.branches.stage2') for key in model.state_dict())


def test_their_weight_and_stages():
    ramp = dict(type='Linear', start=0.0, stop=1.0, end=4)
    model = made(branches=dict(stages=[1], weight=ramp), losses={}, taps={})
    values = []
    for iteration in (0, 2, 4):
        model.kd.set_progress(Progress(iteration))
        losses = model(*batch(*LABELS), mode='loss')
        values.append(float(losses['kd.loss_branches_stage2'].detach()))
    assert values[0] == 0 and values[1] == pytest.approx(values[2] / 2)
    assert sum('_branches_' in key for key in losses) == 2


@pytest.mark.parametrize('of', ['kdmm', 'mmpretrain'])
def test_with_a_common_trunk(of):
    """The branch behind the trunk is each network's own."""
    student, trunk = None, TRUNK
    if of == 'mmpretrain':
        student = classifier_config()
        student.update(
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
        )
        trunk = ['backbone.conv1', 'backbone.bn1', 'backbone.relu', 'backbone.layer1']
    model = made(peers=2, student=student, trunk=trunk)
    losses = model(*batch(*LABELS), mode='loss')
    total(losses).backward()
    assert all(p.grad is not None for p in model.parameters())
    first = [losses[f'kd.{peer}loss_branches_stage1'] for peer in ('', 'peer1_')]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    'section, key',
    [
        (dict(branches=False), 'kd.taps'),
        (dict(branches=3), 'kd.branches'),
        (dict(branches=dict(stage=1)), 'kd.branches'),
        (dict(branches=dict(stages=[7])), 'kd.stages'),
        (dict(branches=dict(blocks=dict(peer2=1))), 'kd.branches.blocks'),
        (dict(branches=dict(weight='auto:0.1')), 'kd.branches.weight'),
        (dict(branches=dict(weight=dict(stage1=1.0))), 'kd.branches.weight'),
        (dict(taps={**TAPS, 'embedding1': 'branches.stage9.fc.in'}), 'kd.taps.embedding1'),
    ],
)
def test_what_cannot_be(section, key):
    with refused(key=key):
        made(**section)


def resnet_of_two_stages():
    other = classifier_config()
    other['backbone'] = dict(
        type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=6, num_stages=2,
        strides=(1, 2), dilations=(1, 1), out_indices=(1,),
    )  # fmt: skip
    other['head']['in_channels'] = 12
    return other


def test_blocks_of_each_network():
    """Of one network; the other's branches are as deep as it."""
    peers = [resnet_of_two_stages()]
    full, mixed = (
        made(peers=peers, losses={}, taps={}, branches=dict(blocks=blocks))
        for blocks in (None, dict(peer1=1))
    )
    sizes = [
        [sum(p.numel() for p in part.parameters()) for part in model.kd.branches.values()]
        for model in (full, mixed)
    ]
    assert sizes[1][0] == sizes[0][0] and sizes[1][1] < sizes[0][1]


@MODELS.register_module(force=True)
class AllStages(DistillLoss):
    """Keeps what it is given."""

    mutual = True

    def __init__(self, peer_channels: Sequence[tuple[tuple[int, ...], ...]]) -> None:
        super().__init__()
        self.channels, self.given = peer_channels, []

    def forward(self, peers: Sequence[tuple[tuple[Tensor, ...], ...]]) -> Tensor:
        self.given = peers
        return torch.stack([x.mean() for peer in peers for tap in peer for x in tap]).sum()


STAGES = dict(all=dict(type='AllStages', on=['stages', 'stage_logits']))


def test_all_stages_are_taps():
    """Inputs and outputs of the classifiers, shallow first, of three stages and of two."""
    other = resnet_of_two_stages()
    model = made(peers=[other], branches=dict(stages='inner'), losses=STAGES, taps={})
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {'student': [], 'peer1': []}
    for (name, part), network in zip(model.kd.branches.items(), networks(model), strict=True):
        for linear in (*(branch.fc for branch in part.branches.values()), network.head.fc):
            linear.register_forward_hook(
                lambda _, args, z, name=name: seen[name].append((args[0], z))
            )
    losses = model(*batch(*LABELS), mode='loss')
    loss = model.kd.terms['all'].loss
    assert loss.channels == [((8, 8, 8), (3, 3, 3)), ((12, 12), (3, 3))]
    for name, (embeddings, logits) in zip(seen, loss.given, strict=True):
        own, *branches = seen[name]  # a network runs before its branches
        expected = [*branches, own]
        assert len(embeddings) == len(logits) == len(expected)
        for x, z, (entered, left) in zip(embeddings, logits, expected, strict=True):
            assert torch.equal(x, entered) and torch.equal(z, left)
    total(losses).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    'section, fields',
    [
        (
            dict(taps=dict(stages='head.fc.in')),
            dict(key='kd.taps.stages', got='head.fc.in', fix='another name'),
        ),
        (dict(branches=False, taps={}), dict(key='kd.losses.all.on', got='stages', fix='inner')),
        (
            dict(losses=dict(pair=dict(type='KDLoss', on='stage_logits')), taps={}),
            dict(key='kd.losses.pair.on', got='stage_logits', fix='branches.stage1.fc.out'),
        ),
        (
            dict(losses=dict(all=dict(type='AllStages', on=['stages', 'stage'])), taps={}),
            dict(key='kd.losses.all.on', got='stage'),
        ),
    ],
)
def test_stages_that_are_no_taps(section, fields):
    with refused(**fields):
        made(**{**dict(peers=2, losses=STAGES, branches=dict(stages='inner')), **section})


def test_stages_need_a_linear_classifier():
    student = classifier_config()
    student['head'] = dict(type='mmpretrain.StackedLinearClsHead', num_classes=3, in_channels=8,
                           mid_channels=[3])  # fmt: skip
    with refused(key='model.head.type', problem=('StackedLinearClsHead', '2 of 3 outputs')):
        made(peers=2, student=student, losses=STAGES, branches=dict(stages='inner'), taps={})
