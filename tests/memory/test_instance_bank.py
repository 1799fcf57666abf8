"""On several processes: tests/parity/test_bank_world.py."""

import math

import pytest
import torch

from kdmm.functional import mutual_bank_contrast, normalize_rows
from kdmm.memory import InstanceBank
from kdmm.memory.instance_bank import free_memory
from tests.errors import refused, unfit
from tests.functional.test_mutual import fix, unit
from tests.versions import cpu_autocast


def bank(networks=2, samples=32, dim=6, dtype=torch.float64, **options) -> InstanceBank:
    return InstanceBank(networks, samples, dim, dtype=dtype, **options)


def batch(networks=2, size=4, dim=6, step=0) -> torch.Tensor:
    return torch.stack([unit(fix((size, dim), 1 + i + 7 * step)) for i in range(networks)])


def write(store: InstanceBank, index: list[int], rows: torch.Tensor) -> None:
    store.remember(torch.tensor(index), rows)
    store.after_step()


class TestStart:
    def test_uniform_in_the_papers_interval(self):
        rows = bank(2, 3000, 128).rows
        limit = math.sqrt(3 / 128)
        assert limit == pytest.approx(0.15309, abs=1e-5) and rows.shape == (2, 3000, 128)
        assert 0.999 * limit < rows.max() <= limit and -limit <= rows.min() < -0.999 * limit
        assert rows.mean().abs() < 1e-3
        counts = torch.histc(rows, 10) / rows.numel()
        assert (counts - 0.1).abs().max() < 3e-3
        assert not torch.equal(rows[0], rows[1])

    def test_by_seed_alone_and_the_same_for_every_dtype(self):
        torch.manual_seed(0)
        first, drawn = bank(), torch.rand(1)
        torch.manual_seed(0)
        assert torch.equal(torch.rand(1), drawn)  # the global generator is left alone
        assert torch.equal(first.rows, bank().rows)
        assert not torch.equal(first.rows, bank(seed=1).rows)
        half = bank(dtype=torch.float16)
        assert torch.equal(half.rows, first.rows.half())

    def test_many_rows_are_drawn_in_parts(self, monkeypatch):
        whole = bank(2, 40, 8).rows
        monkeypatch.setattr('kdmm.memory.instance_bank._CHUNK', 16)
        torch.testing.assert_close(bank(2, 40, 8).rows, whole, rtol=0, atol=0)


