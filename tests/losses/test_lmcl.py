"""L-MCL's losses: matching, heads and maths together, and the ensembles of stages.

On several processes: tests/parity/test_layer_world.py.
"""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from kdmm.distillers.builder import build_loss
from kdmm.functional import draw_columns, layer_bank_contrast, pair_weights
from kdmm.losses import (
    Batch,
    LayerMatching,
    LMCLBankLoss,
    LMCLLoss,
    OwnedOptimizer,
    StageEnsembleLoss,
)
from kdmm.registry import MODELS
from tests.datasets.labelled import LabelsOnly
from tests.errors import refused, unfit
from tests.functional.test_layer_contrast import loop
from tests.functional.test_mutual import CLOSE, LABELS, UNEVEN, fix, unit
from tests.versions import cpu_autocast

NO_BATCH = Batch(None, ())
#: Lengths of the stages' embeddings.
WIDTHS = ((6, 6), (5, 5, 5))
STAGES = (2, 3)
BOTH = pytest.mark.parametrize('kind', [LMCLLoss, LMCLBankLoss])


class Twelve(LabelsOnly):
    METAINFO = dict(classes=('a', 'b', 'c', 'd'))
    LABELS = (0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3)


def made_of(kind, seen=True, **options):
    torch.manual_seed(0)
    if kind is LMCLBankLoss:
        options = {**dict(num_samples=12, negatives=6, dtype='float64'), **options}
    made = kind(options.pop('peer_channels', WIDTHS), **{'dim': 7, **options}).double()
    if kind is LMCLBankLoss and seen:
        made.see_dataset(Twelve())
    return made


def peers_of(widths=WIDTHS, images=8, step=0) -> list[tuple[Tensor, ...]]:
    return [
        tuple(fix((images, d), 10 * i + s + 100 * step).requires_grad_() for s, d in enumerate(net))
        for i, net in enumerate(widths)
    ]


def call(made, peers, labels=LABELS) -> dict[str, Tensor]:
    ids = torch.arange(8)[: len(labels)]
    return made(peers, labels, *([ids] if isinstance(made, LMCLBankLoss) else []))


def flat(peers) -> list[Tensor]:
    return [x for stages in peers for x in stages]


def embedded(made, peers) -> Tensor:
    rows = []
    for (first, _, second), x in zip(made.heads.heads, flat(peers), strict=True):
        hidden = (x @ first.weight.T + first.bias).relu()
        rows.append(unit(hidden @ second.weight.T + second.bias))
    return torch.stack(rows)


def matched(made, peers) -> Tensor:
    """Weights of all ordered pairs, one after the other."""
    layers, total = made.matching.projections, len(flat(peers))
    found = [unit(x @ p.weight.T + p.bias) for p, x in zip(layers, flat(peers), strict=True)]
    w = [[(found[a] * found[c]).sum(1).sigmoid() for c in range(total)] for a in range(total)]
    return torch.stack([torch.stack(row) for row in w])


def fill(module) -> None:
    """Fill by shape alone: matrices by their fan-in, biases with 0."""
    for parameter in module.parameters():
        parameter.requires_grad_(False).zero_()
        if parameter.ndim > 1:
            shape = tuple(parameter.shape)
            parameter.copy_(fix(shape, 0) * math.sqrt(2 / math.prod(shape[1:])))


