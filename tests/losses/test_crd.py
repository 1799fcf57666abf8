"""CRD (arXiv 1910.10699) against the published formula in a loop, and reference numbers.

The numbers were computed in float64 with the authors' public code on unit rows of ``fix``
(docs/methods/README.md). On several processes: tests/parity/test_bank_world.py.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import anomaly_mode
from torch.utils._python_dispatch import TorchDispatchMode

from kdmm.distillers.builder import build_loss
from kdmm.losses import Batch, CRDLoss
from kdmm.registry import MODELS
from tests.datasets.labelled import LabelsOnly
from tests.errors import refused, unfit
from tests.functional.test_mutual import CLOSE, fix, unit
from tests.versions import cpu_autocast

NO_BATCH = Batch(None, ())
FACTS = dict(student_channels=5, teacher_channels=3)
LABELS = torch.tensor([0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 1, 2])


def of_class(label: int) -> Tensor:
    """Its images."""
    return LABELS.eq(label).nonzero().flatten()


class Twelve(LabelsOnly):
    METAINFO = dict(classes=('ape', 'bee', 'cat'))
    LABELS = LABELS.tolist()


class Unlabelled(Twelve):
    """Of which no class can be read."""

    def load_data_list(self) -> list[dict]:
        return [dict(number=i) for i in range(12)]

    def get_cat_ids(self, idx: int) -> list[int]:
        raise AssertionError('no class is to be read')


def loss(data=Twelve, **options) -> CRDLoss:
    torch.manual_seed(0)
    settings = dict(num_samples=12, negatives=20, dtype='float64', dim=4)
    made = CRDLoss(5, 3, **{**settings, **options}).double()
    if data is not None:
        made.see_dataset(data())
    return made


def features(step=0, size=4) -> tuple[Tensor, Tensor]:
    """Of student and teacher, (B, 5) and (B, 3)."""
    student, teacher = (fix((size, width), width + 9 * step) for width in (5, 3))
    return student.requires_grad_(), teacher.requires_grad_()


def value_of(made: CRDLoss, ids=(7, 0, 5, 5), step=0, pair=None) -> Tensor:
    """One forward pass on images ``ids``."""
    ids = torch.tensor(ids)
    labels = None if made.mode == 'unlabelled' else LABELS[ids]
    return made(*(pair or features(step, len(ids))), ids, labels)


def train(made: CRDLoss, steps) -> list[float]:
    optimizer, values = torch.optim.SGD(made.parameters(), lr=0.05), []
    for step in steps:
        total = value_of(made, [step, 3, step, 11], step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        made.after_step(NO_BATCH)
        values.append(total.item())
    return values


def columns_of(made: CRDLoss, rows, step=0) -> Tensor:
    """The columns that a forward pass on these rows draws at a step of the bank."""
    made.bank.step.fill_(step)
    rows = torch.tensor(rows)
    return made.draw(rows, None if made.mode == 'unlabelled' else LABELS[rows])


def naive(made: CRDLoss, pair, index: Tensor, zs=None, eps=0.0) -> tuple[Tensor, list[float]]:
    """Both NCE of one batch, entry by entry, and their Z."""
    total, found = torch.zeros((), dtype=torch.float64), []
    noise = (index.shape[1] - 1) / made.num_samples
    for side in (0, 1):
        layer = made.heads.heads[side][0]
        exponents = []
        for x, columns in zip(pair[side], index.tolist(), strict=True):
            v = layer.weight @ x + layer.bias
            v = v / (v * v).sum().sqrt()
            other = made.bank.rows[1 - side]
            exponents.append([((other[c] * v).sum() / made.tau).exp() for c in columns])
        every = [e.item() for row in exponents for e in row]
        z = sum(every) / len(every) * made.num_samples if zs is None else zs[side]
        found.append(z)
        for row in exponents:
            for column, e in enumerate(row):
                data = e / z
                share = (data if column == 0 else noise) / (data + noise + eps)
                total = total - share.log() / len(exponents)
    return total, found


def trained(made: CRDLoss, pair) -> list[Tensor]:
    return [pair[0], *made.parameters()]


class TestReferenceNumbers:
    """40 rows of 6, images 3, 13, 23, 33, negatives 5 to 9, 14 and 15 behind (mod 40)."""

    def made(self, eps=None, **options) -> CRDLoss:
        torch.manual_seed(0)
        made = CRDLoss(6, 6, 40, negatives=7, dim=6, dtype='float64', eps=eps, **options).double()
        for head in made.heads.heads:  # features are embeddings
            torch.nn.init.eye_(head[0].weight)
            torch.nn.init.zeros_(head[0].bias)
        made.bank.rows.copy_(torch.stack([unit(fix((40, 6), 10)), unit(fix((40, 6), 11))]))
        made.samples.fill(torch.arange(40), torch.arange(40) % 2)
        own = torch.tensor([3, 13, 23, 33])[:, None]
        index = (own + torch.tensor([0, 5, 6, 7, 8, 9, 14, 15])) % 40
        made.draw = lambda rows, classes: index
        return made

    @pytest.mark.parametrize('dense', [True, False])
    @pytest.mark.parametrize(
        ('eps', 'student', 'teacher'),
        [(1e-7, 9.4938444476, 4.9160085836), (None, 9.4938400364, 4.9160043142)],
    )
    def test_values_and_banks(self, eps, student, teacher, dense):
        made, ids = self.made(eps, dense=dense), torch.tensor([3, 13, 23, 33])
        pair = [unit(fix((4, 6), s)).requires_grad_() for s in (1, 2)]
        total = made(*pair, ids, torch.ones_like(ids))
        found = torch.stack([*made.logged.values(), total])
        expected = torch.tensor([student, teacher, student + teacher], dtype=torch.float64)
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-9)
        z = torch.tensor([129416.153645, 59046.067796], dtype=torch.float64)
        torch.testing.assert_close(made.log_z.exp(), z, rtol=0, atol=5e-7)
        made.after_step(NO_BATCH)
        sums = made.bank.rows.sum((1, 2)).tolist()  # l2(0.5 old + 0.5 new) at the four rows
        assert sums == pytest.approx([-4.7635793438, -4.7511969688], abs=1e-9)
        row = [-0.557246, 0.019581, -0.520230, -0.159971, -0.607388, -0.154734]
        assert made.bank.rows[0, 3].tolist() == pytest.approx(row, abs=5e-7)


class TestForward:
    @pytest.mark.parametrize('dense', [True, False])
    @pytest.mark.parametrize('eps', [None, 1e-7, 0.1])
    def test_value_and_gradients(self, eps, dense):
        made, pair = loss(eps=eps, tau=0.2, dense=dense), features()
        train(made, range(2))  # Z is that of the first batch
        index = columns_of(made, [7, 0, 5, 5], made.bank.step)
        ours = value_of(made, pair=pair)
        loop, _ = naive(made, pair, index, made.log_z.exp().tolist(), eps or 0.0)
        torch.testing.assert_close(ours, loop, **CLOSE)
        grads = [torch.autograd.grad(x, trained(made, pair)) for x in (ours, loop)]
        torch.testing.assert_close(*grads, **CLOSE)
        assert all(grad.abs().max() > 0 for grad in grads[0])

    def test_the_teacher_gets_no_gradient(self):
        made, pair = loss(), features()
        grads = torch.autograd.grad(value_of(made, pair=pair), pair, allow_unused=True)
        assert grads[0].abs().max() > 0 and grads[1] is None

    def test_a_teacher_in_half_precision(self):
        student, teacher = (x.detach().float() for x in features())
        found = []
        for x in (teacher.half(), teacher.half().float()):
            made = loss(dtype='float32').float()
            found.append(value_of(made, pair=(student, x)))
        assert torch.equal(*found)

    def test_sides_are_not_exchangeable(self):
        """Each is scored against the other's bank."""
        made = CRDLoss(3, 3, 12, negatives=20, dtype='float64', dim=4, z_mode='batch').double()
        made.see_dataset(Twelve())
        made.eval()
        one, two = fix((4, 3), 1), fix((4, 3), 2)
        assert value_of(made, pair=(one, two)) != value_of(made, pair=(two, one))

    def test_both_forms_of_scores_are_equal(self):
        found = []
        for dense in (True, False):
            made, pair = loss(dense=dense), features()
            value = value_of(made, pair=pair)
            found.append([value, *torch.autograd.grad(value, trained(made, pair))])
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)

    def test_heads_are_one_layer_each(self):
        """(64 + 1 + 64 + 1) * 128 from ResNet-56 to ResNet-20."""
        made = CRDLoss(64, 64, 12)
        assert sum(p.numel() for p in made.parameters()) == 16_640
        assert (made.negatives, made.tau, made.bank.momentum) == (16384, 0.07, 0.5)
        assert made.bank.rows.shape == (2, 12, 128) and made.memory_bytes() == 2 * 12 * 128 * 4
        assert made.bank.rows.abs().max() < 1 / math.sqrt(128 / 3)

    def test_ids_and_labels_need_not_be_on_the_cpu_only(self):
        """Columns and scores are made where the banks are: 'meta' fails on anything read."""
        for options in (dict(), dict(mode='relax', percent=0.5), dict(replace=False, negatives=3)):
            made = loss(z_mode='batch', **options).to('meta')
            pair = [x.detach().to('meta') for x in features()]
            value = made(*pair, torch.arange(4), LABELS[:4])
            made.after_step(NO_BATCH)
            assert value.is_meta

    @pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
    @pytest.mark.parametrize('amp', [torch.float16, torch.bfloat16])
    def test_autocast_with_cosines_of_one(self, dtype, amp):
        """exp(1 / 0.07) overflows float16."""
        made = CRDLoss(5, 3, 12, negatives=20, dtype=dtype, dim=4)
        made.see_dataset(Twelve())
        for head in made.heads.parameters():
            torch.nn.init.constant_(head, 0.5)
        for _ in range(12):
            with cpu_autocast(amp):
                student = torch.ones(12, 5, requires_grad=True)
                total = made(student, torch.ones(12, 3, dtype=amp), torch.arange(12), LABELS)
            total.backward()
            made.after_step(NO_BATCH)
        cosines = made.bank.rows[0].float() @ made.bank.rows[1].float().T
        torch.testing.assert_close(cosines, torch.ones(12, 12), rtol=0, atol=1e-2)
        assert total.dtype == torch.float32 and total.isfinite() and student.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in made.parameters())

    def test_derivative_of_a_tiny_case(self):
        made = loss(negatives=3, tau=0.5, z_mode='batch')
        made.eval()
        constant = torch.tensor([0.3, 0.4], dtype=torch.float64)
        made._log_z = lambda scores: constant
        _, teacher = features()
        assert torch.autograd.gradcheck(lambda x: value_of(made, pair=(x, teacher)), features()[0])

    def test_nothing_of_a_row_for_each_column_is_held(self):
        """No tensor of B x (K + 1) x D where the rows are fetched, in forward and backward."""
        bytes_of: dict[int, int] = {}

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                found = func(*args, **(kwargs or {}))
                for x in [found] if isinstance(found, Tensor) else []:
                    storage = x.untyped_storage()
                    bytes_of[storage.data_ptr()] = max(
                        storage.nbytes(), bytes_of.get(storage.data_ptr(), 0)
                    )
                return found

        batch, drawn, dim = 16, 65, 32
        made = CRDLoss(5, 3, 200, negatives=drawn - 1, dim=dim, dense=False)
        made.samples.fill(torch.arange(200), torch.arange(200) % 3)
        student, teacher = (x.float() for x in features(size=batch))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('kdmm.functional.scores.block_elements', lambda like: 4 * drawn * dim)
            with Watch():
                total = made(student, teacher, torch.arange(batch), torch.arange(batch) % 3)
                total.backward()
        bytes_of.pop(made.bank.rows.data_ptr(), None)  # seen as what is read
        assert max(bytes_of.values()) == 4 * (4 * drawn * dim)  # a block of four images


