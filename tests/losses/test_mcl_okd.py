"""MCL-OKD (arXiv 2006.04093): the NCE of all ordered pairs of networks.

On several processes: tests/parity/test_bank_world.py; the NCE: tests/functional; what is drawn:
tests/losses/test_crd.py.
"""

from importlib import import_module

import pytest
import torch
from torch import Tensor

from kdmm.distillers.builder import build_loss
from kdmm.losses import Batch, MCLOKDLoss
from kdmm.registry import MODELS
from tests.datasets.labelled import LabelsOnly
from tests.errors import refused, unfit
from tests.functional.test_mutual import CLOSE, fix, unit
from tests.versions import cpu_autocast

NO_BATCH = Batch(None, ())
LABELS = torch.tensor([0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 1, 2])
WIDTHS = (5, 3, 4, 6)
IDS = [7, 0, 5, 5]


class Twelve(LabelsOnly):
    """Five images of class a, four of b, three of c."""

    METAINFO = dict(classes=('a', 'b', 'c'))
    LABELS = LABELS.tolist()


def loss(networks: int = 3, seen: bool = True, **options) -> MCLOKDLoss:
    torch.manual_seed(0)
    settings = dict(negatives=6, dtype='float64', dim=4)
    made = MCLOKDLoss(WIDTHS[:networks], 12, **{**settings, **options})
    made.heads.double()
    if seen:
        made.see_dataset(Twelve())
    return made


def peers(networks: int = 3, step: int = 0, size: int = 4) -> list[Tensor]:
    every = [fix((size, width), width + 9 * step) for width in WIDTHS[:networks]]
    return [x.clone().requires_grad_() for x in every]


def step_of(made: MCLOKDLoss, ids: list[int], number: int = 0) -> Tensor:
    images = torch.tensor(ids)
    return made(peers(len(made.heads.heads), number, len(ids)), LABELS[images], images)


