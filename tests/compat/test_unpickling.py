import copy
import os
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

from kdmm.compat.unpickling import load_weights


class Arbitrary:
    """Not a weight."""


class RunsCode:
    path: str

    def __reduce__(self):
        return os.mkdir, (self.path,)


def content():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).half()
    return dict(
        state_dict=net.state_dict(),
        parameter=torch.nn.Parameter(torch.ones(2)),
        message_hub=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
        numbers=(np.float64(0.1), np.int64(3), np.arange(3)),
        meta=OrderedDict(shape=torch.Size([2]), dtype=torch.bfloat16, device=torch.device('cpu')),
    )


@pytest.mark.parametrize('new_format', [True, False])
def test_what_mmengine_stores_is_read(version, tmp_path, new_format):
    path = tmp_path / 'a.pth'
    torch.save(content(), path, _use_new_zipfile_serialization=new_format)
    read = load_weights(path)
    for key, value in content()['state_dict'].items():
        assert read['state_dict'][key].dtype == value.dtype
    assert read['message_hub']['loss'].current() == 2.0
    assert read['numbers'][0] == 0.1 and read['meta']['dtype'] is torch.bfloat16


def test_anything_else_is_refused(version, tmp_path):
    torch.save(dict(x=Arbitrary()), tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError, match='Arbitrary'):
        load_weights(tmp_path / 'a.pth')


def test_no_code_runs(version, tmp_path):
    RunsCode.path = str(tmp_path / 'ran')
    torch.save(dict(x=RunsCode()), tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError):
        load_weights(tmp_path / 'a.pth')
    assert not (tmp_path / 'ran').exists()


def write(content, path):
    """As MMEngine writes, in both formats."""
    for new_format in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=new_format)
        yield load_weights(path)


def net():
    return torch.nn.Linear(2, 3, bias=False)


#: What a scheduler cannot do without.
SCHEDULES = {
    'MultiStep': dict(milestones=[1, 1, 3]),
    'Step': dict(step_size=2),
    'Exponential': dict(gamma=0.9),
    'CosineAnnealing': dict(T_max=4),
    'CosineRestart': dict(periods=[2, 2], restart_weights=[1, 0.5], eta_min=0.0),
    'OneCycle': dict(total_steps=10, eta_max=0.1),
    'ReduceOnPlateau': dict(monitor='loss', patience=0),
}


_SCHEDULERS = [(name, {}) for name in sorted(PARAM_SCHEDULERS.module_dict)]
_SCHEDULERS += [('OneCycleLR', dict(anneal_strategy='linear', three_phase=True))]


@pytest.mark.parametrize('name, more', _SCHEDULERS)
def test_the_state_of_every_scheduler(name, more, version, tmp_path):
    kind = name
    for end in ('LR', 'Momentum', 'ParamScheduler'):
        kind = kind.removesuffix(end)

    def build():
        optimizer = torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.9)
        options = dict(SCHEDULES.get(kind, {}), **more)
        options |= dict(param_name='lr') if name.endswith('ParamScheduler') else {}
        return PARAM_SCHEDULERS.build(dict(type=name, optimizer=optimizer, **options)), optimizer

    def step(scheduler, loss):
        scheduler.step(*([dict(loss=loss)] if kind == 'ReduceOnPlateau' else []))

    first, one = build()
    for loss in (1.0, 2.0):
        step(first, loss)
    for read in write(dict(param_schedulers=[first.state_dict()]), tmp_path / 'a.pth'):
        second, other = build()
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        second.load_state_dict(read['param_schedulers'][0])
        assert second.state_dict() == first.state_dict()
        twin, copied = build()
        copied.load_state_dict(copy.deepcopy(one.state_dict()))
        twin.load_state_dict(copy.deepcopy(first.state_dict()))
        for loss in (2.0, 3.0):
            step(second, loss)
            step(twin, loss)
        assert other.param_groups[0]['lr'] == copied.param_groups[0]['lr']
        assert other.param_groups[0]['momentum'] == copied.param_groups[0]['momentum']


