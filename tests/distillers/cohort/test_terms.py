"""Losses between the networks of a cohort, on activations made by hand."""

import pytest
import torch
from torch import Tensor

from kdmm.distillers import Progress
from kdmm.distillers.cohort.terms import MutualTerm, PairTerm, cohort_table, cohort_term
from kdmm.losses import DistillLoss
from kdmm.registry import MODELS
from tests.distillers.tiny_models import Distance, Paired, Parts  # noqa: F401  (registered)
from tests.errors import refused
from tests.functional.test_mutual import fix, naive_kd

TAPS = dict.fromkeys(['logits', 'embedding', 'map'])
CLASSES, BATCH = 5, 4


def activations(networks: int, batch: int = BATCH) -> list[dict[str, Tensor]]:
    """Taps of each place; embeddings and maps get wider from place to place."""
    return [
        dict(
            logits=fix((batch, CLASSES), i).float().requires_grad_(),
            embedding=fix((batch, 3 + i), 10 + i).float().requires_grad_(),
            map=fix((batch, 2 + i, 3, 3), 20 + i).float().requires_grad_(),
        )
        for i in range(networks)
    ]


def term(networks: int = 3, name: str = 'it', facts: dict | None = None, **config):
    return cohort_term(
        name, config, TAPS, facts or {}, activations(networks, 1), 'for blank images'
    )


def losses_of(made, found, **context) -> dict[str, Tensor]:
    return made.weigh(made.compute(found, **context))


class TestPairs:
    def kd(self, networks, **options):
        return term(networks, type='KDLoss', on='logits', temperature=1.5, **options)

    @pytest.mark.parametrize('networks', [2, 3, 4])
    def test_sum_over_ordered_pairs_over_the_others(self, networks):
        found, made = activations(networks), self.kd(networks, weight=0.5)
        assert isinstance(made, PairTerm) and len(made.pairs) == networks * (networks - 1)
        ((name, value),) = losses_of(made, found).items()
        z = [x['logits'].detach().double().requires_grad_() for x in found]
        pairs = [
            naive_kd(z[i], z[j], 1.5, True)
            for i in range(networks)
            for j in range(networks)
            if i != j
        ]
        expected = 0.5 * sum(pairs) / (networks - 1)
        assert name == 'kd.loss_it'
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        ours = torch.autograd.grad(value, [x['logits'] for x in found])
        theirs = torch.autograd.grad(expected, z)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)

    def test_who_teaches_gets_no_gradient(self):
        """Also where the loss itself would not see to it, and of several taps at once."""
        found = activations(2)
        for x in found:
            x['other'] = x['logits'] * 2
        taps = dict.fromkeys([*TAPS, 'other'])
        config = dict(type='Paired', on=['logits', 'other'])
        made = cohort_term('it', config, taps, {}, found, '')
        (value,) = losses_of(made, found).values()
        a, b = (x['logits'] for x in found)
        grads = torch.autograd.grad(value, [a, b])
        # (a - b)^2 + (2a - 2b)^2, each side by its own direction
        torch.testing.assert_close(grads[0], 2 * 5 * (a - b) / a.numel())
        torch.testing.assert_close(grads[1], -grads[0])

    def test_each_pair_has_its_connector(self):
        made = term(3, type='FitNetLoss', on='map', connector=dict(type='Projection'))
        shapes = [tuple(p.connector.conv.weight.shape[:2]) for p in made.pairs]
        assert shapes == [(3, 2), (4, 2), (2, 3), (4, 3), (2, 4), (3, 4)]
        found = activations(3)
        (value,) = losses_of(made, found).values()
        value.backward()
        assert all(p.grad.abs().max() > 0 for p in made.parameters())

    def test_parts_and_context(self):
        made = term(
            2, type='Parts', on='map', connector=None, weight=dict(two=0.5), facts={}, num_classes=3
        )
        found = losses_of(made, activations(2), labels=torch.zeros(BATCH))
        assert made.first.loss.needs == ('labels',) and list(found) == ['kd.loss_it_two']
        assert all(pair.loss.queue.tolist() == [BATCH] * 2 for pair in made.pairs)

    def test_schedules_move_in_all_pairs(self):
        schedule = dict(type='Linear', start=1.0, stop=3.0, end=10)
        made = term(3, type='KDLoss', on='logits', temperature=schedule, weight=schedule)
        for pair in made.pairs:
            pair.set_progress(Progress(5, 0.5))
        assert [pair.loss.temperature for pair in made.pairs] == [2.0] * 6
        values = made.compute(activations(3))
        assert losses_of(made, activations(3))['kd.loss_it'] == 2 * values['']

    @pytest.mark.parametrize('config', [
        dict(type='KDLoss', on='logits'),
        dict(type='FitNetLoss', on='map', connector=dict(type='Projection')),
        dict(type='Parts', on='map', num_classes=3),
    ], ids=lambda c: c['type'])  # fmt: skip
    def test_silence_reaches_all_and_moves_nothing(self, config):
        made = term(3, **config, weight=dict(type='Linear', start=0.0, stop=1.0, begin=5, end=9))
        assert made.idle
        found = activations(3)
        (value, *_) = made.zeros(found).values()
        tap = config['on']
        grads = torch.autograd.grad(value, [*(x[tap] for x in found), *made.parameters()])
        assert value == 0 and all(not grad.any() for grad in grads)
        for pair in made.pairs:
            pair.set_progress(Progress(7))
        assert not made.idle


