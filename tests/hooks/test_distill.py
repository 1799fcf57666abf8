import copy
import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from kdmm.distillers import distill
from kdmm.engine import Runner
from kdmm.hooks.distill import ENTRY, TEACHERS, DistillHook, TeacherChangedError, TeacherGuard
from kdmm.hooks.ownership import OwnershipHook, objective_of
from kdmm.losses import Batch, DistillLoss, OwnedOptimizer
from kdmm.registry import MODELS
from tests.distillers.tiny_models import KD as KD_SHORT
from tests.distillers.tiny_models import TEACHER, build, tiny
from tests.engine.tiny_run import KD, TinyData, by_epoch, config, files, runner, validated
from tests.errors import refused

STATE = {f'terms.parts.loss.{key}' for key in ('projector.weight', 'projector.bias', 'queue')}


@pytest.fixture
def student():
    return distill(tiny(), **{**copy.deepcopy(KD), 'teacher': TEACHER})


def load(path) -> dict:
    return torch.load(path, weights_only=False)


def saved(student, **entries) -> dict:
    checkpoint = dict(state_dict=student.state_dict(), **entries)
    OwnershipHook().before_save_checkpoint(None, checkpoint)
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
    OwnershipHook().before_save_checkpoint(None, checkpoint)
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
    with refused(key='resume', problem='no distillation state', fix='load_from instead of resume'):
        DistillHook().after_load_checkpoint(
            SimpleNamespace(_resume=True, model=student), checkpoint
        )


def test_an_entry_of_another_objective_is_refused(student):
    checkpoint = saved(student, optimizer={})
    del checkpoint[ENTRY]['terms.parts.loss.queue']
    with refused(key='the distillation state', problem='missing: terms.parts.loss.queue'):
        DistillHook().after_load_checkpoint(
            SimpleNamespace(_resume=True, model=student), checkpoint
        )


class Touch(Hook):
    """Writes to a teacher after one iteration, and restores it after another."""

    def __init__(self, write, at: int, back: int | None = None) -> None:
        self.write, self.at, self.back = write, at, back

    def after_train_iter(self, runner, *_, **__):
        teacher = objective_of(runner.model).teachers[0].module
        if runner.iter + 1 == self.at:
            self.before = copy.deepcopy(teacher.state_dict())
            self.write(teacher)
        if runner.iter + 1 == self.back:
            teacher.load_state_dict(self.before)


def in_place(teacher):
    with torch.no_grad():
        teacher.stem[1].running_mean[0] += 1e-3


def through_data(teacher):  # past autograd's counters
    teacher.head.weight.data.add_(1.0)


def by_replacing(teacher):
    teacher.stem[1].running_var = teacher.stem[1].running_var + 1


@pytest.mark.parametrize(
    'write, interval, stops',
    [(in_place, 100, 4), (through_data, 2, 4), (by_replacing, 4, 4), (through_data, 100, 8)],
)
def test_a_teacher_that_changes_ends_the_run_before_a_file_is_written(
    tmp_path, write, interval, stops
):
    hook = dict(type='CheckpointHook', by_epoch=False, interval=interval)
    made = runner(tmp_path, iters=8, default_hooks__checkpoint=hook)
    made.register_hook(Touch(write, at=3))
    with pytest.raises(TeacherChangedError, match=r'teacher 0 \(random weights\) changed'):
        made.train()
    assert made.iter + 1 == stops
    assert files(tmp_path) == (['iter_2.pth'] if interval == 2 else [])


def test_a_teacher_that_was_written_to_and_is_what_it_was(tmp_path):
    made = runner(tmp_path, iters=8, default_hooks__checkpoint__interval=4)
    made.register_hook(Touch(through_data, at=1, back=3))
    made.train()
    assert files(tmp_path) == ['iter_4.pth', 'iter_8.pth']


def test_a_cache_that_a_teacher_writes_in_each_pass_is_none_of_its_weights():
    """Else all weights would be read after each iteration."""
    teacher = objective_of(distill(tiny(), **copy.deepcopy(KD_SHORT))).teachers[0]
    teacher.module.register_buffer('cache', torch.zeros(2), persistent=False)
    guard = TeacherGuard(teacher)
    teacher.module.cache.add_(1)
    assert not guard.touched()
    in_place(teacher.module)
    assert guard.touched() and guard.changed() and not guard.touched()


def with_teacher(folder, path: str | None, dtype: str | None = None, **changes):
    kd = copy.deepcopy(KD)
    kd['teacher'].update(random=path is None, checkpoint=path, dtype=dtype)
    return config(folder, kd, **changes)


