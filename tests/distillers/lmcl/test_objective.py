"""A phase of L-MCL: what it changes, when it runs, what it refuses."""

import importlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip('mmpretrain')

from kdmm.distillers import Progress  # noqa: E402
from kdmm.distillers.lmcl.objective import summed  # noqa: E402
from kdmm.distillers.objective import Training  # noqa: E402
from tests.distillers.cohort.networks import LABELS, classifier_config, total  # noqa: E402
from tests.distillers.hssakd.classifiers import batch, build  # noqa: E402
from tests.errors import refused  # noqa: E402

TAPS = dict(first='branches.stage1.fc.in', second='branches.stage2.fc.in', own='head.fc.in')
WEIGHTS = dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0)
LAYERS = dict(type='LMCLLoss', on=['first', 'second', 'own'], dim=8, weight=WEIGHTS)
PHI = 'kd.terms.layers.loss.matching.'


def made(meta: dict[str, Any] | None = None, **section: Any) -> Any:
    """Two networks with branches behind two of three stages, in train mode."""
    options = dict(peers=2, branches=dict(stages=[0, 1]), taps=TAPS, losses=dict(layers=LAYERS))
    return build('LMCL', None, meta=meta, **{**options, **section}).train()


def optimizer_of(model: nn.Module, **group: Any) -> torch.optim.SGD:
    options = {**dict(lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True), **group}
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **options)


def iterate(model: Any, optimizer: torch.optim.Optimizer, iteration: int = 0) -> None:
    """An iteration up to, without it, the objective's own step."""
    model.kd.set_progress(Progress(iteration, iteration / 5))
    images, samples = batch(*LABELS)
    optimizer.zero_grad()
    total(model(images.to(next(model.parameters()).dtype), samples, mode='loss')).backward()
    optimizer.step()


def dropout(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    """A forward hook that draws random numbers."""
    return F.dropout(output, 0.5, module.training)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a phase must leave alone, and the matching."""
    state = {key: x.clone() for key, x in model.state_dict().items() if isinstance(x, Tensor)}
    grads = {f'{n}.grad': p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    moments = {
        f'moment {i}': values['momentum_buffer'].clone()
        for i, values in enumerate(optimizer.state.values())
    }
    loss = model.kd.terms['layers'].loss
    mean = dict(mean=loss.matching_mean(), generator=torch.get_rng_state())
    numbers = dict(numpy=torch.tensor(np.random.get_state()[1].astype(np.int64)))
    python = dict(python=torch.tensor(random.getstate()[1][:-1]))
    return {**state, **grads, **moments, **mean, **numbers, **python}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize('form', ['adjoint', 'unrolled'])
def test_a_phase_changes_the_matching_alone(form: str) -> None:
    """Not weights, gradients, statistics, moments, the mean of the weights or random generators."""
    model = made(dict(every=2, form=form))
    model.backbone.stages[0].register_forward_hook(dropout)
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 10, 5))
    iterate(model, optimizer)
    before = everything(model, optimizer)
    assert {'moment 0', 'backbone.stem.0.weight.grad', 'backbone.stem.1.running_mean'} <= set(
        before
    )
    model.kd.after_step()
    found = changed(before, everything(model, optimizer))
    assert found == {key for key in before if key.startswith(PHI)} and len(found) == 12
    assert not any(p.requires_grad or p.grad is not None for p in phi_of(model))
    assert model.kd.diagnostics()['kd.meta_gradient_norm'] > 0


def phi_of(model: Any) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.startswith(PHI)]


def test_a_phase_is_computed_in_full_precision() -> None:
    """Whatever the caller's autocast says."""
    model = made()
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)
    seen: set[torch.dtype] = set()
    for network in (model, *model.kd.networks().values()):
        network.head.fc.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        model.kd.after_step()
    assert seen == {torch.float32}


