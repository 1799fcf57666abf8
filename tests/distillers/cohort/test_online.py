"""ONE, OKDDip and CL-ILR as cohorts: a term on the trunk's output, and its rescaled gradient."""

import copy
from typing import Any

import pytest
import torch

pytest.importorskip('mmpretrain')

from kdmm.distillers import Progress  # noqa: E402
from kdmm.distillers.objective import set_aside  # noqa: E402
from tests.errors import refused  # noqa: E402

from .networks import (  # noqa: E402
    DML,
    LABELS,
    TRUNK,
    batch,
    classifier_config,
    cohort,
    networks,
    step,
    total,
)

TAPS = dict(logits='head.fc.out', embedding='head.fc.in', trunk='backbone.stages.1.in')
RAMP = dict(type='RampUp', start=0.0, stop=1.0, end=80, unit='epoch')
ONE = dict(one=dict(type='ONELoss', on=['logits', 'trunk'], weight=dict(ce=1.0, kd=RAMP)))
OKDDIP = dict(okddip=dict(type='OKDDipLoss', on=['logits', 'embedding'], weight=RAMP))
CL = dict(cl=dict(type='EnsembleKDLoss', on='logits', learners='all', target='others'))


def made(losses: dict[str, Any], **section: Any) -> Any:
    """Four branches, the last one kept, in epoch 40."""
    model = cohort(4, losses=losses, taps=TAPS, trunk=TRUNK, keep=3, **section)
    model.kd.set_progress(Progress(0, 40.0))
    return model


def own(model: Any, term: str) -> dict[str, torch.Tensor]:
    return dict(model.kd.terms[term].loss.named_parameters())


def moved(model: Any, term: str) -> dict[str, bool]:
    """Say of each of the loss's parameters whether three steps change it."""
    before = {key: value.detach().clone() for key, value in own(model, term).items()}
    for number in range(3):
        step(model, labels=tuple((label + number) % 3 for label in LABELS))
    return {key: not torch.equal(value, before[key]) for key, value in own(model, term).items()}


def test_the_gate_of_one_learns():
    model = made(ONE)
    assert model.kd.terms['one'].loss.gate.in_features == 4  # of the trunk
    changed = moved(model, 'one')
    assert changed['gate.weight'] and changed['norm.bias']
    weights = dict(one=dict(ONE['one'], weight=dict(kd=1.0)))
    alone = made(weights)
    total(alone(*batch(*LABELS), mode='loss')).backward()
    assert all(p.grad is None for p in own(alone, 'one').values())


def test_queries_and_keys_of_okddip_learn():
    changed = moved(made(OKDDIP), 'okddip')
    assert changed == {'query.weight': True, 'key.weight': True}


@pytest.mark.parametrize('losses', [ONE, OKDDIP, CL], ids=['one', 'okddip', 'cl'])
def test_everything_gets_a_gradient(losses):
    model = made(losses)
    values = step(model, lr=0.0)
    (name,) = losses
    assert all(values[key] > 0 for key in values if key.startswith(f'kd.loss_{name}'))
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_terms_of_a_ramp():
    """exp(-5 / 4) of the way up, of both parts of one and of one part of the other."""
    model = made({**ONE, **OKDDIP})
    found = step(model, lr=0.0)
    model.kd.set_progress(Progress(0, 80.0))
    whole = step(model, lr=0.0)
    for key in ('one_kd', 'okddip_peers', 'okddip_leader'):
        share = found[f'kd.loss_{key}'] / whole[f'kd.loss_{key}']
        torch.testing.assert_close(share, torch.tensor(-1.25).exp(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found['kd.loss_one_ce'], whole['kd.loss_one_ce'])


def test_what_they_own_is_state_of_the_run_alone():
    model = made({**ONE, **OKDDIP})
    state = model.state_dict()
    mine = {key for key in state if 'terms' in key}
    assert mine == {
        *(f'kd.terms.one.loss.{key}' for key in own(model, 'one')),
        *(f'kd.terms.okddip.loss.{key}' for key in own(model, 'okddip')),
    }
    for network in model.kd.networks().values():
        assert not any('gate' in key or 'query' in key for key in network.state_dict())
    assert not any('terms' in key for key in copy.deepcopy(model).state_dict())


def test_all_networks_show_the_trunks_output():
    model = made(ONE)
    seen: list[Any] = []
    model.kd.terms['one'].loss.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    outputs: list[Any] = []
    model.get_submodule(TRUNK[-1]).register_forward_hook(lambda *args: outputs.append(args[-1]))
    step(model)
    assert len(seen) == 4 and all(torch.equal(trunk, outputs[0]) for _, trunk in seen)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_networks_without_a_common_trunk_have_no_gate():
    model = cohort(3, losses=ONE, taps=TAPS)
    with refused(key='kd.losses.one', problem='the gate of ONELoss', fix='kd.trunk'):
        step(model)


# the rescaled gradient of the trunk


def gradients(model: Any) -> dict[str, torch.Tensor]:
    losses = step(model, lr=0.0)
    return {**losses, **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize('losses', [CL, DML], ids=['cl', 'dml'])
def test_a_trunk_that_learns_the_mean(losses):
    """A quarter, to the bit; values and the branches' gradients are as they were."""
    torch.manual_seed(0)
    whole = made(losses)
    torch.manual_seed(0)
    mean = made(losses, trunk_gradient='mean')
    expected, found = gradients(whole), gradients(mean)
    inside = [key for key in found if key.startswith(tuple(TRUNK))]
    assert len(inside) == 9  # weights of three convolutions and their BN
    for key, value in expected.items():
        assert torch.equal(found[key], value / 4 if key in inside else value), key
        assert value.any()


def test_activations_that_are_computed_again_are_scaled_once():
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        student = classifier_config(with_cp=again)
        section = dict(losses=CL, taps=TAPS, trunk=TRUNK, trunk_gradient='mean')
        found.append(gradients(cohort(3, student, **section)))
    torch.testing.assert_close(found[0], found[1])


def test_a_copy_of_the_student_learns_as_alone():
    model = made(CL, trunk_gradient='mean')
    copied, (images, samples) = copy.deepcopy(model), batch(*LABELS)
    total(copied(images, samples, mode='loss')).backward()
    with set_aside(model):
        total(model(images, samples, mode='loss')).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            factor = 4 if name.startswith(tuple(TRUNK)) else 1
            assert torch.equal(factor * parameter.grad, copied.get_parameter(name).grad), name


@pytest.mark.parametrize('trunk, got', [((), 'mean'), (TRUNK, 'max'), (TRUNK, None)])
def test_what_is_no_gradient_of_a_trunk(trunk, got):
    with refused(key='kd.trunk_gradient', got=got, expected=("'sum'", "'mean' where kd.trunk")):
        cohort(2, trunk=trunk, trunk_gradient=got)


def test_places():
    """OKDDip's leader, the last network, is the student."""
    model = made(OKDDIP)
    seen: list[Any] = []
    model.kd.terms['okddip'].loss.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    step(model, lr=0.0)
    with torch.no_grad():
        shown = [network(batch(*LABELS)[0]) for network in networks(model)]
    assert networks(model)[3] is model
    assert all(torch.equal(logits, z) for (logits, _), z in zip(seen, shown, strict=True))
