"""RKD: distances pair by pair and angles triple by triple, invariances, precision, memory."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from oracles import gen, unit, value_and_grad
from saved import Largest, saved_bytes

from kdmm.functional import batch_angles, batch_distances
from tests.versions import cpu_autocast

CLOSE = dict(rtol=1e-10, atol=1e-14)
LOSSES = {'distance': batch_distances, 'angle': batch_angles}


def features():
    return gen((5, 3, 2, 2), 0.3).requires_grad_(), gen((5, 7), 1.1)


def smooth_l1(difference):
    size = difference.abs()
    return size - 0.5 if size >= 1 else 0.5 * size**2


def naive_distance(student, teacher):
    tables = []
    for x in (student.flatten(1), teacher.flatten(1)):
        table = [[((a - b) ** 2).sum().clamp_min(1e-12) ** 0.5 if i != j else x.sum() * 0
                  for j, b in enumerate(x)] for i, a in enumerate(x)]  # fmt: skip
        mean = sum(sum(row) for row in table) / (len(x) * (len(x) - 1))
        tables.append([value / mean for row in table for value in row])
    pairs = zip(*tables, strict=True)
    return sum(smooth_l1(p - q) for p, q in pairs) / len(student) ** 2


def naive_angle(student, teacher):
    x, y = student.flatten(1), teacher.flatten(1)
    total = x.sum() * 0
    for a, j, k in itertools.product(range(len(x)), repeat=3):
        cosines = []
        for z in (x, y):
            arms = [z[j] - z[a], z[k] - z[a]]
            long = [(arm**2).sum() > 1e-12 for arm in arms]
            cosines.append((unit(arms[0], 0) * unit(arms[1], 0)).sum() if all(long) else 0)
        if isinstance(cosines[0], int) and isinstance(cosines[1], int):
            continue
        total = total + smooth_l1(torch.as_tensor(cosines[0] - cosines[1]))
    return total / len(x) ** 3


NAIVE = {'distance': naive_distance, 'angle': naive_angle}


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('name', LOSSES)
def test_equals_the_naive_loop(name, normalize):
    student, teacher = features()
    got = value_and_grad(LOSSES[name](student, teacher, normalize), student)
    pair = [x.flatten(1) for x in (student, teacher)]
    expected = NAIVE[name](*(unit(x) if normalize else x for x in pair))
    torch.testing.assert_close(got, value_and_grad(expected, student), **CLOSE)


def test_values_far_apart_are_in_the_linear_part():
    """One sample far out: some distances are more than 1 apart."""
    student, teacher = features()
    student = student.detach().clone()
    student[0] *= 50
    student.requires_grad_()
    got = value_and_grad(batch_distances(student, teacher), student)
    torch.testing.assert_close(
        got, value_and_grad(naive_distance(student, teacher), student), **CLOSE
    )


def test_a_triangle_and_three_points_on_a_line():
    """Equilateral: distances 1; on a line 3/4, 3/4 and 3/2, angles 0 and 180 degrees."""
    triangle = torch.tensor([[0, 0], [1, 0], [0.5, 0.75**0.5]], dtype=torch.float64)
    line = torch.tensor([[0.0], [1], [2]], dtype=torch.float64)
    # 6 of 9 pairs: four of 1/4 and two of 1/2
    expected = (4 * 0.25**2 + 2 * 0.5**2) / 2 / 9
    assert batch_distances(triangle, line).item() == pytest.approx(expected, rel=1e-12)
    # cosine 1/2 at every corner against 1, -1 and 1, each for two ordered pairs; and 1 against 1
    expected = (2 * 0.5**2 / 2 + 2 * (1.5 - 0.5) + 2 * 0.5**2 / 2) / 27
    assert batch_angles(triangle, line).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('name', LOSSES)
class TestBoth:
    def test_teacher_is_detached_and_gradcheck(self, name):
        student, teacher = features()
        teacher.requires_grad_()
        LOSSES[name](student, teacher).backward()
        assert teacher.grad is None
        assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher), student)

    def test_translation_rotation_and_scale_of_either_side_change_nothing(self, name):
        student, teacher = features()
        expected = LOSSES[name](student, teacher)
        turns = [torch.linalg.qr(gen((n, n), 0.4))[0] for n in (12, 7)]
        for mine, theirs in (
            (3 * student.flatten(1) @ turns[0] + 5, teacher),
            (student, 0.1 * teacher @ turns[1] - gen((7,), 2)),
        ):
            torch.testing.assert_close(LOSSES[name](mine, theirs), expected, **CLOSE)
        value, grad = value_and_grad(
            LOSSES[name](student, 3 * student.flatten(1) @ turns[0] + 5), student
        )
        assert value < 1e-25 and grad.norm() < 1e-13

    def test_a_large_translation_costs_no_digits(self, name):
        """The mean is subtracted first; without that five digits are left."""
        student, teacher = (x.detach() for x in features())
        expected = LOSSES[name](student, teacher)
        moved = LOSSES[name](student + 1e6, teacher - 1e6)
        torch.testing.assert_close(moved, expected, rtol=1e-7, atol=0)

    def test_samples_in_one_place(self, name):
        """They count as a pair of length 1e-6, without gradient, and their angles as 0."""
        student, teacher = features()
        student = student.detach().clone()
        student[2] = student[0]
        student.requires_grad_()
        got = value_and_grad(LOSSES[name](student, teacher), student)
        expected = value_and_grad(NAIVE[name](student, teacher), student)
        torch.testing.assert_close(got[0], expected[0], rtol=1e-9, atol=1e-14)
        assert got[1].isfinite().all()
        for other in (got[1][0] + got[1][2], got[1][1]):
            assert 0 < other.norm() < 10
        all_one = torch.ones(4, 6).requires_grad_()
        value, grad = value_and_grad(LOSSES[name](all_one, teacher[:4]), all_one)
        assert value.isfinite() and grad.isfinite().all()

    @pytest.mark.parametrize('normalize', [False, True])
    def test_a_sample_of_zeros(self, name, normalize):
        student, teacher = features()
        student = student.detach().clone()
        student[1] = 0
        student.requires_grad_()
        value, grad = value_and_grad(LOSSES[name](student, teacher, normalize), student)
        size = grad.flatten(1).norm(dim=1)
        others = size[torch.arange(5) != 1]
        assert value.isfinite() and grad.isfinite().all()
        assert others.min() > 0 and size[1] < 10 * others.max()

    def test_single_precision_far_from_the_origin(self, name):
        """Products of vectors of length 1000 and deviation 1 have lost all digits of distances."""
        torch.manual_seed(0)
        pair = [torch.randn(16, 32) + 1000 for _ in range(2)]
        expected = LOSSES[name](*(x.double() for x in pair))
        value = LOSSES[name](*pair)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision(self, name, dtype):
        torch.manual_seed(0)
        student, teacher = (60000 * torch.rand(6, 40) for _ in range(2))
        for storage in (dtype, torch.float32):
            x = student.to(storage).requires_grad_()
            with cpu_autocast(dtype):
                value = LOSSES[name](x, teacher.to(storage))
                value.backward()
            expected = LOSSES[name](x.detach().double(), teacher.to(storage).double())
            assert value.dtype == torch.float32 and x.grad.isfinite().all()
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)

    def test_fewer_than_three_samples_give_a_constant(self, name):
        for batch in (1, 2):
            student, teacher = torch.rand(batch, 6).requires_grad_(), torch.rand(batch, 4)
            value, grad = value_and_grad(LOSSES[name](student, teacher), student)
            assert value.abs() < 1e-12 and grad.norm() < 1e-6


@pytest.mark.parametrize('chunk', [1, 2, 5, 100])
def test_blocks_of_apexes_change_nothing(chunk):
    student, teacher = features()
    expected = value_and_grad(batch_angles(student, teacher), student)
    got = value_and_grad(batch_angles(student, teacher, chunk=chunk), student)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-16)


def test_memory_of_angles():
    """Nothing of B * B * B or B * B * d is kept, nor made beyond a block of apexes."""
    batch, dim, chunk = 24, 16, 2
    student, teacher = torch.rand(batch, dim).requires_grad_(), torch.rand(batch, dim)
    kept = saved_bytes(lambda: batch_angles(student, teacher, chunk=chunk))
    assert kept <= 8 * (3 * batch * dim + 2 * batch**2)
    with Largest() as largest:
        batch_angles(student, teacher, chunk=chunk).backward()
    buffers = 3 * chunk * batch**2
    assert largest.elements == buffers < batch**2 * dim


def test_angles_without_gradients_and_of_second_order():
    student, teacher = features()
    loss = batch_angles(student, teacher)
    with torch.no_grad():
        assert batch_angles(student, teacher) == loss
    with pytest.raises(RuntimeError, match='first derivatives only'):
        torch.autograd.grad(loss, student, create_graph=True)


def test_the_mean_is_over_all_entries():
    """The diagonal's zeros count in the denominator, as in the authors' code."""
    student, teacher = features()
    tables = []
    for x in (student.flatten(1), teacher):
        table = torch.cdist(x, x)[~torch.eye(5, dtype=torch.bool)]
        tables.append(table / table.mean())
    off_diagonal = F.smooth_l1_loss(*tables)
    torch.testing.assert_close(batch_distances(student, teacher), off_diagonal * 20 / 25)
