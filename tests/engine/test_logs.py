"""Logs that cannot be written: one warning, and the run goes on."""

import errno
import logging

import pytest
from mmengine.visualization import LocalVisBackend

from kdmm.engine.logs import LogErrorHandler
from tests.engine.tiny_run import files, runner


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_run_goes_on_without_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalVisBackend, '_dump', full)
    made = runner(tmp_path)
    warned = []
    monkeypatch.setattr(made._log_errors._logger, 'warning', warned.append)
    made.train()
    assert 'iter_4.pth' in files(tmp_path)
    (told,) = (text for text in warned if 'cannot be written' in text)
    assert 'LocalVisBackend' in told and 'No space' in told


def test_a_log_file_that_is_full(tmp_path, capsys):
    logger = logging.Logger('of a test')
    logger.addHandler(handler := logging.FileHandler(tmp_path / 'run.log'))
    shown: list[str] = []
    screen = logging.Handler()
    screen.emit = lambda record: shown.append(record.getMessage())
    logger.addHandler(screen)
    handler.stream.close()
    handler.stream = open('/dev/full', 'w')  # noqa: SIM115
    LogErrorHandler(logger).guard_files()
    handler.stream.write('as MMEngine writes the initial weights')
    handler.stream.flush()
    for number in range(3):
        logger.warning(f'line {number}')
    assert [line for line in shown if 'run.log cannot be written' in line] == shown[:1]
    assert shown[1:] == ['line 0', 'line 1', 'line 2']
    assert 'Logging error' not in capsys.readouterr().err


def test_a_bug_in_a_line_of_the_log_is_shown(tmp_path, capsys):
    logger = logging.Logger('of a test')
    logger.addHandler(logging.FileHandler(tmp_path / 'run.log'))
    LogErrorHandler(logger).guard_files()
    logger.warning('%d', 'no number')
    assert 'Logging error' in capsys.readouterr().err


def test_other_errors_of_a_backend_are_raised(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError('a bug')

    monkeypatch.setattr(LocalVisBackend, '_dump', broken)
    with pytest.raises(KeyError, match='a bug'):
        runner(tmp_path).train()
