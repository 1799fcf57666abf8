import pytest
import torch
from oracles import gen, lab, unit

from kdmm.functional import normalize_rows
from kdmm.memory import ClassQueues, ClassRing
from tests.errors import refused
from tests.versions import cpu_autocast

SIZE = dict(pixel_size=40, region_size=6)


def coded(labels, channels=3):
    """Unit rows (B, A, C) whose first channels tell class, image and raster position."""
    batch, area = labels.shape
    image = torch.arange(batch)[:, None].expand(batch, area)
    position = torch.arange(area).expand(batch, area)
    code = torch.stack([labels.double(), image.double(), position.double()], -1)
    return torch.nn.functional.pad(code, (0, channels - 3))


def toy_maps():
    halves = torch.full((8, 16), 3)
    halves[4:, :8], halves[4:, 8:] = 7, 11
    sides = torch.full((8, 16), 2)
    sides[:, 8:] = 5
    top = torch.full((8, 16), 4)
    top[0] = 1
    return [(halves, {3: 1.0, 7: 0.0, 11: 0.0}), (sides, {2: 0.5, 5: 0.5}), (top, {1: 1, 4: 6 / 7})]


def filled(queues, name, label):
    ring = getattr(queues, name)
    start = label * ring.size
    return ring.rows[start : start + int(ring.count[label])]


def purity(mode, labels, steps=20):
    queues = ClassQueues(12, 3, 400, 60, mode=mode, dtype=torch.float64)
    flat = labels.flatten()[None]
    for _ in range(steps):
        queues.enqueue(coded(flat), flat)
    return {
        c: (filled(queues, 'pixel', c)[:, 0] == c).double().mean().item()
        for c in flat.unique().tolist()
    }


class TestSelection:
    @pytest.mark.parametrize('case', range(3))
    def test_class_mode_is_pure(self, case):
        labels, _ = toy_maps()[case]
        assert set(purity('class', labels).values()) == {1.0}

    @pytest.mark.parametrize('case', range(3))
    def test_legacy_has_the_purity_of_the_reference(self, case):
        labels, expected = toy_maps()[case]
        measured = purity('legacy', labels)
        for c, value in expected.items():
            margin = 0.0 if value in (0.0, 1.0) else 0.1  # 320 draws
            assert abs(measured[c] - value) <= margin

    @pytest.mark.parametrize('mode', ['class', 'legacy'])
    def test_at_most_sixteen_distinct_positions(self, mode):
        labels = lab(3, 8, 12, 4).flatten(1)
        queues = ClassQueues(4, 3, 100, 10, mode=mode, dtype=torch.float64)
        queues.enqueue(coded(labels), labels)
        for c in range(4):
            rows = filled(queues, 'pixel', c)
            present = [(labels[b] == c).sum().item() for b in range(3)]
            assert len(rows) == sum(min(n, 16) for n in present)
            assert len({tuple(row) for row in rows[:, 1:].tolist()}) == len(rows)
            assert rows[:, 1].tolist() == sorted(rows[:, 1].tolist())  # images in order

    def test_ignored_and_foreign_labels_never_enter(self):
        labels = torch.tensor([[0, 255, 1, -1, 9, 1]])
        queues = ClassQueues(2, 3, 10, 10, dtype=torch.float64)
        queues.enqueue(coded(labels), labels)
        assert queues.pixel.count.tolist() == [1, 2]
        assert filled(queues, 'pixel', 0)[:, 2].tolist() == [0]
        assert sorted(filled(queues, 'pixel', 1)[:, 2].tolist()) == [2, 5]

    def test_every_pixel_has_a_chance_and_steps_differ(self):
        labels = torch.zeros(1, 64, dtype=torch.long)
        queues = ClassQueues(1, 3, 16 * 40, 50, dtype=torch.float64)
        for _ in range(40):
            queues.enqueue(coded(labels), labels)
        hits = torch.bincount(filled(queues, 'pixel', 0)[:, 2].long(), minlength=64)
        assert hits.min() >= 2 and hits.max() <= 22  # 10 on average

    def test_seed_changes_the_choice(self):
        labels = torch.zeros(1, 64, dtype=torch.long)
        rows = []
        for seed in (0, 0, 1):
            queues = ClassQueues(1, 3, 16, 4, dtype=torch.float64, seed=seed)
            queues.enqueue(coded(labels), labels)
            rows.append(queues.pixel.rows)
        assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


