import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from kdmm.distillers import ConfigError, distill
from kdmm.engine import Runner
from kdmm.hooks.distill import ENTRY, DistillHook, objective_of
from tests.distillers.tiny_models import TEACHER, build, tiny
from tests.engine.tiny_run import KD, TinyData, by_epoch, config, runner, validated

STATE = {f'terms.parts.loss.{key}' for key in ('projector.weight', 'projector.bias', 'queue')}


@pytest.fixture
def student():
    return distill(tiny(), **{**copy.deepcopy(KD), 'teacher': TEACHER})


def load(path) -> dict:
    return torch.load(path, weights_only=False)


def saved(student, **entries) -> dict:
    checkpoint = dict(state_dict=student.state_dict(), **entries)
    DistillHook().before_save_checkpoint(None, checkpoint)
    return checkpoint


def test_the_students_state_is_pure_and_the_rest_has_an_entry(student):
    checkpoint = saved(student, optimizer={})
    assert list(checkpoint['state_dict']) == list(build(tiny()).state_dict())
    assert set(checkpoint[ENTRY]) == STATE
    assert not any(key.startswith('kd') for key in checkpoint['state_dict']._metadata)
    build(tiny()).load_state_dict(checkpoint['state_dict'], strict=True)


def test_without_an_optimizer_there_is_no_entry(student):
    assert set(saved(student)) == {'state_dict'}


def test_a_second_hook_takes_nothing_away(student):
    """The engine registers one; somebody's config may have another."""
    checkpoint = saved(student, optimizer={})
    DistillHook().before_save_checkpoint(None, checkpoint)
    assert set(checkpoint[ENTRY]) == STATE


def test_the_model_itself_keeps_its_state(student):
    before = list(student.state_dict())
    saved(student, optimizer={})
    assert list(student.state_dict()) == before


def test_resuming_restores_the_entry(student):
    student.kd.terms['parts'].loss.queue.fill_(5.0)
    checkpoint = saved(student, optimizer={})
    other = distill(tiny(), **{**copy.deepcopy(KD), 'teacher': TEACHER})
    DistillHook().after_load_checkpoint(SimpleNamespace(_resume=True, model=other), checkpoint)
    for key, value in student.kd.state_dict().items():
        assert torch.equal(other.kd.state_dict()[key], value)


def test_loading_without_resuming_leaves_the_state(student):
    checkpoint = saved(student, optimizer={})
    before = copy.deepcopy(student.kd.state_dict())
    checkpoint[ENTRY] = {}
    DistillHook().after_load_checkpoint(SimpleNamespace(_resume=False, model=student), checkpoint)
    assert all(torch.equal(student.kd.state_dict()[key], value) for key, value in before.items())


def test_resuming_a_plain_checkpoint_is_refused(student):
    checkpoint = saved(student)
    with pytest.raises(ConfigError, match='no distillation state.*load_from instead of resume'):
        DistillHook().after_load_checkpoint(
            SimpleNamespace(_resume=True, model=student), checkpoint
        )


def test_an_entry_of_another_objective_is_refused(student):
    checkpoint = saved(student, optimizer={})
    del checkpoint[ENTRY]['terms.parts.loss.queue']
    with pytest.raises(
        ConfigError, match=r'distillation state.*\n.*missing: terms.parts.loss.queue'
    ):
        DistillHook().after_load_checkpoint(
            SimpleNamespace(_resume=True, model=student), checkpoint
        )


def test_a_teacher_that_changes_is_an_error(tmp_path):
    made = runner(tmp_path)
    teacher = objective_of(made.model).teachers[0]

    class Touch(Hook):
        def after_train_iter(self, *_, **__):
            with torch.no_grad():
                teacher.module.stem[1].running_mean[0] += 1e-3

    made.register_hook(Touch())
    with pytest.raises(RuntimeError, match='teacher 0 changed'):
        made.train()