class TestMutual:
    def test_places_and_widths(self):
        made = term(3, type='Recorder', on='embedding', weight=2.0)
        assert isinstance(made, MutualTerm) and made.loss.peer_channels == [3, 4, 5]
        found = activations(3)
        value = losses_of(made, found, labels=torch.arange(BATCH))
        assert [x.shape for x in made.loss.given] == [(BATCH, 3), (BATCH, 4), (BATCH, 5)]
        assert all(a is b['embedding'] for a, b in zip(made.loss.given, found, strict=True))
        assert value == {'kd.loss_it': 2.0 * made.loss.given[0].sum()}

    def test_several_taps_are_tuples(self):
        made = term(2, type='Recorder', on=['logits', 'embedding'], peer_channels=())
        found = activations(2)
        losses_of(made, found, labels=torch.arange(BATCH))
        for given, x in zip(made.loss.given, found, strict=True):
            assert given[0] is x['logits'] and given[1] is x['embedding']

    def test_weights_of_parts(self):
        weight = dict(vcl=0.1, soft_icl=dict(type='Linear', start=0.0, stop=4.0, end=4))
        made = term(2, type='MCLLoss', on='embedding', weight=weight, dim=6)
        made.set_progress(Progress(2))
        labels = torch.tensor([0, 0, 1, 1])
        values = made.loss([x['embedding'] for x in activations(2)], labels)
        found = losses_of(made, activations(2), labels=labels)
        assert list(found) == ['kd.loss_it_vcl', 'kd.loss_it_soft_icl']
        for part, factor in (('vcl', 0.1), ('soft_icl', 2.0)):
            torch.testing.assert_close(found[f'kd.loss_it_{part}'], factor * values[part])

    def test_silence_reaches_heads_and_features(self):
        made = term(2, type='MCLLoss', on='embedding', dim=6,
                    weight=dict(type='Linear', start=0.0, stop=1.0, begin=5, end=9))  # fmt: skip
        assert made.idle
        found = activations(2)
        values = made.zeros(found)
        assert list(values) == [f'kd.loss_it_{part}' for part in made.loss.parts]
        everything = [*(x['embedding'] for x in found), *made.parameters()]
        grads = torch.autograd.grad(sum(values.values()), everything)
        assert not any(values.values()) and not any(grad.any() for grad in grads)


