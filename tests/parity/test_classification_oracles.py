"""Reference numbers in float64 for the losses that classifiers are compared by.

Value, and norm of the gradient with respect to the student, of the formulas in the code of the
public comparisons: RepDistiller (SP, CC, VID, RKD, PKT, NST), mdistiller (DKD) and DIST's authors'.
Inputs are those of `fix` (docs/methods/README.md), rectified where the comparison reads maps.
"""

import math

import pytest
import torch

from kdmm.distillers import Pool
from kdmm.functional import neighbour_congruence
from kdmm.losses import DISTLoss, DKDLoss, NSTLoss, PKTLoss, RKDLoss, SPLoss, VIDLoss
from tests.functional.test_mutual import fix

LABELS = torch.tensor([0, 3, 5, 3])


def vectors(channels=4):
    return fix((5, 6), 1), fix((5, channels), 2)


def maps():
    return fix((2, 3, 4, 4), 1).relu(), fix((2, 5, 4, 4), 2).relu()


def logits():
    return 2 * fix((4, 6), 1), 3 * fix((4, 6), 2)


def measured(loss, student, teacher, **context):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, **context)
    (grad,) = torch.autograd.grad(value, student)
    return value.item(), grad.norm().item()


def weighted(loss, **weights):
    """The sum of a loss's parts, those without a weight left out."""

    def total(student, teacher, **context):
        parts = loss(student, teacher, **context)
        return sum(weight * parts[part] for part, weight in weights.items())

    return total


CASES = {
    'sp, maps': (SPLoss(), maps, 0.00181055139278, 0.01360047875),
    'sp, vectors': (SPLoss(), vectors, 0.215205468446, 0.04267468353),
    'sp, rows': (SPLoss('rows'), vectors, 5 * 0.215205468446, 5 * 0.04267468353),
    'cc, no layers': (neighbour_congruence, lambda: vectors(6), 5.56592056786, 2.824769361),
    'rkd, distance': (
        weighted(RKDLoss(), distance=1), vectors, 0.080076344641, 0.04559849495),
    'rkd, angle': (weighted(RKDLoss(), angle=1), vectors, 0.0601266348404, 0.03424165177),
    'rkd, both': (
        weighted(RKDLoss(chunk=2), distance=25, angle=50), vectors, 5.00824035804, 2.703077219),
    'rkd, unit distance': (
        weighted(RKDLoss(True), distance=1), vectors, 0.0958605663603, 0.03562146991),
    'rkd, unit angle': (
        weighted(RKDLoss(True), angle=1), vectors, 0.0636746986761, 0.02698155521),
    'pkt': (PKTLoss(), vectors, 0.0571687451378, 0.06038196995),
    'pkt, rows': (PKTLoss('rows'), vectors, 5 * 0.0571687451378, 5 * 0.06038196995),
    'pkt, rectified': (
        PKTLoss(), lambda: [x.relu() for x in vectors(6)], 0.00812853811363, 0.01803348932),
    'nst': (NSTLoss(), maps, 0.466690775977, 0.1054734648),
    'nst, pooled': (
        lambda s, t: NSTLoss()(*Pool()(s, t[..., :2, :2])), maps, 0.503432142259, 0.2256209374),
    'dist, inter': (weighted(DISTLoss(), inter=1), logits, 0.960995931056, 0.1411911716),
    'dist, intra': (weighted(DISTLoss(), intra=1), logits, 1.02185608923, 0.09138795282),
    'dist, inter, T 4': (
        weighted(DISTLoss(4.0), inter=1), logits, 14.5895222957, 1.596060232),
    'dist, intra, T 4': (
        weighted(DISTLoss(4.0), intra=1), logits, 14.7333109492, 2.566136683),
    'dist, maps': (
        weighted(DISTLoss(), inter=1, intra=1),
        lambda: (2 * fix((2, 4, 3, 3), 1), 2 * fix((2, 4, 3, 3), 2)), 2.01294474147, 0.1442327862),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_value_and_gradient(name):
    loss, inputs, value, norm = CASES[name]
    assert measured(loss, *inputs()) == pytest.approx((value, norm), rel=1e-9)


@pytest.mark.parametrize(
    'temperature, weights, value, norm',
    [
        (1.0, dict(target=1), 1.11097019969, 0.3416922407),
        (1.0, dict(others=1), 1.66717213811, 0.4290093293),
        (4.0, dict(target=1), 2.42074001285, 0.5005310758),
        (4.0, dict(others=1), 2.955616255, 0.5496265241),
        (4.0, dict(target=1, others=8), 26.0656700529, 4.44913446),
    ],
)
def test_dkd(temperature, weights, value, norm):
    loss = weighted(DKDLoss(temperature), **weights)
    got = measured(loss, *logits(), labels=LABELS)
    assert got == pytest.approx((value, norm), rel=1e-9)


@pytest.mark.parametrize(
    'raw, value, norm, raw_norm',
    [
        (None, 0.85119909614, 0.007284609373, 0.04030887984),
        (fix((5,), 8), 0.200093173951, 0.05614671279, 0.09432186989),
    ],
    ids=['variance 5', 'other variances'],
)
def test_vid(raw, value, norm, raw_norm):
    loss = VIDLoss(3, 5).double()
    (regressor,) = loss.regressors
    start = torch.full((5,), math.log(math.expm1(5 - 1e-5)), dtype=torch.float64)
    torch.testing.assert_close(regressor.raw_variance.detach(), start, rtol=1e-6, atol=0)
    with torch.no_grad():
        regressor.raw_variance.copy_(start if raw is None else raw)
        for layer, seed in ((0, 5), (2, 6), (4, 7)):
            weight = regressor.mean[layer].weight
            weight.copy_(0.5 * fix(tuple(weight.shape), seed))
    assert measured(loss, *maps()) == pytest.approx((value, norm), rel=1e-9)
    (grad,) = torch.autograd.grad(loss(*maps()), regressor.raw_variance)
    assert grad.norm().item() == pytest.approx(raw_norm, rel=1e-9)