class TestPartition:
    def test_that_of_the_first_batch_stays(self):
        made, pair = loss(), features()
        index = columns_of(made, [7, 0, 5, 5])
        _, z = naive(made, pair, index)
        value_of(made, pair=pair)
        torch.testing.assert_close(made.log_z.exp().tolist(), z, **CLOSE)
        before = made.log_z.clone()
        value_of(made, step=1)
        assert torch.equal(made.log_z, before) and not made.log_z.requires_grad

    def test_that_of_each_batch(self):
        made = loss(z_mode='batch')
        for step in range(3):
            pair = features(step)
            index = columns_of(made, [7, 0, 5, 5], step)
            expected, _ = naive(made, pair, index)
            torch.testing.assert_close(value_of(made, pair=pair), expected, **CLOSE)
            made.bank._waiting = []
        assert not made.z_known

    def test_it_is_saved(self):
        made, other = loss(), loss()
        value_of(made)
        value_of(other, step=1)  # has one of its own
        other.load_state_dict(made.state_dict())
        made.bank._waiting, other.bank._waiting = [], []
        assert torch.equal(other.log_z, made.log_z)
        assert value_of(other, step=2) == value_of(made, step=2)
        assert torch.equal(other.log_z, made.log_z)
        other.load_state_dict(loss().state_dict())  # of a run that has not begun
        value_of(other, step=3)
        assert other.log_z.abs().min() > 0

    def test_evaluation_and_probing_do_not_set_it(self):
        made = loss()
        made.eval()
        value_of(made)
        made.train()
        with torch.no_grad():
            value_of(made)
        assert not made.z_known and made.log_z.abs().max() == 0