def train(made: MCLOKDLoss, steps) -> list[float]:
    optimizer, values = torch.optim.SGD(made.parameters(), lr=0.05), []
    for step in steps:
        total = step_of(made, [step, 3, step, 11], step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        made.after_step(NO_BATCH)
        values.append(total.item())
    return values


def columns(made: MCLOKDLoss, ids: list[int]) -> Tensor:
    """The draw of the next forward pass."""
    images = torch.tensor(ids)
    return made.draw(images, LABELS[images])


def naive(made: MCLOKDLoss, given: list[Tensor], index: Tensor) -> Tensor:
    """Pair by pair and column by column, with a Z for each pair."""
    rows = []
    for (layer,), x in zip(made.heads.heads, given, strict=True):
        out = x @ layer.weight.T + layer.bias
        rows.append(out / out.square().sum(1, keepdim=True).sqrt())
    total, noise, eps = torch.zeros((), dtype=torch.float64), made.negatives / 12, made.eps or 0.0
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i == j:
                continue
            scores = [
                [made.bank.rows[i, column] @ rows[j][b] / made.tau for column in index[b]]
                for b in range(len(index))
            ]
            every = torch.stack([torch.stack(row) for row in scores]).detach().exp()
            z = every.mean() * 12
            for row in scores:
                for place, score in enumerate(row):
                    data = score.exp() / z
                    share = (noise if place else data) / (data + noise + eps)
                    total = total - share.log() / len(index)
    return total


class Given(torch.nn.Module):
    """Heads that pass unit rows on."""

    def forward(self, given: list[Tensor]) -> Tensor:
        return torch.stack(given)


class TestForward:
    def test_reference_number(self, monkeypatch):
        """Twelve terms of the authors' public code in float64; each: tests/functional."""
        made = MCLOKDLoss((6,) * 4, 40, negatives=7, dtype='float64', dim=6, eps=1e-7)
        made.bank.rows.copy_(torch.stack([unit(fix((40, 6), 10 + i)) for i in range(4)]))
        made.heads = Given()
        ids = torch.tensor([3, 13, 23, 33])
        index = (ids[:, None] + torch.tensor([0, 5, 6, 7, 8, 9, 14, 15])) % 40
        monkeypatch.setattr(made, 'draw', lambda *_: index)
        monkeypatch.setattr(made, 'rows_of', lambda images, labels: (images, labels))
        rows = [unit(fix((4, 6), 1 + i)) for i in range(4)]
        value = made(rows, torch.zeros(4), ids)
        expected = torch.tensor(90.8107654092, dtype=torch.float64)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize(
        'networks, options',
        [
            (4, dict(tau=0.3)),
            (2, dict(mode='relax', tau=0.5)),
            (3, dict(replace=False, eps=0.1)),
            (3, dict(mode='relax', replace=False)),
        ],
    )
    def test_value_and_gradient_of_a_pair_loop(self, networks, options):
        made, given = loss(networks, **options), peers(networks)
        train(made, range(2))
        index, images = columns(made, IDS), torch.tensor(IDS)
        expected = naive(made, given, index)
        found = made(given, LABELS[images], images)
        torch.testing.assert_close(found, expected, **CLOSE)
        inputs = [*given, *made.parameters()]
        ours, theirs = (torch.autograd.grad(x, inputs) for x in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
        assert all(grad.abs().max() > 1e-4 for grad in ours)

    def test_gradcheck(self, monkeypatch):
        """Z is a constant to autograd, so it must be one to the differences."""
        made, images = loss(2, negatives=3).eval(), torch.tensor(IDS)
        log_z = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
        module = import_module('kdmm.functional.noise_contrast')  # the function has its name
        monkeypatch.setattr(module, 'log_partition', lambda *_: log_z)
        assert torch.autograd.gradcheck(lambda *x: made(x, LABELS[images], images), peers(2))

    def test_no_network_is_contrasted_with_its_own_bank(self):
        """Of two networks, a gradient of one reads the other's bank alone."""
        found = []
        for changed in (0, 1):
            made, given, images = loss(2), peers(2), torch.tensor(IDS)
            made.bank.rows[changed] = made.bank.rows[changed].flip(0)
            value = made(given, LABELS[images], images)
            found.append(torch.autograd.grad(value, given))
        made, given, images = loss(2), peers(2), torch.tensor(IDS)
        same = torch.autograd.grad(made(given, LABELS[images], images), given)
        assert torch.equal(found[0][0], same[0]) and not torch.equal(found[0][1], same[1])
        assert torch.equal(found[1][1], same[1]) and not torch.equal(found[1][0], same[0])

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_autocast_with_cosines_of_one(self, dtype):
        made = MCLOKDLoss((5, 3), 12, negatives=6, tau=0.01, dtype='bfloat16', dim=4)
        made.see_dataset(Twelve())
        for head in made.heads.parameters():
            torch.nn.init.constant_(head, 0.5)
        ids = torch.arange(12)
        for _ in range(20):
            with cpu_autocast(dtype):
                inputs = [torch.ones(12, width, requires_grad=True) for width in (5, 3)]
                value = made(inputs, LABELS, ids)
            value.backward()
            made.after_step(NO_BATCH)
        assert value.dtype == torch.float32 and value.isfinite()
        assert all(x.grad.isfinite().all() for x in (*inputs, *made.parameters()))


class TestMemory:
    @pytest.mark.parametrize('mode', ['exact', 'relax'])
    def test_a_batch_enters_after_the_step_at_its_own_rows(self, mode):
        made = loss(mode=mode)
        before = made.bank.rows.clone()
        step_of(made, [7, 0, 7, 3]).backward()
        assert torch.equal(made.bank.rows, before)
        made.after_step(NO_BATCH)
        changed = (made.bank.rows != before).any(-1)
        assert changed.nonzero()[:, 1].tolist() == [0, 3, 7] * 3
        rows = made.heads(peers())[:, [1, 3, 0]].detach()
        mixed = torch.nn.functional.normalize(before[:, [0, 3, 7]] + rows, dim=-1)
        torch.testing.assert_close(made.bank.rows[:, [0, 3, 7]], mixed)

    def test_evaluation_and_probing_leave_no_trace(self):
        made, other = loss().eval(), loss()
        step_of(made, IDS)
        made.train()
        with torch.no_grad():
            step_of(made, IDS)
        made.after_step(NO_BATCH)
        assert made.bank.step == 0 and torch.equal(made.bank.rows, other.bank.rows)

    @pytest.mark.parametrize('options', [{}, dict(mode='relax', replace=False, dtype='float16')])
    def test_resume_goes_on_to_the_bit(self, options):
        whole, part = loss(**options), loss(**options)
        expected = train(whole, range(6))
        assert train(part, range(3)) == expected[:3]
        torch.manual_seed(1)
        resumed = loss(**options)
        resumed.load_state_dict({k: v.clone() for k, v in part.state_dict().items()})
        assert train(resumed, range(3, 6)) == expected[3:]
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), key

    def test_the_state_is_linear_heads_and_banks(self):
        shapes = {key: tuple(value.shape) for key, value in loss(2).state_dict().items()}
        assert shapes == {
            'bank.rows': (2, 12, 4), 'bank.step': (), 'fingerprint': (2,),
            'heads.heads.0.0.weight': (4, 5), 'heads.heads.0.0.bias': (4,),
            'heads.heads.1.0.weight': (4, 3), 'heads.heads.1.0.bias': (4,),
        }  # fmt: skip


class TestConfig:
    def test_it_is_registered_with_its_contract(self):
        assert MODELS.get('MCLOKDLoss') is MCLOKDLoss
        assert MCLOKDLoss.mutual and MCLOKDLoss.stateful
        assert MCLOKDLoss.needs == ('labels', 'sample_ids')

    def test_published_defaults(self):
        made = MCLOKDLoss((64,) * 4, 12)
        assert (made.negatives, made.tau, made.mode) == (16384, 0.1, 'exact')
        assert (made.bank.momentum, made.bank.rows.shape) == (0.5, (4, 12, 128))
        assert sum(p.numel() for p in made.parameters()) == 4 * 65 * 128

    @pytest.mark.parametrize(
        'bad',
        [
            dict(negatives=0),
            dict(negatives=3.5),
            dict(tau=0.0),
            dict(mode='unlabelled'),
            dict(eps=-1e-7),
            dict(dtype='int8'),
            dict(dim=1),
        ],
        ids=str,
    )
    def test_bad_arguments_are_named_with_their_key(self, bad):
        ((key, value),) = bad.items()
        arguments = {**dict(type='MCLOKDLoss', num_samples=12), **bad}
        with refused(key=f'kd.losses.mcl.{key}', got=value):
            build_loss('kd.losses.mcl', arguments, dict(peer_channels=(5, 3)))

    def test_too_few_others(self):
        """Seven images are not of class a, the largest."""
        assert loss(negatives=7, replace=False).negatives == 7
        assert loss(negatives=8, replace=True).negatives == 8
        told = dict(problem="class 'a' leaves 7 images", fix='replace=True')
        with refused(key='negatives', got=8, **told):
            loss(negatives=8, replace=False)

    def test_maps_are_refused(self):
        with unfit('unpooled'):
            loss().check([torch.zeros(2, 5, 3, 3)] * 3)
