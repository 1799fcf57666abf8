import pytest
import torch
from oracles import gen, value_and_grad

from kdmm.functional import (
    class_correlation_mse,
    neighbour_congruence,
    prediction_correlation,
)
from tests.versions import cpu_autocast


def naive(student, teacher, temperature=4.0):
    total = 0.0
    batch, classes, height, width = student.shape
    for b in range(batch):
        maps = []
        for x in (student[b], teacher[b]):
            pooled = torch.stack(
                [
                    x[:, i : i + 2, j : j + 2].flatten(1).mean(1)
                    for i in range(0, height, 2)
                    for j in range(0, width, 2)
                ],
                1,
            )
            weight = (pooled / temperature).exp()
            maps.append(weight / weight.sum(1, keepdim=True))
        for k in range(classes):
            for m in range(classes):
                s, t = ((x[k] * x[m]).sum() for x in maps)
                total = total + (s - t.detach()) ** 2
    return total / (batch * classes**2)


def logits():
    return (3 * gen((2, 5, 5, 7), 0.3)).requires_grad_(), 3 * gen((2, 5, 5, 7), 1.1)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_the_naive_loop(temperature):
    student, teacher = logits()
    got = value_and_grad(class_correlation_mse(student, teacher, temperature), student)
    expected = value_and_grad(naive(student, teacher, temperature), student)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-18)


def test_no_factor_of_the_temperature():
    """The softened maps alone: scaling logits and temperature together changes nothing."""
    student, teacher = logits()
    torch.testing.assert_close(
        class_correlation_mse(student, teacher, 1.0),
        class_correlation_mse(4 * student, 4 * teacher, 4.0),
    )


def test_constants_and_permutations_of_space_change_nothing():
    student, teacher = logits()
    loss = class_correlation_mse(student, teacher, pool=1)
    constant = gen((2, 5, 1, 1), 0.9)
    torch.testing.assert_close(class_correlation_mse(student + constant, teacher, pool=1), loss)
    flipped = class_correlation_mse(student.flip(2, 3), teacher, pool=1)
    torch.testing.assert_close(flipped, loss)


def test_zero_at_equality_and_detached_teacher():
    student, teacher = logits()
    value, grad = value_and_grad(class_correlation_mse(student, student), student)
    assert value == 0 and grad.abs().max() == 0
    class_correlation_mse(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None


def test_gradcheck():
    student, teacher = logits()
    assert torch.autograd.gradcheck(lambda s: class_correlation_mse(s, teacher, 1.0), student)


def test_orders_of_magnitude_at_the_usual_shapes():
    torch.manual_seed(0)
    shape = (2, 19, 64, 128)
    for std, value in ((1, 6e-14), (4, 2e-11), (10, 2e-8)):
        pair = (std * torch.randn(shape, dtype=torch.double) for _ in range(2))
        got = class_correlation_mse(*pair).item()
        assert value / 3 < got < value * 3


# DIST


def predictions():
    return (2 * gen((5, 4), 0.3)).requires_grad_(), 3 * gen((5, 4), 1.1)


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / ((a**2).sum() ** 0.5 * (b**2).sum() ** 0.5 + 1e-8)


def naive_dist(student, teacher, temperature):
    """1e-8 is added to the product of lengths (arXiv 2205.10536, its authors' code)."""
    mine, theirs = ((x / temperature).exp() for x in (student, teacher))
    mine, theirs = (x / x.sum(1, keepdim=True) for x in (mine, theirs))
    found = []
    for rows in (zip(mine, theirs, strict=True), zip(mine.T, theirs.T, strict=True)):
        values = [1 - pearson(a, b) for a, b in rows]
        found.append(temperature**2 * sum(values) / len(values))
    return found


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('part', [0, 1])
def test_predictions_equal_the_naive_loop(part, temperature):
    student, teacher = predictions()
    got = value_and_grad(prediction_correlation(student, teacher, temperature)[part], student)
    expected = value_and_grad(naive_dist(student, teacher, temperature)[part], student)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)
    swapped = naive_dist(teacher, student.detach(), temperature)[part]  # correlation has no roles
    torch.testing.assert_close(swapped, expected[0])