class TestMemory:
    def test_a_batch_is_scored_against_the_banks_before_it(self):
        made, other = loss(), loss()
        assert value_of(made) == value_of(other)
        made.after_step(NO_BATCH)  # the other one never writes
        other.bank._waiting = []
        other.bank.step += 1
        assert value_of(made, step=1) != value_of(other, step=1)

    @pytest.mark.parametrize('dense', [True, False])
    def test_rows_of_the_batch_are_written_after_the_step(self, dense):
        made, pair = loss(dense=dense), features()
        before = made.bank.rows.clone()
        with pytest.warns(UserWarning, match='Anomaly'), anomaly_mode.detect_anomaly():
            value_of(made, [7, 0, 7, 3], pair=pair).backward()
        assert torch.equal(made.bank.rows, before)
        embeddings = made.heads(pair)[:, [1, 3, 0]].detach()
        made.after_step(NO_BATCH)
        changed = (made.bank.rows != before).any(-1)
        assert changed.nonzero()[:, 1].tolist() == [0, 3, 7, 0, 3, 7]
        mixed = unit(0.5 * before[:, [0, 3, 7]] + 0.5 * embeddings)
        torch.testing.assert_close(made.bank.rows[:, [0, 3, 7]], mixed)

    @pytest.mark.parametrize('dtype', ['float64', 'float16'])
    @pytest.mark.parametrize('options', [dict(), dict(mode='relax', percent=0.5)], ids=str)
    def test_resume_goes_on_to_the_bit(self, dtype, options):
        whole, part = loss(dtype=dtype, **options), loss(dtype=dtype, **options)
        expected = train(whole, range(6))
        assert train(part, range(3)) == expected[:3]
        torch.manual_seed(1)
        resumed = loss(dtype=dtype, **options)
        resumed.load_state_dict({k: v.clone() for k, v in part.state_dict().items()})
        assert train(resumed, range(3, 6)) == expected[3:]
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), key

    def test_the_state_is_heads_banks_and_z(self):
        keys = {key for key in loss().state_dict() if not key.startswith('heads.')}
        assert keys == {'bank.rows', 'bank.step', 'fingerprint', 'log_z', 'z_known'}


