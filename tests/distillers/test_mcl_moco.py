"""MoCos that learn from each other: values, gradients, queues and key encoders of a step."""

import copy
import itertools
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.versions import cpu_autocast

pytest.importorskip('mmpretrain')

import mmpretrain.models.utils  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402

from kdmm.distillers import Progress  # noqa: E402
from kdmm.distillers.mcl_moco.encoders import enqueue  # noqa: E402
from tests.errors import refused  # noqa: E402
from tests.ranks import on_ranks  # noqa: E402

from .hssakd.classifiers import classifier_config  # noqa: E402
from .mocos import (  # noqa: E402
    MOMENTUM,
    TAU,
    build,
    everything,
    moco_config,
    snapshot,
    total,
    views,
)

CLOSE = dict(rtol=1e-9, atol=1e-11)
PARTS = ('vcl', 'soft_vcl', 'icl', 'soft_icl')


def networks_of(model):
    return [model, *model.kd.networks().values()]


def run(model, step=0):
    return model(views(step=step), None, mode='loss')


# a step, written out


def keys_by_hand(net, images):
    """Of the key encoder moved once more; it leaves ``net`` alone."""
    encoder = copy.deepcopy(nn.Sequential(net.backbone, net.neck))
    if net.encoder_k.steps:
        for moved, old in zip(encoder.parameters(), net.encoder_k.parameters(), strict=True):
            moved.data = (1 - MOMENTUM) * old.data + MOMENTUM * moved.data
    with torch.no_grad():
        rows = encoder(images)[0]
    return rows / rows.pow(2).sum(1, keepdim=True).sqrt()


def terms_by_hand(queries, keys, queues, tau=TAU, t=3.0):
    logits, first = {}, torch.zeros(len(queries[0]), dtype=torch.long)
    for i, j in itertools.product(range(len(queries)), repeat=2):
        positive = (queries[i] * keys[j]).sum(1, keepdim=True)
        logits[i, j] = torch.cat([positive, queries[i] @ queues[j]], 1) / tau

    def kd(student, target):
        logs = [torch.log_softmax(x / t, 1) for x in (student, target.detach())]
        return t * t * F.kl_div(*logs, reduction='batchmean', log_target=True)

    hard = {pair: F.cross_entropy(x, first) for pair, x in logits.items()}
    apart = [(i, j) for i, j in logits if i != j]
    return dict(
        vcl=sum(hard[i, i] for i in range(len(queries))),
        soft_vcl=sum(kd(logits[i, i], logits[j, j]) for i, j in apart),
        icl=sum(hard[pair] for pair in apart),
        soft_icl=sum(kd(logits[i, j], logits[j, i]) for i, j in apart),
    )


@pytest.mark.parametrize('peers', [2, 3])
def test_values_and_gradients(peers):
    """Of a first step, whose key encoders are copies, and of the one after an optimizer's."""
    weight = dict(vcl=0.5, soft_vcl=2.0, icl=0.25)
    model = build(peers=peers, weight=weight)
    networks = networks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for step in range(2):
        plain = [copy.deepcopy(net) for net in networks]
        queried, keyed = views(step=step)
        keys = [keys_by_hand(net, keyed) for net in plain]
        queries = [F.normalize(net.neck(net.backbone(queried))[0]) for net in plain]
        expected = terms_by_hand(queries, keys, [net.queue.clone() for net in plain])
        found = run(model, step)
        assert set(found) == {f'kd.loss_{part}' for part in PARTS}
        for part, value in expected.items():
            value = weight.get(part, 1.0) * value
            torch.testing.assert_close(found[f'kd.loss_{part}'], value, **CLOSE)
            assert value > 1e-4
        model.zero_grad()
        total(found).backward()
        sum(weight.get(part, 1.0) * value for part, value in expected.items()).backward()
        for net, other in zip(networks, plain, strict=True):
            grads = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
            named = dict(net.named_parameters())
            for name, grad in grads.items():
                torch.testing.assert_close(named[name].grad, grad, rtol=1e-7, atol=1e-10)
            assert {name.split('.')[0] for name in grads} == {'backbone', 'neck'}
        for net, rows in zip(networks, keys, strict=True):
            slots = slice(4 * step, 4 * step + 4)
            torch.testing.assert_close(net.queue[:, slots], rows.T, **CLOSE)
        optimizer.step()


