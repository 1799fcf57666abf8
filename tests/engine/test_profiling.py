"""The loop that measures, and the step in parts."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmm.distillers import CHILD
from kdmm.distillers.objective import set_aside
from kdmm.engine import Runner
from kdmm.engine.profiling import _is_collective
from kdmm.engine.resources import PartStatistics, ResourceMonitor
from kdmm.engine.split_step import detached_leaves, split_step, teacher_step
from tests.engine import tiny_run

TERMS = ['kd', 'parts']
PARTS = ['preprocessing', 'student forward', 'teacher forward', 'kd forward', 'parts forward']
PARTS += ['kd backward', 'parts backward', 'student backward', 'optimizer']


def profiled(work_dir: Path, **options: Any) -> Runner:
    cfg = tiny_run.config(work_dir, **{k: v for k, v in options.items() if k == 'kd'})
    names = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
    cfg.default_hooks = dict.fromkeys(names)
    loop = {k: v for k, v in options.items() if k != 'kd'}
    cfg.train_cfg = dict(type='kdmm.ProfileLoop', warmup=1, iters=2, **loop)
    return Runner.from_cfg(cfg)


def started(work_dir: Path, **options: Any) -> tuple[Runner, Any]:
    """A runner ready for a step, and a batch."""
    runner = tiny_run.runner(work_dir, **options)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    loop = runner.build_train_loop(runner._train_loop)
    runner.model.train()
    return runner, next(loop.dataloader_iterator)


class Names:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def part(self, name: str) -> Any:
        self.seen.append(name)
        return nullcontext()


def test_the_parts_make_the_same_step(tmp_path: Path) -> None:
    after = []
    for kind in ('whole', 'parts'):
        runner, batch = started(tmp_path / kind)
        before = copy.deepcopy(runner.model.state_dict())
        torch.manual_seed(0)  # dropout
        if kind == 'whole':
            runner.model.train_step(batch, runner.optim_wrapper)
        else:
            names = Names()
            split_step(runner, batch, names)
            assert names.seen == PARTS
        after.append({k: v - before[k] for k, v in runner.model.state_dict().items()})
    moved = [key for key, value in after[0].items() if value.abs().sum() > 0]
    assert 'stem.0.weight' in moved and len(moved) > 5
    for key in moved:
        torch.testing.assert_close(after[1][key], after[0][key], rtol=1e-4, atol=1e-7, msg=key)


def test_a_student_without_teacher_has_no_such_parts(tmp_path: Path) -> None:
    runner = profiled(tmp_path, kd=None)
    runner.train()
    parts = list(runner.train_loop.parts)
    assert not any('teacher' in name or 'kd' in name for name in parts)
    assert 'student forward' in parts and 'student backward' in parts


def test_measuring_changes_no_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = profiled(tmp_path)
    before = {k: v.clone() for k, v in runner.model.named_parameters()}
    runner.model._is_init = True  # the Runner initialises weights otherwise
    runner.train()
    for name, value in runner.model.named_parameters():
        assert torch.equal(value, before[name]), name
    loop = runner.train_loop
    every = ['data wait', 'hooks before', *PARTS, 'hooks after', 'communication']
    assert list(loop.parts) == every and loop.parts['communication']['ms'] == 0
    assert list(loop.whole) == ['data wait', 'hooks before', 'step', 'hooks after']
    assert all(row['ms'] >= row['min_ms'] > 0 for row in loop.whole.values())
    assert len(loop.seconds) == 2 and loop.peak > 0
    assert loop.iter == 2 * 3 and 'before the first step' in capsys.readouterr().out


def test_student_and_teacher_without_terms(tmp_path: Path) -> None:
    runner = profiled(tmp_path, apart=False, teacher_only=True)
    teacher = getattr(runner.model, CHILD).teachers[0]
    calls: list[int] = []
    teacher.module.register_forward_pre_hook(lambda *_: calls.append(1))
    runner.train()
    assert len(calls) == 3 and not len(getattr(runner.model, CHILD).terms)
    assert runner.train_loop.estimate is None and runner.train_loop.parts == {}


def test_views_and_no_labels_are_measured_as_they_run(tmp_path: Path) -> None:
    """Two teachers, one of a second image; the student sees a strong view of the batch."""
    kd = copy.deepcopy(tiny_run.KD)
    views = (dict(type='Grey'), dict(type='SecondImage', key='depth'))
    teachers = [dict(copy.deepcopy(kd['teacher']), inputs=view) for view in views]
    kd.update(teacher=teachers, inputs=dict(type='Photometric'), task=0)
    kd['losses']['kd']['teacher'] = 1
    runner = profiled(tmp_path, kd=kd)
    data = dict(type='kdmm.BlankImages', size=(16, 16), num_classes=3, second=dict(depth=3))
    runner._train_dataloader['dataset'] = dict(type='kdmm.SeededDataset', dataset=data)
    before = {k: v.clone() for k, v in runner.model.named_parameters()}
    runner.model._is_init = True
    runner.train()
    loop = runner.train_loop
    assert list(loop.parts) == ['data wait', 'hooks before', *PARTS, 'hooks after', 'communication']
    assert not loop.estimate.notes and loop.peak > 0
    assert all(torch.equal(value, before[k]) for k, value in runner.model.named_parameters())


def test_the_teacher_step_trains_like_the_student_alone(tmp_path: Path) -> None:
    moved = []
    for kind in ('teacher', 'alone'):
        runner, batch = started(tmp_path / kind)
        before = runner.model.head.weight.clone()
        torch.manual_seed(0)
        if kind == 'teacher':
            teacher_step(runner, batch)
        else:
            with set_aside(runner.model):
                runner.model.train_step(batch, runner.optim_wrapper)
        assert getattr(runner.model, CHILD) is not None
        moved.append(runner.model.head.weight - before)
    assert moved[0].abs().sum() > 0 and torch.equal(*moved)


def test_taps_are_cut_wherever_they_are_nested() -> None:
    pairs: list[Any] = []
    x, fixed = torch.ones(2, requires_grad=True) * 2, torch.ones(2)
    found = detached_leaves(dict(a=(x, [x * 3]), b=fixed, c='text'), pairs)
    assert len(pairs) == 2 and found['b'] is fixed and found['c'] == 'text'
    assert found['a'][0].is_leaf and found['a'][0].requires_grad
    assert pairs[0] == (x, found['a'][0])


def test_warm_up_is_not_counted() -> None:
    statistics = PartStatistics(ResourceMonitor('cpu'))
    statistics.seconds, statistics.added = dict(a=[9.0, 1.0, 2.0, 6.0]), dict(a=[9, 2**20, 0, 0])
    assert statistics.rows(1)['a'] == dict(ms=2000.0, min_ms=1000.0, mib=1.0)


def test_collectives_by_name() -> None:
    assert _is_collective('gloo:all_reduce') and _is_collective('nccl:_all_gather_base')
    assert not _is_collective('aten::mm') and not _is_collective('c10d::allreduce_')
