import json
import os
import signal

import pytest
from mmengine.config import Config
from mmengine.registry import METRICS

from kdmm.engine import cli
from kdmm.errors import ConfigError
from kdmm.hooks.nonfinite import NonFiniteError
from tests.engine.tiny_run import TinyMetric, config
from tests.errors import refused


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
    cfg.test_evaluator = dict(type='WritingMetric')
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


@pytest.mark.parametrize(
    ('flags', 'amp', 'resume'),
    [
        (['--amp', 'FILE'], True, False),
        (['--resume', 'FILE'], False, True),
        (['--amp', '--resume', 'FILE'], True, True),
    ],
)
def test_a_flag_swallows_no_config(fake, file, flags, amp, resume):
    cli.train([file if flag == 'FILE' else flag for flag in flags])
    assert fake.cfg.resume is resume and fake.cfg.get('load_from') is None
    assert (fake.cfg.optim_wrapper.get('type') == 'AmpOptimWrapper') is amp


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['--amp', 'float8', 'c.py'], "invalid choice: 'float8'"),
        (['c.py', '--cfg-options', 'model'], "'model' is no key=value"),
        (['--cfg-options', 'a=1', 'c.py'], "'c.py' is no key=value"),
        (['c.py', '--cfg-options', '=3'], "'=3' is no key=value"),
        (['c.py', '--cfg-options', 'a=[1,2'], 'a=[1,2: Imbalanced brackets'),
    ],
)
def test_wrong_command_lines(fake, capsys, arguments, told):
    with pytest.raises(SystemExit) as info:
        cli.train(arguments)
    said = capsys.readouterr().err
    assert info.value.code == 2 and told in said.splitlines()[-1] and 'usage: ' in said


@pytest.mark.parametrize('flags, dtype', [(['--amp'], None), (['--amp', 'bfloat16'], 'bfloat16')])
def test_mixed_precision(fake, file, flags, dtype):
    cli.train([file, *flags])
    assert fake.cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert fake.cfg.optim_wrapper.get('dtype') == dtype


def test_testing_evaluates_the_student_alone(fake, file, tmp_path):
    cli.test([file, 'a.pth', '--out', str(tmp_path / 'out')])
    assert fake.calls == ['test'] and 'kd' not in fake.cfg and fake.cfg.load_from == 'a.pth'
    assert fake.cfg.test_evaluator.output_dir == str(tmp_path / 'out')


@METRICS.register_module(force=True)
class WritingMetric(TinyMetric):
    def __init__(self, output_dir: str = '', keep_results: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)


def test_predictions_of_several_metrics(tmp_path):
    """Those that write are told where, the others are left as they are."""
    metrics = [dict(type='TinyMetric'), dict(type='WritingMetric')]
    cfg = Config(dict(default_scope='mmengine', test_evaluator=metrics))
    cli.keep_predictions(cfg, str(tmp_path / 'out'))
    assert cfg.test_evaluator[0] == dict(type='TinyMetric')
    assert cfg.test_evaluator[1].output_dir == str(tmp_path / 'out')
    (tmp_path / 'file').touch()
    with refused(key='--out', got=str(tmp_path / 'file'), expected='a folder'):
        cli.keep_predictions(cfg, str(tmp_path / 'file'))
    for none in (dict(type='TinyMetric'), None, metrics[:1]):
        cfg.test_evaluator = none
        with refused(key='--out', got='out', problem='no metric of test_evaluator'):
            cli.keep_predictions(cfg, 'out')


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
    said = capsys.readouterr().err
    assert info.value.code == 2 and 'cannot be read' in said and "got 'no/such.py'" in said
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