class TestColumns:
    """480 draws of 20 for each of the rows 0, 1 and 2, which are of classes 0, 1 and 2."""

    ROWS = [0, 1, 2] * 40

    def drawn(self, **options) -> tuple[CRDLoss, Tensor]:
        made = loss(**options)
        return made, torch.cat([columns_of(made, self.ROWS, step) for step in range(12)])

    def test_exact(self):
        _, index = self.drawn()
        own = torch.tensor(self.ROWS * 12)
        assert torch.equal(index[:, 0], own) and index.shape[1] == 21
        assert (LABELS[index[:, 1:]] != LABELS[own][:, None]).all()
        for label in range(3):
            assert set(index[own == label, 1:].unique().tolist()) == set(range(12)) - set(
                of_class(label).tolist()
            )

    def test_relax(self):
        _, index = self.drawn(mode='relax')
        own = torch.tensor(self.ROWS * 12)
        for label in range(3):
            found = index[own == label]
            members = of_class(label).tolist()
            counts = torch.bincount(found[:, 0], minlength=12)[members]
            assert counts.sum() == 480  # all of its class
            assert ((counts - 480 / len(members)).abs() < 5 * (480 / len(members)) ** 0.5).all()
            assert (LABELS[found[:, 1:]] != label).all()

    def test_relax_writes_at_the_images_own_row(self):
        made = loss(mode='relax')
        made.samples.fill(torch.arange(12), LABELS)
        before = made.bank.rows.clone()
        value_of(made, [7, 0, 5, 3])
        made.after_step(NO_BATCH)
        changed = (made.bank.rows != before).any(-1)
        assert changed.nonzero()[:, 1].tolist() == [0, 3, 5, 7] * 2

    def test_unlabelled(self):
        made, index = self.drawn(data=Unlabelled, mode='unlabelled')
        own = torch.tensor(self.ROWS * 12)
        assert made.needs == ('sample_ids',) and torch.equal(index[:, 0], own)
        counts = torch.bincount(index[:, 1:].flatten(), minlength=12)
        assert ((counts - 2400).abs() < 5 * 2400**0.5).all()
        assert value_of(made).isfinite()

    def test_percent(self):
        made, index = self.drawn(percent=0.5)
        own = LABELS[torch.tensor(self.ROWS * 12)]
        for label in range(3):
            others = 12 - len(of_class(label))
            assert len(index[own == label, 1:].unique()) == others // 2
        again = loss(percent=0.5)
        assert torch.equal(again._shares.order, made._shares.order)
        assert not torch.equal(loss(percent=0.5, seed=3)._shares.order, made._shares.order)

    @pytest.mark.parametrize('options', [dict(), dict(percent=0.7), dict(mode='relax')], ids=str)
    @pytest.mark.parametrize('block', [1, 5 * 12, 10**9])
    def test_different_ones(self, options, block, monkeypatch):
        monkeypatch.setattr('kdmm.losses.bank.block_elements', lambda like: block)
        _, index = self.drawn(replace=False, negatives=3, **options)
        own = LABELS[torch.tensor(self.ROWS * 12)]
        assert (index[:, 1:].sort(1).values.diff(dim=1) > 0).all() and index.shape[1] == 4
        assert (LABELS[index[:, 1:]] != own[:, None]).all()
        assert (LABELS[index[:, 0]] == own).all()
        assert len({tuple(sorted(row)) for row in index[own == 0, 1:].tolist()}) > 3
        monkeypatch.setattr('kdmm.losses.bank.block_elements', lambda like: 10**9)
        _, expected = self.drawn(replace=False, negatives=3, **options)
        assert torch.equal(index.sort(1).values, expected.sort(1).values)

    def test_draws_change_from_step_to_step_and_with_the_seed(self):
        found = [columns_of(loss(seed=seed), [0] * 4, step) for seed in (0, 1) for step in (0, 1)]
        assert len({str(index.tolist()) for index in found}) == 4
        assert torch.equal(found[0], columns_of(loss(), [0] * 4))


