"""CIRKD's reference numbers in float64 (docs/methods/cirkd.md), and those of likely mistakes."""

import pytest
import torch
from oracles import gen, gen_plus, lab, unit

from kdmm.functional import memory_kl, normalize_rows, pixel_to_pixel_kl
from kdmm.functional.maps import map_to_rows

P2P = [
    (1, gen_plus, 1.3918524253, 1.037313558),
    (2, gen_plus, 3.59901245944, 0.9699936509),
    (3, gen_plus, 4.55368224138, 0.8740332704),
    (1, gen, 0.470152764894, 0.3664137715),
    (2, gen, 5.61712752986, 0.7002942562),
    (3, gen, 8.20043806242, 0.4124786037),
]


def maps(batch, make):
    student = make((batch, 6, 4, 6), 0.3).requires_grad_()
    return student, make((batch, 10, 4, 6), 1.1)


@pytest.mark.parametrize('batch, make, value, norm', P2P)
def test_p2p(batch, make, value, norm):
    student, teacher = maps(batch, make)
    loss = pixel_to_pixel_kl(student, teacher)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    (grad,) = torch.autograd.grad(loss, student)
    assert grad.norm().item() == pytest.approx(norm, rel=1e-9)


def test_p2p_pooled_and_tau_one():
    student, teacher = maps(2, gen_plus)
    assert pixel_to_pixel_kl(student, teacher, pool=2).item() == pytest.approx(
        0.939525507037, rel=1e-9
    )
    assert pixel_to_pixel_kl(student, teacher, tau=1.0).item() == pytest.approx(
        0.0894055638181, rel=1e-9
    )


def test_p2p_is_none_of_the_mistakes():
    student, teacher = maps(2, gen_plus)
    loss = pixel_to_pixel_kl(student, teacher).item()
    for mistake in (3.41285369309, 3.11903854561, 0.0359901245944):
        assert abs(loss - mistake) > 0.1
    swapped = pixel_to_pixel_kl(teacher, student)
    assert swapped.item() == pytest.approx(3.41285369309, rel=1e-9)


def memory_case(temperature=1.0, weight=None, swap=False):
    student = gen((2, 10, 4, 6), 0.3).requires_grad_()
    teacher, keys = gen((2, 10, 4, 6), 1.1), unit(gen((15, 10), 2.0))
    valid = (lab(2, 4, 6, 3) != 255).flatten().double()
    assert valid.sum() == 47
    rows = [map_to_rows(normalize_rows(x)) for x in (student, teacher)]
    rows = rows[::-1] if swap else rows
    weight = valid / 47 if weight is None else weight
    return student, memory_kl(*rows, keys, 0.1, temperature, row_weight=weight).sum()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    'temperature, value, norm',
    [(1.0, 1.56900544413, 0.4884917764), (2.0, 2.12162522344, 0.673062836)],
)
def test_memory(temperature, value, norm):
    student, loss = memory_case(temperature)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    (grad,) = torch.autograd.grad(loss, student)
    assert grad.norm().item() == pytest.approx(norm, rel=1e-9)


def test_memory_mistakes_have_their_own_values():
    assert memory_case(swap=True)[1].item() == pytest.approx(1.51964827217, rel=1e-9)
    everything = torch.full((48,), 1 / 48, dtype=torch.float64)
    assert memory_case(weight=everything)[1].item() == pytest.approx(1.60590275985, rel=1e-9)
