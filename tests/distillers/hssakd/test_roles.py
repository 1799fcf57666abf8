"""Parts that each role trains, their modes, and parts that stay unchanged."""

import copy

import pytest
import torch

from tests.versions import cpu_autocast

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS  # noqa: E402

from kdmm.distillers import Progress  # noqa: E402
from kdmm.errors import ConfigError  # noqa: E402
from kdmm.functional import unrotated  # noqa: E402
from kdmm.renamed import RenamedWarning  # noqa: E402
from tests.errors import refused  # noqa: E402

from .classifiers import (  # noqa: E402
    batch,
    build,
    classifier_config,
    eight_channels,
    random_teacher,
    samples,
    total,
)

ROLES = {
    'teacher': dict(kind='HSSAKDTeacher', random=True),
    'joint': dict(kind='HSSAKDTeacher', joint=True),
    'student': dict(kind='HSSAKD', teacher=random_teacher()),
    'online': dict(kind='HSSAKDOnline'),
}
roles = pytest.mark.parametrize('role', ROLES)


def made(role: str, **section):
    return build(**copy.deepcopy({**ROLES[role], **section})).train()


def step(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    losses = model(*batch(0, 2), mode='loss')
    total(losses).backward()
    optimizer.step()
    return losses


@roles
def test_who_gets_a_gradient(role):
    model = made(role)
    step(model)
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    everything = {name for name, _ in model.named_parameters()}
    if role == 'teacher':
        everything = {name for name in everything if name.startswith('kd.branches.')}
    assert reached == everything
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.grad is not None)


def test_branch_losses_reach_the_backbone_only_if_attached():
    for role, reaches in (('joint', True), ('student', True), ('teacher', False)):
        model = made(role)
        losses = model(*batch(0, 2), mode='loss')
        branch = next(value for name, value in losses.items() if 'stage3' in name)
        branch.backward()
        grad = model.backbone.stem[0].weight.grad
        assert (grad is not None and bool(grad.any())) == reaches


@roles
def test_modes(role):
    model = made(role)
    trained = role != 'teacher'
    for part in (model.backbone, model.neck, model.head):
        assert {m.training for m in part.modules()} == {trained}
    assert all(m.training for m in model.kd.branches.modules())
    model.eval()
    assert not any(m.training for m in model.modules())


def test_frozen_teacher_keeps_its_classifier_to_the_bit():
    model = made('teacher')
    before = copy.deepcopy(model.state_dict())
    step(model)
    changed = {key for key, value in model.state_dict().items() if not before[key].equal(value)}
    assert changed and all(key.startswith('kd.branches.') for key in changed)
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_student_changes_nothing_of_its_teacher():
    model = made('student')
    before = model.kd.teacher.fingerprint()
    model.train()
    step(model)
    assert model.kd.teacher.fingerprint() == before
    assert not any(m.training for part in model.kd.teacher.parts for m in part.modules())
    assert not [key for key in model.state_dict() if 'teacher' in key]
    assert not [name for name, _ in model.named_parameters() if 'teacher' in name]


def test_fingerprint_speaks_of_the_branches_too():
    teacher = made('student').kd.teacher
    before = teacher.fingerprint()
    next(iter(teacher.branches.parameters())).add_(1)
    assert teacher.fingerprint() != before


@roles
def test_prediction_is_the_classifiers(role):
    model = made(role).eval()
    plain = MODELS.build(classifier_config())
    state = {key: value for key, value in model.state_dict().items() if not key.startswith('kd.')}
    plain.load_state_dict(state, strict=True)
    x, found = batch(0, 1)
    expected = plain.eval()(x)
    with torch.no_grad():
        for p in model.kd.parameters():
            p.normal_()
    assert torch.equal(model(x), expected)
    scores = model(x, found, mode='predict')
    assert torch.equal(torch.stack([one.pred_score for one in scores]), expected.softmax(1))


