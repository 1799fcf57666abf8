"""On several processes: tests/parity/test_bank_world.py."""

import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset

from kdmm.datasets import StratifiedSubset, number_sources
from kdmm.distillers.builder import build_loss
from kdmm.functional import draw_columns, mutual_bank_contrast
from kdmm.losses import Batch, MCLBankLoss
from kdmm.registry import MODELS
from tests.datasets.labelled import LabelsOnly
from tests.errors import refused
from tests.functional.test_mutual import fix

NO_BATCH = Batch(None, ())
FACTS = dict(peer_channels=(5, 3))
LABELS = torch.tensor([0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 1, 2])


class Twelve(LabelsOnly):
    METAINFO = dict(classes=('a', 'b', 'c'))
    LABELS = LABELS.tolist()


def loss(seen=True, **options) -> MCLBankLoss:
    torch.manual_seed(0)
    settings = dict(num_samples=12, negatives=20, dtype='float64', dim=4)
    made = MCLBankLoss((5, 3), **{**settings, **options})
    made.heads.double()
    if seen:
        made.see_dataset(Twelve())
    return made


def peers(step=0, size=4) -> list[torch.Tensor]:
    return [fix((size, width), width + 9 * step).requires_grad_() for width in (5, 3)]


def step_of(made: MCLBankLoss, ids, number=0) -> dict[str, torch.Tensor]:
    """One forward pass on images ``ids``."""
    ids = torch.tensor(ids)
    return made(peers(number, len(ids)), LABELS[ids], ids)


def train(made: MCLBankLoss, steps) -> list[float]:
    optimizer, values = torch.optim.SGD(made.parameters(), lr=0.05), []
    for step in steps:
        total = sum(step_of(made, [step, 3, step, 11], step).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        made.after_step(NO_BATCH)
        values.append(total.item())
    return values


class TestForward:
    def test_is_the_contrast_with_the_drawn_rows(self):
        made, ids = loss(tau=0.2, temperature=2.5), torch.tensor([7, 0, 5, 5])
        train(made, range(2))
        parts = step_of(made, ids.tolist())
        noise = made.bank.noise(4, 21)
        made.bank._waiting = []
        assert not (made.bank.noise(4, 21) == noise).any()  # the forward pass used its number
        index = draw_columns(made.samples.classes, ids, LABELS[ids], made.bank.noise(4, 21))
        assert index.shape == (4, 22) and torch.equal(index[:, 0], ids)
        expected = mutual_bank_contrast(made.heads(peers()), made.bank.rows, index, 0.2, 2.5)
        assert tuple(parts) == MCLBankLoss.parts
        for name, value in expected._asdict().items():
            torch.testing.assert_close(parts[name], value, rtol=0, atol=0)

    def test_gradients_reach_every_part_that_is_trained(self):
        made, inputs = loss(), peers()
        for value in made(inputs, LABELS[:4], torch.arange(4)).values():
            grads = torch.autograd.grad(value, [*inputs, *made.parameters()], retain_graph=True)
            assert all(grad.abs().max() > 0 for grad in grads)

    def test_draws_change_from_step_to_step_and_with_the_seed(self):
        values = []
        for seed in (0, 0, 1):
            made = loss(seed=seed)
            made.eval()
            made.bank.rows.copy_(loss().bank.rows)
            values.append(step_of(made, range(4))['vcl'].item())
            made.bank.step += 1
            values.append(step_of(made, range(4))['vcl'].item())
        assert values[:2] == values[2:4] and len(set(values)) == 4

    def test_ids_and_labels_need_not_be_on_the_cpu_only(self):
        """Rows and columns are made where the banks are: 'meta' fails on anything that is read."""
        made = loss().to('meta')
        inputs = [x.detach().to('meta') for x in peers()]
        parts = made(inputs, LABELS[:4], torch.arange(4))
        made.after_step(NO_BATCH)
        assert all(value.is_meta for value in parts.values())

    def test_published_defaults(self):
        made = MCLBankLoss((5, 3), 12)
        assert (made.negatives, made.tau, made.temperature) == (8192, 0.07, 3.0)
        assert made.bank.momentum == 0.5 and made.bank.rows.dtype == torch.float32
        assert made.bank.rows.shape == (2, 12, 128)
        assert made.memory_bytes() == 2 * 12 * 128 * 4


class TestMemory:
    def test_a_batch_enters_after_the_step(self):
        made = loss()
        before = made.bank.rows.clone()
        sum(step_of(made, [7, 0, 7, 3]).values()).backward()
        assert torch.equal(made.bank.rows, before)
        made.after_step(NO_BATCH)
        changed = (made.bank.rows != before).any(-1)
        assert changed.nonzero()[:, 1].tolist() == [0, 3, 7, 0, 3, 7]
        norms = made.bank.rows[:, [0, 3, 7]].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        rows = made.heads(peers())[:, [1, 3, 0]].detach()
        mixed = torch.nn.functional.normalize(before[:, [0, 3, 7]] + rows, dim=-1)
        torch.testing.assert_close(made.bank.rows[:, [0, 3, 7]], mixed)

    def test_evaluation_and_probing_leave_no_trace(self):
        made, other = loss(), loss()
        made.eval()
        step_of(made, range(4))
        made.train()
        with torch.no_grad():
            step_of(made, range(4))
        made.after_step(NO_BATCH)
        assert made.bank.step == 0 and torch.equal(made.bank.rows, other.bank.rows)

    def test_accumulated_batches_all_enter_and_draw_anew(self):
        made = loss()
        first = step_of(made, range(4))['vcl']
        second = step_of(made, range(4))['vcl']
        assert first != second  # the same images and banks, other negatives
        (first + second).backward()
        step_of(made, [8, 9])
        made.after_step(NO_BATCH)
        assert made.bank.step == 3
        assert (made.bank.rows[:, [0, 1, 2, 3, 8, 9]].norm(dim=-1) - 1).abs().max() < 1e-12

    @pytest.mark.parametrize('dtype', ['float64', 'float16'])
    def test_resume_goes_on_to_the_bit(self, dtype):
        whole, part = loss(dtype=dtype), loss(dtype=dtype)
        expected = train(whole, range(6))
        assert train(part, range(3)) == expected[:3]
        torch.manual_seed(1)
        resumed = loss(dtype=dtype)
        resumed.load_state_dict({k: v.clone() for k, v in part.state_dict().items()})
        assert train(resumed, range(3, 6)) == expected[3:]
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), key

    def test_the_state_is_heads_and_banks(self):
        keys = {key for key in loss().state_dict() if not key.startswith('heads.')}
        assert keys == {'bank.rows', 'bank.step', 'fingerprint'}

    @pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
    def test_autocast_with_cosines_of_one(self, dtype):
        made = MCLBankLoss((5, 3), 12, negatives=20, dtype=dtype, dim=4)
        made.see_dataset(Twelve())
        for head in made.heads.parameters():
            torch.nn.init.constant_(head, 0.5)
        ids = torch.arange(12)
        for _ in range(60):
            with torch.autocast('cpu', torch.bfloat16):
                inputs = [torch.ones(12, width, requires_grad=True) for width in (5, 3)]
                parts = made(inputs, LABELS, ids)
            total = sum(parts.values())
            total.backward()
            made.after_step(NO_BATCH)
        cosines = (made.heads([x.detach() for x in inputs]) * made.bank.rows.float()).sum(-1)
        torch.testing.assert_close(cosines, torch.ones(2, 12), rtol=0, atol=1e-2)
        assert total.isfinite() and all(x.grad.isfinite().all() for x in inputs)
        assert all(p.grad.isfinite().all() for p in made.parameters())


