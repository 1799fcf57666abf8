"""Heads of contrastive losses."""

import pytest
import torch

from kdmm.losses.embedding import EmbeddingHeads, check_pooled
from tests.errors import unfit
from tests.functional.test_mutual import fix
from tests.versions import cpu_autocast


def heads(*channels: int, dim: int = 128) -> EmbeddingHeads:
    torch.manual_seed(0)
    return EmbeddingHeads(channels, dim)


def test_parameters_of_two_heads_on_resnet32():
    """64 x 128 + 128 for the first layer and 128 x 128 + 128 for the second."""
    made = heads(64, 64)
    assert [sum(p.numel() for p in head.parameters()) for head in made.heads] == [24_832] * 2


def test_rows_are_two_linear_layers_and_unit_length():
    made = heads(5, 3, dim=4).double()
    features = [fix((6, width), width) for width in (5, 3)]
    rows = made(features)
    assert rows.shape == (2, 6, 4)
    for network, x in enumerate(features):
        first, _, second = made.heads[network]
        for image, row in enumerate(x):
            hidden = (first.weight @ row + first.bias).clamp(min=0)
            plain = second.weight @ hidden + second.bias
            expected = plain / plain.square().sum().sqrt()
            torch.testing.assert_close(rows[network, image], expected, rtol=1e-12, atol=1e-14)


def test_features_are_not_written_to():
    """The activation is in place; what the classifier reads must stay."""
    x = fix((4, 3), 0).float()
    before = x.clone()
    heads(3, 3)([x, x]).sum().backward()
    assert torch.equal(x, before)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_unit_length_in_float32_under_autocast(dtype):
    with cpu_autocast(dtype):
        rows = heads(3, dim=8)([100 * fix((4, 3), 1).float()])
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(1, 4), rtol=0, atol=1e-6)


def test_an_image_of_no_direction_has_no_gradient():
    """Its row is 0 where all biases are; that of the others stays."""
    x = fix((2, 3), 1).float()
    x[0] = 0
    x.requires_grad_()
    made = heads(3, dim=4)
    for head in made.heads[0][::2]:
        torch.nn.init.zeros_(head.bias)
    (made([x]) * fix((1, 2, 4), 2)).sum().backward()
    assert not x.grad[0].any() and 0 < x.grad[1].norm() < 10
    assert all(p.grad.isfinite().all() and p.grad.norm() < 10 for p in made.parameters())


@pytest.mark.parametrize('x', [torch.zeros(2, 3, 4, 4), (torch.zeros(2, 3),), torch.zeros(2)])
def test_what_is_not_one_vector_an_image_is_refused(x):
    """Also the tuple that MMPretrain's necks give."""
    with unfit('unpooled', problem='pooled features (B, channels)', fix='what a classifier reads'):
        check_pooled([torch.zeros(2, 3), x])