class TestWrite:
    def test_reference_numbers(self):
        """The inputs of test_bank_contrast.py, written (docs/methods/mcl.md)."""
        store = bank()
        store.rows.copy_(torch.stack([unit(fix((32, 6), 10 + i)) for i in range(2)]))
        write(store, [0, 9, 18, 27], batch())
        expected = [-0.077575, -0.162708, -0.664337, 0.312833, -0.376729, -0.535140]
        assert store.rows[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
        assert store.rows[0].sum().item() == pytest.approx(-4.3831814896, abs=1e-9)

    def test_only_the_own_rows_change_and_become_unit(self):
        store = bank(momentum=0.8)
        before = store.rows.clone()
        write(store, [5, 31, 0], batch(size=3))
        mixed = 0.8 * before[:, [5, 31, 0]] + (1 - 0.8) * batch(size=3)
        torch.testing.assert_close(store.rows[:, [5, 31, 0]], unit(mixed), rtol=1e-14, atol=1e-14)
        others = [i for i in range(32) if i not in (5, 31, 0)]
        assert torch.equal(store.rows[:, others], before[:, others])

    def test_the_first_of_duplicates_counts_once(self):
        found = []
        for index, rows in (([4, 2, 4, 4, 2, 9], batch(size=6)), ([4, 2, 9], None)):
            store = bank()
            write(store, index, batch(size=6)[:, [0, 1, 5]] if rows is None else rows)
            found.append(store.rows)
        assert torch.equal(*found)

    def test_nothing_changes_before_after_step(self):
        store = bank()
        before = store.rows.clone()
        store.remember(torch.tensor([1, 2]), batch(size=2))
        assert torch.equal(store.rows, before) and store.step == 0
        store.after_step()
        assert store.step == 1 and not torch.equal(store.rows, before)
        after = store.rows.clone()
        store.after_step()
        assert torch.equal(store.rows, after) and store.step == 1

    def test_batches_before_one_step_are_written_one_after_another(self):
        """As in gradient accumulation, also where they share an image."""
        together, apart = bank(), bank()
        for step, index in enumerate(([3, 4, 5, 6], [6, 7, 3, 8])):
            together.remember(torch.tensor(index), batch(step=step))
            write(apart, index, batch(step=step))
        together.after_step()
        assert torch.equal(together.rows, apart.rows) and together.step == apart.step == 2

    def test_gradients_and_graphs_are_not_kept(self):
        store, rows = bank(), batch().requires_grad_()
        store.remember(torch.tensor([1, 2, 3, 4]), rows * 2)
        assert not any(kept.requires_grad for batch in store._waiting for kept in batch)
        store.after_step()
        assert not store.rows.requires_grad and store.rows.grad_fn is None

    def test_the_opposite_of_a_row(self):
        store = bank()
        write(store, [0], batch(size=1))
        write(store, [0], -store.rows[:, :1])  # their mean is zero
        assert store.rows.isfinite().all()

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_rows_are_computed_in_float32_under_any_autocast(self, dtype):
        store = bank(dtype=dtype, samples=8, momentum=0.8)
        expected = store.rows.clone()
        for step in range(3):
            with cpu_autocast(dtype):
                write(store, [0, 1, 2, 3], batch(step=step).float())
            mixed = 0.8 * expected[:, :4].float() + (1 - 0.8) * batch(step=step).float()
            expected[:, :4] = normalize_rows(mixed, dim=2).to(dtype)
        assert torch.equal(store.rows, expected)
        norms = store.rows[:, :4].float().norm(dim=-1)
        assert (norms - 1).abs().max() < 2 * torch.finfo(dtype).eps

    def test_shapes(self):
        with unfit('form', index=(3,), embeddings=(2, 4, 6), problem='2 x 6'):
            bank().remember(torch.tensor([1, 2, 3]), batch())


class TestScores:
    def test_a_batch_is_scored_before_it_enters(self):
        store, index = bank(), torch.arange(4)[:, None] + torch.arange(7)
        losses = [sum(mutual_bank_contrast(batch(), store.rows, index))]
        store.remember(index[:, 0].clone(), batch())
        losses.append(sum(mutual_bank_contrast(batch(), store.rows, index)))
        store.after_step()
        losses.append(sum(mutual_bank_contrast(batch(), store.rows, index)))
        assert losses[0] == losses[1] != losses[2]

    @pytest.mark.parametrize('whole', [True, False])
    def test_a_write_before_backward_is_an_error(self, whole):
        store, rows = bank(), batch().requires_grad_()
        index = torch.arange(4)[:, None] + torch.arange(7)
        with torch.autograd.set_detect_anomaly(True):
            for late in (True, False):
                loss = sum(mutual_bank_contrast(rows, store.rows, index, whole=whole))
                store.remember(index[:, 0].clone(), rows)
                if late:
                    loss.backward()
                store.after_step()
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            loss.backward()


class TestNoise:
    def test_by_step_seed_image_and_column(self):
        store = bank()
        first = store.noise(3, 5)
        assert first.shape == (3, 5) and len(first.unique()) == 15
        assert first.min() >= 0 and first.max() < 2**32 and first.max() > 2**31
        assert torch.equal(first, store.noise(3, 5))
        assert torch.equal(first[1:], store.noise(3, 5, slice(1, 9)))
        assert torch.equal(first[:2, :4], store.noise(2, 4))  # larger batches hold smaller ones
        assert not (bank(seed=1).noise(3, 5) == first).any()
        store.remember(torch.tensor([1, 2, 3, 4]), batch())
        second = store.noise(3, 5)  # the next batch, be it of the same step
        assert not (second == first).any()
        store.after_step()
        assert torch.equal(store.noise(3, 5), second)


class TestState:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_resume_is_bit_exact(self, dtype):
        whole, part, resumed = (bank(dtype=dtype, seed=seed) for seed in (0, 0, 0))
        for step in range(3):
            write(whole, [step, 3, 4, step], batch(step=step))
            write(part, [step, 3, 4, step], batch(step=step))
        resumed.load_state_dict({k: v.clone() for k, v in part.state_dict().items()})
        for step in range(3, 6):
            for store in (whole, resumed):
                write(store, [step, 3, 4, step], batch(step=step))
        assert set(whole.state_dict()) == {'rows', 'step'}
        assert torch.equal(whole.rows, resumed.rows) and whole.step == resumed.step == 6
        assert torch.equal(whole.noise(4, 9), resumed.noise(4, 9))

    def test_a_state_of_another_size_is_refused(self):
        with pytest.raises(RuntimeError, match='size mismatch'):
            bank().load_state_dict(bank(samples=33).state_dict())


def test_free_memory(tmp_path, monkeypatch):
    """The memory that the system calls available, or what a container leaves."""
    found = free_memory()
    assert found is None or 0 < found < 2**50
    (tmp_path / 'meminfo').write_text('MemFree: 1 kB\nMemAvailable:  3000 kB\n')
    monkeypatch.setattr('kdmm.memory.instance_bank._MEMORY', tmp_path / 'meminfo')
    monkeypatch.setattr('kdmm.memory.instance_bank._CONTAINER', tmp_path)
    assert free_memory() == 3000 * 1024
    (tmp_path / 'memory.max').write_text('5000\n')
    (tmp_path / 'memory.current').write_text('1000\n')
    assert free_memory() == 4000
    (tmp_path / 'memory.max').write_text('max\n')
    assert free_memory() == 3000 * 1024
    (tmp_path / 'meminfo').unlink()
    assert free_memory() is None


class TestMemory:
    @pytest.fixture
    def said(self, monkeypatch):
        lines = []
        monkeypatch.setattr('mmengine.logging.print_log', lambda *args: lines.append(args))
        return lines

    def test_is_said_before_it_is_taken(self, said, monkeypatch):
        def refuse(*args, **options):
            raise RuntimeError('not enough memory')

        monkeypatch.setattr(torch, 'empty', refuse)
        for networks, dtype, text in (
            (2, torch.float32, '2 instance banks of 1281167 x 128 float32, 1251 MiB'),
            (1, torch.float16, '1 instance bank of 1281167 x 128 float16, 313 MiB'),
        ):
            with refused(problem=f'no memory for {text} on each device'):
                InstanceBank(networks, 1_281_167, dtype=dtype, owner='Loss')
            assert said.pop() == (f'Loss: {text} on each device', 'current')

    def test_more_than_any_machine_has(self, said):
        with refused(problem='no memory for', fix="Set dtype='float16' for half"):
            InstanceBank(2, 2**31 - 1, 2**16)
        with refused(problem='no memory for', fix='Lower dim'):
            InstanceBank(2, 2**31 - 1, 2**17, dtype=torch.bfloat16)
        assert len(said) == 2

    def test_a_device_that_is_too_small(self):
        store = bank()

        def refuse(x):
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')

        with refused(problem='no memory for 2 instance banks', fix="dtype='float16'"):
            torch.nn.Sequential(store)._apply(refuse)

    def test_bytes(self):
        assert bank(dtype=torch.float32).memory_bytes() == 2 * 32 * 6 * 4
        assert bank(dtype=torch.bfloat16).memory_bytes() == 2 * 32 * 6 * 2


@pytest.mark.parametrize(
    'bad',
    [dict(networks=0), dict(samples=0), dict(samples=2**31), dict(dim=0), dict(momentum=1.0),
     dict(momentum=-0.1), dict(dtype=torch.int32)],
)  # fmt: skip
def test_bad_arguments(bad):
    ((key, value),) = bad.items()
    with refused(key=key.replace('samples', 'num_samples'), got=value):
        bank(**bad)


def test_no_host_sync():
    """On 'meta' tensors anything that reads a value fails."""
    store = bank().to('meta')
    store.remember(torch.zeros(4, dtype=torch.long, device='meta'), batch().to('meta'))
    assert store.noise(4, 5).is_meta
    store.after_step()
    assert store.rows.is_meta
