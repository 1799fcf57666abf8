"""Half of the tiles against whole rows, and how rows are cut into tiles."""

import pytest
import torch
from oracles import gen, unit

from kdmm.functional.relation.streamed import PairPlan, pair_kl
from kdmm.functional.relation.symmetric import image_blocks, self_kl

CLOSE = dict(rtol=1e-10, atol=1e-12)


def rows(images, area, channels, phi):
    return unit(gen((images * area, channels), phi))


def plan(teacher, images, mask=None, chunk=None, tau=0.1, need_grad=True):
    weight = gen((len(teacher),), 0.7).abs()
    if mask is not None:
        weight = weight * mask
    return PairPlan(teacher, teacher, weight, images, mask, tau, chunk, need_grad)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('chunk', [1, 3, 11, None])
@pytest.mark.parametrize('images', [1, 3])
def test_half_the_tiles_equal_whole_rows(images, chunk, masked):
    """Tiles of a part of an image, of one image, of two and of all."""
    student, teacher = rows(images, 10, 5, 0.3).requires_grad_(), rows(images, 10, 7, 1.1)
    mask = torch.arange(images * 10) % 4 != 1 if masked else None
    common = plan(teacher, images, mask, chunk)
    half = self_kl(student, common)
    keys = student.detach().clone().requires_grad_()
    whole = pair_kl(student, keys, common._replace(chunk=4))
    torch.testing.assert_close(half, whole, **CLOSE)
    expected = torch.autograd.grad(whole, (student, keys))
    torch.testing.assert_close(torch.autograd.grad(half, student)[0], sum(expected), **CLOSE)


def test_whole_rows_refuse_second_derivatives_as_tiles_do():
    student, teacher = rows(2, 6, 5, 0.3).requires_grad_(), rows(2, 6, 7, 1.1)
    for loss in (
        self_kl(student, plan(teacher, 2)),
        pair_kl(student, student, plan(teacher, 2, chunk=4)),
    ):
        with pytest.raises(RuntimeError, match='first derivatives only'):
            torch.autograd.grad(loss, student, create_graph=True)


def test_without_a_gradient_only_the_sums_are_formed(monkeypatch):
    student, teacher = rows(2, 6, 5, 0.3), rows(2, 6, 7, 1.1)
    monkeypatch.setattr('kdmm.functional.relation.symmetric._gradient', None)
    assert self_kl(student, plan(teacher, 2, need_grad=False)) > 0


@pytest.mark.parametrize(
    'images, area, chunk', [(3, 8, 1), (5, 4, 7), (1, 9, 2), (2, 50, 3), (4, 6, 99)]
)
def test_image_blocks_cover_all_rows_once_and_cut_no_two_images(images, area, chunk):
    parts = image_blocks(images, area, torch.zeros(1), chunk)
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
    shared = image_blocks(6, 10, like, chunk=15)
    assert [(rows.start, rows.stop) for rows, _ in shared] == [(0, 30), (30, 60)]
    assert [(part.start, part.stop) for _, part in shared] == [(0, 3), (3, 6)]