def test_vcl_is_what_each_moco_would_compute():
    """Up to MMPretrain's own loss, queue and key encoder."""
    model = build()
    run(model)
    plain = [copy.deepcopy(net) for net in networks_of(model)]
    assert type(plain[0]) is type(plain[1]) and not hasattr(plain[0], 'kd')
    alone = sum(net(views(step=1), None, mode='loss')['loss'] for net in plain)
    torch.testing.assert_close(run(model, 1)['kd.loss_vcl'], alone, **CLOSE)
    for net, other in zip(networks_of(model), plain, strict=True):
        state = {key: value for key, value in snapshot(net).items() if not key.startswith('kd.')}
        torch.testing.assert_close(state, snapshot(other), **CLOSE)


def test_gradients_reach_all_but_the_key_encoders():
    model = build(peers=3)
    total(run(model)).backward()
    named = dict(model.named_parameters())
    keys = {name for name in named if 'encoder_k.' in name}
    assert len(keys) == len(named) / 2
    for name, p in named.items():
        assert (p.grad is None and not p.requires_grad) == (name in keys), name
        assert name in keys or p.grad.abs().max() > 0, name


@pytest.mark.parametrize('norm', ['train', 'eval'])
def test_key_encoders_see_one_shuffle(monkeypatch, norm):
    """In training and without, the queue has the images' own order."""
    shuffles = []
    original = mmpretrain.models.utils.batch_shuffle_ddp

    def shuffle(images):
        shuffles.append(images)
        return original(images)

    monkeypatch.setattr(mmpretrain.models.utils, 'batch_shuffle_ddp', shuffle)
    model, seen = build(peers=3), []
    getattr(model, norm)()
    for net in networks_of(model):
        net.encoder_k.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(1)
    run(model)
    keyed = views()[1]
    assert len(shuffles) == 1 and torch.equal(shuffles[0], keyed)
    assert len(seen) == 3 and all(torch.equal(images, seen[0]) for images in seen)
    order = [next(i for i in range(4) if torch.equal(keyed[i], image)) for image in seen[0]]
    assert sorted(order) == [0, 1, 2, 3] != order
    for net in networks_of(model):
        with torch.no_grad():
            own = F.normalize(net.encoder_k(keyed)[0]).T
        torch.testing.assert_close(net.queue[:, :4], own, **CLOSE)


# queues


def test_queues_wrap():
    """12 columns, batches of 4: the oldest give way."""
    model, states = build(), []
    for step in range(4):
        run(model, step)
        states.append([snapshot(net) for net in networks_of(model)])
    for index in range(2):
        mine = [state[index] for state in states]
        assert [state['queue_ptr'].tolist() for state in mine] == [[4], [8], [0], [4]]
        for step in (1, 2, 3):
            changed = (mine[step]['queue'] != mine[step - 1]['queue']).all(0)
            start = 4 * step % 12
            assert changed.nonzero().flatten().tolist() == list(range(start, start + 4))
        torch.testing.assert_close(mine[3]['queue'].norm(dim=0), torch.ones(12).double(), **CLOSE)


def test_a_batch_may_cross_the_end():
    """As after a resume with another batch."""
    model = build()
    model.queue_ptr.fill_(10)
    before, rows = model.queue.clone(), torch.arange(20.0).double().view(1, 4, 5)
    enqueue([model], rows)
    assert model.queue_ptr.tolist() == [2]
    assert torch.equal(model.queue[:, [10, 11, 0, 1]], rows[0].T)
    assert torch.equal(model.queue[:, 2:10], before[:, 2:10])