def test_what_is_no_loss_is_not_added_up() -> None:
    """Of a network's losses, as MMEngine does it."""
    one, two = torch.tensor(1.0), torch.tensor([2.0, 4.0])
    assert summed({'head.loss': one, 'kd.peer1_loss': [two, one], 'top1': 100 * one}) == 5.0


def moved(form: str, steps: int = 2, published: bool = False, **group: Any) -> Tensor:
    """Change of the matching by a first phase, in float64, with dropout in the networks."""
    torch.manual_seed(0)
    model = made(dict(form=form, steps=steps, published_adjoint=published)).double()
    model.backbone.stages[1].register_forward_hook(dropout)
    optimizer = optimizer_of(model, **group)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)
    before = [p.clone() for p in phi_of(model)]
    model.kd.after_step()
    return torch.cat([(p - b).flatten() for p, b in zip(phi_of(model), before, strict=True)])


def test_both_forms_take_the_same_step() -> None:
    """Batch normalisation and dropout included."""
    first, second = moved('adjoint'), moved('unrolled')
    torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-15)
    # Nesterov's first step is lr (1 + momentum) times the gradient, with weight decay
    assert first.abs().max() > 1e-6
    published = moved('adjoint', published=True, weight_decay=0.1)
    right = moved('adjoint', weight_decay=0.1)
    assert 1e-4 < float((published - right).norm() / right.norm()) < 1


def test_the_step_is_that_of_finite_differences() -> None:
    """Of J, the labels' losses behind the steps, in one entry of each layer of the matching."""
    torch.manual_seed(0)
    model = made(dict(steps=1)).double()
    optimizer = optimizer_of(model, weight_decay=0.0)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)
    start = [p.clone() for p in phi_of(model)]
    training = [optimizer]

    def phase(place: int, offset: float) -> tuple[float, list[Tensor]]:
        with torch.no_grad():
            for index, (p, value) in enumerate(zip(phi_of(model), start, strict=True)):
                p.copy_(value)
                p.view(-1)[0] += offset * (index == place)
        before = [p.clone() for p in phi_of(model)]
        model.kd.matching_optimizer.optimizer.state.clear()
        model.kd.phase(model.kd.batch, training)
        step = [b - p for b, p in zip(before, phi_of(model), strict=True)]
        return float(model.kd.diagnostics()['kd.meta_objective']), step

    _, step = phase(-1, 0.0)
    for place in range(len(start)):
        values = [phase(place, sign * 1e-4)[0] for sign in (1, -1)]
        slope = (values[0] - values[1]) / 2e-4
        gradient = float(step[place].view(-1)[0]) / (0.1 * 1.9)
        assert gradient == pytest.approx(slope, rel=1e-4, abs=1e-10)


def test_a_phase_that_is_cut_off_leaves_no_trace() -> None:
    """And training goes on as if it had not begun."""
    model = made()
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)
    before = everything(model, optimizer)
    calls = []

    def stop(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = model.head.fc.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        model.kd.after_step()
    handle.remove()
    assert not changed(before, everything(model, optimizer))
    images, samples = batch(*LABELS)
    assert 'kd.loss_layers_vcl' in model(images, samples, mode='loss')
    assert (
        not model.kd.terms['layers']
        .loss.stage_weights([[torch.rand(4, 8, requires_grad=True)] * 3] * 2)
        .requires_grad
    )


@pytest.mark.parametrize(('per_epoch', 'due'), [(5, [0, 2, 4, 5, 7, 9]), (0, [0, 2, 4, 6, 8])])
def test_a_phase_is_due_in_each_epoch_or_in_the_whole_run(per_epoch: int, due: list[int]) -> None:
    model = made(dict(every=2))
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 10, per_epoch))
    ran = []
    model.kd.phase = lambda *_: ran.append(iteration)
    for iteration in range(10):
        iterate(model, optimizer, iteration)
        model.kd.after_step()
    assert ran == due


