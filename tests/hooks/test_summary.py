import json

import numpy as np
import pytest
import torch

from kdmm.engine import Runner
from kdmm.hooks.summary import peak_memory_mib
from tests.engine.tiny_run import TinyMetric, config, validated


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
    assert found['seconds_per_iteration'] == pytest.approx(found['seconds'] / 4, rel=0.01)
    assert 50 < found['peak_memory_mib'] < 20000
    assert not (tmp_path / 'run_summary.json.part').exists()


def test_validation_is_not_counted(tmp_path, monkeypatch):
    import time

    real = TinyMetric.process
    monkeypatch.setattr(TinyMetric, 'process', lambda *a: (time.sleep(0.5), real(*a)))
    Runner.from_cfg(validated(config(tmp_path), interval=4)).train()
    assert summary(tmp_path)['seconds'] < 0.9  # two batches slept for 1 s


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
