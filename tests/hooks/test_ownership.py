"""Ownership of entries in a checkpoint; runs: test_distill.py, tests/e2e/test_cohort.py."""

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn

from kdmm.checkpoints import ENTRY
from kdmm.distillers import cohort, distill
from kdmm.engine import Runner
from kdmm.hooks.distill import DistillHook
from kdmm.hooks.ownership import TRAINED, OwnershipHook, objective_of, pop_prefix
from tests.distillers.tiny_models import TEACHER, build, tiny
from tests.e2e.job import assert_same
from tests.engine.tiny_run import KD, config
from tests.errors import refused

COHORT = dict(type='Cohort', peers=3, taps=dict(body='body.out'), losses=dict(
    fit=dict(type='FitNetLoss', on='body', connector=dict(type='Projection'))
))  # fmt: skip
EMA = [dict(type='EMAHook', momentum=0.1)]


def made():
    section = {key: copy.deepcopy(value) for key, value in COHORT.items() if key != 'type'}
    return cohort(tiny(), **section, probe_size=(16, 16))


def averaged(model, hook):
    """A checkpoint as a run hands it to the hook of ownership, and the averages by name."""
    hook.before_run(SimpleNamespace(model=model))
    hook.ema_model.update_parameters(model)
    with torch.no_grad():
        for parameter in hook.ema_model.module.parameters():
            parameter += 1
    values = copy.deepcopy(dict(hook.ema_model.module.state_dict()))
    checkpoint = dict(state_dict=model.state_dict(), optimizer={})
    hook.before_save_checkpoint(None, checkpoint)
    return checkpoint, values


@pytest.fixture
def saved():
    model, hook = made(), EMAHook(momentum=0.1)
    before = copy.deepcopy(dict(model.state_dict()))
    checkpoint, averages = averaged(model, hook)
    OwnershipHook().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    return SimpleNamespace(model=model, raw=before, averages=averages, checkpoint=checkpoint)


def test_taken_keys_lose_their_prefix_and_leave_no_trace():
    state = OrderedDict(a=1, **{'kd.b': 2, 'kdx.c': 3, 'kd.d.e': 4})
    state._metadata = {'': 0, 'kd': 0, 'kd.d': 0, 'kdx': 0, 'a': 0}  # type: ignore[attr-defined]
    assert pop_prefix(state, 'kd.') == {'b': 2, 'd.e': 4}
    assert dict(state) == {'a': 1, 'kdx.c': 3}
    assert set(state._metadata) == {'', 'kdx', 'a'}  # type: ignore[attr-defined]
    assert pop_prefix({}, 'kd.') == {}


def test_averages_of_peers_lie_where_the_students_do(saved):
    content, plain = saved.checkpoint, build(tiny())
    plain.load_state_dict(content['state_dict'], strict=True)
    assert set(content['ema_state_dict']) == {f'module.{k}' for k in plain.state_dict()} | {'steps'}
    for key, value in content['state_dict'].items():
        assert torch.equal(value, saved.averages[key])
        assert torch.equal(content['ema_state_dict'][f'module.{key}'], saved.raw[key])
    peers = {key for key in saved.averages if key.startswith('kd.peers.')}
    assert {f'kd.{key}' for key in content[TRAINED]} == peers
    assert {f'kd.{key}' for key in content[ENTRY]} == {k for k in saved.raw if k[:3] == 'kd.'}
    for key, value in content[ENTRY].items():
        name = f'kd.{key}'
        expected = saved.averages if name in peers else saved.raw
        assert torch.equal(value, expected[name]), key
        if name in peers:
            assert torch.equal(content[TRAINED][key], saved.raw[name])


def test_averages_and_weights_are_restored(saved):
    """By both hooks, in the order in which a run calls them."""
    model, hook = made(), EMAHook(momentum=0.1)
    runner = SimpleNamespace(model=model, _resume=True, hooks=[hook])
    hook.before_run(runner)
    checkpoint = copy.deepcopy(saved.checkpoint)
    DistillHook().after_load_checkpoint(runner, checkpoint)
    hook.after_load_checkpoint(runner, checkpoint)
    assert_same(dict(hook.ema_model.module.state_dict()), saved.averages)
    assert pop_prefix(checkpoint['state_dict'], 'kd.').keys() == saved.checkpoint[TRAINED].keys()
    model.load_state_dict(checkpoint['state_dict'], strict=False)
    assert_same(dict(model.state_dict()), saved.raw)


def test_an_average_that_lacks_a_peer_is_refused(saved):
    del saved.checkpoint[ENTRY]['peers.peer2.head.weight']
    with refused(key='the distillation state', problem='missing: peers.peer2.head.weight'):
        saved.checkpoint[TRAINED].pop('peers.peer2.head.weight')
        DistillHook().after_load_checkpoint(
            SimpleNamespace(model=made(), _resume=True, hooks=[EMAHook()]), saved.checkpoint
        )


def test_averages_are_not_resumed_without_an_average(saved):
    with refused(key='resume', problem='the config has no EMAHook'):
        DistillHook().after_load_checkpoint(
            SimpleNamespace(model=made(), _resume=True, hooks=[]), saved.checkpoint
        )


def test_of_files_that_cannot_be_resumed_peers_are_a_result_and_terms_are_not():
    model = made()
    model.kd.terms['memory'] = torch.nn.BatchNorm1d(2)
    checkpoint = dict(state_dict=model.state_dict())
    OwnershipHook().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    assert checkpoint[ENTRY].keys() == {f'peers.{key}' for key in model.kd.peers.state_dict()}
    whole = dict(state_dict=model.state_dict(), optimizer={})
    OwnershipHook().before_save_checkpoint(SimpleNamespace(model=model), whole)
    assert 'terms.memory.running_mean' in whole[ENTRY]


@pytest.mark.parametrize(
    'kd, hooks, late', [(COHORT, EMA, True), (COHORT, [], False), (KD, EMA, False), (KD, [], False)]
)
def test_comes_after_the_averages_of_peers_and_before_all_others(tmp_path, kd, hooks, late):
    cfg = config(tmp_path, dict(copy.deepcopy(kd), probe_size=(16, 16)), custom_hooks=hooks)
    order = [type(hook).__name__ for hook in Runner.from_cfg(cfg).hooks]
    own = order.index('OwnershipHook')
    assert (own == len(order) - 1) == late
    assert late or own < min(order.index(name) for name in order if name.endswith('CheckpointHook'))
    assert order.index('DistillHook') < order.index('EMAHook') if hooks else True


def test_a_distilled_students_average_has_no_entry_of_peers():
    model, hook = distill(tiny(), **{**copy.deepcopy(KD), 'teacher': TEACHER}), EMAHook()
    checkpoint, _ = averaged(model, hook)
    OwnershipHook().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    assert ENTRY in checkpoint and TRAINED not in checkpoint


def test_the_objective_of_a_wrapped_model():
    model = made()
    wrapper = pytest.importorskip('mmengine.model').MMDistributedDataParallel
    wrapped = wrapper.__new__(wrapper)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert objective_of(wrapped) is objective_of(model) is model.kd
