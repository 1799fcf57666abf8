"""Estimated memory of a run against what it then uses."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdmm.distillers import CHILD
from kdmm.engine.crops import corner_crops, extrapolate, noise_at_full_size
from kdmm.engine.memory_estimate import PROCESS, Estimate, estimate_memory, optimizer_bytes
from kdmm.engine.saved_tensors import SavedTensors, total_bytes
from kdmm.functional.blocks import BUFFERS
from tests.engine import tiny_run
from tests.engine.test_profiling import profiled, started


def test_saved_tensors_count_once_and_what_is_there_anyway_not() -> None:
    weight, x = torch.ones(64, 64, requires_grad=True), torch.ones(8, 64)
    saved = SavedTensors([weight, x])
    with saved.record():
        hidden = x @ weight  # saves x and weight
        out = hidden * hidden  # saves hidden, twice
        out = out.exp() + hidden.view(64, 8).square().sum()  # saves its result; hidden again
    assert saved.total == 2 * hidden.numel() * 4
    assert saved.largest == hidden.numel() * 4
    out.sum().backward()
    assert weight.grad is not None


def test_a_view_keeps_its_whole_storage() -> None:
    base = torch.ones(1000)
    assert total_bytes([base[:10], base[500:], torch.ones(4)]) == 4016


@pytest.mark.parametrize(
    'make',
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    ],
)
def test_optimizer_state(make) -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 7))
    groups = [dict(params=net[0].parameters()), dict(params=net[1].parameters(), lr=0.2)]
    optimizer = make(groups)
    expected = optimizer_bytes(optimizer)
    assert not optimizer.state, 'nothing is allocated for the answer'
    net(torch.ones(2, 30)).sum().backward()
    optimizer.step()
    state = [x for entry in optimizer.state.values() for x in entry.values()]
    real = sum(x.numel() * 4 for x in state if isinstance(x, torch.Tensor) and x.ndim)
    assert expected == real


def test_two_sizes_tell_attention_from_convolutions() -> None:
    def bytes_of(pixels: int) -> float:
        return 7.0 * pixels + 0.01 * pixels**2

    found = [(pixels, bytes_of(pixels)) for pixels in (1000, 4000)]
    assert extrapolate(found, 16000) == pytest.approx(bytes_of(16000))
    assert extrapolate(found[:1], 2000) == pytest.approx(2 * bytes_of(1000))
    assert extrapolate([(1000, 9e3), (4000, 30e3)], 16000) == pytest.approx(120e3), 'never negative'


def test_noise_has_the_size_of_a_whole_image() -> None:
    crop, whole = torch.zeros(2, 3, 128, 160), torch.zeros(4, 3, 360, 480)
    taps = dict(a=torch.ones(2, 7, 16, 20, requires_grad=True), b=(torch.ones(2, 5),))
    found = noise_at_full_size(taps, crop, whole)
    assert found['a'].shape == (1, 7, 45, 60) and found['a'].requires_grad
    assert found['b'][0].shape == (1, 5)


def test_small_crops_are_multiples_of_the_strides() -> None:
    inputs = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 512, 1024)
    sizes = [tuple(crop.shape) for crop, _ in corner_crops(inputs, [None] * 4)]
    assert sizes == [(2, 3, 128, 256), (2, 3, 256, 512)]
    assert [tuple(crop.shape) for crop, _ in corner_crops(inputs[:1, :, :200], [None])] == [
        (1, 3, 200, 1024)
    ]


def test_total_is_what_is_held_and_the_largest_that_passes() -> None:
    estimate = Estimate(dict(a=2**20, b=2**21), dict(c=2**22, d=1), ['x (why)'])
    assert estimate.total == 7 * 2**20
    assert 'estimate' in str(estimate) and '7.0 MiB' in str(estimate)
    assert 'not estimated: x (why)' in str(estimate)


def test_what_can_be_counted_is_exact(tmp_path: Path) -> None:
    runner, batch = started(tmp_path)
    objective = getattr(runner.model, CHILD)
    held = estimate_memory(runner, batch).held
    numbers = {id(p): p.numel() for p in runner.model.parameters()}
    assert held['parameters'] == held['gradients'] == 4 * sum(numbers.values())
    assert held['optimizer state'] == held['parameters'], 'SGD with momentum'
    teacher = objective.teachers[0].module
    tensors = [*teacher.parameters(), *teacher.buffers()]
    assert held['teacher'] == sum(x.numel() * x.element_size() for x in tensors)
    assert held['batch'] == 2 * 2 * 3 * 16 * 16 * 4
    assert held[PROCESS] > 2**26 and 'weight average' not in held


def test_activations_are_what_a_step_saves(tmp_path: Path) -> None:
    runner, batch = started(tmp_path)
    held = estimate_memory(runner, batch).held
    student = runner.model
    data = student.data_preprocessor(batch, True)
    known = [*student.parameters(), *student.buffers(), data['inputs']]
    saved, kept = SavedTensors(known), getattr(student, CHILD)
    setattr(student, CHILD, None)
    with saved.record():
        losses = student(**data, mode='loss')
    setattr(student, CHILD, kept)
    assert losses and held['activations of the student'] == pytest.approx(saved.total, rel=0.02)


def test_losses_that_compare_images_get_as_many_as_they_need(tmp_path: Path) -> None:
    """One image of noise would be refused; what is kept is of a whole batch."""
    losses = {
        name: dict(type=f'{name}Loss', on='body', connector=dict(type='Projection'))
        for name in ('SP', 'RKD', 'FitNet')
    }
    kept = {}
    for name, loss in losses.items():
        runner, batch = started(tmp_path / name, kd__losses=dict(_delete_=True, one=loss))
        found = estimate_memory(runner, batch)
        assert not found.notes
        kept[name] = found.held['kept by the losses']
    # each keeps the projected map, two images of 6 channels, at least
    least = 2 * 6 * 8 * 8 * 4
    assert all(least <= size < 5 * least for size in kept.values())


MEMORY = dict(
    type='CIRKDMemoryLoss',
    on='body',
    num_classes=3,
    pixel_size=50,
    region_size=7,
    pixel_keys=30,
    region_keys=9,
)


def with_queues() -> dict:
    return dict(tiny_run.KD, losses=dict(kd=tiny_run.KD['losses']['kd'], memory=dict(MEMORY)))


def test_queues_and_what_the_losses_keep(tmp_path: Path) -> None:
    runner, batch = started(tmp_path, kd=with_queues())
    estimate = estimate_memory(runner, batch)
    rows = 3 * (50 + 7) * 6 * 4
    assert rows < estimate.held['queues'] < 1.5 * rows
    own = [x for name, x in runner.model.named_buffers() if not name.startswith('kd.')]
    assert estimate.held['buffers'] == total_bytes(own)
    assert estimate.held['kept by the losses'] > 0 and not estimate.notes
    assert estimate.passing['blocks of the losses'] == BUFFERS * 4 * (2 * 8 * 8) ** 2


def test_the_run_is_as_it_was(tmp_path: Path) -> None:
    runner, batch = started(tmp_path, kd=with_queues())
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    random = torch.get_rng_state()
    estimate = estimate_memory(runner, batch)
    assert not estimate.notes
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(torch.get_rng_state(), random)
    assert getattr(runner.model, CHILD) is not None


def test_a_term_that_refuses_noise_is_named(tmp_path: Path) -> None:
    runner, batch = started(tmp_path)
    objective = getattr(runner.model, CHILD)
    objective.terms['kd'].loss.temperature = 'hot'
    notes = estimate_memory(runner, batch).notes
    assert len(notes) == 1 and notes[0].startswith('kd (TypeError: ')


def test_the_loop_has_both_figures(tmp_path: Path) -> None:
    runner = profiled(tmp_path)
    runner.train()
    loop = runner.train_loop
    assert 0.5 < loop.estimate.total / loop.peak < 1.5