class TestRegions:
    def test_rows_of_the_specification(self):
        teacher = unit(gen((2, 10, 4, 6), 1.1)).flatten(2).transpose(1, 2)
        labels = lab(2, 4, 6, 3).flatten(1)
        assert (labels[0] == 0).sum() == 9 and (labels[1] == 2).sum() == 8
        queues = ClassQueues(3, 10, **SIZE, dtype=torch.float64)
        queues.enqueue(teacher, labels)
        expected = torch.tensor([-0.100024428, 0.003168341, 0.084166901], dtype=torch.float64)
        torch.testing.assert_close(queues.region.rows[0, :3], expected, atol=1e-9, rtol=0)
        second = filled(queues, 'region', 2)[1]
        expected = torch.tensor([0.119344792, -0.148402444, -0.161896195], dtype=torch.float64)
        torch.testing.assert_close(second[:3], expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(second.norm(), torch.ones_like(second[0]))

    def test_equal_means_of_class_pixels_in_both_modes(self):
        teacher = unit(gen((2, 10, 4, 6), 1.1)).flatten(2).transpose(1, 2)
        labels = lab(2, 4, 6, 3).flatten(1)
        for mode in ('class', 'legacy'):
            queues = ClassQueues(3, 10, **SIZE, mode=mode, dtype=torch.float64)
            queues.enqueue(teacher, labels)
            for c in range(3):
                for b in range(2):
                    mean = teacher[b][labels[b] == c].mean(0)
                    row = filled(queues, 'region', c)[b]
                    torch.testing.assert_close(row, mean / mean.norm())


def number(write, count):
    return torch.full((1, 1, count, 1), float(write))


class TestRing:
    @pytest.mark.parametrize(
        'legacy, rows, ptr',
        [(False, [2, 2, 0, 0, 1, 1, 1, 1, 2, 2], 2), (True, [0, 0, 0, 0, 1, 1, 2, 2, 2, 2], 0)],
    )
    def test_three_writes_of_four_into_ten(self, legacy, rows, ptr):
        ring = ClassRing(1, 10, 1, legacy)
        for write in range(3):
            ring.write(number(write, 4), torch.tensor([[4]]))
        assert ring.rows[:10, 0].tolist() == rows
        assert ring.ptr.tolist() == [ptr] and ring.count.tolist() == [10]
        assert ring.rows[10].abs().max() == 0

    def test_against_a_deque(self):
        """Random amounts, several images a step: the last rows, oldest first from the pointer."""
        generator = torch.Generator().manual_seed(0)
        ring, classes, size = ClassRing(3, 7, 1), 3, 7
        history = [[] for _ in range(classes)]
        value = 1.0
        for _ in range(30):
            amount = torch.randint(0, 5, (4, classes), generator=generator)
            rows = torch.zeros(4, classes, 4, 1)
            for g in range(4):
                for c in range(classes):
                    for r in range(4):
                        rows[g, c, r] = value
                        if r < amount[g, c]:
                            history[c].append(value)
                        value += 1
            ring.write(rows, amount)
            for c in range(classes):
                count, ptr = ring.count[c].item(), ring.ptr[c].item()
                assert count == min(len(history[c]), size) and ptr == len(history[c]) % size
                stored = ring.rows[c * size : (c + 1) * size, 0].roll(-ptr).tolist()
                assert stored[size - count :] == history[c][-count:]
            assert ring.rows[-1].abs().max() == 0

    def test_legacy_against_the_reference_rule(self):
        generator = torch.Generator().manual_seed(0)
        ring, size = ClassRing(2, 7, 1, legacy=True), 7
        rows, ptr = ring.rows[:-1, 0].clone().view(2, size), [0, 0]
        for step in range(20):
            amount = torch.randint(0, 5, (3, 2), generator=generator)
            new = torch.arange(24.0).view(3, 2, 4, 1) + 100 * step
            for g in range(3):
                for c in range(2):
                    k = amount[g, c].item()
                    if k and ptr[c] + k >= size:
                        rows[c, -k:], ptr[c] = new[g, c, :k, 0], 0
                    else:
                        rows[c, ptr[c] : ptr[c] + k] = new[g, c, :k, 0]
                        ptr[c] += k
            ring.write(new, amount)
            assert torch.equal(ring.rows[:-1, 0].view(2, size), rows)
            assert ring.ptr.tolist() == ptr

    def test_more_rows_than_the_queue_holds(self):
        for legacy, expected in ((False, [3, 4, 2]), (True, [2, 3, 4])):
            ring = ClassRing(1, 3, 1, legacy)
            ring.write(torch.arange(5.0).view(1, 1, 5, 1), torch.tensor([[5]]))
            assert ring.rows[:3, 0].tolist() == expected


class TestDraw:
    def test_unwritten_rows_are_never_drawn(self):
        queues = ClassQueues(3, 3, **SIZE, dtype=torch.float64)
        labels = torch.tensor([[0, 0, 0, 2]])
        queues.enqueue(coded(labels) + 1, labels)  # + 1: no written row is zero
        keys = queues.draw(20, 4)
        assert keys.sections == [60, 12] and keys.rows.shape == (72, 3)
        assert (keys.rows[keys.mask].abs().sum(1) > 0).all()
        assert keys.mask[:60].view(3, 20).all(1).tolist() == [True, False, True]
        pixels = keys.rows[:60].view(3, 20, 3)
        assert (pixels[0][:, 0] == 1).all() and (pixels[2][:, 0] == 3).all()
        assert pixels[0][:, 2].unique().numel() == 3  # all three written rows are met

    def test_empty_queues_mask_everything(self):
        keys = ClassQueues(3, 3, **SIZE).draw(4, 2)
        assert not keys.mask.any() and keys.rows.isfinite().all()

    def test_draws_differ_between_steps_and_queues_but_not_within(self):
        queues = ClassQueues(1, 3, 64, 64, dtype=torch.float64)
        labels = torch.zeros(1, 64, dtype=torch.long)
        for _ in range(4):
            queues.enqueue(coded(labels), labels)
        first = queues.draw(32, 2).rows
        assert torch.equal(first, queues.draw(32, 2).rows)
        queues.step += 1
        assert not torch.equal(first, queues.draw(32, 2).rows)

    def test_legacy_draws_the_same_slots_of_all_classes_unwritten_included(self):
        queues = ClassQueues(3, 4, **SIZE, mode='legacy')
        ring = queues.pixel
        torch.testing.assert_close(ring.rows[:-1].norm(dim=1), torch.ones(120))
        keys = queues.draw(10, 6)
        assert keys.mask.all()
        stored = ring.rows[:-1].view(3, 40, 4)
        drawn = keys.rows[:30].view(3, 10, 4)
        slots = [[(stored[c] == row).all(1).nonzero().item() for row in drawn[c]] for c in range(3)]
        assert slots[0] == slots[1] == slots[2] and len(set(slots[0])) == 10

    def test_more_keys_than_rows(self):
        assert ClassQueues(2, 3, **SIZE, mode='legacy').draw(100, 100).sections == [80, 12]


class TestState:
    @pytest.mark.parametrize('mode', ['class', 'legacy'])
    def test_resume_is_bit_exact(self, mode):
        labels = [lab(2, 8, 12, 4).flatten(1).roll(k, 1) for k in range(6)]
        features = [normalize_rows(torch.randn(2, 96, 5), dim=2) for _ in range(6)]
        whole, half = (ClassQueues(4, 5, **SIZE, mode=mode) for _ in range(2))
        for x, y in zip(features, labels, strict=True):
            whole.enqueue(x, y)
        for x, y in zip(features[:3], labels[:3], strict=True):
            half.enqueue(x, y)
        state = {k: v.clone() for k, v in half.state_dict().items()}
        resumed = ClassQueues(4, 5, **SIZE, mode=mode)
        torch.manual_seed(123)  # the global generator has no part in it
        resumed.load_state_dict(state)
        for x, y in zip(features[3:], labels[3:], strict=True):
            resumed.enqueue(x, y)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(whole.draw(5, 2).rows, resumed.draw(5, 2).rows)

    def test_the_global_generator_is_left_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        queues = ClassQueues(4, 5, **SIZE, mode='legacy')
        queues.enqueue(unit(gen((1, 96, 5), 0.1), 2).float(), lab(1, 8, 12, 4).flatten(1))
        queues.draw(3, 3)
        assert torch.equal(torch.rand(1), expected)

    def test_half_precision_rows(self):
        features = normalize_rows(torch.randn(1, 96, 64), dim=2)
        labels = torch.zeros(1, 96, dtype=torch.long)
        full, half = (ClassQueues(1, 64, **SIZE, dtype=d) for d in (torch.float32, torch.float16))
        for queues in (full, half):
            queues.enqueue(features, labels)
        assert half.memory_bytes() * 2 == full.memory_bytes()
        torch.testing.assert_close(half.pixel.rows.float(), full.pixel.rows, atol=1e-3, rtol=0)

    @pytest.mark.parametrize('bad', [dict(mode='ring'), dict(pixel_size=0), dict(per_image=-1)])
    def test_bad_arguments(self, bad):
        ((key, value),) = bad.items()
        with refused(key=key, got=value):
            ClassQueues(3, 4, **bad)


@pytest.mark.parametrize('mode', ['class', 'legacy'])
def test_no_host_sync(mode):
    """On 'meta' tensors anything that reads a value fails."""
    queues = ClassQueues(3, 8, 20, 10, mode=mode).to('meta')
    queues.enqueue(torch.empty(2, 24, 8, device='meta'), torch.empty(2, 24, device='meta').long())
    keys = queues.draw(4, 2)
    assert keys.rows.shape == (18, 8) and keys.rows.is_meta


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_an_outer_autocast_does_not_round_what_is_stored(dtype) -> None:
    features, labels = unit(gen((2, 24, 5), 0.3)).float(), lab(2, 4, 6, 3).flatten(1)
    plain, under = (ClassQueues(3, 5, 40, 10) for _ in range(2))
    plain.enqueue(features, labels)
    with cpu_autocast(dtype):
        under.enqueue(features, labels)
    assert torch.equal(plain.region.rows, under.region.rows)
    assert torch.equal(plain.pixel.rows, under.pixel.rows)