class TestDataSet:
    def test_too_few_others_name_the_class(self):
        """Class 0 has 5 of 12 images."""
        loss(replace=False, negatives=7)
        told = dict(problem=("class 'ape'", '7 images'), fix='replace=True')
        with refused(key='negatives', got=8, **told):
            loss(replace=False, negatives=8)
        loss(negatives=8)
        with refused(key='negatives', got=4, problem=("class 'ape'", '3 images')):
            loss(replace=False, negatives=4, percent=0.5)

    def test_a_class_of_one_image_is_named_in_relaxed_mode(self, monkeypatch):
        said: list[str] = []
        monkeypatch.setattr('kdmm.losses.bank.print_log', lambda text, logger: said.append(text))
        labels = [0, 1, 0, 0, 1, 2]
        made = loss(None, mode='relax', num_samples=6)
        made.see_dataset(Twelve(labels=labels))
        assert said == ["CRDLoss: classes of one image, which is its own positive: 'cat'"]
        assert made.draw(torch.tensor([5]), torch.tensor([2]))[0, 0] == 5
        loss(None, num_samples=6).see_dataset(Twelve(labels=labels))
        assert len(said) == 1

    def test_another_number_of_images(self):
        for data, options in ((Twelve, dict()), (Unlabelled, dict(mode='unlabelled'))):
            with refused(key='num_samples', got=11, fix='Set num_samples=12.'):
                loss(data, num_samples=11, **options)

    def test_data_without_classes(self):
        with refused(problem='the classes of image 0'):
            loss(lambda: LabelsOnly([None] * 12))

    def test_a_batch_without_classes(self):
        with refused(key='mode', got='exact', problem='classes of a batch'):
            loss()(*features(), torch.arange(4))

    def test_data_without_numbers(self):
        with refused(problem='the sample_idx of image 0 of list'):
            loss(lambda: [1, 2, 3])


