"""``kd.task``: the weight of the student's own loss, and learning without labels."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdmm.distillers import Progress, cohort, distill
from kdmm.distillers.task import TaskWeight
from kdmm.engine.split_step import split_step, teacher_step
from kdmm.functional import collective
from tests.distillers.tiny_models import (
    KD,
    build,
    images,
    samples,
    seg_samples,
    segmentor,
    tiny,
)
from tests.engine import tiny_run
from tests.errors import refused
from tests.ranks import on_ranks

#: Learns features; the head and the auxiliary head stand behind them.
FEATURES: dict[str, Any] = dict(
    taps=dict(body='body.out'),
    losses=dict(fit=dict(type='FitNetLoss', on='body', connector=dict(type='Projection'))),
)
HEADS = {'head.weight', 'head.bias', 'aux.weight', 'aux.bias'}


def made(student: Any = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    section = {**copy.deepcopy(KD), **copy.deepcopy(changes)}
    return distill(build(tiny()) if student is None else student, **section).train()


def losses_of(model: Any, with_labels: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # dropout
    return model(images(), samples() if with_labels else None, mode='loss')


def gradients(model: Any, losses: Any) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    model.parse_losses(losses)[0].backward()
    return {name: p.grad for name, p in model.named_parameters()}


# a weight


def test_the_own_loss_is_weighted_in_value_and_gradient_and_logged_without():
    alone = build(tiny()).train()
    torch.manual_seed(1)
    own = alone(images(), samples(), mode='loss')
    term = made(task=0)
    model = made(task=0.25)
    losses = losses_of(model)
    assert losses['loss_ce'] == 0.25 * own['loss_ce']
    assert losses['loss_aux'] == 0.25 * own['loss_aux']
    assert losses['kd.task'] == sum(own.values()) and not losses['kd.task'].requires_grad
    expected = {name: 0.25 * grad for name, grad in gradients(alone, own).items()}
    distilled = gradients(term, losses_of(term))
    for name, grad in gradients(model, losses).items():
        wanted = expected[name] + (distilled[name] if distilled[name] is not None else 0)
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-8, msg=name)


def test_a_weight_of_1_is_the_step_without_the_key():
    with_key, without = made(task=1.0), made()
    one, other = losses_of(with_key), losses_of(without)
    assert list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_lists_of_losses_and_what_is_no_loss():
    model = made(task=0.5)
    one = torch.tensor(2.0)
    weighed = model.kd.task.weigh(dict(loss_boxes=[one, one], acc=one, loss_cls=one))
    assert weighed['loss_boxes'] == [1, 1] and weighed['acc'] == 2 and weighed['loss_cls'] == 1
    assert weighed['kd.task'] == 6


@pytest.mark.parametrize(
    'schedule, at, expected',
    [
        (dict(type='Linear', start=0.0, stop=1.0, end=10), Progress(5), 0.5),
        (dict(type='StopAt', value=1.0, end=2, unit='epoch'), Progress(100, 1.9), 1.0),
        (dict(type='StopAt', value=1.0, end=2, unit='epoch'), Progress(100, 2.0), 0.0),
    ],
)
def test_a_schedule_moves_it(schedule, at, expected):
    model = made(task=schedule)
    model.kd.set_progress(at)
    losses = losses_of(model)
    assert losses['loss_ce'] + losses['loss_aux'] == expected * losses['kd.task']
    assert model.kd.diagnostics()['kd.weight_task'] == expected
    assert not [key for key in model.kd.state_dict() if 'task' in key]  # resumable without state


def test_while_a_schedule_is_at_0_the_heads_have_a_gradient_of_exactly_0():
    model = made(**FEATURES, task=dict(type='StopAt', value=1.0, end=5))
    assert all(p.requires_grad for p in model.parameters())
    model.kd.set_progress(Progress(5))
    found = gradients(model, losses_of(model))
    assert all(torch.equal(found[name], torch.zeros_like(found[name])) for name in HEADS)
    assert found['body.weight'].abs().sum() > 0


def test_gradient_ratios_are_those_of_the_weighted_loss_and_none_while_it_is_0():
    shares = []
    for task in (1.0, 0.5):
        model = made(task=task)
        model.kd.measure_next = True
        losses_of(model)
        shares.append(float(model.kd.shares[0].share))
    assert shares[1] == pytest.approx(2 * shares[0])
    model = made(task=dict(type='StopAt', value=1.0, end=1))
    model.kd.set_progress(Progress(1))
    model.kd.measure_next = True
    losses_of(model)
    assert model.kd.shares == []


# without labels


def test_without_labels_the_heads_are_frozen_and_nothing_moves_them():
    model = made(**FEATURES, task=0)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == HEADS
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    for _ in range(2):
        losses = losses_of(model, with_labels=False)
        assert list(losses) == ['kd.loss_fit']
        found = gradients(model, losses)
        assert {name for name, grad in found.items() if grad is None} == HEADS
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in HEADS)
    assert not torch.equal(after['body.weight'], before['body.weight'])


def test_the_log_does_not_promise_that_terms_read_no_labels(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr('kdmm.distillers.task.print_log', lambda text, *_: said.append(text))
    TaskWeight(0).announce()
    assert len(said) == 1
    assert not [text for text in said if 'label' in text]


def test_what_a_term_reads_behind_the_head_trains_the_head():
    model = made(task=0)  # logits
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'aux.weight', 'aux.bias'}
    assert gradients(model, losses_of(model, with_labels=False))['head.weight'].abs().sum() > 0


def test_a_tap_that_only_the_loss_pass_reaches_is_read_there():
    student, teacher = segmentor(8), dict(model=segmentor(8), random=True)
    taps = dict(aux='auxiliary_head.conv_seg.out')
    model = made(student, teacher=teacher, taps=taps, task=0,
                 losses=dict(kd=dict(type='KDLoss', on='aux')), probe_size=None)  # fmt: skip
    assert model.kd.task.mode == 'loss' and made(task=0).kd.task.mode == 'tensor'
    found = gradients(model, model(images(size=32), seg_samples(), mode='loss'))
    frozen = {name.partition('.')[0] for name, grad in found.items() if grad is None}
    assert frozen == {'backbone', 'decode_head'}  # the last stage is behind the tap's
    assert found['auxiliary_head.conv_seg.weight'].abs().sum() > 0
    assert found['backbone.layer4.0.conv1.weight'] is None


def test_an_idle_term_leaves_zeros_to_train_by():
    model = made(task=0, losses=dict(kd=dict(type='KDLoss', on='logits', weight=dict(
        type='StopAt', value=1.0, end=1))))  # fmt: skip
    model.kd.set_progress(Progress(1))
    found = gradients(model, losses_of(model, with_labels=False))
    assert all(torch.count_nonzero(g) == 0 for n, g in found.items() if not n.startswith('aux'))


def labelless_steps() -> dict[str, torch.Tensor]:
    """Three steps on four images, on any number of ranks, of a student without dropout and BN."""
    torch.manual_seed(0)
    plain = build(tiny())
    plain.stem[1], plain.stem[3] = nn.Identity(), nn.Identity()
    student = made(plain, **FEATURES, task=0)
    model = student
    if collective.distributed():
        model = DistributedDataParallel(student, broadcast_buffers=False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        x = images(4, seed=step)[collective.rank() :: collective.world_size()]
        sum(model(x, None, mode='loss').values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.clone() for name, value in student.state_dict().items()}


def test_two_ranks_without_labels_are_one_with_the_whole_batch():
    """DDP has ``find_unused_parameters=False``, and would refuse the second step."""
    one, two = labelless_steps(), on_ranks(labelless_steps, 2)
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(two[0][name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(('task', 'view'), [(0, None), (0.5, dict(type='Photometric'))])
def test_the_step_in_parts_is_the_step(task: float, view: Any, tmp_path: Path) -> None:
    after = []
    for kind in ('whole', 'parts'):
        run = tiny_run.runner(
            tmp_path / kind, kd={**copy.deepcopy(tiny_run.KD), 'task': task, 'inputs': view}
        )
        run.optim_wrapper = run.build_optim_wrapper(run.optim_wrapper)
        batch = next(run.build_train_loop(run._train_loop).dataloader_iterator)
        run.model.train()
        torch.manual_seed(0)
        if kind == 'whole':
            run.model.train_step(batch, run.optim_wrapper)
        else:
            split_step(run, batch, Silent())
        after.append(copy.deepcopy(run.model.state_dict()))
    for name in ('stem.0.weight', 'head.weight', 'aux.weight'):
        torch.testing.assert_close(after[1][name], after[0][name], rtol=1e-4, atol=1e-7)
    teacher_step(run, batch)
    assert torch.equal(run.model.aux.weight, after[1]['aux.weight']) == (task == 0)


class Silent:
    def part(self, name: str) -> Any:
        return nullcontext()


def test_a_dry_run_keeps_0_and_makes_a_schedule_1():
    sections: list[dict[str, Any]] = [
        dict(task=0),
        dict(task=dict(type='Linear', start=0.0, stop=1.0, end=9)),
        dict(),
    ]
    kind = type(made().kd)
    for section in sections:
        kind.dry_run(section)
    assert [section.get('task') for section in sections] == [0, 1.0, None]


# refusals


def auto(**weight: Any) -> dict[str, Any]:
    return dict(losses=dict(kd=dict(type='KDLoss', on='logits', **weight)))


@pytest.mark.parametrize(
    'changes, fields',
    [
        (dict(task=-1), dict(key='kd.task', got=-1)),
        (dict(task='auto:0.1'), dict(key='kd.task', got='auto:0.1', expected='schedule')),
        (dict(task=dict(one=1.0)), dict(key='kd.task', expected='schedule')),
        (dict(task='0'), dict(key='kd.task', got='0')),
        (dict(task=True), dict(key='kd.task', got=True)),
        (
            dict(task=0, **auto(weight='auto:0.1')),
            dict(key='kd.losses.kd.weight', got='auto:0.1', problem='kd.task is 0'),
        ),
        (
            dict(
                task=dict(type='Linear', start=0.0, stop=1.0, end=9),
                **auto(weight=dict(type='Auto', share=0.1)),
            ),
            dict(key='kd.losses.kd.weight', problem='0 at the start'),
        ),
        (
            dict(
                task=0,
                taps=dict(body='body.out'),
                losses=dict(parts=dict(type='Parts', on='body', weight=dict(one='auto:1', two=1))),
            ),
            dict(key='kd.losses.parts.weight.one', got='auto:1'),
        ),
        (dict(task=0, **auto(weight=0)), dict(key='kd.task', got=0, fix='weight')),
    ],
)
def test_what_cannot_be_is_refused(changes, fields):
    with refused(**fields):
        made(**changes)


def test_measured_weights_go_with_a_loss_that_ends_later():
    made(task=dict(type='StopAt', value=1.0, end=99), **auto(weight='auto:0.1'))


def test_a_cohort_learns_with_labels():
    with refused(key='kd', problem="unknown key 'task'"):
        cohort(tiny(), task=0.5)
