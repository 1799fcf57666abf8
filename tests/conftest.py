"""Fixtures of all tests: tools on the path, collections without libraries, configs read once."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import utils
from mmengine.registry import DefaultScope
from yapf.yapflib import yapf_api

from tests.e2e.brief import forget_imports, leave_configs_unformatted, read_metafiles_once

# behind the standard library, where tools/profile.py has a namesake
sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))
_modules = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Between two tests, and only where the last one imported something."""
    global _modules
    if len(sys.modules) > _modules:
        forget_imports()
        _modules = len(sys.modules)


@pytest.fixture(scope='module', autouse=True)
def scope_of_no_other_file() -> None:
    """A runner leaves its default scope behind, and names would be looked up there."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session', autouse=True)
def configs_cost_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', yapf_api.FormatCode)  # both are restored
        patch.setattr(utils, 'load', utils.load)
        leave_configs_unformatted()
        read_metafiles_once()
        yield