class TestDataSet:
    def test_a_subset_and_a_repetition(self):
        subset = dict(type=StratifiedSubset, dataset=Twelve(), per_class=2, rest=True)  # 6 of 12
        data = RepeatDataset(subset, times=3)
        made = MCLBankLoss((5, 3), 6, negatives=9, dim=4)
        made.see_dataset(data)
        ids = torch.tensor(data.dataset._indices[[5, 0, 3, 3]])
        assert ids.max() > 5
        made([x.float() for x in peers()], LABELS[ids], ids)
        assert made.bank._waiting[0][0].tolist() == [5, 0, 3, 3]

    @pytest.mark.parametrize('number', [11, 24])
    def test_another_number_of_images(self, number):
        made = MCLBankLoss((5, 3), number, dim=4)
        told = dict(problem='12 different images', fix='Set num_samples=12.')
        with refused(key='num_samples', got=number, **told):
            made.see_dataset(RepeatDataset(Twelve(), times=2))

    def test_joined_data_sets(self):
        """Image 0 of both is of class 0, and each has a row of its own."""
        data, made = ConcatDataset([Twelve(), Twelve(labels=[0, 1])]), loss(False, num_samples=14)
        with refused(problem='2 data sets are joined'):
            made.see_dataset(data)
        number_sources(data)
        made.see_dataset(data)
        ids = torch.tensor([data.get_data_info(i)['sample_idx'] for i in (0, 12, 13, 11)])
        assert made.rows_of(ids, torch.tensor([0, 0, 1, 2]))[0].tolist() == [0, 12, 13, 11]

    def test_one_that_was_not_seen(self):
        with refused(problem='the training set was not seen', fix='see_dataset'):
            step_of(loss(seen=False), range(4))

    def test_an_image_of_another(self):
        with refused(problem='no image of the training set has sample_idx 12'):
            loss()(peers(), LABELS[:4], torch.tensor([0, 1, 2, 12]))


class TestConfig:
    def test_it_is_registered_with_its_contract(self):
        assert MODELS.get('MCLBankLoss') is MCLBankLoss
        assert MCLBankLoss.mutual and MCLBankLoss.stateful
        assert MCLBankLoss.needs == ('labels', 'sample_ids')

    @pytest.mark.parametrize(
        'bad',
        [
            dict(negatives=0),
            dict(negatives=3.5),
            dict(dtype='int8'),
            dict(momentum=1.5),
            dict(num_samples=0),
            dict(dim=0),
        ],
        ids=str,
    )
    def test_bad_arguments_are_named_with_their_key(self, bad):
        ((key, value),) = bad.items()
        arguments = {**dict(type='MCLBankLoss', num_samples=12), **bad}
        with refused(key=f'kd.losses.mcl.{key}', got=value):
            build_loss('kd.losses.mcl', arguments, FACTS)

    def test_no_memory_names_the_option(self):
        arguments = dict(type='MCLBankLoss', num_samples=2**31 - 1, dim=2**16)
        with refused(key='kd.losses.mcl', problem='no memory for', fix="dtype='float16'"):
            build_loss('kd.losses.mcl', arguments, FACTS)
