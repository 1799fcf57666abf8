import copy
from unittest import mock

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from kdmm.distillers import Distillation, Progress, distill
from kdmm.registry import MODELS
from tests.distillers.tiny_models import (
    KD,
    TEACHER,
    build,
    images,
    samples,
    seg_samples,
    segmentor,
    tiny,
)
from tests.errors import refused
from tests.versions import cpu_autocast

CIRKD = dict(
    taps=dict(logits='decode_head.conv_seg.out', pixels='decode_head.conv_seg.in'),
    losses=dict(
        kd=dict(type='KDLoss', on='logits', temperature=1.0),
        p2p=dict(type='CIRKDMiniBatchLoss', on='pixels'),
        memory=dict(
            type='CIRKDMemoryLoss',
            on='pixels',
            weight=dict(pixel=0.1, region=0.1),
            pixel_size=32,
            region_size=8,
            pixel_keys=12,
            region_keys=6,
        ),
    ),
)
CIRKD_LOGS = {f'kd.loss_{name}' for name in ('kd', 'p2p', 'memory_pixel', 'memory_region')}


def changed(**changes: object) -> dict:
    return {**copy.deepcopy(KD), **changes}


def cirkd(student: dict | None = None, **changes: object) -> torch.nn.Module:
    kd = copy.deepcopy({**CIRKD, 'teacher': dict(model=segmentor(12), random=True), **changes})
    return distill(student or segmentor(8), **kd)


def gradients(model: torch.nn.Module, losses: dict) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(value.sum() for key, value in losses.items() if 'loss' in key).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


# what a distilled student is


@pytest.mark.parametrize('config, kd', [(tiny(), KD), (segmentor(8), None)])
def test_it_is_the_student_with_one_more_child(config, kd):
    plain = build(config)
    made = distill(copy.deepcopy(config), **kd) if kd else cirkd()
    names = list(plain.state_dict())
    assert list(made.state_dict())[: len(names)] == names
    assert all(key.startswith('kd.') for key in list(made.state_dict())[len(names) :])
    parameters = [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in made.named_parameters()][: len(parameters)] == parameters
    assert [n for n, _ in made.named_children()] == [n for n, _ in plain.named_children()] + ['kd']
    assert isinstance(made, type(plain)) and type(made).__name__ == type(plain).__name__


def test_the_class_of_other_students_is_left_alone():
    made, plain = distill(tiny(), **KD), build(tiny())
    assert type(made) is not type(plain)
    assert set(plain(images(), samples(), mode='loss')) == {'loss_ce', 'loss_aux'}


def test_a_config_and_the_registered_name_give_the_same():
    made = ROOT_MODELS.build(dict(type='kdmm.Distiller', student=tiny(), **copy.deepcopy(KD)))
    assert list(made.state_dict()) == list(distill(build(tiny()), **KD).state_dict())


@pytest.mark.parametrize('config', [tiny(), segmentor(8)])
def test_it_starts_from_the_plain_students_weights(config):
    def initial(attach: bool) -> tuple[dict, torch.Tensor]:
        torch.manual_seed(3)
        model = ROOT_MODELS.build(copy.deepcopy(config))
        if attach:
            kd = KD if config['type'] == 'kdmm.TinyNet' else CIRKD
            teacher = TEACHER if kd is KD else dict(model=segmentor(12), random=True)
            model = distill(model, **{**copy.deepcopy(kd), 'teacher': teacher})
        model.init_weights()
        return model.state_dict(), torch.rand(3)

    (plain, after_plain), (made, after_made) = initial(False), initial(True)
    assert all(torch.equal(made[key], value) for key, value in plain.items())
    assert torch.equal(after_plain, after_made)


def test_what_was_in_training_mode_stays_so():
    assert distill(build(tiny()).train(), **KD).training
    assert not distill(build(tiny()).eval(), **KD).training
    before = build(tiny())
    made = distill(copy.deepcopy(before), **KD)
    assert torch.equal(made.stem[1].running_mean, before.stem[1].running_mean)
    assert made.stem[1].num_batches_tracked == 0