@pytest.fixture
def two_teachers(tmp_path):
    paths = []
    for number in (1, 2):
        net = build(KD['teacher']['model'])
        net.stem[1].running_mean[0] = number  # a single buffer
        paths.append(str(tmp_path / f'teacher{number}.pth'))
        torch.save(dict(state_dict=net.state_dict()), paths[-1])
    return paths


def test_another_teacher_is_refused_on_resume_and_named(tmp_path, two_teachers):
    first, second = two_teachers
    Runner.from_cfg(with_teacher(tmp_path, first, iters=2)).train()
    (entry,) = load(tmp_path / 'iter_2.pth')[TEACHERS]
    assert entry['source'] == first and len(entry['fingerprint']) == 64
    for other in (dict(path=second), dict(path=None), dict(path=first, dtype='bfloat16')):
        told = 'teacher 0', first, other['path'] or 'random weights'
        with refused(key='kd.teacher', problem=told, fix='load_from'):
            Runner.from_cfg(with_teacher(tmp_path, **other, resume=True)).train()
    moved = str(tmp_path / 'moved.pth')
    os.rename(first, moved)
    Runner.from_cfg(with_teacher(tmp_path, moved, resume=True)).train()


def test_another_number_of_teachers_is_refused_on_resume(tmp_path):
    Runner.from_cfg(config(tmp_path, iters=2)).train()
    kd = copy.deepcopy(KD)
    kd['teacher'] = [kd['teacher'], copy.deepcopy(kd['teacher'])]
    kd['losses']['more'] = dict(type='KDLoss', on='logits', teacher=1)
    with refused(key='kd.teacher', problem='2 teacher(s), but the resumed run had 1'):
        Runner.from_cfg(config(tmp_path, kd, resume=True)).train()


def test_a_file_that_does_not_say_who_taught_is_resumed_with_a_word(tmp_path):
    """Those of kdmm 0.1 do not."""
    Runner.from_cfg(config(tmp_path, iters=2)).train()
    content = load(tmp_path / 'iter_2.pth')
    del content[TEACHERS]
    torch.save(content, tmp_path / 'iter_2.pth')
    made = Runner.from_cfg(config(tmp_path, resume=True, log_level='WARNING'))
    made.train()
    assert made.iter == 4
    text = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'does not say which teacher' in text


def test_a_random_teacher_is_the_same_in_a_resumed_run_without_a_seed(tmp_path):
    def unseeded(**changes):
        cfg = config(tmp_path, **changes)
        cfg.pop('randomness')
        return cfg

    Runner.from_cfg(unseeded()).train()
    whole = load(tmp_path / 'iter_4.pth')
    again = unseeded(resume=True, load_from=str(tmp_path / 'iter_2.pth'))
    Runner.from_cfg(again).train()
    now = load(tmp_path / 'iter_4.pth')
    for part in ('state_dict', ENTRY):
        assert all(torch.equal(now[part][key], value) for key, value in whole[part].items()), part
    assert now[TEACHERS] == whole[TEACHERS]


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


# averages of buffers


COHORT = dict(
    type='Cohort',
    peers=2,
    ensemble=False,
    taps=dict(logits='head.out', body='body.out'),
    losses=dict(dml=dict(type='KDLoss', on='logits'), parts=dict(type='Parts', on='body')),
    probe_size=(16, 16),
)
#: As detectors' recipes have it, but for a momentum that shows within a few iterations.
BUFFERS = dict(type='EMAHook', momentum=0.3, update_buffers=True, priority=49)