class TestLayerMatching:
    def test_numbers_of_the_authors_code(self):
        """That code (arXiv 2207.11518) with the same shape-only fill, in float64."""
        made = LayerMatching([(6, 6), (6, 6)]).double()
        fill(made)
        w = made([[fix((4, 6), 1), fix((4, 6), 2)], [fix((4, 6), 3), fix((4, 6), 4)]])
        expected = {
            (0, 2): [0.338333, 0.298397, 0.598913, 0.414930],
            (0, 3): [0.554694, 0.461071, 0.590915, 0.541179],
        }
        for (a, c), values in expected.items():
            assert w[a, c].tolist() == w[c, a].tolist() == pytest.approx(values, abs=1e-6)

    def test_parameters(self):
        def count(channels) -> int:
            return sum(p.numel() for p in LayerMatching(channels).parameters())

        assert count([(6, 6)] * 2) == 4 * 128 * 7 == 3584
        assert count([(64,) * 3] * 2) == 6 * 128 * 65 == 49920  # two ResNet-32

    def test_one_precision_under_autocast(self):
        made = LayerMatching([(6, 6), (5, 5)])
        peers = [[x.detach().float() for x in net] for net in peers_of(((6, 6), (5, 5)))]
        half = [[x.bfloat16() for x in net] for net in peers]
        expected = [made(peers), made([[x.float() for x in net] for net in half])]
        with cpu_autocast(torch.bfloat16):
            assert torch.equal(made(peers), expected[0])
            assert torch.equal(made(half), expected[1])


class TestLMCLLoss:
    @pytest.mark.parametrize('double_count', [True, False])
    @pytest.mark.parametrize('matching', ['learned', 'uniform'])
    def test_values_and_gradients_of_the_loop(self, matching, double_count):
        made = made_of(LMCLLoss, matching=matching, double_count=double_count, tau=0.2)
        peers = peers_of()
        found = call(made, peers, UNEVEN)
        w = torch.full((5, 5, 8), 0.5, dtype=torch.float64)
        if matching == 'learned':
            w = matched(made, peers).detach()
        rows = embedded(made, peers)
        expected = loop(rows, UNEVEN, w, STAGES, 0.2, once=not double_count)
        assert tuple(found) == LMCLLoss.parts
        leaves = [*flat(peers), *made.heads.parameters()]
        for mine, naively in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(mine, naively, **CLOSE)
            ours, theirs = (
                torch.autograd.grad(x, leaves, retain_graph=True) for x in (mine, naively)
            )
            torch.testing.assert_close(ours, theirs, **CLOSE)
            assert all(grad.abs().max() > 0 for grad in ours)

    def test_one_to_one_compares_stages_at_one_place(self):
        widths = ((6, 6), (5, 5))
        made, peers = (
            made_of(LMCLLoss, peer_channels=widths, matching='one_to_one'),
            peers_of(widths),
        )
        w = torch.zeros(4, 4, 8, dtype=torch.float64)
        for a, c in ((0, 2), (1, 3), (2, 0), (3, 1)):
            w[a, c] = 1
        expected = loop(embedded(made, peers), LABELS, w, (2, 2))
        torch.testing.assert_close(torch.stack([*call(made, peers).values()]), expected, **CLOSE)

    def test_gradients_of_the_matching_and_through_its_weights(self):
        """Inside `differentiate_matching` alone."""
        made, peers = made_of(LMCLLoss), peers_of()
        owned = OwnedOptimizer(made.matching, lambda p: torch.optim.SGD(p, 0.1))
        leaves = [*flat(peers), *made.matching.parameters()]
        with owned.learning(), made.differentiate_matching():
            inside = sum(call(made, peers).values())
            expected = loop(embedded(made, peers), LABELS, matched(made, peers), STAGES).sum()
            ours, theirs = (torch.autograd.grad(x, leaves) for x in (inside, expected))
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert all(grad.abs().max() > 0 for grad in ours)
        outside = sum(call(made, peers).values())
        torch.testing.assert_close(outside, inside, **CLOSE)
        assert not torch.allclose(torch.autograd.grad(outside, leaves[0])[0], ours[0], rtol=1e-3)

    def test_temperatures_are_read_in_each_step(self):
        """They may be schedules."""
        made, peers = made_of(LMCLLoss), peers_of()
        made.tau, made.temperature = 0.4, 1.5
        other = made_of(LMCLLoss, tau=0.4, temperature=1.5)
        assert call(made, peers) == call(other, peers)

    def test_parameters_of_the_heads(self):
        """Of two ResNet-32 with three stages."""
        made = LMCLLoss([(64,) * 3] * 2)
        assert sum(p.numel() for p in made.heads.parameters()) == 148992

    def test_one_image_is_refused_at_first_only(self):
        made = made_of(LMCLLoss)
        with unfit('one image', fix='LMCLBankLoss'):
            call(made, peers_of(images=1), LABELS[:1])
        call(made, peers_of())
        assert call(made, peers_of(images=1), LABELS[:1])['vcl'] == 0

    @pytest.mark.parametrize('scope, least', [('global', 1), ('process', 2)])
    def test_images_that_a_rank_needs(self, scope, least, monkeypatch):
        made = made_of(LMCLLoss, scope=scope)
        assert made.least_batch(1) == 2
        monkeypatch.setattr('kdmm.losses.lmcl.world_size', lambda: 2)
        assert made.least_batch(1) == least