def test_networks_and_queues_start_differently():
    first, second = networks_of(build())
    for a, b in ((first.queue, second.queue), (first.neck.fc.weight, second.neck.fc.weight)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.5


def test_the_student_is_a_plain_moco():
    model = build()
    run(model)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith('kd.')}
    plain = MODELS.build(moco_config()).double()
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state, strict=True)
    images = views()[0]
    assert torch.equal(plain.eval()(images)[0], model.eval()(images)[0])
    for peer in model.kd.networks().values():
        plain.load_state_dict(peer.state_dict(), strict=True)
    assert type(model).__name__ == 'MoCo' and isinstance(model, type(plain))


# options


def test_schedules_of_weights_and_temperature():
    ramp = dict(type='Linear', start=0.0, stop=2.0, end=10)
    model = build(weight=dict(icl=ramp), temperature=dict(type='Linear', start=4, stop=2, end=10))
    other = build()
    other.load_state_dict(model.state_dict())
    model.kd.set_progress(Progress(5, 0.5))
    found, base = run(model), run(other)
    torch.testing.assert_close(found, base, **CLOSE)  # weight 1, T 3
    model.kd.set_progress(Progress(10, 1.0))
    found, base = run(model, 1), run(other, 1)
    torch.testing.assert_close(found['kd.loss_icl'], 2 * base['kd.loss_icl'], **CLOSE)
    torch.testing.assert_close(found['kd.loss_vcl'], base['kd.loss_vcl'], **CLOSE)
    assert (found['kd.loss_soft_vcl'] - base['kd.loss_soft_vcl']).abs() > 1e-5


def test_channels_last_changes_no_value():
    model = build(channels_last=True)
    other = build()
    other.load_state_dict(model.state_dict())
    seen = []
    for part in (model.backbone, model.encoder_k, model.kd.networks()['peer1'].encoder_k):
        part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.testing.assert_close(run(model), run(other), **CLOSE)
    assert len(seen) == 3
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_other_networks_as_peers():
    wider = dict(type='kdmm.CIFARResNet', depth=8, block='basic', widths=(4, 4, 4, 12))
    neck = dict(moco_config()['neck'], in_channels=12)
    model = build(peers=[moco_config(wider, neck=neck)])
    total(run(model)).backward()
    assert model.kd.networks()['peer1'].neck.fc.weight.grad.shape == (5, 12)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_normalises_in_float32(dtype):
    model = build().float()
    other = copy.deepcopy(model)
    batch = [view.float() for view in views()]
    with cpu_autocast(dtype):
        found = model(batch, None, mode='loss')
    assert {value.dtype for value in found.values()} == {torch.float32}
    total(found).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    for net in networks_of(model):
        torch.testing.assert_close(net.queue.norm(dim=0), torch.ones(12), rtol=0, atol=1e-6)
    assert not hasattr(other, 'kd')


# refusals


@pytest.mark.parametrize(
    'student',
    [
        classifier_config(),
        moco_config()
        | dict(type='mmpretrain.SimCLR')
        | {key: None for key in ('queue_len', 'feat_dim', 'momentum')},
    ],
)
def test_only_mocos(student):
    student = {key: value for key, value in student.items() if value is not None}
    told = dict(problem='MCLMoCo trains', expected="model=dict(type='MoCo', ...)")
    with refused(key='model.type', **told):
        build(student)


@pytest.mark.parametrize(
    'section, key, fields',
    [
        (dict(peers=1), 'kd.peers', dict(got=1, expected='the number of networks, 2 or more')),
        (dict(peers=True), 'kd.peers', dict(got=True)),
        (dict(peers=[]), 'kd.peers', dict(got=[])),
        (
            dict(peers=[classifier_config()]),
            'model.type',
            dict(got='ImageClassifier', problem='peer1'),
        ),
        (
            dict(peers=[moco_config(queue_len=16)]),
            'kd.peers',
            dict(problem='peer1 has feat_dim=5, queue_len=16'),
        ),
        (dict(weight=-1), 'kd.weight', dict(got=-1, expected='0 or more')),
        (dict(weight=dict(icl=-1)), 'kd.weight.icl', dict(got=-1, expected='0 or more')),
        (dict(weight=dict(vlc=1)), 'kd.weight', dict(problem="unknown key 'vlc'; nearest: vcl")),
        (dict(weight='auto:0.1'), 'kd.weight', dict(expected='numbers or schedules')),
        (dict(weight='1'), 'kd.weight', dict(got='1')),
        (dict(temperature=0), 'kd.temperature', dict(got=0, expected='a positive number')),
        (dict(temperature='3'), 'kd.temperature', dict(got='3', expected='a number or a schedule')),
        (dict(tau=0.1), 'kd', dict(problem="unknown key 'tau'")),
    ],
)
def test_sections(section, key, fields):
    with refused(key=key, **fields):
        build(**section)