def test_identical_peers_have_nothing_to_tell():
    model = made('online')
    peer = model.kd.peers[0]
    state = {key: value for key, value in model.state_dict().items() if not key.startswith('kd.')}
    peer.network.load_state_dict(state)
    peer.branches.load_state_dict(model.kd.branches.state_dict())
    losses = model(*batch(0, 2), mode='loss')
    mutual = [value for name, value in losses.items() if name.startswith('kd.loss_stage')]
    assert len(mutual) == 3
    for value in (losses['kd.loss_logits'], *mutual):
        assert float(value.detach()) == pytest.approx(0, abs=1e-9)
    own = sum(v for name, v in losses.items() if 'joint' in name and 'peer' not in name)
    assert float(total(losses).detach()) == pytest.approx(
        2 * float((losses['head.loss'] + own).detach()), rel=1e-5
    )


def test_peers_start_differently_and_are_twice_as_many_parameters():
    model = made('online')
    model.init_weights()
    peer = model.kd.peers[0]
    own = dict(model.backbone.named_parameters())
    for name, p in peer.network.backbone.named_parameters():
        if p.ndim > 1:
            assert abs(torch.corrcoef(torch.stack([p.flatten(), own[name].flatten()]))[0, 1]) < 0.5
    plain = sum(p.numel() for p in MODELS.build(classifier_config()).parameters())
    branches = sum(p.numel() for p in model.kd.branches.parameters())
    assert sum(p.numel() for p in model.parameters()) == 2 * (plain + branches)


