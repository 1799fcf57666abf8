"""`tools/check_configs.py` on configs of a moment: one that trains, and ones that cannot."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmpretrain')

import check_configs  # noqa: E402
import mmpretrain.datasets  # noqa: E402, F401  (children inherit what is imported)
import mmpretrain.evaluation  # noqa: E402, F401
import mmpretrain.models  # noqa: E402, F401

from tests.e2e import config_table  # noqa: E402

GOOD = 'cls_kd/cifar10_small_sp.py'


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, list[str]]]:
    """Exit code and lines of the command, for a table of one good config and those given."""
    monkeypatch.setattr(check_configs, 'prepare', lambda: None)  # its settings would stay

    def run(*arguments: str, shrink: Any = None, **texts: str) -> tuple[int, list[str]]:
        good = config_table.TABLE[GOOD]
        table = {GOOD: good if shrink is None else replace(good, shrink=shrink)}
        for name, text in texts.items():
            file = tmp_path / f'{name}.py'
            file.write_text(f"_base_ = '{config_table.CONFIGS / GOOD}'\n{text}")
            table[str(file)] = good
        monkeypatch.setattr(config_table, 'TABLE', table)
        code = check_configs.main([*arguments, '--jobs', '1'])
        return code, capsys.readouterr().out.splitlines()

    return run


def test_a_broken_config_is_reported_and_the_next_is_tried(check: Any, tmp_path: Path) -> None:
    """It is the first of the table; the message is that of the key, and the log is kept."""
    code, lines = check(
        '--logs', str(tmp_path / 'logs'), broken="kd = dict(losses=dict(sp=dict(on='nowhere')))"
    )
    assert code == 1 and len(lines) == 3
    assert re.fullmatch(rf'ok +\d+\.\d s  {re.escape(GOOD)}', lines[0])
    assert re.match(r'error +\d+\.\d s  \S+/broken.py: ConfigError: kd.losses.sp.on', lines[1])
    assert re.fullmatch(r'2 configs in \d+ s: 1 ok, 1 error, 0 skipped', lines[2])
    (log,) = (tmp_path / 'logs').iterdir()
    assert 'Traceback' in log.read_text() and log.stem.endswith('broken.py')


def test_what_a_run_does_not_leave_is_an_error(check: Any) -> None:
    """One iteration in place of two, in a config that trains well."""

    def too_short(cfg: Any, data: Path, work_dir: Path) -> None:
        config_table.FAMILIES['cls_kd'].shrink(cfg, data, work_dir)
        cfg.train_dataloader.batch_size = 8

    code, lines = check(shrink=too_short)
    assert code == 1 and 'AssertionError: 1 iterations in place of 2' in lines[0]


def test_a_process_that_hangs_or_dies_is_an_error(check: Any) -> None:
    code, lines = check('--timeout', '0.2', shrink=lambda *_: time.sleep(60))
    assert code == 1 and 'not done after 0' in lines[0]
    code, lines = check(shrink=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert code == 1 and 'its process ended with code -9' in lines[0]


def test_ctrl_c_ends_it_and_its_processes(check: Any, tmp_path: Path) -> None:
    """Also a process that the config's own has started."""
    main = threading.get_ident()

    def hang(*_: Any) -> None:
        other = subprocess.Popen(['sleep', '60'])
        (tmp_path / 'started').write_text(f'{os.getpid()} {other.pid}')
        (tmp_path / 'started').rename(tmp_path / 'pids')
        time.sleep(60)

    def interrupt() -> None:
        while not (tmp_path / 'pids').is_file():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    waiter = threading.Thread(target=interrupt)
    waiter.start()
    code, lines = check(shrink=hang)
    waiter.join()
    assert code == 130 and lines[-1].endswith('1 not tried: interrupted')
    assert not any(map(runs, (tmp_path / 'pids').read_text().split()))


def runs(pid: str) -> bool:
    """Say that a process is there and is no zombie."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_library_that_is_missing_is_the_reason(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_configs, 'find_spec', lambda name: None)
    code, lines = check()
    assert code == 0
    assert lines[0].endswith(f'{GOOD}: mmpretrain is not installed')
    assert lines[1].endswith('0 ok, 0 error, 1 skipped')


def test_patterns_are_globs_or_parts_of_paths(capsys: pytest.CaptureFixture[str]) -> None:
    table = config_table.TABLE
    assert check_configs.chosen([]) == list(table)
    assert check_configs.chosen(['cirkd/', GOOD]) == [
        name for name in table if name.startswith('cirkd/') or name == GOOD
    ]
    globbed = check_configs.chosen(['mcl/*_x4_*'])
    assert globbed and all(name.startswith('mcl/') and '_x4_' in name for name in globbed)
    with pytest.raises(SystemExit) as stop:
        check_configs.main(['crd', 'no_such'])
    assert stop.value.code == 2 and "matches 'no_such'" in capsys.readouterr().err
