"""MCL within the batch: heads and maths together, and the distillation from the ensemble.

On several processes: tests/e2e/test_cohort_world.py.
"""

import pytest
import torch
from torch import Tensor

from kdmm.functional import mutual_contrast
from kdmm.losses.mcl import EnsembleKDLoss, MCLLoss
from tests.errors import refused, unfit
from tests.functional.test_mutual import LABELS, OPTIONS, UNEVEN, fix, naive
from tests.versions import cpu_autocast

CLOSE = dict(rtol=1e-10, atol=1e-12)
WIDTHS = (5, 3, 4, 6)


def loss(networks: int, **options) -> MCLLoss:
    torch.manual_seed(0)
    return MCLLoss(WIDTHS[:networks], **{'dim': 7, **options}).double()


def features(networks: int) -> list[Tensor]:
    return [fix((8, width), i).requires_grad_() for i, width in enumerate(WIDTHS[:networks])]


def by_hand(made: MCLLoss, peers: list[Tensor]) -> Tensor:
    """Unit rows (N, B, dim) of the heads' weights."""
    rows = []
    for (first, _, second), x in zip(made.heads.heads, peers, strict=True):
        out = (x @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias
        rows.append(out / out.square().sum(1, keepdim=True).sqrt())
    return torch.stack(rows)


def gradients(value: Tensor, made: MCLLoss, peers: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, [*peers, *made.parameters()], retain_graph=True)


#: Networks, labels and options.
CASES = [
    *((2, UNEVEN, options) for options in OPTIONS),
    *((networks, LABELS, OPTIONS[0]) for networks in (2, 3, 4)),
]


class TestMCLLoss:
    @pytest.mark.parametrize('networks', [2, 3, 4])
    def test_is_the_contrast_of_the_heads_rows(self, networks):
        made, peers = loss(networks), features(networks)
        found = made(peers, LABELS)
        expected = mutual_contrast(by_hand(made, peers), LABELS)
        assert tuple(found) == expected._fields == MCLLoss.parts
        for name, value in expected._asdict().items():
            torch.testing.assert_close(found[name], value, **CLOSE)

    @pytest.mark.parametrize('networks, labels, options', CASES)
    def test_values_and_gradients_of_a_pair_loop(self, networks, labels, options):
        options = dict(options, tau=0.2, temperature=2.5)
        made, peers = loss(networks, **options), features(networks)
        found = made(peers, labels)
        expected = naive(by_hand(made, peers), labels, **options)
        for value, naively in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(value, naively, **CLOSE)
            ours = gradients(value, made, peers)
            theirs = gradients(naively, made, peers)
            torch.testing.assert_close(ours, theirs, **CLOSE)
            assert all(grad.abs().max() > 0 for grad in ours)


def test_the_images_of_all_ranks_are_contrasted(monkeypatch):
    made = loss(2)
    assert made.least_batch(1) == 2
    monkeypatch.setattr('kdmm.losses.mcl.world_size', lambda: 2)
    assert made.least_batch(1) == 1


def test_temperatures_are_read_in_each_step():
    """They may be schedules."""
    made, peers = loss(2), features(2)
    made.tau, made.temperature = 0.4, 1.5
    other = loss(2, tau=0.4, temperature=1.5)
    assert made(peers, LABELS) == other(peers, LABELS)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_finite_under_autocast(dtype):
    made, peers = loss(2, tau=0.01).float(), [100 * x.detach().float() for x in features(2)]
    with cpu_autocast(dtype):
        found = made([x.requires_grad_() for x in peers], LABELS)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())
    grads = gradients(sum(found.values()), made, peers)
    assert all(grad.isfinite().all() for grad in grads)


def test_a_batch_without_two_of_a_class_has_no_hard_terms():
    made, peers = loss(2), features(2)
    found = made(peers, torch.arange(8))
    assert found['vcl'] == found['icl'] == 0
    assert all(grad.isfinite().all() for grad in gradients(sum(found.values()), made, peers))


def test_maps_are_refused_at_the_start_and_in_a_step():
    made, maps = loss(2), [torch.zeros(2, 5, 4, 4), torch.zeros(2, 3, 4, 4)]
    for refuse in (made.check, lambda peers: made(peers, torch.zeros(2))):
        with unfit('unpooled', peers=[tuple(x.shape) for x in maps]):
            refuse(maps)


def naive_ensemble(z: list[Tensor], learners: list[int], temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i in learners:
        for b in range(len(z[0])):
            mean = sum(x[b].detach() for x in z) / len(z)
            p, q = (
                (row / temperature).exp() / (row / temperature).exp().sum()
                for row in (mean, z[i][b])
            )
            total = total + temperature**2 * sum(p[c] * (p[c] / q[c]).log() for c in range(len(p)))
    return total / len(z[0])


class TestEnsembleKD:
    @pytest.mark.parametrize(
        'networks, learners, who',
        [
            (2, None, [0, 1]),
            (4, None, [3]),
            (2, 'last', [1]),
            (3, 'all', [0, 1, 2]),
        ],
    )
    def test_against_a_naive_form(self, networks, learners, who):
        z = [2 * fix((6, 5), i).float().requires_grad_() for i in range(networks)]
        value = EnsembleKDLoss(temperature=1.7, learners=learners)(z)
        z64 = [x.detach().double().requires_grad_() for x in z]
        expected = naive_ensemble(z64, who, 1.7)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        ours = torch.autograd.grad(value, z, allow_unused=True)
        theirs = torch.autograd.grad(expected, z64, allow_unused=True)
        for i in range(networks):
            assert (ours[i] is not None and bool(ours[i].any())) == (i in who)
            if i in who:
                torch.testing.assert_close(ours[i].double(), theirs[i], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize('networks', [2, 3])
    def test_float64_stays_float64(self, networks):
        """Logits of which float32 sees no difference."""
        z = [(1 + 1e-9 * fix((6, 5), i)).requires_grad_() for i in range(networks)]
        value = EnsembleKDLoss(temperature=0.5, learners='all')(z)
        expected = naive_ensemble(z, range(networks), 0.5)
        assert value.dtype == torch.float64
        ours, theirs = (torch.autograd.grad(x, z) for x in (value, expected))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-16)
        assert all(1e-11 < x.abs().max() < 1e-8 for x in ours)

    def test_networks_of_two_precisions(self):
        z = [fix((6, 5), 0), fix((6, 5), 1).float()]
        value = EnsembleKDLoss()(z)
        torch.testing.assert_close(value, EnsembleKDLoss()([z[0], z[1].double()]))
        half = [x.half() for x in z]
        assert EnsembleKDLoss()(half).dtype == torch.float32

    def test_maps_are_means_over_pixels(self):
        z = [fix((2, 5, 3, 4), i).float() for i in range(2)]
        rows = [x.permute(0, 2, 3, 1).reshape(-1, 5) for x in z]
        torch.testing.assert_close(EnsembleKDLoss()(z), EnsembleKDLoss()(rows))

    def test_zero_where_all_agree(self):
        z = fix((4, 5), 0).float()
        assert EnsembleKDLoss()([z, z.clone()]).item() == pytest.approx(0, abs=1e-6)

    def test_different_shapes_are_refused(self):
        z = [torch.zeros(2, 5), torch.zeros(2, 4)]
        for refuse in (EnsembleKDLoss().check, EnsembleKDLoss()):
            with unfit('form', peers=[(2, 5), (2, 4)]):
                refuse(z)

    def test_unknown_learners_are_refused(self):
        with refused(key='learners', got='first', expected="'all', 'last' or None"):
            EnsembleKDLoss(learners='first')
