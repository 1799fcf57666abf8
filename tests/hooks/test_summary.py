import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from kdmm.engine import Runner
from kdmm.hooks.summary import RunSummaryHook, peak_memory_mib
from tests.engine.tiny_run import KD, TinyMetric, by_epoch, config, files, validated


def summary(work_dir) -> dict:
    return json.loads((work_dir / 'run_summary.json').read_text())


def test_what_a_run_leaves(tmp_path):
    Runner.from_cfg(validated(config(tmp_path))).train()
    found = summary(tmp_path)
    assert set(found) == {
        'seconds', 'iterations', 'seconds_per_iteration', 'peak_memory_mib', 'device',
        'world_size', 'seed', 'metrics', 'metrics_at',
    }  # fmt: skip
    assert found['iterations'] == 4 and found['world_size'] == 1 and found['seed'] == 0
    assert found['metrics'] == dict(images=4) and found['metrics_at'] == 4
    assert 0 < found['seconds_per_iteration'] < found['seconds']
    assert 50 < found['peak_memory_mib'] < 20000
    assert not (tmp_path / 'run_summary.json.part').exists()


def test_validation_is_not_counted(tmp_path, monkeypatch):
    real = TinyMetric.process
    monkeypatch.setattr(TinyMetric, 'process', lambda *a: (time.sleep(0.5), real(*a)))
    Runner.from_cfg(validated(config(tmp_path), interval=4)).train()
    assert summary(tmp_path)['seconds'] < 0.9  # two batches slept for 1 s


def test_time_per_iteration_is_the_median_of_steps_without_validation(tmp_path, monkeypatch):
    runner = SimpleNamespace(iter=0, work_dir=str(tmp_path), world_size=1, seed=0)
    clock = iter([0.0, 1.0, 2.0, 4.0, 5.0, 100.0, 101.0, 104.0, 105.0])
    monkeypatch.setattr('kdmm.hooks.summary.time.perf_counter', lambda: next(clock))
    hook = RunSummaryHook()
    hook.before_train(runner)
    for _ in range(3):  # at 1, 2, 4: steps of 1 and 2; the first iteration is warm-up
        hook.after_train_iter(runner, 0)
    hook.before_val(runner)
    hook.after_val(runner)
    for _ in range(2):  # at 101, 104: a step of 3
        hook.after_train_iter(runner, 0)
    runner.iter = 5
    hook.after_train(runner)
    assert summary(tmp_path)['seconds_per_iteration'] == 2
    assert summary(tmp_path)['seconds'] == 105 - 95


def test_one_iteration_has_no_time(tmp_path):
    Runner.from_cfg(config(tmp_path, iters=1)).train()
    assert summary(tmp_path)['seconds_per_iteration'] is None


def test_a_resumed_run_counts_its_own_iterations(tmp_path):
    Runner.from_cfg(config(tmp_path, iters=2)).train()
    cfg = config(tmp_path, iters=5)
    cfg.load_from, cfg.resume = str(tmp_path / 'iter_2.pth'), True
    Runner.from_cfg(cfg).train()
    assert summary(tmp_path)['iterations'] == 3


@pytest.mark.parametrize(
    'value', [[0.1, 0.2], torch.ones(2, 2), 'text', None, dict(a=1), np.ones(3)]
)
def test_metrics_that_are_no_numbers_do_not_stop_a_run(tmp_path, monkeypatch, value):
    """mmpretrain's class-wise metrics are lists, its confusion matrix a tensor."""
    monkeypatch.setattr(TinyMetric, 'values', [value])
    cfg = validated(config(tmp_path, kd=None, iters=2))
    cfg.log_level = 'CRITICAL'
    cfg.default_hooks.logger = None
    Runner.from_cfg(cfg).train()
    assert summary(tmp_path)['iterations'] == 2


