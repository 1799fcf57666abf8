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


@pytest.mark.parametrize(
    'images, area, chunk', [(3, 8, 1), (5, 4, 7), (1, 9, 2), (2, 50, 3), (4, 6, 99)]
)
def test_image_blocks_cover_all_rows_once_and_cut_no_two_images(images, area, chunk):
    parts = blocks.image_blocks(images, area, torch.zeros(1), chunk)
    rows = [i for rows, _ in parts for i in range(rows.start, rows.stop)]
    assert rows == list(range(images * area))
    for span, owners in parts:
        assert (span.stop - span.start) ** 2 <= chunk * images * area
        if owners.stop - owners.start > 1:  # whole images
            assert (span.start, span.stop) == (owners.start * area, owners.stop * area)
        else:
            assert owners.start * area <= span.start < span.stop <= owners.stop * area


def test_small_images_share_a_block():
    """As many whole images as the tile holds; 6 x 10 rows in tiles of 30 x 30 are two blocks."""
    like = torch.empty(0)
    shared = blocks.image_blocks(6, 10, like, chunk=15)
    assert [(rows.start, rows.stop) for rows, _ in shared] == [(0, 30), (30, 60)]
    assert [(part.start, part.stop) for _, part in shared] == [(0, 3), (3, 6)]