class TestLMCLBankLoss:
    @pytest.mark.parametrize('published', [False, True])
    def test_is_the_contrast_with_the_drawn_rows(self, published):
        made = made_of(LMCLBankLoss, published_bank=published, temperature=2.5)
        peers, ids = peers_of(), torch.arange(8)
        noise = made.bank.noise(8, 7)
        parts = call(made, peers)
        index = draw_columns(made.samples.classes, ids, LABELS, noise)
        assert index.shape == (8, 8)
        w = pair_weights(matched(made, peers).detach(), STAGES)
        expected = layer_bank_contrast(
            embedded(made, peers), made.bank.rows, index, w, STAGES, 0.07, 2.5, published
        )
        assert tuple(parts) == LMCLBankLoss.parts
        torch.testing.assert_close(tuple(parts.values()), tuple(expected), **CLOSE)

    def test_last_stages_enter_after_the_step(self):
        made, peers = made_of(LMCLBankLoss), peers_of()
        before = made.bank.rows.clone()
        sum(call(made, peers).values()).backward()
        assert torch.equal(made.bank.rows, before)
        made.after_step(NO_BATCH)
        last = embedded(made, peers).detach()[[1, 4]]
        torch.testing.assert_close(made.bank.rows[:, :8], unit(before[:, :8] + last), **CLOSE)
        assert torch.equal(made.bank.rows[:, 8:], before[:, 8:])

    def test_a_meta_phase_draws_what_the_step_drew(self):
        """After the banks were written and the step was counted."""
        made, peers = made_of(LMCLBankLoss), peers_of()
        drawn = []

        def spy(anchors, banks, index, *rest):
            drawn.append(index)
            return layer_bank_contrast(anchors, banks, index, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('kdmm.losses.lmcl.layer_bank_contrast', spy)
            call(made, peers)
            made.after_step(NO_BATCH)
            with torch.no_grad():
                call(made, peers)  # as of a validation
            with made.differentiate_matching():
                call(made, peers)
                call(made, peers)
            call(made, peers)
        step, other, *phase, following = drawn
        assert all(torch.equal(step, index) for index in phase)
        assert not torch.equal(step, other) and not torch.equal(step, following)

    def test_published_defaults(self):
        made = LMCLBankLoss(WIDTHS, 12)
        assert (made.negatives, made.tau, made.temperature) == (8192, 0.07, 3.0)
        assert made.bank.momentum == 0.5 and made.bank.rows.shape == (2, 12, 128)
        assert made.double_count and not made.published_bank and made.needs_meta
        assert LMCLBankLoss.needs == ('labels', 'sample_ids') and LMCLBankLoss.stateful


class TestPhase:
    @BOTH
    def test_leaves_no_trace(self, kind):
        made, peers = made_of(kind), peers_of()
        sum(call(made, peers).values()).backward()
        made.after_step(NO_BATCH)
        before = copy.deepcopy(made.state_dict())
        with pytest.raises(RuntimeError, match='stop'), made.differentiate_matching():
            call(made, peers)
            raise RuntimeError('stop')
        made.after_step(NO_BATCH)
        for key, value in made.state_dict().items():
            assert torch.equal(value, before[key]), key
        call(made, peers)  # it ended with the block
        assert made.matched_steps == 2

    @BOTH
    def test_gradient_of_a_step_by_the_matching(self, kind):
        """The gradient of what an SGD step of the embeddings leads to, against differences."""
        made, peers = made_of(kind), peers_of()
        call(made, peers)
        weight = made.matching.projections[1].weight

        def after_step(changed: Tensor) -> Tensor:
            values = {'projections.1.weight': changed}
            real = made.matching

            class Changed(torch.nn.Module):
                def forward(self, given):
                    return torch.func.functional_call(real, values, (given,))

            made._modules['matching'] = Changed()
            try:
                with made.differentiate_matching():
                    total = sum(call(made, peers).values())
                    grads = torch.autograd.grad(total, flat(peers), create_graph=True)
            finally:
                made._modules['matching'] = real
            moved = [x - 0.01 * g for x, g in zip(flat(peers), grads, strict=True)]
            return torch.cat([(x - 0.3).square().flatten() for x in moved]).sum()

        at = weight.detach().clone().requires_grad_()
        (grad,) = torch.autograd.grad(after_step(at), at)
        for direction in (fix(tuple(weight.shape), s) for s in (1, 2)):
            step = 1e-5 * direction
            rise = after_step(weight + step) - after_step(weight - step)
            expected = (rise / 2e-5).item()
            assert (grad * direction).sum().item() == pytest.approx(expected, rel=1e-5)
            assert abs(expected) > 1e-6

    @BOTH
    def test_the_matching_is_in_no_optimizer_of_the_student(self, kind):
        made = made_of(kind)
        trained = [name for name, p in made.named_parameters() if p.requires_grad]
        assert trained and not any(name.startswith('matching.') for name in trained)
        assert made.needs_meta and isinstance(made.matching, LayerMatching)
        fixed = made_of(kind, matching='uniform')
        assert fixed.matching is None and not fixed.needs_meta


class TestMatchingMean:
    @BOTH
    def test_mean_of_training_steps(self, kind):
        made, found = made_of(kind), []
        assert not made.matching_mean().any()
        for step in range(3):
            peers = peers_of(step=step)
            call(made, peers)
            w = matched(made, peers).detach().mean(-1)
            w[:2, :2], w[2:, 2:] = 0, 0
            found.append(w)
        torch.testing.assert_close(made.matching_mean(), torch.stack(found).mean(0), **CLOSE)
        made.eval()
        call(made, peers_of(step=5))
        made.train()
        with torch.no_grad():
            call(made, peers_of(step=5))
        torch.testing.assert_close(made.matching_mean(), torch.stack(found).mean(0), **CLOSE)
        resumed = made_of(kind)
        resumed.load_state_dict(made.state_dict())
        assert torch.equal(resumed.matching_mean(), made.matching_mean())
        made.reset_matching_mean()
        assert not made.matching_mean().any()
        call(made, peers_of(step=1))
        torch.testing.assert_close(made.matching_mean(), found[1], **CLOSE)

    def test_rows(self):
        assert made_of(LMCLLoss).matching_rows() == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]

    def test_fixed_ones(self):
        made = made_of(LMCLLoss, matching='uniform')
        assert made.note() == '6 pairs of stages, matching uniform'
        call(made, peers_of())
        assert made.matching_mean().unique().tolist() == [0, 0.5]