class States(Hook):
    """Weights after each iteration, and those that validation sees and leaves."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.trained, self.validated, self.left = [], [], []

    def after_train_iter(self, runner, *_, **__):
        self.trained.append(copy.deepcopy(dict(runner.model.state_dict())))

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self.validated.append(copy.deepcopy(dict(runner.model.state_dict())))

    def after_val(self, runner):
        self.left.append(copy.deepcopy(dict(runner.model.state_dict())))

    before_test_iter, after_test = before_val_iter, after_val


def averaging(tmp_path, kd, **changes):
    """A runner with a validation in the middle, and what it has seen."""
    cfg = validated(config(tmp_path, kd, custom_hooks=[BUFFERS], **changes))
    cfg.test_dataloader, cfg.test_cfg, cfg.test_evaluator = (
        cfg.val_dataloader,
        {},
        cfg.val_evaluator,
    )
    made = Runner.from_cfg(cfg)
    seen = States()
    made.register_hook(seen)
    return made, seen


def is_averaged(key, kd):
    return not key.startswith('kd.') or (kd is COHORT and key.startswith('kd.peers.'))


def by_hand(states, kd):
    """The moving average of all that has numbers between; the rest is what it first was."""
    average = {key: value.clone() for key, value in states[0].items() if is_averaged(key, kd)}
    for state in states[1:]:
        for key, value in average.items():
            if value.is_floating_point():
                value.lerp_(state[key], 0.3)
    return average


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], value) for key, value in expected.items()
    )


@pytest.mark.parametrize('kd', [KD, COHORT], ids=['Distiller', 'Cohort'])
def test_buffers_are_averaged_beside_a_loss_with_parameters_and_buffers(tmp_path, kd):
    """Of the student and of peers, by name; what the losses have is as trained throughout."""
    made, seen = averaging(tmp_path / 'whole', kd)
    made.train()
    inner = [key for key, _ in made.model.kd.terms.named_parameters()]
    assert inner and [key for key, _ in made.model.kd.terms.named_buffers()]
    for iterations, state, left in zip((2, 4), seen.validated, seen.left, strict=True):
        expected = by_hand(seen.trained[:iterations], kd)
        trained = seen.trained[iterations - 1]
        assert same(state, {**trained, **expected})
        assert same(left, trained)
        statistics = [key for key in expected if key.endswith('running_var')]
        assert len(statistics) == (1 if kd is KD else 2)
        assert not any(torch.equal(trained[key], expected[key]) for key in statistics)
    content = load(tmp_path / 'whole' / 'iter_4.pth')
    build(tiny()).load_state_dict(content['state_dict'], strict=True)
    assert same(dict(content['state_dict']), {k: v for k, v in expected.items() if k[:3] != 'kd.'})
    again, _ = averaging(
        tmp_path / 'rest', kd, load_from=str(tmp_path / 'whole' / 'iter_2.pth'), resume=True
    )
    again.train()
    now = load(tmp_path / 'rest' / 'iter_4.pth')
    for part in ('state_dict', 'ema_state_dict', ENTRY):
        assert same(dict(now[part]), dict(content[part])), part
    assert same(dict(again.model.state_dict()), dict(made.model.state_dict()))


def test_a_test_alone_sees_the_file(tmp_path):
    averaging(tmp_path, KD)[0].train()
    made, seen = averaging(tmp_path, KD, load_from=str(tmp_path / 'iter_4.pth'))
    made.test()
    expected = dict(load(tmp_path / 'iter_4.pth')['state_dict'])
    for state in (*seen.validated, *seen.left):
        assert same({key: state[key] for key in expected}, expected)
    assert len(seen.left) == 1


def test_the_recipe_of_a_detector(tmp_path):
    pytest.importorskip('mmdet')
    hook = dict(
        type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.0002, update_buffers=True,
        priority=49,
    )  # fmt: skip
    made = runner(tmp_path, custom_hooks=[hook], iters=2)
    made.train()
    content = load(tmp_path / 'iter_2.pth')
    average, trained = (content[part] for part in ('state_dict', 'ema_state_dict'))
    for key in ('body.weight', 'stem.1.running_var'):
        assert not torch.equal(average[key], trained[f'module.{key}'])
        assert torch.equal(trained[f'module.{key}'], made.model.state_dict()[key])


def test_no_average_of_the_buffers_of_a_shared_trunk(tmp_path):
    kd = {**copy.deepcopy(COHORT), 'trunk': ['stem']}
    told = 'trunk', 'several times'
    with refused(key='EMAHook.update_buffers', got=True, problem=told):
        Runner.from_cfg(config(tmp_path, kd, custom_hooks=[BUFFERS])).train()


@pytest.mark.parametrize('epochs', [False, True])
def test_schedules_follow_the_run_and_its_resumption(tmp_path, epochs):
    seen = []

    class Watch(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            term = objective_of(runner.model).terms['kd']
            seen.append(
                (runner.iter, term.progress.iteration, term.progress.epoch, term.loss.temperature)
            )

    kd = copy.deepcopy(KD)
    kd['losses']['kd']['temperature'] = dict(
        type='Linear', start=1.0, stop=3.0, end=2, unit='epoch'
    )
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


# losses that train something of their own


@MODELS.register_module(force=True)
class WithOptimizer(DistillLoss):
    """A critic outside the student's optimizer, whose own is saved as extra state."""

    one_activation = True

    def __init__(self) -> None:
        super().__init__()
        self.critic = torch.nn.Linear(1, 1)
        self.optimizer = OwnedOptimizer(self.critic, partial(torch.optim.Adam, lr=0.1))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        self.gap = (student - teacher).detach().mean()
        return self.critic((student - teacher).mean().view(1, 1)).square().sum()

    def after_step(self, batch: Batch) -> None:
        assert batch.inputs.shape[0] == len(batch.samples) > 0
        with self.optimizer.learning():
            loss = self.critic(self.gap.view(1, 1)).square().sum()
            self.optimizer.step(loss)
        self.logged = dict(real=loss.detach())


