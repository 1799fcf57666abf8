"""The tiny job as fixtures, and refusals without a process for each."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.job import HERE, ROOT, Job, save_teacher, write_job
from tests.engine.conftest import quick_runner  # noqa: F401

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


@pytest.fixture
def refused_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Error output of a script or package that refuses, run in this process as ``__main__``."""
    monkeypatch.setenv('LOCAL_RANK', '0')  # the command lines set it; taken back afterwards

    def run(script: str, *arguments: str, cwd: Path = ROOT) -> str:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, 'argv', [str(ROOT / 'tools' / script), *arguments])
        with pytest.raises(SystemExit) as stop:
            if script.endswith('.py'):
                runpy.run_path(sys.argv[0], run_name='__main__')
            runpy.run_module(script, run_name='__main__')
        said = capsys.readouterr()
        assert stop.value.code == 2, said.out[-2000:] + said.err[-2000:]
        assert 'Traceback' not in said.err
        return said.err

    return run
