import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from kdmm.compat import unpickling
from kdmm.compat.unpickling import load_weights
from tests.versions import needs


class Arbitrary:
    """Not a weight."""


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(params=['2.14', '2.1'])
def version(request, monkeypatch):
    """Both ways of reading: this torch's own, and the one for releases before 2.7."""
    if request.param == '2.14':
        needs('torch', '2.7', 'names for the files that it may read')
    monkeypatch.setattr(unpickling.torch, '__version__', request.param)
    return request.param


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


def test_getattr_reaches_nothing_but_log_buffers(version, tmp_path):
    class Reaches:
        def __reduce__(self):
            return getattr, (np.dtype('f4'), 'type')

    torch.save(dict(x=Reaches()), tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError, match='getattr'):
        load_weights(tmp_path / 'a.pth')