@pytest.mark.parametrize('peers', [2, 3])
def test_mutual_terms_by_a_naive_loop(peers):
    model = made('online', peers=peers, temperature=2.0).double()
    x, found = batch(0, 2)
    losses = model(x.double(), found, mode='loss')
    views = torch.stack([torch.rot90(x.double(), r, (2, 3)) for r in range(4)], 1).flatten(0, 1)
    networks = [(model, model.kd.branches)]
    networks += [(peer.network, peer.branches) for peer in model.kd.peers]
    logits = [network.forward(views) for network, _ in networks]

    def kl(mine, theirs):
        s, t = (mine / 2).softmax(1).log(), (theirs.detach() / 2).softmax(1)
        return 4 * (t * (t.log() - s)).sum(1).mean()

    expected = sum(
        kl(logits[a], logits[b]) for a in range(peers) for b in range(peers) if a != b
    ) / (peers - 1)
    torch.testing.assert_close(losses['kd.loss_logits'], expected, rtol=1e-9, atol=1e-12)
    weight = model.kd.peers[-1].network.head.fc.weight
    (got,) = torch.autograd.grad(losses['kd.loss_logits'], weight, retain_graph=True)
    (want,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@roles
def test_own_loss_is_on_the_unrotated_rows(role):
    """Of batch statistics over all rows, so compare with a pass over all rows."""
    model = made(role).double()
    x, found = batch(0, 2)
    losses = model(x.double(), found, mode='loss')
    views = torch.stack([torch.rot90(x.double(), r, (2, 3)) for r in range(4)], 1).flatten(0, 1)
    logits = unrotated(model.forward(views))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(losses['head.loss'], expected)


def test_names_in_the_log():
    stages = ['stage1', 'stage2', 'stage3']
    joint = [f'kd.loss_joint_{name}' for name in stages]
    peer = [f'kd.loss_peer1_joint_{name}' for name in stages]
    kl = ['kd.loss_logits', *(f'kd.loss_{name}' for name in stages)]
    expected = dict(
        teacher=['head.loss', *joint],
        joint=['head.loss', *joint],
        student=['head.loss', *kl],
        online=['head.loss', *joint, 'kd.peer1_loss', *peer, *kl],
    )
    for role, names in expected.items():
        model = made(role)
        assert list(model(*batch(0, 2), mode='loss')) == names
        assert list(model.kd.diagnostics()) == [f'kd.joint_accuracy_{name}' for name in stages]


@roles
def test_what_mmengine_calls_loss_is_the_sum(role):
    model = made(role)
    losses = model(*batch(0, 2), mode='loss')
    summed, logged = model.parse_losses(losses)
    torch.testing.assert_close(summed, total(losses))
    assert logged['loss'] is summed


def test_joint_accuracy_in_the_log():
    model = made('joint')
    assert model.kd.diagnostics() == {}
    logits = torch.zeros(8, 12)
    right = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    logits[torch.arange(8), right] = 1
    logits[0] = logits[0].roll(1)
    model.kd.remember(dict(stage1=logits), right)
    assert float(model.kd.diagnostics()['kd.joint_accuracy_stage1']) == 87.5


@pytest.mark.parametrize(
    'role, weight, changed',
    [
        ('student', dict(logits=0.5), {'kd.loss_logits'}),
        ('student', dict(branches=0.5), {f'kd.loss_stage{n}' for n in (1, 2, 3)}),
        ('joint', 0.5, {f'kd.loss_joint_stage{n}' for n in (1, 2, 3)}),
    ],
)
def test_weights(role, weight, changed):
    torch.manual_seed(1)
    plain = made(role)
    torch.manual_seed(1)
    half = made(role, weight=weight)
    full, less = (model(*batch(0, 2), mode='loss') for model in (plain, half))
    for name in full:
        factor = 0.5 if name in changed else 1.0
        torch.testing.assert_close(less[name], factor * full[name])


def test_a_weight_may_be_a_schedule():
    ramp = dict(type='Linear', start=0.0, stop=1.0, begin=0, end=10)
    model = made('student', weight=dict(branches=ramp))
    values = []
    for iteration in (0, 5, 10):
        model.kd.set_progress(Progress(iteration))
        values.append(float(model(*batch(0, 2), mode='loss')['kd.loss_stage1'].detach()))
    assert values[0] == 0 and values[1] == pytest.approx(values[2] / 2, rel=0.2)


@pytest.mark.parametrize('option', ['checkpointing', 'channels_last'])
@roles
def test_cost_options_change_no_figure(role, option):
    results = []
    for chosen in (False, True):
        torch.manual_seed(1)
        model = made(role, student=eight_channels(), **{option: chosen})
        torch.manual_seed(2)
        losses = step(model)
        results.append((losses, model))
    (expected, plain), (found, other) = results
    tolerance = dict(rtol=0, atol=0) if option == 'checkpointing' else dict(rtol=1e-4, atol=1e-5)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)
    state = other.state_dict()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(state[key], value, **tolerance)


@roles
def test_channels_last_reaches_every_network(role):
    model = made(role, channels_last=True)
    layout = dict(memory_format=torch.channels_last)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.weight.is_contiguous(**layout) for m in convolutions)
    seen = []
    model.backbone.stem[0].register_forward_hook(lambda m, args, out: seen.append(args[0]))
    model(*batch(0, 2), mode='loss')
    assert seen[0].is_contiguous(**layout)


@roles
def test_a_deep_copy_is_a_plain_classifier(role):
    model = made(role)
    other = copy.deepcopy(model)
    assert type(other) is type(build()) and not hasattr(other, 'kd')
    assert set(other.state_dict()) == {k for k in model.state_dict() if not k.startswith('kd.')}
    assert list(other(*batch(0, 2), mode='loss')) == ['loss']


@roles
def test_the_students_weights_do_not_depend_on_what_is_attached(role):
    torch.manual_seed(3)
    plain = MODELS.build(classifier_config())
    plain.init_weights()
    torch.manual_seed(3)
    model = made(role)
    model.init_weights()
    for key, value in plain.state_dict().items():
        assert model.state_dict()[key].equal(value)


