"""Skips by version: what an older library cannot do, each time with the reason."""

from importlib import import_module
from importlib.machinery import PathFinder

import pytest
import torch

from kdmm.compat.versions import parse_version


def needs(library: str, minimum: str, what: str) -> None:
    """Skip the test that runs where ``library`` is older than the release that can do ``what``."""
    found = str(import_module(library).__version__)
    if parse_version(found) < parse_version(minimum):
        pytest.skip(f'{library} {found} has no {what} ({minimum} has)')


def needs_mmseg_alone() -> None:
    """Skip the test that runs where MMSegmentation cannot be imported without kdmm."""
    import mmcv
    import mmseg

    compiled = PathFinder.find_spec('mmcv._ext', mmcv.__path__)
    if compiled is None and parse_version(mmseg.__version__) < (1, 3):
        pytest.skip(f'mmseg {mmseg.__version__} alone needs the compiled operators of mmcv')


def cpu_autocast(dtype: torch.dtype, enabled: bool = True) -> torch.autocast:
    """``torch.autocast`` on the CPU, where this torch has it."""
    if dtype is torch.float16:
        needs('torch', '2.2', 'float16 autocast on the CPU')
    return torch.autocast('cpu', dtype, enabled)