class TestConfig:
    def test_it_is_registered_with_its_contract(self):
        assert MODELS.get('CRDLoss') is CRDLoss
        assert CRDLoss.stateful and not CRDLoss.mutual
        assert CRDLoss.needs == ('labels', 'sample_ids')

    @pytest.mark.parametrize(
        'bad',
        [
            dict(negatives=0),
            dict(negatives=3.5),
            dict(negatives=True),
            dict(tau=0),
            dict(mode='any'),
            dict(percent=0.0),
            dict(percent=1.5),
            dict(z_mode='last'),
            dict(eps=-1e-7),
            dict(eps=1.0),
            dict(momentum=1.5),
            dict(dtype='int8'),
            dict(num_samples=0),
            dict(dim=1),
        ],
        ids=str,
    )
    def test_bad_arguments_are_named_with_their_key(self, bad):
        ((key, value),) = bad.items()
        arguments = {**dict(type='CRDLoss', num_samples=12), **bad}
        with refused(key=f'kd.losses.crd.{key}', got=value):
            build_loss('kd.losses.crd', arguments, FACTS)

    @pytest.mark.parametrize('bad', [dict(percent=0.5), dict(replace=False)], ids=str)
    def test_what_does_not_go_without_classes(self, bad):
        ((key, value),) = bad.items()
        with refused(key=key, got=value, problem='unlabelled'):
            CRDLoss(5, 3, 12, mode='unlabelled', **bad)

    def test_shapes(self):
        made = loss()
        with unfit('unpooled'):
            made.check(torch.zeros(4, 5, 2, 2), torch.zeros(4, 3))
        with unfit('images', student=(4, 5), teacher=(3, 3)):
            made.check(torch.zeros(4, 5), torch.zeros(3, 3))

    def test_banks_that_do_not_fit_are_refused_before_they_are_made(self, monkeypatch):
        made: list[int] = []
        monkeypatch.setattr('kdmm.memory.instance_bank.free_memory', lambda: 2**20)
        monkeypatch.setattr(torch, 'empty', lambda *args, **kwargs: made.append(1))
        arguments = dict(type='CRDLoss', num_samples=2**20)
        told = dict(problem=('no memory for 2 instance banks', '1024 MiB', '1 MiB are free'))
        with refused(key='kd.losses.crd', fix="dtype='float16'", **told):
            build_loss('kd.losses.crd', arguments, FACTS)
        assert not made

    def test_the_note_says_how_scores_are_computed(self):
        assert loss().note() == '20 negatives of 12 images, scored against all rows'
        assert 'fetched in blocks' in loss(dense=False).note()
        assert 'fetched in blocks' in CRDLoss(5, 3, 81, negatives=9).note()