def test_a_head_without_temperature():
    head = dict(moco_config()['head'], temperature=0.0)
    told = dict(problem='of the student', expected='a ContrastiveHead')
    with refused(key='model.head.temperature', got=0.0, **told):
        build(moco_config(head=head))


def test_rows_of_one_channel():
    with refused(key='model.feat_dim', got=1, problem='of the student', expected='2 or more'):
        build(moco_config(feat_dim=1))


def test_a_neck_of_another_length():
    with refused(key='model.feat_dim', got=7, problem='the queue holds rows of this length'):
        run(build(moco_config(feat_dim=7)))


@pytest.mark.parametrize('inputs', [views()[0], views()[:1], [*views(), *views()]])
def test_two_views(inputs):
    told = "dict(type='MultiView', num_views=2"
    with refused(key='train_dataloader.dataset.pipeline', expected=told):
        build()(inputs, None, mode='loss')


def test_built_model():
    with refused(key='student', expected='the config of a model'):
        build(MODELS.build(moco_config()))


@pytest.mark.parametrize('batch, fits', [(4, True), (12, True), (5, False), (24, False)])
def test_queue_takes_whole_batches(batch, fits):
    loader = torch.utils.data.DataLoader(range(48), batch_size=batch)
    model = build()
    if fits:
        model.kd.see_loader(loader)
        return
    with refused(key='model.queue_len', got=12, expected=f'of all ranks, {batch}'):
        model.kd.see_loader(loader)


def test_ranks_with_different_numbers_of_images_are_refused(monkeypatch):
    module = sys.modules['kdmm.distillers.mcl_moco.objective']
    monkeypatch.setattr(module, 'may_be_uneven', lambda loader: True)
    with refused(key='train_dataloader', fix='drop_last=True'):
        build().kd.see_loader(None)


def test_load_from_is_for_one_network():
    model = build()
    model.kd.check_start(False)
    model.kd.check_start(True, resumed=True)
    with refused(key='load_from', problem='its weights would reach the first'):
        model.kd.check_start(True)


# processes


@pytest.fixture(scope='module')
def one():
    with torch.random.fork_rng(devices=[]):
        return everything()


@pytest.fixture(scope='module')
def ranks():
    return on_ranks(everything, 2)


def test_two_ranks_are_one_with_the_whole_batch(one, ranks):
    """Losses, weights, key encoders and queues are equal where the norm acts on images."""
    expected = one['group']
    for found in (rank['group'] for rank in ranks):
        torch.testing.assert_close(found['values'], expected['values'], **CLOSE)
        torch.testing.assert_close(found['state'], expected['state'], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('norm', ['group', 'batch'])
def test_queues_are_equal_on_both_ranks(ranks, norm):
    first, second = (rank[norm]['state'] for rank in ranks)
    for key, value in first.items():
        if 'running' not in key:
            assert torch.equal(second[key], value), key
    assert first['queue_ptr'].tolist() == first['kd.peers.peer1.queue_ptr'].tolist() == [4]


def test_batches_are_shuffled_across_ranks(ranks):
    """Each image is on one rank; all key encoders of a step see the same ones."""
    mixed = 0
    for step in range(4):
        keyed, places = views(4, step)[1], []
        for rank in ranks:
            first, second = rank['batch']['seen'][2 * step : 2 * step + 2]
            assert torch.equal(first, second)
            places.append([next(i for i in range(4) if torch.equal(keyed[i], x)) for x in first])
        assert sorted(sum(places, [])) == [0, 1, 2, 3]
        mixed += sorted(places[0]) != [0, 2]  # those that the rank has itself
    assert mixed