def test_prediction_is_the_plain_students():
    plain = build(segmentor(8)).eval()
    made = cirkd().eval()
    made.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(made(x), plain(x))
    ours, theirs = (model(x, seg_samples(), mode='predict') for model in (made, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.seg_logits.data, other.seg_logits.data)
        assert torch.equal(mine.pred_sem_seg.data, other.pred_sem_seg.data)


def test_the_students_own_losses_are_the_plain_students():
    plain = build(segmentor(8)).train()
    made = cirkd().train()
    made.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    found = []
    for model in (made, plain):
        torch.manual_seed(1)
        found.append(model(x, seg_samples(), mode='loss'))
    assert set(found[0]) - set(found[1]) == CIRKD_LOGS
    assert all(torch.equal(found[0][key], value) for key, value in found[1].items())


def test_all_terms_reach_student_and_projector():
    made = cirkd().train()
    losses = made(torch.randn(2, 3, 32, 32), seg_samples(), mode='loss')
    total, logs = made.parse_losses(losses)
    assert set(logs) >= CIRKD_LOGS and total.isfinite()
    parts = torch.stack([value for key, value in logs.items() if 'loss' in key and key != 'loss'])
    torch.testing.assert_close(total, parts.sum())
    only_kd = {key: losses[key] for key in ('kd.loss_p2p', 'kd.loss_memory_pixel')}
    reached = gradients(made, only_kd)
    assert reached['backbone.layer1.0.conv1.weight'].abs().sum() > 0
    assert any(key.startswith('kd.terms.memory.loss.projector') for key in reached)
    assert 'auxiliary_head.conv_seg.weight' not in reached


def test_the_student_learns_and_not_the_teacher():
    """Swapping the two networks turns this red: the gap closes on the student's side only."""
    made = distill(tiny(), **changed(losses=dict(d=dict(type='Distance', on='logits')))).train()
    made.stem[3].p = 0.0
    teacher = made.kd.teachers[0]
    before, x = teacher(images())['logits'].clone(), images()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.2)
    gaps = []
    for _ in range(30):
        loss = made(x, samples(), mode='loss')['kd.loss_d']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gaps.append(float(loss))
    assert gaps[-1] < 0.5 * gaps[0]
    assert torch.equal(teacher(x)['logits'], before)


