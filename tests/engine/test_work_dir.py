import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from kdmm.engine import Runner, cli
from kdmm.engine.work_dir import (
    LOCK,
    exclusive_run,
    latest_checkpoint,
    make_folder,
    remove_partial_files,
)
from kdmm.errors import ConfigError
from tests.engine.tiny_run import config, files, validated
from tests.errors import refused

HOLD = """
import os, sys, time
from kdmm.engine.work_dir import exclusive_run
with exclusive_run(sys.argv[1]):
    if os.fork() == 0:  # a data loader worker, which outlives a killed run for seconds
        time.sleep(60)
        os._exit(0)
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that trains in the work dir."""
    run = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert run.stdout.readline() == b'held\n'
    yield run
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def test_a_second_run_is_refused_by_name_until_the_first_is_gone(tmp_path, other):
    holder = f'process {other.pid}'
    with refused(key='work_dir', got=str(tmp_path), problem=holder, fix='--work-dir'):
        Runner.from_cfg(config(tmp_path)).train()
    assert files(tmp_path) == []
    with exclusive_run(str(tmp_path / 'another')):
        pass
    other.kill()  # its child lives on
    other.wait()
    began = time.monotonic()
    Runner.from_cfg(config(tmp_path, iters=2)).train()
    assert files(tmp_path) == ['iter_2.pth'] and time.monotonic() - began < 20


