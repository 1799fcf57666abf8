"""Reference numbers of CIRKD's channel terms in float64 (docs/methods/cirkd.md)."""

import pytest
import torch
from oracles import gen, gen_plus, unit
from torch import nn

from kdmm.losses import CIRKDChannelLoss

EXPECTED = {
    'batch': (0.0464136764536, 0.06926152136),
    'mse': (0.00878347682914, 0.006853011605),
    'memory': (0.0244332705721, 0.0543626675),
}


def identity_loss(**options):
    loss = CIRKDChannelLoss(6, 6, **options).double()
    loss.projector = nn.Identity()
    return loss


@pytest.mark.parametrize('chunk', [None, 5])
@pytest.mark.parametrize('part', EXPECTED)
def test_value_and_gradient(part, chunk):
    loss, keys = identity_loss(chunk=chunk), unit(gen((9, 6), 2.0))
    loss.queue.draw = lambda _: (keys, torch.ones(9, dtype=torch.bool))
    student = gen_plus((2, 6, 8, 12), 0.3).requires_grad_()
    value = loss(student, gen_plus((2, 6, 8, 12), 1.1))[part]
    (grad,) = torch.autograd.grad(value, student)
    got = value.item(), grad.norm().item()
    assert got == pytest.approx(EXPECTED[part], rel=1e-9)