def test_a_copy_for_averaging_is_a_plain_student():
    made = cirkd().train()
    averaged = ExponentialMovingAverage(made, momentum=0.5)
    before = averaged.module.backbone.stem[0].weight.clone()
    with torch.no_grad():
        made.backbone.stem[0].weight.add_(1.0)
        for _ in range(2):  # the first update copies
            averaged.update_parameters(made)
            made.backbone.stem[0].weight.add_(1.0)
    assert not torch.equal(averaged.module.backbone.stem[0].weight, before)
    plain = build(segmentor(8))
    assert list(averaged.module.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert set(averaged.module(x, seg_samples(), mode='loss')) == set(
        plain(x, seg_samples(), mode='loss')
    )


def test_progress_reaches_every_term():
    ramp = dict(type='Linear', start=0.0, stop=1.0, end=10)
    losses = dict(a=dict(type='Distance', on='logits', weight=ramp),
                  b=dict(type='Distance', on='logits', scale=ramp))  # fmt: skip
    made = distill(tiny(), **changed(losses=losses)).eval()
    values = []
    for iteration in (0, 5, 10):
        made.kd.set_progress(Progress(iteration))
        found = made(images(), samples(), mode='loss')
        assert torch.equal(found['kd.loss_a'], found['kd.loss_b'])
        values.append(float(found['kd.loss_a']))
    assert values[0] == 0 and values[2] == pytest.approx(2 * values[1])


def test_not_only_segmentation():
    kd = dict(
        teacher=dict(model=dict(type='kdmm.TinyClassifier', width=6), random=True),
        taps=dict(logits='head.out', maps='backbone.out'),
        losses=dict(d=dict(type='Distance', on='logits')),
    )
    made = distill(dict(type='kdmm.TinyClassifier'), **kd).train()
    batch = [type('Sample', (), dict(gt_label=torch.tensor([k])))() for k in (0, 2)]
    losses = made(images(), batch, mode='loss')
    assert set(losses) == {'head.loss', 'kd.loss_d'}
    assert gradients(made, losses)['head.weight'].abs().sum() > 0


def test_a_classifier_of_mmpretrain():
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    def network(channels: int) -> dict:
        return dict(
            type='ImageClassifier', _scope_='mmpretrain',
            backbone=dict(type='ResNet', depth=18, base_channels=channels, stem_channels=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=8 * channels),
        )  # fmt: skip

    kd = dict(
        teacher=dict(model=network(8), random=True),
        taps=dict(logits='head.fc.out'),
        losses=dict(d=dict(type='Distance', on='logits')),
    )
    made = distill(network(4), **kd).train()
    batch = [DataSample().set_gt_label(k) for k in (0, 2)]
    assert set(made(images(2, 32), batch, mode='loss')) == {'head.loss', 'kd.loss_d'}
    assert len(made(images(2, 32), batch, mode='predict')) == 2


def test_the_table_at_the_start(monkeypatch):
    made, messages = cirkd().train(), []
    monkeypatch.setattr('kdmm.losses.KDLoss.note', lambda self: 'of logits')
    monkeypatch.setattr(
        'kdmm.distillers.distiller.print_log', lambda text, *_, **__: messages.append(text)
    )
    for _ in range(2):
        made(torch.randn(2, 3, 32, 32), seg_samples(), mode='loss')
    (table,) = messages
    rows = [line.split() for line in table.splitlines()]
    assert rows[1] == ['term', 'tap', 'teacher', 'student', 'connector', 'loss', 'weight']
    assert rows[3] == ['kd', 'logits', '2x3x4x4', '2x3x4x4', '-', 'KDLoss', '1']
    expected = ['memory', 'pixels', '2x8x4x4', '2x8x4x4', '-', 'CIRKDMemoryLoss',
                'pixel', '0.1,', 'region', '0.1']  # fmt: skip
    assert rows[5] == expected
    assert table.splitlines()[6:8] == ['kd: of logits', 'queues and banks: 0 MiB on each device']


# what is refused


def only(**loss) -> dict:
    """These terms in place of all."""
    return dict(losses=dict(kd=loss))


WRONG: list[tuple[dict, str, dict]] = [
    (dict(losess={}), 'kd', dict(problem="unknown key 'losess'; nearest: losses")),
    (dict(teacher=None), 'kd.teacher', dict(problem='missing')),
    (dict(taps=None), 'kd.taps', dict(problem='missing')),
    (dict(losses=None), 'kd.losses', dict(problem='missing')),
    (dict(taps={}), 'kd.taps', dict(got={}, expected='at least one')),
    (dict(losses={}), 'kd.losses', dict(got={}, expected='at least one')),
    (dict(teacher=dict(model=tiny(), rnadom=True)), 'kd.teacher',
     dict(problem="'rnadom'; nearest: random")),
    (dict(taps=dict(logits='head.oot')), 'kd.taps.logits', dict(got='head.oot')),
    (dict(taps=dict(logits=3)), 'kd.taps.logits', dict(got=3, expected='a path')),
    (dict(taps=dict(logits=dict(student='head.out'))), 'kd.taps.logits',
     dict(got=dict(student='head.out'), expected='a path')),
    (dict(taps=dict(logits='haed.out')), 'kd.taps.logits',
     dict(problem=('the student (TinyNet)', 'nearest: head'))),
    (dict(taps=dict(logits=dict(student='head.out', teacher='haed.out'))), 'kd.taps.logits',
     dict(problem=('the teacher (TinyNet)', 'nearest: head'))),
    (dict(losses=dict(kd='KDLoss')), 'kd.losses.kd',
     dict(got='KDLoss', expected='dict(type=..., on=...)')),
    (only(on='logits'), 'kd.losses.kd', dict(expected='dict(type=..., on=...)')),
    (only(type='KDLos', on='logits'), 'kd.losses.kd.type', dict(got='KDLos', problem='KDLoss')),
    (only(type='KDLoss', on='logits', tua=1.0), 'kd.losses.kd', dict(problem="unknown key 'tua'")),
    (only(type='KDLoss', on='logit'), 'kd.losses.kd.on', dict(got='logit', problem='logits')),
    (only(type='KDLoss', on='logits', teacher=-1), 'kd.losses.kd.teacher',
     dict(got=-1, expected='one of 1 teacher')),
    # kinds that are wrong altogether
    (only(type='KDLoss'), 'kd.losses.kd.on', dict(got=None)),
    (dict(teacher='teacher.py'), 'kd.teacher', dict(got='teacher.py', expected='a dict or a list')),
    (dict(teacher=[]), 'kd.losses.kd.teacher', dict(got=0)),
    (dict(taps=['head.out']), 'kd.taps', dict(got=['head.out'])),
    (dict(losses=[dict(type='KDLoss', on='logits')]), 'kd.losses', dict(expected='a dict')),
    (only(type='KDLoss', on='logits', teacher='first'), 'kd.losses.kd.teacher', dict(got='first')),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'key', 'fields'), WRONG)
def test_what_cannot_be_right(changes, key, fields):
    with refused(key=key, **fields):
        distill(tiny(), **changed(**changes))


def test_a_teacher_that_no_term_reads_is_refused():
    """It would be run every step for nothing."""
    with refused(key='kd.teacher', problem='no term reads teacher 1'):
        distill(tiny(), **changed(teacher=[TEACHER, TEACHER]))


