"""The tiny job as fixtures."""

import sys
from pathlib import Path

import pytest

from tests.e2e.job import HERE, Job, save_teacher, write_job

if str(HERE) not in sys.path:  # the configs import e2e_hooks
    sys.path.insert(0, str(HERE))


@pytest.fixture(scope='session')
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job, shared: tests write into work dirs of their own."""
    made = write_job(tmp_path_factory.mktemp('job'))
    save_teacher(made)
    return made


@pytest.fixture
def fresh_job(tmp_path: Path) -> Job:
    """A job whose files a test may spoil."""
    made = write_job(tmp_path / 'job')
    save_teacher(made)
    return made
