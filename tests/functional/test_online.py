"""Mixtures of logits by a gate and by attention, against loops over images."""

import pytest
import torch
from torch import Tensor

from kdmm.functional import attended_logits, gated_logits
from tests.errors import unfit
from tests.versions import cpu_autocast

from .test_mutual import CLOSE, fix


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [fix(shape, i).clone().requires_grad_() for i, shape in enumerate(shapes)]


def same(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, **CLOSE)
    weight = fix(tuple(ours.shape), 9)
    grads = [torch.autograd.grad((weight * x).sum(), inputs) for x in (ours, theirs)]
    torch.testing.assert_close(*grads, **CLOSE)
    assert all(grad.abs().max() > 0 for grad in grads[0])


def share(energies: list[Tensor], place: int) -> Tensor:
    return energies[place].exp() / sum(energy.exp() for energy in energies)


def test_gate():
    logits, gate = tensors((3, 4, 5), (4, 3))
    rows = [
        sum(share(list(gate[b]), m) * logits[m, b] for m in range(3)) for b in range(4)
    ]  # fmt: skip
    same(gated_logits(logits, gate), torch.stack(rows), [logits, gate])


def test_attention():
    """A row of shares for each peer, over all peers."""
    logits, queries, keys = tensors((3, 4, 5), (3, 4, 2), (3, 4, 2))
    rows = []
    for m in range(3):
        for b in range(4):
            energies = [(queries[m, b] * keys[n, b]).sum() for n in range(3)]
            rows.append(sum(share(energies, n) * logits[n, b] for n in range(3)))
    found = attended_logits(logits, queries, keys)
    same(found, torch.stack(rows).view(3, 4, 5), [logits, queries, keys])


def test_no_preference_is_the_mean():
    logits, gate = fix((3, 4, 5), 0), torch.zeros(4, 3, dtype=torch.float64)
    torch.testing.assert_close(gated_logits(logits, gate), logits.mean(0), **CLOSE)
    nothing = torch.zeros(3, 4, 2, dtype=torch.float64)
    found = attended_logits(logits, nothing, fix((3, 4, 2), 1))
    torch.testing.assert_close(found, logits.mean(0).expand(3, -1, -1), **CLOSE)


def test_derivatives():
    assert torch.autograd.gradcheck(gated_logits, tensors((2, 2, 3), (2, 2)))
    assert torch.autograd.gradcheck(attended_logits, tensors((2, 2, 3), (2, 2, 2), (2, 2, 2)))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_and_autocast(dtype):
    """Energies of 80,000, beyond float16, choose one peer."""
    logits = fix((3, 4, 5), 0).to(dtype)
    queries = torch.full((3, 4, 2), 200, dtype=dtype)
    keys = queries * torch.tensor([1.0, 0.0, -1.0], dtype=dtype)[:, None, None]
    with cpu_autocast(dtype):
        found = attended_logits(logits, queries, keys)
        gated = gated_logits(logits, 300 * fix((4, 3), 1).to(dtype))
    assert found.dtype == gated.dtype == torch.float32
    assert torch.equal(found, logits[0].float().expand(3, -1, -1)) and gated.isfinite().all()


def test_shapes():
    with unfit('form', gate=(3, 4)):
        gated_logits(torch.zeros(3, 4, 5), torch.zeros(3, 4))
    with unfit('form', logits=(4, 5)):
        gated_logits(torch.zeros(4, 5), torch.zeros(5, 4))
    for wrong in ((2, 4, 2), (3, 4, 3), (3, 4)):
        with unfit('form', keys=wrong):
            attended_logits(torch.zeros(3, 4, 5), torch.zeros(3, 4, 2), torch.zeros(wrong))
    with unfit('form', logits=(3, 5)):
        attended_logits(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3, 5))
