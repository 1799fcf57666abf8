"""Without a process group; with one: tests/parity/test_cirkd_world.py."""

import torch

from kdmm.functional import collective


def test_identity_without_a_group():
    x = torch.arange(6.0).view(2, 3).requires_grad_()
    assert not collective.distributed()
    assert (collective.world_size(), collective.rank()) == (1, 0)
    for function in (collective.all_gather_cat, collective.gather_images):
        assert torch.equal(function(x), x) and not function(x).requires_grad
    assert collective.gather_with_grad(x) is x
    assert torch.equal(collective.sum_over_ranks(x), x)
    assert collective.global_image_index(3, x.device).tolist() == [0, 1, 2]


def test_order_is_the_samplers(monkeypatch):
    """Rank r of W gets images r, r + W, ... of the stream, as MMEngine's samplers deal them."""
    stream = torch.arange(6)
    world = 3
    monkeypatch.setattr(collective, 'world_size', lambda: world)
    monkeypatch.setattr(collective, 'distributed', lambda: True)
    monkeypatch.setattr(collective, '_gathered', lambda _: [stream[r::world] for r in range(world)])
    assert torch.equal(collective.gather_images(stream[0::world]), stream)
    whole, stream = stream, stream[:4]  # the last batch of an epoch: two, one and one
    assert torch.equal(collective.gather_images(stream[0::world]), stream)
    stream = whole
    monkeypatch.setattr(collective, 'rank', lambda: 2)
    assert collective.global_image_index(2, stream.device).tolist() == [2, 5]