def test_files_of_a_run(tmp_path):
    made = runner(tmp_path, custom_hooks=[dict(type='EMAHook')])
    made.train()
    content = load(tmp_path / 'iter_4.pth')
    plain = build(tiny())
    plain.load_state_dict(content['state_dict'], strict=True)
    assert set(content[ENTRY]) == STATE
    assert content[ENTRY]['terms.parts.loss.queue'].tolist() == [8, 8]  # 4 batches of 2
    names = {f'module.{key}' for key in plain.state_dict()} | {'steps'}
    assert set(content['ema_state_dict']) == names
    ema, raw = content['state_dict'], content['ema_state_dict']
    assert not torch.equal(ema['body.weight'], raw['module.body.weight'])
    # the file's student is the average, as the base library's EMA files are
    assert torch.equal(raw['module.body.weight'], made.model.body.weight)
    assert len(content['optimizer']['param_groups'][0]['params']) == len(
        list(made.model.parameters())
    )


def test_other_hooks_see_the_pure_state(tmp_path):
    seen = []

    class Look(Hook):
        priority = 'HIGH'

        def before_save_checkpoint(self, runner, checkpoint):
            seen.extend(checkpoint['state_dict'])

    made = runner(tmp_path, iters=2)
    made.register_hook(Look())
    made.train()
    assert seen == list(build(tiny()).state_dict())


def test_an_average_is_validated_and_resumed(tmp_path):
    cfg = validated(config(tmp_path, custom_hooks=[dict(type='EMAHook')]))
    Runner.from_cfg(cfg).train()
    last = load(tmp_path / 'iter_4.pth')
    again = validated(config(tmp_path, custom_hooks=[dict(type='EMAHook')]))
    again.load_from, again.resume = str(tmp_path / 'iter_2.pth'), True
    made = Runner.from_cfg(again)
    made.train()
    now = load(tmp_path / 'iter_4.pth')
    for part in ('state_dict', 'ema_state_dict', ENTRY):
        assert all(torch.equal(now[part][key], value) for key, value in last[part].items()), part


@pytest.mark.parametrize('epochs', [False, True])
def test_schedules_follow_the_run_and_its_resumption(tmp_path, epochs):
    seen = []

    class Watch(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            term = objective_of(runner.model).terms['kd']
            seen.append((runner.iter, term.progress.iteration, term.progress.epoch, term.loss.tau))

    kd = copy.deepcopy(KD)
    kd['losses']['kd']['tau'] = dict(type='Linear', start=1.0, stop=3.0, end=2, unit='epoch')
    cfg = config(tmp_path, kd, iters=8)
    cfg = by_epoch(cfg) if epochs else cfg
    made = Runner.from_cfg(cfg)
    made.register_hook(Watch())
    made.train()
    assert seen == [(i, i, i / 4, 1 + i / 4) for i in range(8)]
    seen.clear()
    cfg = config(tmp_path, kd, iters=8)
    cfg = by_epoch(cfg) if epochs else cfg
    cfg.load_from = str(tmp_path / ('epoch_1.pth' if epochs else 'iter_4.pth'))
    cfg.resume = True
    made = Runner.from_cfg(cfg)
    made.register_hook(Watch())
    made.train()
    assert seen == [(i, i, i / 4, 1 + i / 4) for i in range(4, 8)]


def test_an_epoch_is_one_pass_over_the_data_set_on_any_number_of_ranks(student, monkeypatch):
    """MMEngine's infinite sampler says the length of the whole data set on each rank."""
    from mmengine.dataset import InfiniteSampler

    epochs = []
    for world_size, batch in ((1, 4), (2, 2)):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda w=world_size: (0, w))
        data = TinyData(16)
        loader = DataLoader(data, batch, sampler=InfiniteSampler(data, seed=0))
        fake = SimpleNamespace(
            iter=6, world_size=world_size, train_dataloader=loader, model=student
        )
        DistillHook().before_train_iter(fake, 0)
        epochs.append(student.kd.terms['kd'].progress.epoch)
    assert epochs == [1.5, 1.5]
