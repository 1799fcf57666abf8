import pytest
import torch

from kdmm.functional import blocks


def test_the_cache_is_read_off_the_system_or_assumed():
    assert 2**15 <= blocks.cache_bytes() <= 64 * 2**20


@pytest.mark.parametrize(
    'sizes, expected',
    [
        (dict(index0='32K', index2='1024K', index3='32768K'), 32 * 2**20),
        (dict(index0='48K', index1='2M'), 2 * 2**20),
        (dict(index3='1G'), 64 * 2**20),  # shared by more cores than are ours
        ({}, 16 * 2**20),
        (dict(index0='', index1='much', index2='1M'), 2**20),
    ],
)
def test_the_largest_cache_counts(sizes, expected, tmp_path, monkeypatch):
    for name, text in sizes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / 'size').write_text(text + '\n')
    monkeypatch.setattr(blocks, 'Path', lambda _: tmp_path)
    assert blocks.cache_bytes.__wrapped__() == expected


def test_buffers_fill_half_of_the_cache(monkeypatch):
    monkeypatch.setattr(blocks, 'cache_bytes', lambda: 12 * 2**20)
    rows = blocks.rows_per_block(10**6, 512, torch.zeros(1))
    assert rows * 512 * 4 * blocks.BUFFERS == 6 * 2**20
    assert blocks.rows_per_block(10**6, 512, torch.zeros(1).double()) == rows // 2
    assert blocks.rows_per_block(10, 512, torch.zeros(1)) == 10
    assert blocks.rows_per_block(10, 10**9, torch.zeros(1)) == 1
    assert blocks.rows_per_block(10, 512, torch.zeros(1), chunk=3) == 3