@pytest.mark.parametrize('dtype', [torch.bfloat16])
@roles
def test_autocast(role, dtype):
    model = made(role)
    expected = model(*batch(0, 2), mode='loss')
    with cpu_autocast(dtype):
        losses = model(*batch(0, 2), mode='loss')
    for name, value in losses.items():
        assert value.dtype == torch.float32 and torch.isfinite(value)
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.1)
    total(losses).backward()


def test_frozen_teacher_needs_weights():
    model = build('HSSAKDTeacher')
    with refused(key='load_from', problem='missing', fix='random weights'):
        model.kd.check_start(loaded=False)
    model.kd.check_start(loaded=True)
    build('HSSAKDTeacher', random=True).kd.check_start(loaded=False)
    build('HSSAKDTeacher', joint=True).kd.check_start(loaded=False)
    pretrained = dict(type='Pretrained', checkpoint='x.pth')
    student = classifier_config(init_cfg=pretrained)
    with refused(key='load_from', problem='missing'):  # the head is random
        build('HSSAKDTeacher', student).kd.check_start(loaded=False)
    student['head']['init_cfg'] = [dict(type='Normal', layer='Linear'), pretrained]
    build('HSSAKDTeacher', student).kd.check_start(loaded=False)
    whole = dict(classifier_config(), init_cfg=pretrained)
    build('HSSAKDTeacher', whole).kd.check_start(loaded=False)


def test_weights_for_one_peer_only():
    model = build('HSSAKDOnline')
    with refused(key='load_from', problem='its weights would reach the first'):
        model.kd.check_start(loaded=True)
    model.kd.check_start(loaded=True, resumed=True)
    model.kd.check_start(loaded=False)


def test_mixed_labels():
    model = made('joint')
    x, found = batch(0, 2)
    found[0].set_gt_score(torch.tensor([0.5, 0.5, 0.0]))
    told = 'one class an image'
    with refused(key='model.data_preprocessor.batch_augments', problem=told):
        model(x, found, mode='loss')


def test_several_labels_an_image():
    model = made('joint')
    x, found = batch(0, 2)
    found[0].set_gt_label([0, 1])
    with refused(key='train_dataloader.dataset', problem='3 labels for 2 images'):
        model(x, found, mode='loss')


def test_images_that_are_not_square():
    with refused(key='train_dataloader.dataset.pipeline', problem='square images, got 8x16'):
        made('joint')(torch.zeros(2, 3, 8, 16), samples(0, 1), mode='loss')


WRONG = {
    'other classes': (
        dict(teacher=random_teacher(classes=5)),
        dict(key='kd.teacher', problem='it tells 5 classes apart, the student 3'),
    ),
    'fewer branches': (
        dict(teacher={**random_teacher(), 'stages': (0, 1)}),
        dict(
            key='kd.teacher',
            problem=('its 2 branches (stage1, stage2)', 'has 3 (stage1, stage2, stage3)'),
        ),
    ),
    'two teachers': (
        dict(teacher=[random_teacher()] * 2),
        dict(key='kd.teacher', problem='one teacher, and these are 2'),
    ),
    'no teacher': (dict(teacher=None), dict(key='kd.teacher', problem='missing')),
    'no checkpoint': (
        dict(teacher=dict(model=classifier_config())),
        dict(key='kd.teacher.checkpoint', fix='random=True'),
    ),
    'unknown key of the teacher': (
        dict(teacher={**random_teacher(), 'chekpoint': 'x'}),
        dict(key='kd.teacher', problem="unknown key 'chekpoint'; nearest: checkpoint"),
    ),
    'unknown key': (
        dict(teacher=random_teacher(), taux=3),
        dict(key='kd', problem="unknown key 'taux'"),
    ),
    'unknown part': (
        dict(teacher=random_teacher(), weight=dict(logit=1.0)),
        dict(key='kd.weight', problem="unknown key 'logit'; nearest: logits"),
    ),
    'no temperature': (
        dict(teacher=random_teacher(), temperature=0),
        dict(key='kd.temperature', got=0, expected='a positive number'),
    ),
    'negative weight': (
        dict(teacher=random_teacher(), weight=dict(logits=-1.0)),
        dict(key='kd.weight.logits', got=-1.0, expected='0 or more'),
    ),
    'no flag': (
        dict(teacher=random_teacher(), checkpointing='no'),
        dict(key='kd.checkpointing', got='no', expected='True or False'),
    ),
    'measured weight': (
        dict(teacher=random_teacher(), weight='auto:0.1'),
        dict(key='kd.weight', expected='not a measured weight'),
    ),
}


