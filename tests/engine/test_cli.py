import json
import os
import signal

import pytest

from kdmm.engine import cli
from kdmm.errors import ConfigError
from kdmm.hooks.nonfinite import NonFiniteError
from tests.engine.tiny_run import config


class Fake:
    """In place of the Runner; keeps the config, does nothing or fails."""

    def __init__(self) -> None:
        self.cfg, self.calls, self.error = None, [], None

    def __call__(self, cfg):
        self.cfg = cfg
        return self

    def train(self) -> None:
        self.calls.append('train')
        if self.error:
            raise self.error

    test = lambda self: self.calls.append('test')  # noqa: E731


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(cli, 'build_runner', made)
    monkeypatch.delenv('KDMM_TRACEBACK', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return made


@pytest.fixture
def file(tmp_path):
    cfg = config(tmp_path / 'work')
    cfg.test_evaluator = dict(type='TinyMetric')
    cfg.dump(tmp_path / 'c.py')
    return str(tmp_path / 'c.py')


def test_the_flags_of_training(fake, file, tmp_path):
    cli.train([file, '--work-dir', str(tmp_path / 'w'), '--cfg-options', 'train_cfg.max_iters=7',
               'model.width=6'])  # fmt: skip
    cfg = fake.cfg
    assert fake.calls == ['train'] and cfg.resume is False and cfg.launcher == 'none'
    assert cfg.work_dir == str(tmp_path / 'w')
    assert cfg.train_cfg.max_iters == 7 and cfg.model.width == 6
    assert cfg.optim_wrapper.get('type') is None


@pytest.mark.parametrize('flags, load_from', [(['--resume'], None), (['--resume', 'a'], 'a')])
def test_resuming(fake, file, flags, load_from):
    cli.train([file, *flags])
    assert fake.cfg.resume is True and fake.cfg.get('load_from') == load_from


@pytest.mark.parametrize('begun', [False, True])
def test_a_run_that_began_from_weights_resumes_from_its_own_checkpoint(fake, file, tmp_path, begun):
    if begun:
        (tmp_path / 'work').mkdir()
        (tmp_path / 'work/last_checkpoint').write_text('iter_2.pth')
        (tmp_path / 'work/iter_2.pth').touch()
    cli.train([file, '--resume', '--cfg-options', 'load_from=start.pth'])
    assert fake.cfg.resume is begun
    assert fake.cfg.load_from == (None if begun else 'start.pth')


@pytest.mark.parametrize('flags, dtype', [(['--amp'], None), (['--amp', 'bfloat16'], 'bfloat16')])
def test_mixed_precision(fake, file, flags, dtype):
    cli.train([file, *flags])
    assert fake.cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert fake.cfg.optim_wrapper.get('dtype') == dtype


def test_testing_evaluates_the_student_alone(fake, file, tmp_path):
    cli.test([file, 'a.pth', '--out', str(tmp_path / 'out')])
    assert fake.calls == ['test'] and 'kd' not in fake.cfg and fake.cfg.load_from == 'a.pth'
    assert fake.cfg.test_evaluator.output_dir == str(tmp_path / 'out')


@pytest.mark.parametrize(
    'error, code', [(ConfigError('kd.x: wrong'), 2), (NonFiniteError('not finite'), 1)]
)
def test_a_wrong_input_is_one_message(fake, file, capsys, error, code):
    fake.error = error
    with pytest.raises(SystemExit) as info:
        cli.train([file])
    message = capsys.readouterr().err
    assert info.value.code == code and str(error) in message and 'Traceback' not in message
    assert message.startswith('kdmm: error (rank ')


def test_a_full_disk_is_one_message(tmp_path, capsys, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('os.fsync', full)
    config(tmp_path / 'work').dump(tmp_path / 'c.py')
    with pytest.raises(SystemExit) as info:
        cli.train([str(tmp_path / 'c.py')])
    assert info.value.code == 1
    assert 'could not write' in (message := capsys.readouterr().err)
    assert 'no earlier checkpoint' in message and 'Traceback' not in message


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_nothing_is_trained_is_one_message(fake, file, capsys, number, code):
    before = signal.getsignal(signal.SIGTERM)
    fake.train = lambda: os.kill(os.getpid(), number)
    with pytest.raises(SystemExit) as info:
        cli.train([file])
    message = capsys.readouterr().err
    assert info.value.code == code and message.startswith(f'kdmm: {number.name} (rank 0): ended')
    assert 'Traceback' not in message and signal.getsignal(signal.SIGTERM) is before


def test_the_traceback_can_be_had(fake, file, monkeypatch):
    monkeypatch.setenv('KDMM_TRACEBACK', '1')
    fake.error = ConfigError('kd.x: wrong')
    with pytest.raises(ConfigError):
        cli.train([file])


def test_a_missing_config_and_missing_data(fake, file, capsys):
    with pytest.raises(SystemExit) as info:
        cli.train(['no/such.py'])
    assert info.value.code == 2 and "'no/such.py' cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.train([file, '--cfg-options', 'train_dataloader.dataset.data_root=/no/where'])
    assert 'train_dataloader.dataset.data_root' in capsys.readouterr().err
    assert fake.calls == []


def test_a_whole_run(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    cfg = config(tmp_path / 'work')
    cfg.dump(tmp_path / 'c.py')
    cli.train([str(tmp_path / 'c.py')])
    assert json.loads((tmp_path / 'work' / 'run_summary.json').read_text())['iterations'] == 4
    assert (tmp_path / 'work' / 'c.py').exists()