@pytest.mark.parametrize('name', sorted(set(OPTIMIZERS.module_dict) - {'Optimizer'}))
def test_the_state_of_every_optimizer(name, version, tmp_path, one_process):
    sparse = name == 'SparseAdam'

    def build():
        torch.manual_seed(0)
        model = torch.nn.Embedding(4, 3, sparse=True) if sparse else net()
        config = dict(type=name) | (dict(lr=0.1) if name == 'SGD' else {})
        if name == 'ZeroRedundancyOptimizer':
            config |= dict(optimizer_type='Adam')
        wrapper = dict(type='OptimWrapper', optimizer=config)
        return model, DefaultOptimWrapperConstructor(wrapper)(model)

    def step(model, optim):
        def loss():
            optim.zero_grad()
            inputs = torch.arange(4) if sparse else torch.ones(4, 2)
            value = model(inputs).square().sum()
            value.backward()
            return value

        value = None if name == 'LBFGS' else loss()
        optim.optimizer.step(*([loss] if value is None else []))

    model, optim = build()
    for _ in range(2):
        step(model, optim)
    if name == 'ZeroRedundancyOptimizer':
        optim.optimizer.consolidate_state_dict()
    saved = dict(state_dict=model.state_dict(), optimizer=optim.state_dict())
    files = []
    for read in write(saved, tmp_path / 'a.pth'):
        again, other = build()
        again.load_state_dict(read['state_dict'])
        other.load_state_dict(read['optimizer'])
        step(again, other)
        files.append(again.weight.detach())
    step(model, optim)
    assert all(torch.equal(weight, model.weight) for weight in files)


def test_the_state_of_mixed_precision(version, tmp_path, monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    states = []
    for scale in (64.0, 2.0):
        optim = AmpOptimWrapper(optimizer=torch.optim.AdamW(net().parameters()), loss_scale=scale)
        values = dict(scale=scale, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000)
        monkeypatch.setattr(optim.loss_scaler, 'state_dict', lambda v=values: dict(v, _growth=1))
        monkeypatch.setattr(optim.loss_scaler, 'load_state_dict', states.append)
        for read in write(dict(optimizer=optim.state_dict()), tmp_path / 'a.pth'):
            optim.load_state_dict(read['optimizer'])
            assert states[-1] == dict(values, _growth=1)


@pytest.fixture
def one_process(tmp_path):
    """One optimizer cannot do without a process group."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_what_hooks_and_the_message_hub_store(version, tmp_path):
    hub = MessageHub.get_instance(f'of {tmp_path}')
    hub.update_scalar('train/loss', torch.tensor(0.5))
    hub.update_scalars(dict(lr=0.1, accuracy=dict(value=np.float32(0.7), count=2)))
    hub.update_info('best', np.float64(0.9))
    hub.update_info('meta', dict(sigmas=np.arange(3, dtype='f4'), flip=[(0, 1)], classes=('a',)))
    hub.update_info('odd', [{1, 2}, Counter('aab'), bytearray(b'x'), 1j, slice(1, None, 2), b''])
    average = ExponentialMovingAverage(net())
    content = dict(message_hub=hub.state_dict(), ema_state_dict=average.state_dict())
    content['empty'] = HistoryBuffer()
    for read in write(content, tmp_path / 'a.pth'):
        other = MessageHub.get_instance(f'read of {tmp_path}')
        other.load_state_dict(read['message_hub'])
        assert other.get_scalar('train/loss').current() == 0.5
        assert type(other.get_scalar('lr')) is HistoryBuffer
        other.update_scalar('lr', 0.2)
        assert other.get_scalar('lr').mean() == pytest.approx(0.15)
        meta = other.get_info('meta')
        assert type(meta['sigmas']) is np.ndarray and meta['sigmas'].tolist() == [0, 1, 2]
        assert meta['flip'] == [(0, 1)] and meta['classes'] == ('a',)
        assert other.get_info('odd') == hub.get_info('odd')
        assert type(other.get_info('best')) is np.float64
        again = ExponentialMovingAverage(net())
        again.load_state_dict(read['ema_state_dict'])
        assert torch.equal(again.module.weight, average.module.weight)
        with pytest.raises(ValueError, match='empty'):
            read['empty'].current()
        torch.save(read, tmp_path / 'b.pth')  # of the base library's classes only
        assert b'kdmm' not in (tmp_path / 'b.pth').read_bytes()


def test_the_versions_of_modules_are_kept(version, tmp_path):
    """Without them torch takes a state for one of its first releases."""
    state = torch.nn.BatchNorm1d(2).state_dict()
    for read in write(state, tmp_path / 'a.pth'):
        assert read._metadata == state._metadata  # type: ignore[attr-defined]
