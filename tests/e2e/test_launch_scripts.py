"""The shell scripts' arguments, with programs that record what they are called with."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
RECORD = """#!{python}
import json, os, runpy, sys
if sys.argv[1:2] == ['-c']:
    exec(sys.argv[2])
    sys.exit()
names = ('OMP_NUM_THREADS', 'PYTHONPATH', 'MASTER_PORT')
json.dump(dict(argv=sys.argv[1:], env={{n: os.environ.get(n) for n in names}}), open({log!r}, 'w'))
sys.exit({code})
"""


class Launcher:
    """Runs a script of tools/ with a recording python and srun."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / 'call.json'
        self.python = folder / 'bin' / 'python'
        self.python.parent.mkdir()
        self.write(0)

    def write(self, code: int) -> None:
        for name in ('python', 'srun'):
            file = self.folder / 'bin' / name
            file.write_text(RECORD.format(python=sys.executable, log=str(self.log), code=code))
            file.chmod(0o755)

    def __call__(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        drop = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'PORT', 'GPUS', 'SRUN_ARGS')
        drop += ('GPUS_PER_NODE', 'CPUS_PER_TASK', 'OMP_NUM_THREADS', 'PYTHONPATH')
        clean = {k: v for k, v in os.environ.items() if k not in drop}
        clean.update(PATH=f'{self.folder / "bin"}:{clean["PATH"]}', PYTHON=str(self.python))
        clean.update(env)
        command = ['bash', str(TOOLS / script), *arguments]
        return subprocess.run(command, env=clean, cwd=self.folder, capture_output=True, text=True)

    def call(self, script: str, *arguments: str, **env: str) -> tuple[list[str], dict]:
        done = self(script, *arguments, **env)
        assert done.returncode == 0, done.stderr
        record = json.loads(self.log.read_text())
        return record['argv'], record['env']


@pytest.fixture
def launch(tmp_path):
    return Launcher(tmp_path)


def option(argv: list[str], name: str) -> str:
    (value,) = (a.partition('=')[2] for a in argv if a.startswith(f'{name}='))
    return value


def test_dist_train_on_one_node(launch):
    argv, env = launch.call('dist_train.sh', 'a b.py', '2', '--cfg-options', 'x=1 2', '--resume')
    assert argv[0] == str(TOOLS / 'torchrun.py')
    assert option(argv, '--nproc_per_node') == '2' and option(argv, '--nnodes') == '1'
    script = argv.index(str(TOOLS / 'train.py'))
    rest = ['a b.py', '--launcher', 'pytorch', '--cfg-options', 'x=1 2', '--resume']
    assert argv[script + 1 :] == rest
    assert 1024 <= int(option(argv, '--master_port')) < 65536
    assert env['PYTHONPATH'] == str(TOOLS.parent)
    assert int(env['OMP_NUM_THREADS']) == max(len(os.sched_getaffinity(0)) // 2, 1)


def test_two_runs_get_two_ports(launch):
    ports = {option(launch.call('dist_train.sh', 'c', '1')[0], '--master_port') for _ in range(3)}
    assert len(ports) > 1


def test_dist_test_puts_the_checkpoint_second(launch):
    argv, _ = launch.call('dist_test.sh', 'c.py', 'w.pth', '3', '--tta')
    script = argv.index(str(TOOLS / 'test.py'))
    assert argv[script + 1 :] == ['c.py', 'w.pth', '--launcher', 'pytorch', '--tta']
    assert option(argv, '--nproc_per_node') == '3'


def test_the_environment_of_several_nodes(launch):
    nodes = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='node0', OMP_NUM_THREADS='7')
    argv, env = launch.call('dist_train.sh', 'c.py', '8', PYTHONPATH='/elsewhere', **nodes)
    found = {
        n: option(argv, f'--{n}') for n in ('nnodes', 'node_rank', 'master_addr', 'master_port')
    }
    assert list(found.values()) == ['2', '1', 'node0', '29500']
    assert env['OMP_NUM_THREADS'] == '7' and env['PYTHONPATH'] == f'{TOOLS.parent}:/elsewhere'
    argv, _ = launch.call('dist_train.sh', 'c.py', '8', PORT='1234', **nodes)
    assert option(argv, '--master_port') == '1234'


@pytest.mark.parametrize(
    'script, arguments, message',
    [
        ('dist_train.sh', [], 'CONFIG and GPUS are needed'),
        ('dist_train.sh', ['c.py'], 'CONFIG and GPUS are needed'),
        ('dist_train.sh', ['c.py', '0'], "GPUS must be a positive number, got '0'"),
        ('dist_train.sh', ['c.py', '-1'], "got '-1'"),
        ('dist_train.sh', ['c.py', 'two'], "got 'two'"),
        ('dist_train.sh', ['c.py', '--resume'], "got '--resume'"),
        ('dist_test.sh', ['c.py', '2'], 'CONFIG, CHECKPOINT and GPUS are needed'),
        ('dist_test.sh', ['c.py', '2', 'w.pth'], "got 'w.pth'"),
        ('slurm_train.sh', ['p', 'j', 'c.py'], 'PARTITION, JOB_NAME, CONFIG and WORK_DIR'),
        ('slurm_test.sh', ['p', 'j', 'c.py'], 'PARTITION, JOB_NAME, CONFIG and CHECKPOINT'),
    ],
)
def test_wrong_arguments_print_the_usage(launch, script, arguments, message):
    done = launch(script, *arguments)
    assert done.returncode == 2
    assert message in done.stderr and f'usage: {script}' in done.stderr
    assert not launch.log.exists(), 'something was started'


