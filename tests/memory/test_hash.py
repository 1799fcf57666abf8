import torch

from kdmm.memory import hash_below, hash_uint32

MASK = 0xFFFFFFFF


def python_mix(x):
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def test_equals_unsigned_arithmetic():
    for values in [(0, 0), (1, 2), (MASK, MASK), (123456789, 2**31), (-5, 7)]:
        state = python_mix((values[0] + 0x9E3779B9) & MASK)
        state = python_mix((state * 0x9E3779B1 + values[1] + 0x85EBCA6B) & MASK)
        assert hash_uint32(torch.tensor(values[0]), values[1]).item() == state


def test_depends_on_every_field_and_on_their_order():
    base = torch.arange(1000)
    drawn = [hash_uint32(base, 1, 2), hash_uint32(base, 2, 1), hash_uint32(base, 1, 3)]
    for i, x in enumerate(drawn):
        for y in drawn[:i]:
            assert (x == y).sum() <= 1
    assert drawn[0].unique().numel() == 1000


def test_uniform():
    drawn = hash_below(10, torch.arange(20000), 7)
    counts = torch.bincount(drawn, minlength=10)
    assert drawn.min() == 0 and drawn.max() == 9
    assert ((counts - 2000).abs() < 200).all()  # 4.7 standard deviations
    # neighbours in counter and field are unrelated
    pairs = torch.stack([hash_uint32(torch.arange(20000), 7), hash_uint32(torch.arange(20000), 8)])
    assert torch.corrcoef(pairs.double())[0, 1].abs() < 0.03


def test_bounds_are_kept():
    bound = torch.tensor([0, 1, 2, 20000, 2**31 - 1])
    drawn = hash_below(bound[:, None], torch.arange(500), 3)
    assert (drawn >= 0).all() and (drawn < bound[:, None].clamp_min(1)).all()
    assert (drawn[0] == 0).all()
