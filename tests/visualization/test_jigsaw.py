"""The pictures of a sheet, cell by cell."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmpose')

from mmengine.structures import PixelData  # noqa: E402
from mmpose.structures import PoseDataSample  # noqa: E402

from kdmm.datasets import PatchGrid, ShufflePatches  # noqa: E402
from kdmm.visualization import jigsaw_row, jigsaw_sheet  # noqa: E402
from kdmm.visualization.jigsaw import EMPTY, MARGIN, RIGHT, WRONG  # noqa: E402

SIZE = (96, 128)


def sample(mode: str, wrong: int | None = None) -> tuple[np.ndarray, torch.Tensor, Any]:
    """A crop (RGB), the network's input and a prediction in which one channel finds nothing."""
    crop = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    transform = ShufflePatches(input_size=SIZE, mode=mode, seed=0)
    found = transform(dict(img=crop[..., ::-1], id=0))
    maps = torch.zeros(12, 32, 24)
    for channel, (x, y) in enumerate((found['keypoints'][0] / 4).astype(int)):
        maps[channel, y, x] = float(channel != wrong)
    keys = ('jigsaw_perm', 'jigsaw_grid', 'jigsaw_mode')
    meta = {key: found[key] for key in keys}
    meta.update(input_size=SIZE, input_center=(1, 1), input_scale=(1, 1), ori_shape=(9, 9))
    result = PoseDataSample(metainfo=meta)
    result.pred_fields = PixelData(heatmaps=maps)
    return crop, torch.from_numpy(found['img'].transpose(2, 0, 1).copy()), result


def pictures(row: np.ndarray) -> list[np.ndarray]:
    step = SIZE[0] + MARGIN
    return [row[:, start : start + SIZE[0]] for start in range(0, row.shape[1], step)]


@pytest.mark.parametrize('mode', ['identity', 'home'])
def test_all_right(mode: str) -> None:
    crop, image, result = sample(mode)
    shown = pictures(jigsaw_row(image, result))
    assert len(shown) == 4
    assert np.array_equal(shown[0], crop)
    assert np.array_equal(shown[1], image.numpy()[::-1].transpose(1, 2, 0))
    assert np.array_equal(shown[3], crop)
    corners = PatchGrid(4, 3, *SIZE).split(shown[2])[:, 1, 1]
    assert (corners == RIGHT).all()


@pytest.mark.parametrize('mode', ['identity', 'home'])
def test_one_missing(mode: str) -> None:
    crop, image, result = sample(mode, wrong=5)
    order, grid = result.metainfo['jigsaw_perm'], PatchGrid(4, 3, *SIZE)
    shown = pictures(jigsaw_row(image, result))
    cell = int(np.argsort(order)[5]) if mode == 'identity' else 5
    corners = grid.split(shown[2])[:, 1, 1]
    assert [tuple(one) for one in corners] == [
        WRONG if number == cell else RIGHT for number in range(12)
    ]
    together, home = grid.split(shown[3]), int(order[cell])
    assert (together[home] == EMPTY).all()
    others = [patch for patch in range(12) if patch != home]
    assert np.array_equal(together[others], grid.split(crop)[others])


def test_two_patches_in_one_cell() -> None:
    """The cell is green for the right one of them, and its picture is put in both places."""
    crop, image, result = sample('identity')
    maps, order = result.pred_fields.heatmaps, result.metainfo['jigsaw_perm']
    maps[2] = maps[7]
    shown, grid = pictures(jigsaw_row(image, result)), PatchGrid(4, 3, *SIZE)
    cells = {patch: int(np.argsort(order)[patch]) for patch in (2, 7)}
    corners = grid.split(shown[2])[:, 1, 1]
    assert tuple(corners[cells[7]]) == RIGHT and tuple(corners[cells[2]]) == WRONG
    together, puzzle = grid.split(shown[3]), grid.split(grid.shuffle(crop, order))
    assert np.array_equal(together[2], puzzle[cells[7]])
    assert np.array_equal(together[7], puzzle[cells[7]])


def test_sheet_has_a_row_a_sample() -> None:
    _, image, result = sample('identity')
    sheet = jigsaw_sheet([image] * 3, [result] * 3)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 4 * 96 + 3 * MARGIN
    assert sheet.shape[0] == 18 + 3 * (128 + MARGIN)
    assert np.array_equal(sheet[18:146], jigsaw_row(image, result))