def test_a_refused_run_writes_nothing_and_a_validation_is_not_refused(tmp_path, other, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    config(tmp_path).dump(tmp_path / 'elsewhere.py')
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as info:
        cli.train([str(tmp_path / 'elsewhere.py')])
    assert info.value.code == 2 and sorted(os.listdir(tmp_path)) == before
    assert Runner.from_cfg(validated(config(tmp_path))).val() == dict(images=4)


def test_one_process_may_hold_it_twice(tmp_path):
    try_it = 'import fcntl, sys; fcntl.lockf(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)'

    def free() -> bool:
        command = [sys.executable, '-c', try_it, str(tmp_path / LOCK)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    with exclusive_run(str(tmp_path)):
        with exclusive_run(os.path.relpath(tmp_path)):
            assert not free()
        assert not free()
    assert free()


def test_a_rank_that_is_not_the_first_leaves_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr('kdmm.engine.work_dir.is_main_process', lambda: False)
    held = pickle.loads(pickle.dumps(ConfigError('held', key='work_dir', got='w')))
    monkeypatch.setattr('kdmm.engine.work_dir.all_gather_object', lambda mine: [held, mine])
    with refused(key='work_dir', got='w', problem='held'), exclusive_run(str(tmp_path)):
        pass
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize('error', [OSError(38, 'not implemented'), OSError(37, 'no locks')])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys, error):
    def no(*_: object) -> None:
        raise error

    monkeypatch.setattr('kdmm.engine.work_dir.fcntl.lockf', no)
    said = []
    monkeypatch.setattr('kdmm.engine.work_dir.print_log', lambda text, *_: said.append(text))
    with exclusive_run(str(tmp_path)):
        assert 'cannot be locked' in said[0] and str(tmp_path) in said[0]


# where a run goes on


@pytest.fixture
def work(tmp_path):
    """Iterations 2, 4 and 6 of a run of 8 that was killed."""
    folder = tmp_path / 'work'
    Runner.from_cfg(config(folder, iters=6)).train()
    return folder


def goes_on(folder: Path, **changes: object) -> tuple[int, str]:
    """The iteration that a resumed run begins with, and what it was told."""
    cfg = config(folder, iters=6, log_level='INFO', **changes)
    cfg.resume = True
    made = Runner.from_cfg(cfg)
    made.train_loop  # noqa: B018  (built on demand)
    made.optim_wrapper = made.build_optim_wrapper(made.optim_wrapper)
    made.load_or_resume()
    text = ''.join(path.read_text() for path in sorted(folder.glob('*/*.log'))[-1:])
    return made.iter, text


def unreadable(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


GARBLED = [b'', b'\n', b'\xff\x00\xfe', b'\x00' * 20, b'/gone/iter_9.pth']


@pytest.mark.parametrize('content', GARBLED)
def test_a_record_that_names_nothing_is_replaced_by_the_newest(work, content):
    (work / 'last_checkpoint').write_bytes(content)
    done, said = goes_on(work)
    assert done == 6 and f'going on from {work}/iter_6.pth' in said


def test_without_a_record_the_newest_that_can_be_resumed_is_taken(work):
    (work / 'last_checkpoint').unlink()
    best = torch.load(work / 'iter_6.pth', weights_only=False)
    del best['optimizer']
    torch.save(best, work / 'best_score_iter_6.pth')
    torch.save(best['state_dict'], work / 'peer1.pth')
    shutil.copy(work / 'iter_4.pth', work / 'epoch_9.pth')  # a higher number, fewer iterations
    assert goes_on(work)[0] == 6
    unreadable(work / 'iter_6.pth')
    assert goes_on(work)[0] == 4


def test_without_a_good_file_it_is_refused_and_they_are_named(work):
    (work / 'last_checkpoint').write_text('')
    for path in work.glob('*.pth'):
        unreadable(path)
    with refused(key='--resume', problem=[f'iter_{done}.pth' for done in (2, 4, 6)]):
        goes_on(work)


def test_a_work_dir_without_checkpoints_begins(tmp_path):
    assert goes_on(tmp_path)[0] == 0
    (tmp_path / 'last_checkpoint').write_text('')
    assert goes_on(tmp_path)[0] == 0


def test_a_moved_and_a_copied_work_dir_go_on_from_their_own_files(work, tmp_path):
    copied, moved = tmp_path / 'copied', tmp_path / 'moved'
    shutil.copytree(work, copied)
    os.rename(work, moved)
    assert latest_checkpoint(str(moved), {}) == str(moved / 'iter_6.pth')
    shutil.copytree(moved, work)
    assert latest_checkpoint(str(copied), {}) == str(copied / 'iter_6.pth')
    (copied / 'iter_6.pth').unlink()  # the original's is there
    assert latest_checkpoint(str(copied), {}) == str(copied / 'iter_4.pth')


def test_a_folder_of_the_hook_is_looked_into(tmp_path):
    cfg = config(tmp_path / 'work', default_hooks__checkpoint__out_dir=str(tmp_path / 'out'))
    Runner.from_cfg(cfg).train()
    assert latest_checkpoint(cfg.work_dir, cfg) == str(tmp_path / 'out/work/iter_4.pth')
    (tmp_path / 'work/last_checkpoint').write_text('')
    assert latest_checkpoint(cfg.work_dir, cfg) == str(tmp_path / 'out/work/iter_4.pth')
    os.rename(tmp_path / 'out', tmp_path / 'gone')
    assert latest_checkpoint(cfg.work_dir, cfg) is None


@pytest.mark.parametrize('place', ['work', 'out/work'])
def test_of_two_files_of_one_name_it_is_the_one_that_was_meant(tmp_path, place):
    """A signal's file is in the work dir, those of a hook with ``out_dir`` elsewhere."""
    paths = [tmp_path / 'work' / 'iter_4.pth', tmp_path / 'out' / 'work' / 'iter_4.pth']
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    named = str(tmp_path / place / 'iter_4.pth')
    (tmp_path / 'work' / 'last_checkpoint').write_text(named)
    cfg = config(tmp_path / 'work', default_hooks__checkpoint__out_dir=str(tmp_path / 'out'))
    assert latest_checkpoint(str(tmp_path / 'work'), cfg) == named


def test_an_address_is_left_to_its_backend(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/work/iter_4.pth')
    assert latest_checkpoint(str(tmp_path), Config()) == 's3://bucket/work/iter_4.pth'


def test_drafts_of_a_killed_run_go_when_the_next_one_begins(tmp_path):
    out = tmp_path / 'out/work'
    ours = ['iter_2.pth.part', 'best_score_iter_2.pth.part', 'last_checkpoint.part']
    theirs = ['data.tar.part', 'iter_2.pth.part.txt']
    cfg = config(tmp_path / 'work', default_hooks__checkpoint__out_dir=str(tmp_path / 'out'))
    for folder in (Path(cfg.work_dir), out):
        folder.mkdir(parents=True)
        for name in ours + theirs:
            (folder / name).write_bytes(b'half')
    remove_partial_files(cfg.work_dir, cfg)
    assert (out / ours[0]).exists()  # it may be another run's that is writing
    Runner.from_cfg(cfg).train()
    for folder in (Path(cfg.work_dir), out):
        assert sorted(path.name for path in folder.glob('*.part*')) == sorted(theirs)


@pytest.mark.parametrize('below', ['', '/w', '/a/b'])
def test_a_file_in_the_place_of_the_work_dir(tmp_path, below):
    (tmp_path / 'file').touch()
    place = f'{tmp_path}/file{below}'
    for start in (lambda: Runner.from_cfg(config(place)), lambda: exclusive_run(place).__enter__()):
        with refused(key='work_dir', got=place, expected='a folder in which files can be written'):
            start()


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_work_dir_that_cannot_be_written(tmp_path, monkeypatch, code):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr('tempfile.TemporaryFile', refuse)
    with refused(key='work_dir', got=str(tmp_path / 'w'), problem=os.strerror(code)):
        make_folder(str(tmp_path / 'w'), 'work_dir')


def test_a_work_dir_on_a_full_disk(tmp_path):
    """No file can grow beyond a kilobyte."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with refused(key='work_dir', got=str(tmp_path / 'w'), fix='room on its disk'):
            make_folder(str(tmp_path / 'w'), 'work_dir')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
