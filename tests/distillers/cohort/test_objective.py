"""Networks that are trained together: who runs, who learns, and what it is called."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.versions import cpu_autocast

pytest.importorskip('mmpretrain')

from kdmm.distillers import Progress  # noqa: E402
from kdmm.functional import kl_divergence  # noqa: E402
from kdmm.losses import Batch, DistillLoss
from kdmm.registry import MODELS  # noqa: E402
from tests.distillers.hssakd.classifiers import build, eight_channels  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.errors import refused  # noqa: E402

from .networks import (  # noqa: E402
    DML,
    LABELS,
    MCL,
    TRUNK,
    batch,
    calls,
    classifier_config,
    cohort,
    networks,
    step,
    total,
)

BOTH = {**DML, **MCL}
WIDER = classifier_config(widths=(4, 4, 8, 12))
RESNET18 = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
LATER = dict(type='Linear', start=0.0, stop=1.0, begin=5, end=9)


@MODELS.register_module(force=True)
class Places(DistillLoss):
    """Keeps what each place showed; learns nothing."""

    mutual = True

    def forward(self, peers: list) -> Tensor:
        self.given = [x.detach() for x in peers]
        return 0 * sum(x.sum() for x in peers)

    def see_dataset(self, dataset: object) -> None:
        self.dataset = dataset

    def after_step(self, batch: Batch) -> None:
        self.logged = dict(steps=self.logged.get('steps', 0) + 1)


PLACES = dict(places=dict(type='Places', on='logits'))


# the student is what it would be alone


@pytest.mark.parametrize('trunk', [(), TRUNK], ids=['apart', 'trunk'])
def test_building_changes_neither_the_student_nor_the_draws_after_it(trunk):
    found = []
    for kind, section in (('', {}), ('Cohort', dict(peers=3, trunk=trunk))):
        torch.manual_seed(7)
        model = build(kind, **section)
        state = {key: x for key, x in model.state_dict().items() if key[:3] != 'kd.'}
        found.append((state, torch.rand(3)))
    assert_same(dict(found[0][0]), dict(found[1][0]))
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize('peers', [2, 4, [WIDER]], ids=['2', '4', 'wider'])
def test_without_losses_the_student_is_trained_as_alone(peers):
    """To the bit: losses, weights and statistics after three steps."""
    torch.manual_seed(7)
    alone = build().train()
    torch.manual_seed(7)
    model = cohort(peers)
    for number in range(3):
        labels = tuple((label + number) % 3 for label in LABELS)
        expected, found = step(alone, labels=labels), step(model, labels=labels)
        assert torch.equal(found['head.loss'], expected['loss'])
    state = model.state_dict()
    for key, value in alone.state_dict().items():
        assert torch.equal(state[key], value), key


def test_prediction_is_the_students():
    model, images = cohort(3, losses=BOTH).eval(), batch(*LABELS)[0]
    counted = calls(dict(model.kd.networks()))
    state = {key: x for key, x in model.state_dict().items() if key[:3] != 'kd.'}
    alone = build()
    alone.load_state_dict(state, strict=True)
    assert torch.equal(model(images), alone.eval()(images))
    assert not any(counted.values()) and type(model).__name__ == 'ImageClassifier'


# a step


@pytest.mark.parametrize('trunk', [(), TRUNK], ids=['apart', 'trunk'])
def test_each_network_runs_once(trunk):
    model = cohort(3, losses=BOTH, trunk=trunk)
    parts = {
        f'{index} {part}': network.get_submodule(part)
        for index, network in enumerate(networks(model))
        for part in ('backbone.stages.1', 'neck', 'head.fc')
    }
    counted = calls(parts)
    step(model)
    assert counted == dict.fromkeys(parts, 1)


@pytest.mark.parametrize('trunk', [(), TRUNK], ids=['apart', 'trunk'])
@pytest.mark.parametrize('losses', [{}, BOTH], ids=['none', 'both'])
def test_everything_gets_a_gradient(losses, trunk):
    model = cohort(3, losses=losses, trunk=trunk)
    step(model, lr=0.0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_networks_start_and_stay_different():
    model = cohort(3)
    for _ in range(2):
        first, second, third = (network.backbone.stem[0].weight for network in networks(model))
        assert not torch.equal(first, second) and not torch.equal(second, third)
        step(model)


@pytest.mark.parametrize('keep, others', [(0, '12'), (1, '02'), (2, '01')])
def test_names_and_places(keep, others):
    model = cohort(3, losses={**PLACES, **DML}, keep=keep)
    assert list(model.kd.networks()) == [f'peer{place}' for place in others]
    losses = step(model, lr=0.0)
    own = {'head.loss', *(f'kd.peer{place}_loss' for place in others)}
    assert set(losses) == own | {'kd.loss_places', 'kd.loss_dml'}
    with torch.no_grad():
        shown = [network(batch(*LABELS)[0]) for network in networks(model)]  # in train mode
    given = model.kd.terms['places'].loss.given
    assert len(given) == 3 and all(map(torch.equal, given, shown))
    cross_entropy = nn.functional.cross_entropy(shown[keep], torch.tensor(LABELS))
    torch.testing.assert_close(losses['head.loss'].detach(), cross_entropy)
    pairs = [(a, b) for a in shown for b in shown if a is not b]
    expected = sum(kl_divergence(a, b, 2.0) for a, b in pairs) / 2
    torch.testing.assert_close(losses['kd.loss_dml'].detach(), expected)


def test_networks_of_different_kinds():
    """Another width, another library's by name; taps as lists."""
    taps = dict(
        logits=['head.fc.out'] * 3,
        embedding=['head.fc.in', 'head.fc.in', 'neck.out[0]'],
    )
    student = classifier_config(10)
    wider = classifier_config(10, widths=(4, 4, 8, 12))
    wider['data_preprocessor'] = student['data_preprocessor'] = dict(
        mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=False
    )
    model = cohort([wider, RESNET18], student, taps=taps, losses=BOTH)
    assert model.kd.terms['mcl'].loss.heads.heads[0][0].in_features == 8
    widths = [head[0].in_features for head in model.kd.terms['mcl'].loss.heads.heads]
    assert widths == [8, 12, 512]
    losses = step(model)
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_memory_format_reaches_all():
    wide = eight_channels()
    plain, model = (cohort(3, wide, losses=BOTH, channels_last=last) for last in (False, True))
    model.load_state_dict(plain.state_dict())
    seen = []
    for network in networks(model):
        weight = network.backbone.stages[1][0].branch[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        network.backbone.register_forward_hook(lambda m, args, out: seen.append(args[0].stride()))
    expected, found = step(plain), step(model)
    assert seen == [(192, 1, 24, 3)] * 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_loss_that_needs_labels_says_so():
    model = cohort(2, losses=MCL)
    images, samples = batch(*LABELS)
    for sample in samples:
        sample.gt_score = nn.functional.one_hot(sample.gt_label[0], 3).float()
        del sample.gt_label
    with refused(key='train_dataloader.dataset.pipeline', problem="needs 'labels'"):
        model(images, samples, mode='loss')


def test_a_frozen_tap_is_refused_by_the_networks_name():
    model = cohort(
        2, losses=dict(it=dict(type='KDLoss', on='map')), taps=dict(map='backbone.stem.out')
    )
    model.kd.peers['peer1'].backbone.stem.requires_grad_(False)
    with refused(key='kd.taps.map', problem='the peer1 activation carries no grad'):
        step(model)


# between the steps


@pytest.mark.parametrize('losses', [
    dict(dml=dict(DML['dml'], weight=LATER)),
    dict(mcl=dict(MCL['mcl'], weight=dict(vcl=LATER, soft_icl=LATER))),
], ids=['pairs', 'mutual'])  # fmt: skip
def test_a_weight_that_begins_at_0(losses):
    """Until then it changes nothing, but every parameter has a gradient, as DDP needs it."""
    torch.manual_seed(7)
    model = cohort(2, losses=losses)
    torch.manual_seed(7)
    alone = cohort(2)
    for progress in (Progress(0), Progress(5)):
        model.kd.set_progress(progress)
        found, expected = step(model), step(alone)
        assert all(p.grad is not None for p in model.parameters())
        assert all(found[key] == 0 for key in found.keys() - expected.keys())
    for name, parameter in alone.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    model.kd.set_progress(Progress(6))
    found = step(model)
    assert all(found[key] > 0 for key in found.keys() - expected.keys())


def test_losses_see_the_data_set_and_take_their_steps():
    model = cohort(2, losses=PLACES)
    data = object()
    model.kd.see_loader(SimpleNamespace(dataset=data))
    for _ in range(2):
        step(model)
        model.kd.after_step()
    assert model.kd.terms['places'].loss.dataset is data
    assert model.kd.diagnostics() == {'kd.places_steps': 2}


@pytest.mark.parametrize('losses', [MCL, dict(sp=dict(type='SPLoss', on='embedding'))], ids=list)
def test_a_loader_of_single_images(losses):
    model = cohort(2, losses=losses)
    (name,) = losses
    told = dict(problem=f'of kd.losses.{name}', expected='at least 2 on')
    with refused(key='train_dataloader.batch_size', got=1, **told):
        model.kd.see_loader(DataLoader(range(4), batch_size=1))
    model.kd.see_loader(DataLoader(range(4), batch_size=2))
    cohort(2, losses=DML).kd.see_loader(DataLoader(range(4), batch_size=1))


def test_weights_for_one_network_are_refused():
    objective = cohort(2).kd
    objective.check_start(loaded=False)
    objective.check_start(loaded=True, resumed=True)
    with refused(key='load_from', problem='its weights would reach the first'):
        objective.check_start(loaded=True)


def test_a_copy_holds_what_is_averaged():
    """In the same order, without losses and taps; it predicts as the student does."""
    model = cohort(3, losses=BOTH)
    copied = copy.deepcopy(model)
    assert list(copied.kd.state_dict()) == [
        key for key in model.kd.state_dict() if key.startswith('peers.')
    ]
    pairs = zip(copied.named_parameters(), model.named_parameters(), strict=False)
    assert all(a == b and p is not q and torch.equal(p, q) for (a, p), (b, q) in pairs)
    assert [name for name, _ in model.named_buffers()][: len(list(copied.buffers()))] == [
        name for name, _ in copied.named_buffers()
    ]
    images = batch(*LABELS)[0]
    assert torch.equal(copied.eval()(images), model.eval()(images))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_finite_under_autocast(dtype):
    model = cohort(2, losses=BOTH, trunk=TRUNK)
    with cpu_autocast(dtype):
        losses = model(*batch(*LABELS), mode='loss')
    total(losses).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