def with_optimizer(tmp_path, iters: int = 4, **changes):
    kd = copy.deepcopy(KD)
    kd['losses'] = dict(adv=dict(type='WithOptimizer', on='logits'))
    return config(tmp_path, kd, iters=iters, **changes)


def test_a_loss_takes_its_step_before_the_checkpoint_is_written(tmp_path):
    made = Runner.from_cfg(with_optimizer(tmp_path))
    made.train()
    state = load(tmp_path / 'iter_2.pth')[ENTRY]['terms.adv.loss.optimizer._extra_state']
    assert state['state'][0]['step'] == 2
    assert (
        objective_of(made.model)
        .terms['adv']
        .loss.optimizer.optimizer.state_dict()['state'][0]['step']
        == 4
    )


def test_extra_state_is_read_weights_only_and_goes_on_to_the_bit(tmp_path):
    Runner.from_cfg(with_optimizer(tmp_path)).train()
    last = load(tmp_path / 'iter_4.pth')
    again = with_optimizer(tmp_path)
    again.load_from, again.resume = str(tmp_path / 'iter_2.pth'), True
    Runner.from_cfg(again).train()
    now = load(tmp_path / 'iter_4.pth')
    assert set(now[ENTRY]) == {
        f'terms.adv.loss.{key}'
        for key in ('critic.weight', 'critic.bias', 'optimizer._extra_state')
    }
    for part in ('state_dict', ENTRY):
        for key, value in last[part].items():
            if key.endswith('_extra_state'):
                for index, old in value['state'].items():
                    new = now[part][key]['state'][index]
                    assert all(torch.equal(old[name], new[name]) for name in old)
            else:
                assert torch.equal(now[part][key], value), key


def test_only_tensors_are_sent_to_other_ranks(tmp_path, monkeypatch):
    """MMEngine broadcasts each entry of the state at the start, and can send no dict."""
    made, sent = Runner.from_cfg(with_optimizer(tmp_path)), []
    monkeypatch.setattr('mmengine.runner.runner.broadcast', sent.append)
    made._init_model_weights()
    state = made.model.state_dict()
    rest = [value for value in state.values() if not isinstance(value, torch.Tensor)]
    assert len(rest) == 1 and len(sent) == len(state) - 1
    assert all(isinstance(value, torch.Tensor) for value in sent)


def test_extra_state_that_the_runner_did_not_collect_is_added():
    """Some versions of MMEngine gather parameters and buffers only."""
    kd = {**copy.deepcopy(KD), 'teacher': TEACHER}
    kd['losses'] = dict(adv=dict(type='WithOptimizer', on='logits'))
    student = distill(tiny(), **kd)
    full = saved(student, optimizer={})[ENTRY]
    state = {k: v for k, v in student.state_dict().items() if not k.endswith('_extra_state')}
    checkpoint = dict(state_dict=state, optimizer={})
    OwnershipHook().before_save_checkpoint(SimpleNamespace(model=student), checkpoint)
    assert set(checkpoint[ENTRY]) == set(full)
    assert 'terms.adv.loss.optimizer._extra_state' in full


def test_a_file_without_the_extra_state_is_refused(tmp_path):
    Runner.from_cfg(with_optimizer(tmp_path)).train()
    content = load(tmp_path / 'iter_2.pth')
    del content[ENTRY]['terms.adv.loss.optimizer._extra_state']
    torch.save(content, tmp_path / 'cut.pth')
    again = with_optimizer(tmp_path)
    again.load_from, again.resume = str(tmp_path / 'cut.pth'), True
    told = 'missing: terms.adv.loss.optimizer._extra_state'
    with refused(key='the distillation state', problem=told):
        Runner.from_cfg(again).train()


# measured weights


@pytest.mark.parametrize('stop', [2, 4])
def test_a_measured_weight_is_resumed_to_the_bit(tmp_path, stop):
    """While it is measured (3 iterations) and after it was frozen."""
    kd = copy.deepcopy(KD)
    kd['losses']['kd']['weight'] = dict(type='Auto', share=0.2, iterations=3)
    kd['losses']['parts']['weight'] = dict(one='auto:0.1', two=0.1)
    Runner.from_cfg(config(tmp_path, kd, iters=6)).train()
    last = load(tmp_path / 'iter_6.pth')
    again = config(tmp_path, kd, iters=6)
    again.load_from, again.resume = str(tmp_path / f'iter_{stop}.pth'), True
    made = Runner.from_cfg(again)
    made.train()
    now = load(tmp_path / 'iter_6.pth')
    for part in ('state_dict', ENTRY):
        assert all(torch.equal(now[part][key], value) for key, value in last[part].items()), part
    weights = objective_of(made.model).terms['kd'].weights
    assert not weights.measuring() and weights.auto('').seen == 3
    assert objective_of(made.model).terms['parts'].weights.auto('one').seen == 6
