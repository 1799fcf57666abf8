"""Last line and exit code of tools/torchrun.py."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

WORKER = """
import json, os, sys, time
rank = int(os.environ['RANK'])
with open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w') as file:
    json.dump(dict(message=f'kdmm: error (rank {rank}): wrong', timestamp=1, time=rank,
                   expected=True), file)
os.write(2, b'noise;')
sys.exit(2)
"""


@pytest.fixture
def torchrun():
    import importlib.util

    spec = importlib.util.spec_from_file_location('kdmm_torchrun', TOOLS / 'torchrun.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failure(code: int, **data: object) -> SimpleNamespace:
    return SimpleNamespace(exitcode=code, error_file_data=data, message=data.get('message', ''))


@pytest.mark.parametrize(
    ('failures', 'code', 'last'),
    [
        ({1: failure(2, message='b', time=2.0, expected=True),
          0: failure(2, message='a', time=1.0, expected=True)}, 2, 'a'),
        ({0: failure(1, message='Traceback of a peer', time=1.0, expected=False),
          1: failure(2, message='a message', time=2.0, expected=True)}, 2, 'a message'),
        ({0: failure(-6), 1: failure(1, message='Traceback', time=3.0, expected=False)},
         1, 'Traceback'),
        ({0: failure(-9)}, 137, 'ended by SIGKILL: was the memory exhausted?'),
        ({1: failure(143)}, 143, ''),
    ],
)  # fmt: skip
def test_one_is_heard(torchrun, capsys, failures, code, last):
    assert torchrun._report(failures) == code
    said = capsys.readouterr().err
    assert said.strip().endswith(last) and said.count('\n') == bool(last)


def test_a_port_in_use(torchrun, capsys):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert torchrun.main([f'--master_port={port}', '--nproc_per_node=2', 'none.py']) == 2
    assert f'PORT {port} cannot be used' in capsys.readouterr().err
    assert torchrun.main(['--master_port=70000', 'none.py']) == 2
    assert 'PORT 70000: there is no such port' in capsys.readouterr().err


def test_two_processes_that_say_the_same(tmp_path):
    """The message is the last line, torchrun adds nothing, and the exit code is the processes'."""
    (tmp_path / 'worker.py').write_text(WORKER)
    command = [sys.executable, str(TOOLS / 'torchrun.py'), '--nproc_per_node=2']
    command += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', str(tmp_path / 'worker.py')]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and 'wrong' in lines[-1]
    assert sum('wrong' in line for line in lines) == 1 and 'Traceback' not in done.stderr
    assert done.stderr.replace('noise;', '').startswith('kdmm: error') and len(lines) == 1


def test_the_variable_has_one_name(torchrun):
    from kdmm.engine import launch

    assert torchrun.COLLECTED == launch.COLLECTED