@pytest.mark.parametrize('value', [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_metrics_of_any_number_type_are_kept(tmp_path, monkeypatch, value):
    monkeypatch.setattr(TinyMetric, 'values', [value])
    Runner.from_cfg(validated(config(tmp_path, kd=None, iters=2))).train()
    assert summary(tmp_path)['metrics'] == dict(score=0.5)


def test_memory_is_measured():
    assert peak_memory_mib() > 50


# killed behind the last iteration


class KilledError(Exception):
    """Stands for the end of a process."""


class Kill(Hook):
    """Ends the run at one of its points, the ``at``-th time."""

    priority = 'HIGH'

    def __init__(self, point: str, at: int) -> None:
        self.left = at
        setattr(self, point, self._kill)

    def _kill(self, *_: object, **__: object) -> None:
        self.left -= 1
        if not self.left:
            raise KilledError


def ends(folder: Path, kd: dict | None, epochs: bool = False) -> Config:
    """Two validations, the second at the end, of which the best file is kept."""
    cfg = config(folder, kd, log_level='WARNING')
    cfg = validated(by_epoch(cfg) if epochs else cfg, interval=1 if epochs else 2)
    cfg.train_cfg.pop('val_interval' if epochs else '', None)
    cfg.default_hooks.checkpoint.update(save_best='images', rule='greater')
    return cfg


def killed(cfg: Config, point: str, at: int = 2) -> None:
    made = Runner.from_cfg(cfg)
    made.register_hook(Kill(point, at))
    with pytest.raises(KilledError):
        made.train()


def again(cfg: Config) -> int:
    """Number of validations that a resumed run makes."""
    cfg.resume = True
    cfg.experiment_name += '_again'
    made, seen = Runner.from_cfg(cfg), []
    made.val_loop.run, real = lambda: seen.append(made.iter) or real(), made.val_loop.run
    made.train()
    assert all(done == made.max_iters for done in seen)
    return len(seen)


@pytest.mark.parametrize('point', ['before_val', 'after_val_iter', 'after_val_epoch'])
@pytest.mark.parametrize('epochs', [False, True])
@pytest.mark.parametrize('kd', [None, KD])
def test_a_run_that_was_killed_in_its_last_validation_is_validated(tmp_path, point, epochs, kd):
    cfg = ends(tmp_path, kd, epochs)
    killed(cfg, point, at=4 if point == 'after_val_iter' else 2)
    assert not (tmp_path / 'run_summary.json').exists()
    assert again(cfg) == 1
    found = summary(tmp_path)
    assert found['metrics'] == dict(images=4) and found['iterations'] == 0
    assert found['metrics_at'] == (8 if epochs else 4)
    before = (tmp_path / 'run_summary.json').read_text()
    assert again(cfg) == 0 and (tmp_path / 'run_summary.json').read_text() == before


def test_its_best_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyMetric, 'values', [0.1, 0.7])
    cfg = ends(tmp_path, KD)
    cfg.default_hooks.checkpoint.save_best = 'score'
    killed(cfg, 'before_val')
    assert again(cfg) == 1
    assert 'best_score_iter_4.pth' in files(tmp_path)


def test_the_summary_of_another_run_in_the_work_dir_says_nothing_of_this_one(tmp_path):
    Runner.from_cfg(ends(tmp_path, None)).train()
    os.utime(tmp_path / 'run_summary.json', (time.time() - 60,) * 2)
    cfg = ends(tmp_path, None)
    killed(cfg, 'before_val')
    assert again(cfg) == 1


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"metrics_at": 2}'])
def test_a_summary_that_says_nothing_of_the_end(tmp_path, text):
    cfg = ends(tmp_path, None)
    Runner.from_cfg(cfg).train()
    (tmp_path / 'run_summary.json').write_text(text)
    assert again(cfg) == 1


def test_a_validation_that_is_not_due_is_not_made(tmp_path):
    cfg = ends(tmp_path, None)
    cfg.train_cfg.val_begin = 5
    Runner.from_cfg(cfg).train()
    assert again(cfg) == 0
    shorter = ends(tmp_path, None)
    shorter.train_cfg.max_iters = 3  # it is behind its end
    (tmp_path / 'run_summary.json').unlink()
    assert again(shorter) == 0


def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch):
    """A warning suffices: the trained weights are saved."""

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('kdmm.hooks.summary.write_file', full)
    made = Runner.from_cfg(config(tmp_path))
    said: list[str] = []
    monkeypatch.setattr(made.logger, 'warning', said.append)
    made.train()
    assert any('run_summary.json cannot be written' in text for text in said)
