"""Checkpoints as the methods' authors write them: one backbone of many parts, or a refusal.

Planned and not written, but for the last: what is planned is what the file gets.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdmm.pretrained.checkpoint import Weights, read_weights
from kdmm.transfer import Request, convert
from kdmm.transfer.plan import Plan, plan_of
from tests.errors import refused
from tests.transfer.nets import build, shake, write_config

NARROW = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)


def state_of(value: float) -> dict[str, Tensor]:
    """A backbone and its classifier; weights tell which network it is."""
    state = shake(build('mmdet', NARROW)).state_dict()
    state = {key: x + value if x.is_floating_point() else x for key, x in state.items()}
    return state | {'fc.weight': torch.ones(5, 64), 'fc.bias': torch.ones(5)}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f'{prefix}{key}': value for key, value in state.items()}


FIRST, SECOND = state_of(0.0), state_of(0.25)
QUEUE = {'module.queue': torch.ones(4, 8), 'module.queue_ptr': torch.zeros(1)}
HEADS = {f'auxiliary_classifier.{key}': torch.ones(3) for key in ('0.weight', '1.bias')}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = dict(
    mmpretrain=(dict(state_dict=under('backbone.', SECOND)), {}),
    hsakd=(dict(net=under('backbone.', SECOND) | HEADS, epoch=3), dict(container='net')),
    hsakd_online=(
        dict(net=under('net1.backbone.', FIRST) | under('net2.backbone.', SECOND)),
        dict(container='net', prefix='net2.backbone'),
    ),
    mcl=(
        dict(net=under('module_list.0.', FIRST) | under('module_list.1.', SECOND)),
        dict(container='net', prefix='module_list.1'),
    ),
    moco=(
        dict(
            state_dict=under('module.encoder_q_0.', FIRST)
            | under('module.encoder_q_1.', SECOND)
            | under('module.encoder_k_1.', FIRST)
            | QUEUE
        ),
        dict(prefix='encoder_q_1'),
    ),
    lmcl=(
        dict(net=under('module_list.1.backbone.', SECOND) | under('module_list.1.', HEADS)),
        dict(container='net', prefix='module_list.1.backbone'),
    ),
    lmcl_two=(
        dict(net=under('net2.module_list.0.backbone.', SECOND) | under('net1.', FIRST)),
        dict(container='net', prefix='net2.module_list.0.backbone'),
    ),
)  # fmt: skip


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Plans the conversion of a content; the narrow network must be named."""
    config = write_config(tmp_path / 'narrow.py', 'mmdet', NARROW)

    def run(content: dict[str, Any], **flags: Any) -> dict[str, Tensor]:
        torch.save(content, tmp_path / 'in.pth')
        weights: Weights = read_weights(str(tmp_path / 'in.pth'), **flags)
        plan: Plan = plan_of(Request('in.pth', 'mmdet', 'out.pth', source_config=config), weights)
        run.dropped = [*weights.unused_keys, *plan.held.heads]  # type: ignore[attr-defined]
        return plan.mapping.complete(plan.state)

    return run


@pytest.mark.parametrize('kind', KINDS)
def test_one_network_of_each_kind_of_file(go, kind):
    content, flags = KINDS[kind]
    state = go(content, **flags)
    assert len(state) == 120
    assert all(torch.equal(value, SECOND[key]) for key, value in state.items())
    parts = [part for part in content.values() if isinstance(part, dict)]
    assert len(go.dropped) == sum(map(len, parts)) - 120


@pytest.mark.parametrize('kind', KINDS)
def test_without_the_flags_nothing_is_guessed(go, kind):
    content, flags = KINDS[kind]
    if flags:
        with refused() as caught:
            go(content)
        assert re.search('name one with --container|--prefix|missing', str(caught.value))


def valued(like: Tensor, branch: int) -> Tensor:
    """Every weight and statistic of a branch; the trunk's is -1. Small: maps stay finite."""
    return torch.full_like(like, (branch + 2) / 64 if like.is_floating_point() else branch)


def shared(count: int) -> dict[str, Tensor]:
    """A trunk and branches, each of one value: see `valued`."""
    state = {}
    for key, value in FIRST.items():
        head = key.startswith('fc.')
        if head or key.startswith(('layer3.', 'layer4.')):
            for branch in range(count):
                first, _, rest = key.partition('.')
                name = f'{"classifier" if head else first}_{branch}.{rest}'
                state[name] = valued(value, branch)
        else:
            state[key] = valued(value, -1)
    return state