@pytest.mark.parametrize(
    'key, fields',
    [
        ('loses', dict(key='kd', problem="unknown key 'loses'; nearest: losses")),
        ('type', dict(key='kd.type', got='Distler', problem='nearest: Distiller')),
    ],
)
def test_keys_that_the_section_cannot_have(key, fields):
    from kdmm.engine import model_config

    with refused(**fields):
        ROOT_MODELS.build(model_config(tiny(), {**KD, key: 'Distler'}))


def test_a_student_with_a_child_of_that_name():
    student = build(tiny())
    student.kd = torch.nn.Identity()
    with refused(key='model', problem="already has a child called 'kd'"):
        distill(student, **KD)


def test_distilling_twice_is_refused():
    with refused(key='model', problem="'kd'"):
        distill(distill(tiny(), **KD), **KD)


@pytest.mark.parametrize(
    'teacher, shapes, fix',
    [
        (tiny(6, num_classes=5), ('3, 8, 8)', '5, 8, 8)'), 'ClassMap'),
        (tiny(6, stride=1), ('3, 8, 8)', '3, 16, 16)'), 'Resize'),
    ],
)
def test_shapes_that_do_not_match_are_named_with_the_term(teacher, shapes, fix):
    """Seen when the model is built or on the first batch, as one message about the config."""
    with refused(key='kd.losses.kd', problem=shapes, fix=fix):
        made = distill(tiny(), **changed(teacher=dict(model=teacher, random=True))).train()
        made(images(), samples(), mode='loss')


def test_a_frozen_tap():
    student = build(tiny())
    student.requires_grad_(False)
    made = distill(student, **KD).train()
    made.aux.requires_grad_(True)
    with refused(key='kd.taps.logits', problem='the student activation carries no'):
        made(images(), samples(), mode='loss')


# precision and memory


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    made = cirkd().train()
    with cpu_autocast(dtype):
        losses = made(torch.randn(2, 3, 32, 32), seg_samples(), mode='loss')
    assert all(value.isfinite() for value in losses.values())
    assert all(losses[key].dtype == torch.float32 for key in CIRKD_LOGS)
    found = gradients(made, losses)
    assert all(value.isfinite().all() for value in found.values())
    assert found['backbone.layer1.0.conv1.weight'].abs().sum() > 0


@pytest.mark.parametrize('how', ['with_cp', 'modules'])
def test_activation_checkpointing_changes_nothing(how):
    x, results = torch.randn(2, 3, 32, 32), []
    for checkpointed in (False, True):
        torch.manual_seed(0)  # teacher and projector are drawn too
        config = segmentor(8)
        config['backbone']['with_cp'] = checkpointed and how == 'with_cp'
        made = cirkd(build(config)).train()
        if checkpointed and how == 'modules':
            blocks = ['backbone.layer1', 'backbone.layer4', 'decode_head.convs']
            turn_on_activation_checkpointing(made, blocks)
        torch.manual_seed(2)
        losses = made(x, seg_samples(), mode='loss')
        results.append((losses, gradients(made, losses)))
    (plain, plain_gradients), (saved, saved_gradients) = results
    for key, value in plain.items():
        torch.testing.assert_close(saved[key], value)
    assert set(plain_gradients) == set(saved_gradients)
    for key, value in plain_gradients.items():
        torch.testing.assert_close(saved_gradients[key], value, msg=key)


def test_state_of_the_terms_is_saved_and_of_nothing_else():
    losses = dict(p=dict(type='Parts', on='body'), d=dict(type='Distance', on='body'))
    made = distill(tiny(), **changed(taps=dict(body='body.out'), losses=losses))
    assert set(made.kd.state_dict()) == {
        'terms.p.loss.projector.weight', 'terms.p.loss.projector.bias', 'terms.p.loss.queue'
    }  # fmt: skip


def test_the_registered_builder_needs_no_scope():
    made = MODELS.get('Distiller')(tiny(), **KD)
    assert isinstance(made.kd, Distillation)


@pytest.mark.parametrize(
    'change, said',
    [
        (dict(taps={**KD['taps'], 'other': 'head.out'}), 'kd.taps: no loss reads other'),
        (
            dict(losses={k: {**v, 'weight': 0} for k, v in KD['losses'].items()}),
            'kd.losses: every weight is 0, so the student is trained as without kd',
        ),
    ],
)
def test_what_is_read_by_nobody_and_losses_without_weight_are_told(change, said):
    with mock.patch('kdmm.distillers.distiller.print_log') as told:
        distill(tiny(), **{**KD, **change})
    assert said in [call.args[0] for call in told.call_args_list]