@pytest.mark.parametrize(
    'env, message',
    [
        (dict(NNODES='2'), 'NNODES=2 needs MASTER_ADDR'),
        (dict(NNODES='x'), "NNODES must be a positive number, got 'x'"),
        (dict(PORT='http'), "PORT must be a positive number, got 'http'"),
        (dict(NODE_RANK='first'), "NODE_RANK must be a number from 0, got 'first'"),
        (dict(NODE_RANK='1'), 'NODE_RANK=1 is none of the NNODES=1 nodes, 0 to 0'),
    ],
)
def test_a_wrong_environment_is_refused(launch, env, message):
    done = launch('dist_train.sh', 'c.py', '2', **env)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'slurm_train.sh'])
def test_the_exit_code_is_kept(launch, script):
    launch.write(3)
    arguments = ['c.py', '2'] if script == 'dist_train.sh' else ['p', 'j', 'c.py', 'w']
    assert launch(script, *arguments).returncode == 3


def test_slurm_train(launch):
    env = dict(GPUS='16', CPUS_PER_TASK='3', SRUN_ARGS='--time=1:00 --exclusive', PORT='777')
    argv, environ = launch.call('slurm_train.sh', 'part', 'job', 'c.py', 'w d', '--resume', **env)
    assert option(argv, '--partition') == 'part' and option(argv, '--job-name') == 'job'
    assert option(argv, '--ntasks') == '16' and option(argv, '--ntasks-per-node') == '8'
    assert option(argv, '--gres') == 'gpu:8' and option(argv, '--cpus-per-task') == '3'
    assert '--time=1:00' in argv and '--exclusive' in argv
    program = argv[argv.index(str(launch.python)) :]
    assert program[1:3] == ['-u', str(TOOLS / 'train.py')]
    assert program[3:] == ['c.py', '--work-dir=w d', '--resume', '--launcher=slurm']
    assert environ['MASTER_PORT'] == '777'


def test_slurm_test_with_few_gpus(launch):
    argv, _ = launch.call('slurm_test.sh', 'part', 'job', 'c.py', 'w.pth', GPUS='2')
    assert option(argv, '--ntasks-per-node') == '2'
    program = argv[argv.index(str(launch.python)) :]
    assert program[2:] == [str(TOOLS / 'test.py'), 'c.py', 'w.pth', '--launcher=slurm']


@pytest.mark.parametrize('arguments, code', [(['--help'], 0), (['--nonsense'], 2)])
@pytest.mark.parametrize('script', ['setup.sh', 'offline_wheels.sh'])
def test_setup_explains_itself(launch, script, arguments, code):
    done = launch(script, *arguments)
    assert done.returncode == code and f'usage: {script}' in done.stdout + done.stderr


def test_the_wheels_for_a_host_without_network_are_complete():
    """By the metadata of what is installed here."""
    text = (TOOLS / 'offline_wheels.sh').read_text()
    (block,) = re.findall(r'^names=\((.*?)^\)', text, re.MULTILINE | re.DOTALL)
    names = re.sub('#.*', '', block).replace('==1.3.2', '').split()
    host = re.search(r'expected to have (.*), and what they need', text, re.DOTALL)[1]
    host = re.sub('[#,]|\n', ' ', host).split()
    assert 'torch' in host and 'rich' in host and len(names) > 20
    base = re.findall('^onedl-[a-z]+', (TOOLS.parent / 'requirements.txt').read_text(), re.M)
    taken = {'modelindex', 'model-index', 'kdmm', *base, *names}
    # nothing that runs there imports them, and the host has OpenCV
    left_out = {'chumpy', 'xtcocotools', 'cython', 'opencv-python-headless'}
    missing = needed({*base, 'mmpose', 'kdmm'}) - needed(host) - taken - left_out
    assert not missing


def needed(names) -> set[str]:
    """The distributions and all that their metadata requires, as far as they are installed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or ()
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
                waiting.append(requirement.name)
    return found


def test_setup_refuses_an_old_python(launch):
    launch.python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.10 && exit\nexit 1\n')
    done = launch('setup.sh', '--here')
    assert done.returncode == 1
    assert 'Python 3.10 or newer is needed' in done.stderr and '3.8.10' in done.stderr


def test_slurm_scripts_need_slurm(launch):
    (launch.folder / 'bin/srun').unlink()
    done = launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', PATH='/usr/bin:/bin')
    assert done.returncode == 2 and 'no srun' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('script', sorted({f.name for f in TOOLS.glob('*.sh')} - {'common.sh'}))
@pytest.mark.parametrize('arguments', [['--help'], ['-h'], ['c.py', '2', '--help']])
def test_help(launch, script, arguments):
    if 'dist' not in script and 'slurm' not in script:
        arguments = arguments[-1:]
    done = launch(script, *arguments)
    assert done.returncode == 0 and f'usage: {script}' in done.stdout and done.stderr == ''
    assert not launch.log.exists(), 'something was started'


@pytest.mark.parametrize('script', sorted(f.name for f in TOOLS.glob('*.sh')))
def test_the_syntax_is_sound(script):
    subprocess.run(['bash', '-n', str(TOOLS / script)], check=True)