@BOTH
@pytest.mark.parametrize('learns', [False, True])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_finite_under_autocast(kind, dtype, learns):
    made = made_of(kind, tau=0.01).float()
    peers = [[100 * x.detach().float() for x in net] for net in peers_of()]
    leaves = [x.requires_grad_() for x in flat(peers)]
    with cpu_autocast(dtype):
        if learns:
            call(made, peers)
            with made.differentiate_matching():
                found = call(made, peers)
        else:
            found = call(made, peers)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())
    grads = torch.autograd.grad(sum(found.values()), leaves)
    assert all(grad.isfinite().all() for grad in grads)


class TestRefused:
    @BOTH
    @pytest.mark.parametrize(
        'widths, fields',
        [
            ([(6, 6)], dict(key='peer_channels', got='1 network', fix='kd.peers')),
            ([(6, 6), (5,)], dict(key='peer_channels[1]', got=(5,), fix="'stages'")),
            ([6, 5], dict(key='peer_channels[0]', got=6, fix="'stages'")),
            ([(6, 6), (5, 4)], dict(key='peer_channels[1]', got=(5, 4), expected='one length')),
        ],
        ids=['one network', 'one stage', 'no stages', 'widths'],
    )
    def test_networks(self, kind, widths, fields):
        with refused(**fields):
            made_of(kind, peer_channels=widths)

    @BOTH
    @pytest.mark.parametrize(
        'bad', [dict(tau=0), dict(temperature=-1), dict(matching='best')], ids=str
    )
    def test_arguments(self, kind, bad):
        ((key, value),) = bad.items()
        more = dict(num_samples=12) if kind is LMCLBankLoss else {}
        config = dict(type=kind.__name__, **more, **bad)
        with refused(key=f'kd.losses.lmcl.{key}', got=value):
            build_loss('kd.losses.lmcl', config, dict(peer_channels=WIDTHS))
        assert MODELS.get(kind.__name__) is kind

    def test_scope_and_one_to_one(self):
        with refused(key='scope', got='rank', expected="'global' or 'process'"):
            made_of(LMCLLoss, scope='rank')
        with refused(key='matching', got='one_to_one', problem='2, 3 stages', fix="'uniform'"):
            made_of(LMCLLoss, matching='one_to_one')

    @BOTH
    def test_features(self, kind):
        made, good = made_of(kind), peers_of()
        maps = [(*good[0][:1], torch.zeros(8, 6, 2, 2)), good[1]]
        cases = {
            'unpooled': maps,
            'layers': [good[0][0], good[1][0]],
            'channels': [good[0], (*good[1][:2], torch.zeros(8, 4))],
        }
        for mismatch, peers in cases.items():
            for refuse in (made.check, lambda x: call(made, x)):
                with unfit(mismatch):
                    refuse(peers)
        with unfit('layers'):
            made.check([good[0][:1], good[1]])


