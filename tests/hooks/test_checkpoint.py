import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from kdmm.engine import Runner
from kdmm.hooks.checkpoint import AtomicLocalBackend, previous_checkpoint
from tests.engine.tiny_run import KD, TinyMetric, config, files, runner, validated


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.fixture
def target(tmp_path):
    path = tmp_path / 'sub' / 'a.pth'
    AtomicLocalBackend().put(b'old', str(path))
    return path


def test_a_file_is_written_and_replaced(target):
    assert target.read_bytes() == b'old'
    AtomicLocalBackend().put(b'newer', target)
    assert target.read_bytes() == b'newer' and os.listdir(target.parent) == ['a.pth']


def test_a_name_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AtomicLocalBackend().put(b'x', 'a.pth')
    assert Path('a.pth').read_bytes() == b'x'


@pytest.mark.parametrize('call', ['os.fsync', 'os.replace'])
def test_on_a_full_disk_the_old_file_stands(target, monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(OSError, match='No space left'):
            AtomicLocalBackend().put(b'new', str(target))
    assert target.read_bytes() == b'old' and os.listdir(target.parent) == ['a.pth']


def test_a_short_write_leaves_the_old_file(target, monkeypatch):
    class Short:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[:1])
            full()

    monkeypatch.setattr('builtins.open', lambda *a, real=open: Short(real(*a)))
    with pytest.raises(OSError, match='No space left'):
        AtomicLocalBackend().put(b'new', str(target))
    monkeypatch.undo()
    assert target.read_bytes() == b'old' and os.listdir(target.parent) == ['a.pth']


def test_an_interrupt_while_writing_leaves_the_old_file(target, monkeypatch):
    def interrupt(_: int) -> None:
        assert target.read_bytes() == b'old'  # it is not opened for writing
        raise KeyboardInterrupt

    monkeypatch.setattr('os.fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        AtomicLocalBackend().put(b'new', str(target))
    assert target.read_bytes() == b'old' and os.listdir(target.parent) == ['a.pth']


def keep_one(work_dir: Path, **changes: object) -> Runner:
    hook = dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=1)
    iters = changes.pop('iters', 4)
    return runner(work_dir, iters=iters, default_hooks__checkpoint={**hook, **changes})


def test_one_checkpoint_is_kept(tmp_path):
    keep_one(tmp_path).train()
    assert files(tmp_path) == ['iter_4.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_4.pth')


def test_the_previous_checkpoint_stands_and_is_named_when_a_save_fails(tmp_path, monkeypatch):
    written = []
    real = AtomicLocalBackend.put

    def put(self, content, path):
        if written:
            monkeypatch.setattr('os.fsync', full)
        real(self, content, path)
        written.append(os.path.basename(path))

    monkeypatch.setattr(AtomicLocalBackend, 'put', put)
    with pytest.raises(OSError, match=r'iter_2\.pth: .*No space left.*stands: .*iter_1\.pth'):
        keep_one(tmp_path).train()
    assert files(tmp_path) == ['iter_1.pth'] == written
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_1.pth')
    torch.load(tmp_path / 'iter_1.pth', weights_only=False)


@pytest.mark.parametrize('kd', [None, KD])
def test_what_stands_is_a_file_that_can_be_resumed(tmp_path, kd):
    runner(tmp_path, kd=kd, iters=6).train()
    weights = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    whole = dict(weights)
    del weights['optimizer']
    for name in ('best_score_iter_6.pth', 'peer1.pth', 'recalibrated.pth'):
        torch.save(weights, tmp_path / name)
    cfg = config(tmp_path, kd)

    def stands(failed: str) -> str:
        return previous_checkpoint(str(tmp_path), failed, cfg)

    assert stands('iter_8.pth').endswith(f'stands: {tmp_path}/iter_6.pth')
    assert stands('iter_6.pth').endswith('iter_4.pth')
    assert stands(str(tmp_path / 'iter_6.pth')).endswith('iter_4.pth')
    assert stands('/elsewhere/iter_6.pth').endswith('iter_6.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    assert stands('iter_6.pth').endswith('iter_2.pth')  # where --resume goes on
    (tmp_path / 'iter_2.pth').write_bytes(b'damaged')
    assert stands('iter_6.pth').endswith('iter_4.pth')
    (tmp_path / 'iter_4.pth').unlink()
    for rest in ({}, dict(kdmm={})):  # what a plain run resumes, and one with kd does not
        content = {key: value for key, value in whole.items() if key != 'kdmm'}
        torch.save({**content, **rest}, tmp_path / 'iter_6.pth')
        found = 'iter_6.pth' if kd is None or rest else 'no earlier checkpoint'
        assert found in stands('iter_8.pth')
    (tmp_path / 'iter_6.pth').unlink()
    assert 'no earlier checkpoint' in stands('iter_8.pth')


def best(work_dir: Path, scores: list[float], monkeypatch, **hook: object) -> Runner:
    monkeypatch.setattr(TinyMetric, 'values', list(scores))
    cfg = validated(config(work_dir, iters=len(scores)), interval=1)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=1,
        save_best='score', rule='greater', **hook,
    )  # fmt: skip
    return Runner.from_cfg(cfg)