@pytest.mark.parametrize('part', [0, 1])
class TestPredictions:
    def test_gradcheck_detached_teacher_bounds_and_zero(self, part):
        student, teacher = predictions()
        teacher.requires_grad_()
        value = prediction_correlation(student, teacher, 2.0)[part]
        value.backward()
        assert teacher.grad is None and 0 < value < 8
        assert torch.autograd.gradcheck(
            lambda s: prediction_correlation(s, teacher, 2.0)[part], student
        )
        same = value_and_grad(prediction_correlation(student, student)[part], student)
        assert 0 < same[0] < 1e-6 and same[1].norm() < 1e-6  # the 1e-8

    def test_maps_are_the_pixels_of_the_batch(self, part):
        student, teacher = gen((2, 4, 3, 5), 0.3), 3 * gen((2, 4, 3, 5), 1.1)
        rows = [x.movedim(1, -1).flatten(0, 2) for x in (student, teacher)]
        torch.testing.assert_close(
            prediction_correlation(student, teacher)[part], prediction_correlation(*rows)[part]
        )

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision_with_many_classes(self, part, dtype):
        """In float16 1e-8 is 0, and lengths of a thousand probabilities underflow."""
        torch.manual_seed(0)
        student, teacher = (3 * torch.randn(8, 1000) for _ in range(2))
        for storage in (dtype, torch.float32):
            x = student.to(storage).requires_grad_()
            with cpu_autocast(dtype):
                value = prediction_correlation(x, teacher.to(storage))[part]
            value.backward()
            exact = prediction_correlation(x.detach().double(), teacher.to(storage).double())
            assert value.dtype == torch.float32 and x.grad.isfinite().all()
            torch.testing.assert_close(value.double(), exact[part], rtol=1e-4, atol=0)


def test_one_sample_has_no_columns_to_correlate():
    student, teacher = (x[:1] for x in predictions())
    value, grad = value_and_grad(prediction_correlation(student, teacher)[1], student)
    assert value == 1 and grad.abs().max() == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_constant_predictions_have_no_gradient(dtype):
    """Of a classifier that starts with zeros; dividing by 1e-8 would blow the step up."""
    teacher = predictions()[1].to(dtype)
    student = torch.full((5, 4), 0.3, dtype=dtype).requires_grad_()
    for part in (0, 1):
        found = prediction_correlation(student, teacher)[part]
        value, grad = value_and_grad(found, student)
        assert value == 1 and grad.abs().max() == 0
    one = predictions()[0].detach().to(dtype)
    one[2] = 0.3  # one sample only: its row is constant, no column is
    one.requires_grad_()
    inter, intra = prediction_correlation(one, teacher)
    for part in (inter, intra):
        (grad,) = torch.autograd.grad(part, one, retain_graph=True)
        assert grad.abs().max() < 10 and grad.norm() > 0.01
    rows = torch.tensor([0, 1, 3, 4])
    without = prediction_correlation(one[rows], teacher[rows])[0]
    torch.testing.assert_close(inter, (4 * without + 1) / 5)


def test_a_class_that_does_not_vary():
    """It counts as uncorrelated, as published, or is left out."""
    student, teacher = (x.detach().clone() for x in predictions())
    logits = [torch.cat([x, x.new_full((5, 1), -30)], 1) for x in (student, teacher)]
    # its share is 1e-13, so the others are those of four classes
    four = prediction_correlation(student, teacher)[1]
    logits[0].requires_grad_()
    plain, grad = value_and_grad(prediction_correlation(*logits)[1], logits[0])
    skipped = prediction_correlation(*logits, skip_flat=True)[1]
    torch.testing.assert_close(plain, (4 * four + 1) / 5, rtol=1e-4, atol=0)
    torch.testing.assert_close(skipped, four, rtol=1e-9, atol=0)
    assert grad.isfinite().all()
    nothing = [torch.zeros(5, 4).requires_grad_(), torch.zeros(5, 4)]
    value, grad = value_and_grad(prediction_correlation(*nothing, skip_flat=True)[1], nothing[0])
    assert value == 0 and grad.abs().max() == 0


# CC


def test_neighbours_equal_the_loop_and_depend_on_the_order():
    student, teacher = gen((5, 6), 0.3).requires_grad_(), gen((5, 6), 1.1)
    terms = [
        ((student[i] - teacher[i]).abs() * (student[i + 1] - teacher[i + 1]).abs()).sum()
        for i in range(4)
    ]
    got = value_and_grad(neighbour_congruence(student, teacher), student)
    torch.testing.assert_close(got, value_and_grad(sum(terms) / 4, student))
    order = torch.tensor([2, 0, 4, 1, 3])
    assert abs(neighbour_congruence(student[order], teacher[order]) / got[0] - 1) > 0.01
    assert torch.autograd.gradcheck(neighbour_congruence, (student, teacher.requires_grad_()))
    assert neighbour_congruence(student, student) == 0
    value, grad = value_and_grad(neighbour_congruence(student[:1], teacher[:1]), student)
    assert value == 0 and grad.abs().max() == 0


def test_neighbours_in_half_precision():
    with cpu_autocast(torch.bfloat16):
        value = neighbour_congruence(torch.ones(3, 4).bfloat16(), 1000 * torch.ones(3, 4))
    assert value.dtype == torch.float32 and value == 4 * 999**2