@pytest.mark.parametrize('section, fields', WRONG.values(), ids=WRONG)
def test_wrong_sections(section, fields):
    with refused(**fields):
        build('HSSAKD', **copy.deepcopy(section))


@pytest.mark.parametrize('peers', [1, 0, 2.0, True, 'two'])
def test_wrong_number_of_peers(peers):
    with refused(key='kd.peers', got=peers, expected='2 networks or more'):
        build('HSSAKDOnline', peers=peers)


@pytest.mark.parametrize('kind', ['HSSAKD', 'HSSAKDTeacher', 'HSSAKDOnline'])
def test_one_class_has_no_logits_to_learn_from(kind):
    section = dict(teacher=random_teacher()) if kind == 'HSSAKD' else {}
    with refused(key='model.head.num_classes', got=1, expected='2 or more'):
        build(kind, classifier_config(classes=1), **section)


def test_weights_that_end_negative():
    ramp = dict(type='Linear', start=1.0, stop=-1.0, end=5)
    with refused(key='kd.weight.logits', got=ramp, problem='it reaches -1'):
        build('HSSAKDOnline', weight=dict(logits=ramp))


@pytest.mark.parametrize('role', ['student', 'online'])
def test_the_old_name_of_the_temperature(role):
    with pytest.warns(RenamedWarning, match=r'^kd\.tau is called kd\.temperature now'):
        model = made(role, tau=1.5)
    assert model.kd.temperature == 1.5
    with pytest.raises(ConfigError, match='kd: tau is the old name of temperature.*1.5.*3.0'):
        made(role, tau=1.5, temperature=3.0)
    with pytest.warns(RenamedWarning):
        model.kd.tau = 2.0
    assert model.kd.temperature == 2.0


def test_flags_and_temperatures_of_the_others():
    with refused(key='kd.joint', got='no', expected='True or False'):
        build('HSSAKDTeacher', joint='no')
    with refused(key='kd.temperature', got=-3, expected='a positive number'):
        build('HSSAKDOnline', temperature=-3)


def test_peers_need_a_config():
    with refused(key='student', expected='the config of a model, not a built one'):
        build('HSSAKDOnline', MODELS.build(classifier_config()))


def test_only_classifiers():
    told = 'branches belong to classifiers, and the student is a Linear'
    with refused(key='model.type', problem=told):
        build('HSSAKDTeacher', torch.nn.Linear(2, 2))


def test_teacher_of_fewer_stages_by_choice():
    student = classifier_config()
    model = build('HSSAKD', student, teacher={**random_teacher(), 'stages': (0, 2)}, stages=(1, 2))
    losses = model(*batch(0, 2), mode='loss')
    assert list(losses)[2:] == ['kd.loss_stage2', 'kd.loss_stage3']


@roles
def test_every_part_runs_once_a_step(role):
    """The trunk once over all views, each branch once: nothing is computed twice."""
    model = made(role)
    networks = [(model, model.kd.branches)]
    networks += [(peer.network, peer.branches) for peer in getattr(model.kd, 'peers', ())]
    networks += [(teacher.module, teacher.branches) for teacher in model.kd.teachers]
    rows = []
    for network, branches in networks:
        for part in (network.backbone, *network.backbone.stages, *branches.values()):
            part.register_forward_hook(lambda m, args, output: rows.append(len(args[0])))
    model(*batch(0, 2), mode='loss')
    assert rows == [8] * 7 * len(networks)