def naive_shares(made, place: int, embeddings) -> Tensor:
    first, _, second = made.aggregators[place]
    hidden = (torch.cat(list(embeddings), 1) @ first.weight.T + first.bias).relu()
    found = (hidden @ second.weight.T + second.bias).exp()
    return found / found.sum(1, keepdim=True)


class TestStageEnsemble:
    channels = (((6, 6), (3, 3)), ((5, 5, 5), (3, 3, 3)))

    def peers(self):
        logits = peers_of(((3, 3), (3, 3, 3)), step=1)
        return list(zip(peers_of(), logits, strict=True))

    def test_numbers_of_the_authors_code(self):
        """That code (arXiv 2207.11518) with the same shape-only fill, in float64."""
        made = StageEnsembleLoss([((6, 6), (3, 3))] * 2).double()
        assert sum(p.numel() for p in made.parameters()) == 184
        fill(made)
        first, second = made.aggregate(
            [
                ([fix((4, 6), 1), fix((4, 6), 2)], [fix((4, 3), 5), fix((4, 3), 6)]),
                ([fix((4, 6), 3), fix((4, 6), 4)], [fix((4, 3), 7), fix((4, 3), 8)]),
            ]
        )
        assert first[0].tolist() == pytest.approx([0.437438, 0.042555, 0.484823], abs=1e-6)
        assert second.sum().item() == pytest.approx(-0.1537547808, abs=1e-9)

    def test_parameters_of_two_resnet_32(self):
        made = StageEnsembleLoss([((64,) * 3, (100,) * 3)] * 2)
        assert sum(p.numel() for p in made.parameters()) == 25094

    def test_values_and_gradients(self):
        torch.manual_seed(0)
        made, peers = StageEnsembleLoss(self.channels, temperature=2.5).double(), self.peers()
        labels = LABELS % 3
        found = made(peers, labels)
        mixed = []
        for place, (embeddings, logits) in enumerate(peers):
            shares = naive_shares(made, place, embeddings)
            mixed.append(sum(shares[:, s, None] * z for s, z in enumerate(logits)))
        picked = [z.log_softmax(1)[range(8), labels] for z in mixed]
        ce = -sum(x.mean() for x in picked)
        kd = 0
        for (_, logits), ensemble in itertools.product(peers, mixed):
            p, q = ((x / 2.5).softmax(1) for x in (logits[-1], ensemble.detach()))
            kd = kd + 2.5**2 * (q * (q.log() - p.log())).sum() / 8
        leaves = [*(x for peer in peers for x in (*peer[0], *peer[1])), *made.parameters()]
        for mine, expected in zip((found['ce'], found['kd']), (ce, kd), strict=True):
            torch.testing.assert_close(mine, expected, **CLOSE)
            ours, theirs = (
                torch.autograd.grad(x, leaves, retain_graph=True, allow_unused=True)
                for x in (mine, expected)
            )
            for a, b in zip(ours, theirs, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b, **CLOSE)
        reached = torch.autograd.grad(found['ce'], leaves)  # all stages and aggregators
        assert all(grad.abs().max() > 0 for grad in reached)

    def test_finite_under_autocast(self):
        made = StageEnsembleLoss(self.channels)
        peers = [
            tuple(tuple((1e4 * x.detach()).bfloat16().requires_grad_() for x in y) for y in peer)
            for peer in self.peers()
        ]
        small = [[[1e-4 * x for x in y] for y in peer] for peer in peers]
        with cpu_autocast(torch.bfloat16):
            found = made(peers, LABELS % 3)
            mixed = made.aggregate(small)
        assert all(x.dtype == torch.float32 and x.isfinite() for x in found.values())
        exact = made.aggregate([[[x.float() for x in y] for y in peer] for peer in small])
        assert all(torch.equal(a, b) for a, b in zip(mixed, exact, strict=True))
        grads = torch.autograd.grad(sum(found.values()), [*made.parameters(), *peers[0][1]])
        assert all(grad.isfinite().all() for grad in grads)

    def test_refused(self):
        made, good = StageEnsembleLoss(self.channels), self.peers()
        (embeddings, logits), other = good
        cases = [
            ('layers', [(embeddings, logits[:1]), other]),
            ('layers', [embeddings, other[0]]),
            ('unpooled', [((embeddings[0], torch.zeros(8, 6, 1, 1)), logits), other]),
            ('form', [(embeddings, (logits[0], torch.zeros(8, 4))), other]),
            ('one class', [(x, tuple(z[:, :1] for z in zs)) for x, zs in good]),
        ]
        for mismatch, peers in cases:
            for refuse in (made.check, lambda x: made(x, LABELS % 3)):
                with unfit(mismatch):
                    refuse(peers)
        with refused(key='peer_channels', expected='one number of classes'):
            StageEnsembleLoss((((6, 6), (3, 3)), ((5, 5), (3, 4))))
        with refused(key='peer_channels[1]', got=(5,)):
            StageEnsembleLoss((((6, 6), (3, 3)), ((5,), (3,))))
        with refused(key='temperature', got=0):
            StageEnsembleLoss(self.channels, temperature=0)
