import pytest
import torch
from oracles import gen

from kdmm.memory import RowQueue
from tests.errors import refused, unfit


def coded(batch, channels, step=0):
    """Rows (B, C, 3) that tell step, image and channel."""
    image = torch.arange(batch)[:, None].expand(batch, channels)
    channel = torch.arange(channels).expand(batch, channels)
    return torch.stack([torch.full_like(image, step), image, channel], -1).double()


def queue(**options):
    return RowQueue(**{**dict(size=20, per_step=6, dtype=torch.float64), **options})


def test_distinct_rows_of_the_step_enter():
    store = queue()
    store.enqueue(coded(2, 5))
    assert store.ring.count.item() == 6 and store.length == 3 and store.step == 1
    rows = store.ring.rows[:6].tolist()
    assert len({tuple(row) for row in rows}) == 6
    assert all(row in coded(2, 5).flatten(0, 1).tolist() for row in rows)
    assert store.ring.rows[6:].abs().max() == 0


def test_every_row_has_a_chance_and_steps_and_seeds_differ():
    hits = torch.zeros(2, 5)
    choices = []
    store = queue(size=6)
    for step in range(60):
        store.enqueue(coded(2, 5, step))
        chosen = store.ring.rows[:6, 1:].long()
        hits[chosen[:, 0], chosen[:, 1]] += 1
        choices.append(sorted(map(tuple, chosen.tolist())))
    assert hits.min() > 15 and hits.max() < 57  # 36 on average
    assert choices[0] != choices[1]
    other = queue(size=6, seed=1)
    other.enqueue(coded(2, 5))
    assert sorted(map(tuple, other.ring.rows[:6, 1:].long().tolist())) != choices[0]


def test_first_in_first_out():
    store = queue()
    for step in range(4):  # 24 rows into 20 slots
        store.enqueue(coded(2, 5, step))
    order = store.ring.rows[:20, 0].roll(-store.ring.ptr.item())
    assert order.tolist() == [0] * 2 + [1] * 6 + [2] * 6 + [3] * 6


def test_fewer_rows_than_a_step_asks_for_and_more_than_fit():
    store = queue(per_step=50)
    store.enqueue(coded(2, 5))
    assert store.ring.count == 10
    store = queue(size=4)
    store.enqueue(coded(2, 5))
    rows = store.ring.rows[:4].tolist()
    assert store.ring.count == 4 and len({tuple(row) for row in rows}) == 4


def test_only_written_rows_are_drawn():
    store = queue()
    assert not store.draw(7)[1].any()
    store.enqueue(coded(2, 5) + 1)
    rows, mask = store.draw(40)
    assert rows.shape == (40, 3) and mask.all() and rows.min() >= 1
    assert len({tuple(row) for row in rows.tolist()}) == 6


def test_another_length_is_refused_with_both():
    store = queue()
    store.enqueue(coded(2, 5))
    with unfit('row length', problem='length 3 and got rows of length 4'):
        store.enqueue(torch.zeros(2, 5, 4))
    assert store.step == 1


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_resume_is_bit_exact_from_a_queue_without_rows(dtype):
    whole, half, resumed = (queue(dtype=dtype) for _ in range(3))
    for step in range(6):
        whole.enqueue(gen((2, 5, 7), step))
    for step in range(3):
        half.enqueue(gen((2, 5, 7), step))
    resumed.load_state_dict(half.state_dict())
    assert resumed.ring.rows is not half.ring.rows
    for step in range(3, 6):
        resumed.enqueue(gen((2, 5, 7), step))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert torch.equal(whole.draw(9)[0], resumed.draw(9)[0])


def test_a_state_of_another_size_is_refused():
    store, other = queue(), queue(size=10)
    store.enqueue(coded(2, 5))
    with pytest.raises(RuntimeError, match='size mismatch'):
        other.load_state_dict(store.state_dict())


def test_memory_and_bad_sizes():
    store = queue(dtype=torch.float16)
    assert store.memory_bytes() == 0
    store.enqueue(coded(2, 5))
    assert store.memory_bytes() == 21 * 3 * 2
    for name in ('size', 'per_step'):
        with refused(key=name, got=0, expected='at least 1'):
            RowQueue(**{name: 0})


def test_no_host_sync():
    """On 'meta' tensors anything that reads a value fails."""
    store = queue().to('meta')
    store.enqueue(torch.empty(2, 5, 3, device='meta'))
    assert store.draw(9)[0].shape == (9, 3)
