"""ONE, OKDDip and the term of CL-ILR against loops and reference numbers.

The numbers were computed in float64 with OKDDip's public code (arXiv 1912.00350), which has all
three methods, temperature 3 and 1e-7 added to the targets, on ``fix`` (docs/methods/README.md).
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdmm.distillers.builder import build_loss
from kdmm.losses import EnsembleKDLoss, OKDDipLoss, ONELoss
from tests.errors import refused, unfit
from tests.functional.test_mutual import CLOSE, fix
from tests.versions import cpu_autocast

EXACT = dict(rtol=0, atol=1e-9)
FLOOR = 1e-7


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def leaf(value: Tensor) -> Tensor:
    return value.clone().requires_grad_()


def branches(networks: int, images: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Pooled features, the heads' weights and the logits."""
    features = [leaf(fix((images, 8), 10 + i).clamp_min(0)) for i in range(networks)]
    heads = [leaf(0.6 * fix((5, 8), 20 + i)) for i in range(networks)]
    return features, heads, [x @ head.T for x, head in zip(features, heads, strict=True)]


def entropy(logits: list[Tensor], labels: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(z, labels) for z in logits]).sum()


def naive_kd(student: Tensor, target: Tensor, t: float, floor: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for z, mean in zip(student, target, strict=True):
        p, q = ((x / t).exp() / (x / t).exp().sum() for x in (z, mean))
        for c in range(len(p)):
            total = total + t**2 * (q[c] + floor) * ((q[c] + floor) / p[c]).log()
    return total / len(student)


def gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


class TestONE:
    LABELS = torch.tensor([1, 4, 0, 2])

    def loss(self, **options) -> ONELoss:
        made = ONELoss([(5, 6)] * 3, **options).double()
        with torch.no_grad():
            made.gate.weight.copy_(0.7 * fix((3, 6), 2))
            made.gate.bias.zero_()
            made.norm.bias.copy_(0.4 * fix((3,), 3))
        return made

    def given(self):
        trunk = leaf(fix((4, 6, 3, 3), 1).clamp_min(0))
        features, heads, logits = branches(3, 4)
        return trunk, features, heads, logits

    def naive(self, made, logits, trunk, temperature, floor, detach) -> tuple[Tensor, Tensor]:
        pooled = trunk.flatten(2).sum(2) / 9 if trunk.ndim == 4 else trunk
        opened = pooled @ made.gate.weight.T + made.gate.bias
        centred = opened - opened.mean(0)
        scale = (centred.square().mean(0) + 1e-5).sqrt()
        opened = (made.norm.weight * centred / scale + made.norm.bias).relu()
        rows, ce = [], torch.zeros((), dtype=torch.float64)
        for b, label in enumerate(self.LABELS):
            shares = opened[b].exp() / opened[b].exp().sum()
            rows.append(sum(shares[i] * logits[i][b] for i in range(3)))
            ce = ce - (rows[-1].exp() / rows[-1].exp().sum())[label].log() / len(self.LABELS)
        mean = torch.stack(rows)
        mean = mean.detach() if detach else mean
        values = [naive_kd(z, mean, temperature, floor) for z in logits]
        return ce, torch.stack(values).sum()

    @pytest.mark.parametrize('detach, gate', [(True, 0.06349486117), (False, 0.06354169713)])
    def test_reference_numbers(self, detach, gate):
        """The public code lets the gradient through; then only the gate's is known by it."""
        made = self.loss(detach=detach, floor=FLOOR)
        trunk, features, _, logits = self.given()
        parts = made([(z, trunk) for z in logits], self.LABELS)
        torch.testing.assert_close(parts['kd'], number(1.00251177854), **EXACT)
        whole = entropy(logits, self.LABELS) + sum(parts.values())
        torch.testing.assert_close(whole, number(9.84766926903), **EXACT)
        found = [x.norm() for x in gradients(whole, [made.gate.weight, features[0]])]
        torch.testing.assert_close(found[0], number(gate), **EXACT)
        if detach:
            torch.testing.assert_close(found[1], number(1.396478672), **EXACT)

    @pytest.mark.parametrize('pooled', [False, True])
    @pytest.mark.parametrize('detach', [True, False])
    @pytest.mark.parametrize('floor', [0.0, 0.01])
    def test_value_and_gradient(self, pooled, detach, floor):
        made = self.loss(temperature=1.7, detach=detach, floor=floor)
        trunk, features, heads, logits = self.given()
        read = trunk.mean((2, 3)) if pooled else trunk
        parts = made([(z, read) for z in logits], self.LABELS)
        loop = self.naive(made, logits, read, 1.7, floor, detach)
        inputs = [trunk, *features, *heads, *made.parameters()]
        for value, naively in zip(parts.values(), loop, strict=True):
            torch.testing.assert_close(value, naively, **CLOSE)
            ours, theirs = gradients(value, inputs), gradients(naively, inputs)
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
        assert tuple(parts) == ONELoss.parts

    def test_the_gate_learns_from_the_labels_alone(self):
        made = self.loss()
        trunk, _, _, logits = self.given()
        parts = made([(z, trunk) for z in logits], self.LABELS)
        silent = gradients(parts['kd'], [trunk, *made.parameters()])
        assert not any(grad.any() for grad in silent)
        learns = [trunk, made.gate.weight, made.norm.weight, made.norm.bias]
        assert all(grad.abs().max() > 1e-6 for grad in gradients(parts['ce'], learns))

    def test_equal_branches_learn_nothing_of_each_other(self):
        z, made = fix((4, 5), 0), self.loss()
        parts = made([(z, self.given()[0])] * 3, self.LABELS)
        assert abs(parts['kd']) < 1e-12
        torch.testing.assert_close(parts['ce'], F.cross_entropy(z, self.LABELS))

    def test_one_image(self):
        """BN leaves its bias, and the gradients are 0 and finite."""
        made, (trunk, _, _, logits) = self.loss(), self.given()
        parts = made([(z[:1], trunk[:1]) for z in logits], self.LABELS[:1])
        shares = made.norm.bias.relu().softmax(0)
        mixed = sum(share * z[:1] for share, z in zip(shares, logits, strict=True))
        torch.testing.assert_close(parts['ce'], F.cross_entropy(mixed, self.LABELS[:1]))
        grads = torch.autograd.grad(sum(parts.values()), list(made.parameters()))
        assert all(grad.isfinite().all() for grad in grads) and not grads[0].any()

    def test_other_trunks_are_refused_in_the_first_step(self):
        made, (trunk, _, _, logits) = self.loss(), self.given()
        peers = [(z, trunk + (i == 2)) for i, z in enumerate(logits)]
        made.check(peers)
        with refused(problem='the gate of ONELoss', fix=('kd.trunk', "'.in'")):
            made(peers, self.LABELS)
        made([(z, trunk) for z in logits], self.LABELS)
        made(peers, self.LABELS)  # it is looked at once

    def test_gradcheck(self):
        made, labels = self.loss(detach=False), self.LABELS[:3]

        def total(trunk: Tensor, *logits: Tensor) -> Tensor:
            return sum(made([(z, trunk) for z in logits], labels).values())

        made._checked = True
        logits = [leaf(fix((3, 5), i)) for i in range(3)]
        assert torch.autograd.gradcheck(total, (leaf(fix((3, 6), 7)), *logits))

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_autocast(self, dtype):
        made = ONELoss([(5, 6)] * 3)
        trunk = (1000 * fix((4, 6, 3, 3), 1)).float().requires_grad_()
        logits = [(1000 * fix((4, 5), i)).to(dtype).requires_grad_() for i in range(3)]
        with cpu_autocast(dtype):
            parts = made([(z, trunk) for z in logits], self.LABELS)
        for value in parts.values():
            assert value.dtype == torch.float32 and value.isfinite()
        grads = torch.autograd.grad(sum(parts.values()), [trunk, *logits, *made.parameters()])
        assert all(grad.isfinite().all() for grad in grads)

    @pytest.mark.parametrize(
        'z, trunk, name',
        [
            ([(2, 5), (2, 4)], [(2, 6)] * 2, 'logits'),
            ([(2, 5, 1), (2, 5, 1)], [(2, 6)] * 2, 'logits'),
            ([(2, 5)] * 2, [(2, 6), (2, 7)], 'trunks'),
            ([(2, 5)] * 2, [(2, 6, 3)] * 2, 'trunks'),
        ],
    )
    def test_shapes(self, z, trunk, name):
        made = ONELoss([(5, 6)] * 2)
        peers = [(torch.zeros(a), torch.zeros(b)) for a, b in zip(z, trunk, strict=True)]
        for refuse in (made.check, lambda peers: made(peers, torch.zeros(2).long())):
            with unfit('form', **{name: z if name == 'logits' else trunk}):
                refuse(peers)
        with unfit('form', problem='two taps'):
            made.check([torch.zeros(2, 5)] * 2)

    def test_the_state_is_the_gate(self):
        assert set(self.loss().state_dict()) == {
            'gate.weight', 'gate.bias', 'norm.weight', 'norm.bias'
        }  # fmt: skip


class TestOKDDip:
    LABELS = torch.tensor([1, 3, 0])

    def loss(self, **options) -> OKDDipLoss:
        made = OKDDipLoss([(5, 8)] * 4, **options).double()
        with torch.no_grad():
            for part in (made.query, made.key):  # one value an output, that of d / 8 = 1
                part.weight = torch.nn.Parameter(torch.zeros(4, 8, dtype=torch.float64))
            made.query.weight.copy_(0.4 * fix((4, 8), 5))
            made.key.weight.copy_(0.4 * fix((4, 8), 6))
        return made

    def naive(self, made, features, logits, temperature, floor, values) -> tuple[Tensor, Tensor]:
        mixed = [z.detach() if values else z for z in logits[:3]]
        peers = torch.zeros((), dtype=torch.float64)
        for m in range(3):
            rows = []
            for b in range(3):
                query = made.query.weight @ features[m][b]
                energy = [query @ (made.key.weight @ features[n][b]) for n in range(3)]
                every = sum(e.exp() for e in energy)
                rows.append(sum(energy[n].exp() / every * mixed[n][b] for n in range(3)))
            peers = peers + naive_kd(logits[m], torch.stack(rows), temperature, floor)
        return peers, naive_kd(logits[3], sum(mixed) / 3, temperature, floor)

    def test_reference_numbers(self):
        made = self.loss(floor=FLOOR)
        features, _, logits = branches(4, 3)
        parts = made(list(zip(logits, features, strict=True)))
        torch.testing.assert_close(parts['peers'], number(0.786647166206), **EXACT)
        torch.testing.assert_close(parts['leader'], number(0.629760704118), **EXACT)
        whole = entropy(logits, self.LABELS) + sum(parts.values())
        torch.testing.assert_close(whole, number(8.77172216381), **EXACT)
        (query,) = gradients(whole, [made.query.weight])
        torch.testing.assert_close(query.norm(), number(0.6039337982), **EXACT)
        assert torch.equal(gradients(parts['peers'], [made.query.weight])[0], query)
        (leader,) = gradients(parts['leader'], features[:1])
        torch.testing.assert_close(leader.norm(), number(0.182), rtol=0, atol=5e-4)

    @pytest.mark.parametrize('values', [False, True])
    @pytest.mark.parametrize('floor', [0.0, 0.01])
    def test_value_and_gradient(self, values, floor):
        made = self.loss(temperature=1.7, detach_values=values, floor=floor)
        features, heads, logits = branches(4, 3)
        parts = made(list(zip(logits, features, strict=True)))
        loop = self.naive(made, features, logits, 1.7, floor, values)
        inputs = [*features, *heads, *made.parameters()]
        for value, naively in zip(parts.values(), loop, strict=True):
            torch.testing.assert_close(value, naively, **CLOSE)
            ours, theirs = gradients(value, inputs), gradients(naively, inputs)
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
        assert tuple(parts) == OKDDipLoss.parts

    def test_queries_and_keys_learn_through_the_targets(self):
        """Also where the logits that are mixed are constants."""
        for values in (False, True):
            made = self.loss(detach_values=values)
            features, heads, logits = branches(4, 3)
            parts = made(list(zip(logits, features, strict=True)))
            assert all(
                g.abs().max() > 1e-3 for g in gradients(parts['peers'], [*made.parameters()])
            )
            assert not any(g.any() for g in gradients(parts['leader'], [*made.parameters()]))
            reached = [bool(g.any()) for g in gradients(parts['leader'], heads)]
            assert reached == [not values] * 3 + [True]
            assert not gradients(parts['peers'], heads)[3].any()

    def test_equal_networks_learn_nothing_of_each_other(self):
        z, features = fix((3, 5), 0), fix((3, 8), 1)
        parts = self.loss()([(z, features)] * 4)
        assert max(abs(value) for value in parts.values()) < 1e-12

    def test_gradcheck(self):
        made = self.loss(temperature=1.5)

        def total(*inputs: Tensor) -> Tensor:
            return sum(made(list(zip(inputs[:3], inputs[3:], strict=True))).values())

        inputs = [leaf(fix((2, 3), i)) for i in range(3)] + [
            leaf(0.3 * fix((2, 8), 5 + i)) for i in range(3)
        ]
        assert torch.autograd.gradcheck(total, inputs)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_autocast(self, dtype):
        made = OKDDipLoss([(5, 16)] * 3)
        logits = [(1000 * fix((3, 5), i)).to(dtype).requires_grad_() for i in range(3)]
        features = [(300 * fix((3, 16), 5 + i)).to(dtype).requires_grad_() for i in range(3)]
        with cpu_autocast(dtype):
            parts = made(list(zip(logits, features, strict=True)))
        assert all(value.dtype == torch.float32 and value.isfinite() for value in parts.values())
        grads = gradients(sum(parts.values()), [*logits, *features, *made.parameters()])
        assert all(grad.isfinite().all() for grad in grads)

    def test_queries_and_keys_are_an_eighth_as_long(self):
        state = OKDDipLoss([(100, 64)] * 4).state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        assert shapes == {'query.weight': (8, 64), 'key.weight': (8, 64)}

    @pytest.mark.parametrize(
        'channels, fields',
        [
            ([(5, 8)] * 2, dict(key='kd.losses.it', got='2 networks', expected='3 or more')),
            ([(5, 8), (5, 16), (5, 8)], dict(key='kd.losses.it.peer_channels', got=[8, 16])),
            ([(5, 4)] * 3, dict(key='kd.losses.it.peer_channels', got=[4, 4])),
        ],
    )
    def test_cohorts_without_peers(self, channels, fields):
        with refused(**fields):
            build_loss('kd.losses.it', dict(type='OKDDipLoss'), dict(peer_channels=channels))

    def test_maps_are_refused(self):
        made, shape = OKDDipLoss([(5, 8)] * 3), (2, 8, 3, 3)
        for refuse in (made.check, made):
            with unfit('unpooled', features=[shape] * 3):
                refuse([(torch.zeros(2, 5), torch.zeros(shape))] * 3)


class TestCollaborativeLearning:
    """The term of CL-ILR; the rescaled gradient is a cohort's."""

    def test_reference_numbers(self):
        trunk, labels = leaf(fix((3, 5, 2, 2), 1).clamp_min(0)), torch.tensor([1, 3, 0])
        logits = []
        for i in range(4):
            maps = F.conv2d(trunk, 0.5 * fix((6, 5, 1, 1), 10 + i))
            logits.append(maps.mean((2, 3)) @ (0.6 * fix((4, 6), 20 + i)).T)
        made = EnsembleKDLoss(learners='all', target='others', detach=False, floor=FLOOR)
        whole = entropy(logits, labels) + made(logits)
        torch.testing.assert_close(whole, number(6.27996307994), **EXACT)
        (grad,) = torch.autograd.grad(whole, trunk)
        torch.testing.assert_close(grad.norm(), number(1.271899557), **EXACT)

    @pytest.mark.parametrize('detach', [True, False])
    @pytest.mark.parametrize('learners', ['all', 'last'])
    def test_value_and_gradient(self, detach, learners):
        z = [leaf(2 * fix((3, 4), i)) for i in range(3)]
        made = EnsembleKDLoss(1.7, learners, target='others', detach=detach, floor=0.01)
        loop = torch.zeros((), dtype=torch.float64)
        for i in range(3) if learners == 'all' else [2]:
            mean = sum(z[j] for j in range(3) if j != i) / 2
            loop = loop + naive_kd(z[i], mean.detach() if detach else mean, 1.7, 0.01)
        value = made(z)
        torch.testing.assert_close(value, loop, **CLOSE)
        torch.testing.assert_close(gradients(value, z), gradients(loop, z), **CLOSE)

    def test_unknown_targets_are_refused(self):
        with refused(key='target', got='peers', expected="'all' or 'others'"):
            EnsembleKDLoss(target='peers')
