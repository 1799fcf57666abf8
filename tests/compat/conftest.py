import pytest
import torch

from kdmm.compat import unpickling


@pytest.fixture(params=['2.14', '2.1'])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading: this torch's own, and the one for releases before 2.7."""
    if not hasattr(torch.serialization, 'safe_globals') and request.param == '2.14':
        pytest.skip('this torch cannot be told names')
    monkeypatch.setattr(unpickling.torch, '__version__', request.param)
    return str(request.param)