@MODELS.register_module(force=True)
class Recorder(DistillLoss):
    """Keeps what it is given; the sum of the first place's."""

    mutual = True
    needs = ('labels',)

    def __init__(self, peer_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.peer_channels = peer_channels

    def forward(self, peers: list, labels: Tensor) -> Tensor:
        self.given = list(peers)
        first = peers[0][0] if isinstance(peers[0], tuple) else peers[0]
        return first.sum()


def mcl(**options) -> dict:
    return dict(type='MCLLoss', on='embedding', **options)


def kd(on='logits', **options) -> dict:
    return dict(type='KDLoss', on=on, **options)


POOLED = 'pooled features (B, channels): peers [(1, 2, 3, 3), '
WRONG: list[tuple[dict, str, dict]] = [
    (kd(teacher=0), '.teacher', dict(got=0, problem='a cohort has none')),
    (mcl(teacher=0), '', dict(problem="unknown key 'teacher'")),
    (kd(weight='auto:0.1'), '.weight', dict(got='auto:0.1', problem="'auto' is measured")),
    (mcl(weight=dict(vcl='auto:0.1')), '.weight', dict(problem="'auto' is measured")),
    (mcl(weight=dict(vlc=1)), '.weight', dict(problem="unknown key 'vlc'; nearest: vcl")),
    (dict(mcl(), on='map'), '',
     dict(problem=("on tap 'map', ", POOLED, 'for blank images'), fix="'head.fc.in'")),
    (dict(type='EnsembleKDLoss', on='embedding'), '',
     dict(problem=("on tap 'embedding', ", 'one shape'))),
    (kd(on='embedding'), '', dict(problem="on tap 'embedding', KDLoss")),
    (dict(kd(), type='KDLos'), '.type', dict(got='KDLos', problem='nearest: KDLoss')),
    (kd(on='logit'), '.on', dict(got='logit', problem='nearest: logits')),
    (mcl(tua=1), '', dict(problem="unknown key 'tua'; nearest: tau")),
    (dict(type='EnsembleKDLoss', on='logits', learners=3), '.learners', dict(got=3)),
    (kd(weight=-1), '.weight', dict(got=-1, expected='0 or more')),
    (mcl(weight=dict(vcl=-1)), '.weight.vcl', dict(got=-1, expected='0 or more')),
    (dict(type='SKDLoss', on='map', patch=3), '',
     dict(problem=("on tap 'map', SKDLoss", 'one pixel'), fix='pool less')),
    (mcl(dim=1), '.dim', dict(got=1)),
]  # fmt: skip


@pytest.mark.parametrize(('config', 'key', 'fields'), WRONG)
def test_what_cannot_be_is_refused(config, key, fields):
    with refused(key=f'kd.losses.it{key}', **fields):
        cohort_term('it', config, TAPS, {}, activations(2, 1), 'for blank images')


def test_the_table_names_all_places():
    terms = [
        term(3, 'dml', type='KDLoss', on='logits', weight=0.5),
        term(3, 'mcl', type='MCLLoss', on='embedding', weight=dict(vcl=0.1, icl=0.1)),
    ]
    text = cohort_table(terms, activations(3), 3 * 2**20)
    assert [line.split() for line in text.splitlines() if 'place' in line or 'Loss' in line] == [
        ['term', 'tap', 'place', '0', 'place', '1', 'place', '2', 'loss', 'weight'],
        ['dml', 'logits', '4x5', '4x5', '4x5', 'KDLoss', '0.5'],
        ['mcl', 'embedding', '4x3', '4x4', '4x5', 'MCLLoss', 'vcl', '0.1,', 'icl', '0.1'],
    ]
    assert text.startswith('Cohort of 3 networks\n') and len(text.splitlines()) == 6
    okd = term(3, 'okd', type='MCLOKDLoss', on='embedding', num_samples=9, negatives=4)
    noted = cohort_table([okd], activations(3), 0).splitlines()[-1]
    assert noted == 'okd: 4 negatives of 9 images, for each pair of networks'
    assert cohort_table([], activations(2), 0) == 'Cohort of 2 networks without losses between them'
