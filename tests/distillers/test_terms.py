"""Terms that the objective computes, and those that it leaves out."""

import copy
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from kdmm.distillers import Distillation, Progress, distill
from kdmm.losses import Batch
from kdmm.registry import MODELS
from tests.distillers.tiny_models import KD, TEACHER, Distance, build, images, samples, tiny
from tests.errors import refused

STOP = dict(type='StopAt', value=1.0, end=5)


@MODELS.register_module(force=True)
class Counted(Distance):
    """Counts what happens to it."""

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self.calls = self.steps = 0

    def forward(self, *args: torch.Tensor, **context: object) -> torch.Tensor:
        self.calls += 1
        return super().forward(*args, **context)

    def after_step(self, batch: Batch) -> None:
        self.steps += 1


def made(*, seed: int = 0, **changes: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    return distill(tiny(), **{**copy.deepcopy(KD), **changes}).train()


def count(teacher: Any) -> list[int]:
    calls = []
    teacher.module.stem[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


# several taps


def test_several_taps_reach_the_loss():
    taps = dict(body='body.out', logits='head.out', unread='aux.out')
    losses = dict(
        both=dict(type='Paired', on=['logits', 'body'], weight=2.0),
        first=dict(type='Distance', on='logits'),
        second=dict(type='Distance', on='body'),
    )
    model = made(taps=taps, losses=losses, teacher=dict(model=tiny(4), random=True))
    found = model(images(), samples(), mode='loss')
    total = found['kd.loss_first'] + found['kd.loss_second']
    torch.testing.assert_close(found['kd.loss_both'], 2 * total)
    assert set(model.kd.teachers[0](images())) == {'logits', 'body'}


def test_several_taps_in_the_table(monkeypatch):
    messages = []
    monkeypatch.setattr(
        'kdmm.distillers.distiller.print_log', lambda text, *_, **__: messages.append(text)
    )
    chain = [dict(type='Resize'), dict(type='Projection')]
    losses = dict(b=dict(type='Paired', on=['logits', 'body'], connector=chain, weight='auto:1'))
    model = made(taps=dict(body='body.out', logits='head.out'), losses=losses)
    model(images(), samples(), mode='loss')
    row = [cell.strip() for cell in messages[0].splitlines()[-1].split('  ') if cell]
    assert row == ['b', 'logits, body', '2x3x8x8, 2x6x8x8', '2x3x8x8, 2x4x8x8',
                   'Resize, Projection', 'Paired', 'auto:1']  # fmt: skip


def test_the_teacher_runs_to_the_last_of_several_taps():
    losses = dict(b=dict(type='Paired', on=['logits', 'body'], teacher=1), d=KD['losses']['kd'])
    model = made(taps=dict(body='body.out', logits='head.out'), losses=losses,
                 teacher=[TEACHER, dict(model=tiny(4), random=True)])  # fmt: skip
    assert model(images(), samples(), mode='loss')['kd.loss_b'].isfinite()
    assert [set(t(images())) for t in model.kd.teachers] == [{'logits'}, {'logits', 'body'}]


# weights of zero


def test_a_term_of_weight_zero_is_not_built(monkeypatch):
    said = []
    monkeypatch.setattr('kdmm.distillers.distiller.print_log', lambda text, *_: said.append(text))
    losses = dict(a=dict(type='Distance', on='logits'),
                  b=dict(type='Parts', on='logits', weight=0),
                  c=dict(type='Parts', on='logits', weight=dict(one=0, two=0.0)))  # fmt: skip
    model = made(losses=losses)
    assert list(model.kd.terms) == ['a'] and not list(model.kd.parameters())
    for _ in range(2):
        assert set(model(images(), samples(), mode='loss')) == {'loss_ce', 'loss_aux', 'kd.loss_a'}
    assert [text for text in said if 'not built' in text] == [
        f'kd.losses.{name}: not built, its weight is 0' for name in 'bc'
    ]


def test_one_part_of_weight_zero_is_kept():
    losses = dict(p=dict(type='Parts', on='logits', weight=dict(one=0, two=1)))
    found = made(losses=losses)(images(), samples(), mode='loss')
    assert found['kd.loss_p_one'] == 0 < found['kd.loss_p_two']


def test_a_teacher_of_such_terms_only_is_not_built():
    losses = dict(a=dict(type='Distance', on='logits', weight=0),
                  b=dict(type='Distance', on='logits', teacher=1))  # fmt: skip
    model = made(losses=losses, teacher=[TEACHER, dict(model=tiny(8), random=True)])
    (teacher,) = model.kd.teachers
    assert teacher.module.head.in_channels == 8
    assert model(images(), samples(), mode='loss')['kd.loss_b'] > 0


def test_with_all_weights_zero_it_is_the_plain_student():
    model = made(losses=dict(a=dict(type='Distance', on='logits', weight=0)))
    plain = build(tiny()).train()
    plain.load_state_dict(model.state_dict())
    found = []
    for network in (model, plain):
        torch.manual_seed(1)
        found.append(network(images(), samples(), mode='loss'))
    assert found[0] == found[1] and model.kd.teachers == []


def test_what_is_scheduled_to_zero_is_not_computed():
    losses = dict(a=dict(type='Counted', on='logits', weight=STOP))
    model = made(losses=losses)
    loss, runs = model.kd.terms['a'].loss, count(model.kd.teachers[0])
    seen = []
    for iteration in (4, 5, 6, 4):
        model.kd.set_progress(Progress(iteration))
        found = model(images(), samples(), mode='loss')
        seen.append((loss.calls, len(runs), bool(found['kd.loss_a'] > 0)))
    assert seen == [(1, 1, True), (1, 1, False), (1, 1, False), (2, 2, True)]


def test_a_memory_is_fed_at_weight_zero():
    losses = dict(a=dict(type='Counted', on='logits', weight=STOP))
    model = made(losses=losses)
    loss = model.kd.terms['a'].loss
    loss.stateful = True
    model.kd.set_progress(Progress(5))
    assert model(images(), samples(), mode='loss')['kd.loss_a'] == 0 and loss.calls == 1


def test_an_idle_term_changes_no_gradient():
    """And gives one, of zero, to all that it would train."""
    losses = dict(p=dict(type='Parts', on='body', weight=STOP))
    grads = []
    for kd in (losses, dict(p=dict(losses['p'], weight=0))):
        model = made(taps=dict(body='body.out'), losses=kd)
        model.kd.set_progress(Progress(5))
        torch.manual_seed(1)
        sum(model(images(), samples(), mode='loss').values()).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    own = {name: grad for name, grad in grads[0].items() if name.startswith('kd.')}
    assert len(own) == 2 and not any(grad.any() for grad in own.values())
    assert all(torch.equal(grads[0][name], grad) for name, grad in grads[1].items())


# steps of their own, keys


def test_after_step_reaches_every_loss_that_has_it():
    losses = {name: dict(type='Counted', on='logits') for name in 'ab'}
    model = made(losses=dict(losses, c=dict(type='Distance', on='logits')))
    model(images(), samples(), mode='loss')
    model.kd.after_step()
    assert model.kd.batch is None
    model.kd.after_step()  # no step in between
    assert [model.kd.terms[name].loss.steps for name in 'ab'] == [1, 1]


def test_a_batch_too_small_to_compare_images():
    """The model is built with one blank image; the first batch must have two."""
    model = made(losses=dict(sp=dict(type='SPLoss', on='logits')))
    told = ("on tap 'logits'", 'SPLoss', 'fewer than 2')
    with refused(key='kd.losses.sp', problem=told, fix='train_dataloader.batch_size'):
        model(images(1), samples(1), mode='loss')
    assert model(images(2), samples(2), mode='loss')['kd.loss_sp'] > 0
    assert model(images(1), samples(1), mode='loss')['kd.loss_sp'] == 0  # the rest of a data set


@pytest.mark.parametrize('batch', [
    dict(batch_size=1),
    dict(batch_sampler=BatchSampler(SequentialSampler(range(4)), 1, False)),
], ids=list)  # fmt: skip
def test_a_loader_of_batches_too_small_to_compare_images(batch):
    """It is refused before the first step, and before the loss reads the data set."""
    model = made(losses=dict(sp=dict(type='SPLoss', on='logits')))
    told = dict(problem='SPLoss of kd.losses.sp', expected='at least 2 on', fix="scope='global'")
    with refused(key='train_dataloader.batch_size', got=1, **told):
        model.kd.see_loader(DataLoader(range(4), **batch))
    model.kd.see_loader(DataLoader(range(4), batch_size=2))
    model.kd.see_loader(DataLoader(range(4), batch_sampler=[[0], [1]]))  # which says no number


def test_pixels_of_one_image_are_compared_with_each_other():
    for kind, key in (('DISTLoss', 'logits'), ('KDLoss', 'logits')):
        model = made(losses=dict(x=dict(type=kind, on=key)))
        model.kd.see_loader(DataLoader(range(4), batch_size=1))


@pytest.mark.parametrize('value', [1, 'yes', None])
def test_measure_is_yes_or_no(value):
    with refused(key='kd.measure', got=value, expected='True or False'):
        made(measure=value)


def test_keys_of_the_section():
    keys = Distillation.section_keys()
    assert list(keys) == [
        'teacher', 'taps', 'losses', 'task', 'inputs', 'probe_size', 'measure', 'crop_size',
    ]  # fmt: skip
    assert [name for name, key in keys.items() if key.default is key.empty] == list(keys)[:3]