def test_rates_are_those_of_the_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps and of the matching's own; a parameter that no group has does not move."""
    model = made(dict(form='unrolled', momentum=0.8))
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)
    optimizer.param_groups[0].update(lr=0.02, weight_decay=0.25)
    optimizer.param_groups[0]['params'].pop()
    seen: dict[str, Any] = {}

    def watched(steps: Any, _: Any, theta: Any, phi: Any, lr: Any, decay: Any, *rest: Any) -> Any:
        seen.update(rest=rest, steps=len(steps), lr=set(lr), decay=set(decay), theta=len(theta))
        return type('Found', (), dict(grads=[torch.ones_like(p) for p in phi], value=phi[0].sum()))

    page = importlib.import_module('kdmm.distillers.lmcl.objective')
    monkeypatch.setattr(page, 'meta_gradient', watched)
    model.kd.after_step()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert seen == dict(
        steps=3,
        lr={0.02, 0.0},
        decay={0.25, 0.0},
        theta=len(trained),
        rest=(0.8, 'unrolled', False),
    )
    (group,) = model.kd.matching_optimizer.optimizer.param_groups
    assert (group['lr'], group['weight_decay'], group['nesterov']) == (0.02, 0.25, True)


def test_other_terms_are_no_part_of_a_phase() -> None:
    """A term that cannot be differentiated twice beside it."""
    losses = dict(layers=LAYERS, dml=dict(type='KDLoss', on='logits'))
    model = made(taps=dict(TAPS, logits='head.fc.out'), losses=losses)
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    model.kd.terms['dml'].compute = never
    model.kd.after_step()


@pytest.mark.parametrize(
    ('change', 'key'),
    [
        (lambda: made(dict(every=0)), 'kd.meta.every'),
        (lambda: made(dict(steps=1.5)), 'kd.meta.steps'),
        (lambda: made(dict(form='both')), 'kd.meta.form'),
        (lambda: made(dict(form='unrolled', published_adjoint=True)), 'kd.meta.published_adjoint'),
        (lambda: made(dict(momentum=1.0)), 'kd.meta.momentum'),
        (lambda: made(dict(evry=3)), 'kd.meta'),
        (lambda: made(50), 'kd.meta'),  # type: ignore[arg-type]
        (lambda: made(losses=dict(layers=dict(LAYERS, matching='uniform'))), 'kd.losses'),
        (lambda: made(losses={}), 'kd.losses'),
        (lambda: made(losses=dict(layers=LAYERS, again=LAYERS)), 'kd.losses'),
    ],
)
def test_wrong_sections_are_refused(change: Callable[[], Any], key: str) -> None:
    with refused(key=key):
        change()


def test_a_plain_cohort_refuses_to_learn_a_matching() -> None:
    options = dict(peers=2, branches=dict(stages=[0, 1]), taps=TAPS)
    with refused(key='kd.losses.layers.matching', fix='LMCL'):
        build('Cohort', None, losses=dict(layers=LAYERS), **options)
    fixed = dict(layers=dict(LAYERS, matching='uniform'))
    assert build('Cohort', None, losses=fixed, **options).kd.terms['layers'].loss.matching is None


def test_a_run_must_be_longer_than_from_phase_to_phase() -> None:
    model = made(dict(every=11))
    with refused(key='kd.meta.every', got=11):
        model.kd.see_training(Training([optimizer_of(model)], 10, 5))
    model.kd.see_training(Training([optimizer_of(model)], 11, 5))


def test_networks_may_differ() -> None:
    """In depth, width and number of stages: each has its own taps, widths and branches."""
    wide = classifier_config(widths=(4, 4, 8, 12))
    model = made(peers=[wide])
    optimizer = optimizer_of(model)
    model.kd.see_training(Training([optimizer], 100, 50))
    iterate(model, optimizer)
    before = [p.clone() for p in phi_of(model)]
    assert [tuple(p.shape) for p in before[::2]] == [(128, 8)] * 3 + [(128, 12)] * 3
    model.kd.after_step()
    assert all(not torch.equal(p, b) for p, b in zip(phi_of(model), before, strict=True))