def test_the_best_is_kept_beside_the_last(tmp_path, monkeypatch):
    best(tmp_path, [0.1, 0.5, 0.3], monkeypatch).train()
    assert files(tmp_path) == ['best_score_iter_2.pth', 'iter_3.pth']


def test_the_previous_best_stands_when_a_save_fails(tmp_path, monkeypatch):
    real = AtomicLocalBackend.put

    def put(self, content, path):
        if 'best_score_iter_2' in path:
            full()
        real(self, content, path)

    monkeypatch.setattr(AtomicLocalBackend, 'put', put)
    with pytest.raises(OSError, match=r'best_score_iter_2\.pth'):
        best(tmp_path, [0.1, 0.5], monkeypatch).train()
    assert files(tmp_path) == ['best_score_iter_1.pth', 'iter_2.pth']


def test_the_record_is_never_half_written(tmp_path, monkeypatch):
    """A process may end at any moment, and the machine, too."""
    seen = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        real(source, target)
        record = tmp_path / 'last_checkpoint'
        seen.append(record.read_text() if record.exists() else None)

    monkeypatch.setattr('os.replace', replace)
    keep_one(tmp_path, iters=3).train()
    names = [os.path.basename(text) for text in seen if text is not None]
    assert names[:5] == ['iter_1.pth', 'iter_1.pth', 'iter_2.pth', 'iter_2.pth', 'iter_3.pth']


def test_files_of_another_work_dir_are_never_touched(tmp_path, monkeypatch):
    """The best and the last are named in the resumed file, as they were called where it was."""
    first, copied = tmp_path / 'first', tmp_path / 'copied'
    best(first, [0.1, 0.5], monkeypatch).train()
    shutil.copytree(first, copied)
    before = files(first)
    again = best(copied, [0.7, 0.6, 0.0, 0.0], monkeypatch).cfg
    again.resume, again.experiment_name = True, 'tiny_copied'
    Runner.from_cfg(again).train()
    assert files(first) == before == ['best_score_iter_2.pth', 'iter_2.pth']
    assert files(copied) == ['best_score_iter_3.pth', 'iter_4.pth']
    hub = torch.load(copied / 'iter_4.pth', weights_only=False)['message_hub']['runtime_info']
    assert hub['best_ckpt'] == str(copied / 'best_score_iter_3.pth')
    assert hub['last_ckpt'] == str(copied / 'iter_4.pth')


def test_a_file_between_two_steps_of_the_optimizer_is_written_with_a_word(tmp_path):
    changes = dict(optim_wrapper__accumulative_counts=2, log_level='WARNING')
    runner(tmp_path, default_hooks__checkpoint__interval=3, **changes).train()
    text = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'iter_3.pth is written between two steps' in text
    assert 'iter_4.pth is written between' not in text


def test_a_constant_file_name_is_not_deleted_after_it_was_written(tmp_path, monkeypatch):
    keep_one(tmp_path / 'a', filename_tmpl='latest.pth').train()
    assert files(tmp_path / 'a') == ['latest.pth']
    best(tmp_path / 'b', [0.1, 0.5], monkeypatch, filename_tmpl='latest.pth').train()
    assert files(tmp_path / 'b') == ['best_score_latest.pth', 'latest.pth']


def test_a_hook_given_as_none_stays_away(tmp_path):
    runner(tmp_path, default_hooks__checkpoint=None).train()
    assert files(tmp_path) == []


def test_nothing_is_written_of_weights_that_are_no_numbers(tmp_path):
    made = runner(tmp_path, kd=None)
    made.train()
    with torch.no_grad():
        made.model.head.bias[0] = float('nan')
    with pytest.raises(RuntimeError, match=r'head\.bias is not finite: x\.pth.*iter_4\.pth'):
        made.save_checkpoint(str(tmp_path), 'x.pth', by_epoch=False)
    assert files(tmp_path) == ['iter_2.pth', 'iter_4.pth']