@pytest.mark.parametrize('wrap', ['', 'module.'])
@pytest.mark.parametrize('branch', [0, 3])
def test_a_branch_behind_a_shared_trunk(go, branch, wrap):
    check_branch(go(dict(net=under(wrap, shared(4))), container='net', branch=branch), branch)
    assert {key.split('.')[0] for key in go.dropped} == other_parts(branch)


def check_branch(state: dict[str, Tensor], branch: int) -> None:
    assert len(state) == 120
    for key, value in state.items():
        owner = branch if key.startswith(('layer3.', 'layer4.')) else -1
        assert torch.equal(value, valued(value, owner)), key


def other_parts(branch: int) -> set[str]:
    others = {f'{part}_{i}' for part in ('layer3', 'layer4', 'classifier') for i in range(4)}
    return others - {f'{part}_{branch}' for part in ('layer3', 'layer4', 'classifier')} | {
        'classifier'
    }


def test_308_weights_of_four_branches_give_120(go):
    assert len([key for key in shared(4) if not key.startswith('classifier')]) == 120 + 3 * 60
    assert len(shared(4)) == 308


def test_a_branch_must_be_named_and_be_there(go):
    with refused(problem='60 missing: layer3.0.conv1.weight'):
        go(shared(2))
    with refused(key='--branch', got=2, problem='no such branch, there are: 0, 1'):
        go(shared(2), branch=2)
    with refused(key='--branch', got=0, problem='no such branch, there are: none'):
        go(FIRST, branch=0)


@pytest.mark.parametrize(
    'change, told',
    [
        (lambda state: state.pop('backbone.layer4.1.bn2.bias'), '1 missing: layer4.1.bn2.bias'),
        (lambda state: state.update({'backbone.more': torch.ones(1)}), '1 unexpected: more'),
        (lambda state: state.update({'backbone.conv1.weight': torch.ones(8, 3, 3, 3)}),
         '1 wrong shape: conv1.weight'),
    ],
)  # fmt: skip
def test_one_fault_is_named(go, change, told):
    state = under('backbone.', FIRST)
    change(state)
    with refused(problem=told):
        go(dict(state_dict=state))


HEAD = {f'projection_head.{key}': torch.ones(2) for key in ('0.weight', '2.bias')}


@pytest.mark.parametrize(
    'content, told, flags',
    [
        (SECOND | HEAD | {'prototypes.weight': torch.ones(2)},
         dict(problem='3 unexpected: ',
              fix='Leave them out with --drop projection_head prototypes'),
         dict(drop=('projection_head', 'prototypes'))),
        (dict(model=SECOND, best_acc=torch.tensor(70.0)),
         dict(key='checkpoint', problem='in model: name one with --container'),
         dict(container='model')),
        (under('backbone.body.', SECOND) | {'rpn.x': torch.ones(2)},
         dict(key='--prefix', problem='try --prefix backbone.body.'),
         dict(prefix='backbone.body')),
        (under('a.trunk.', SECOND), dict(key='--prefix', problem='try --prefix a.trunk.'),
         dict(prefix='a.trunk')),
    ],
)  # fmt: skip
def test_an_error_names_the_flag_that_helps(go, content, told, flags):
    with refused(**told):
        go(content)
    state = go(content, **flags)
    assert len(state) == 120
    assert all(torch.equal(value, SECOND[key]) for key, value in state.items())


def test_a_compiled_network_needs_no_flag(go):
    assert torch.equal(go(under('_orig_mod.', SECOND))['conv1.weight'], SECOND['conv1.weight'])


@pytest.mark.parametrize('change', [torch.Tensor.long, torch.Tensor.bool, lambda x: x * torch.nan])
def test_what_is_no_weight_is_not_converted(go, change):
    with refused(problem='bn1.weight'):
        go(SECOND | {'bn1.weight': change(SECOND['bn1.weight'])})


def test_a_branch_beside_other_parts_is_converted(tmp_path):
    """Every flag arrives, and the file is written and proved."""
    torch.save(dict(net=under('module.', shared(4) | HEAD)), tmp_path / 'in.pth')
    config = write_config(tmp_path / 'narrow.py', 'mmdet', NARROW)
    flags = dict(container='net', branch=3, drop=('projection_head',), source_config=config)
    out = str(tmp_path / 'out.pth')
    report = convert(Request(str(tmp_path / 'in.pth'), 'mmdet', out, **flags))
    content = torch.load(out, weights_only=True)
    check_branch(content['state_dict'], 3)
    assert content['meta']['transfer']['source']['branch'] == 3
    dropped = {key.split('.')[0] for key in report.dropped}
    assert dropped == other_parts(3) | {'projection_head'}
