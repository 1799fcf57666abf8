"""The metric on networks whose score is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv')

from kdmm.datasets import PatchGrid, ShufflePatches  # noqa: E402
from kdmm.evaluation import JigsawMetric  # noqa: E402
from tests.errors import refused  # noqa: E402

SIZE, GRID = (48, 64), (4, 3)


def puzzle(number: int, mode: str = 'identity') -> dict[str, Any]:
    """A data sample as the evaluator gets it, without prediction."""
    transform = ShufflePatches(input_size=SIZE, grid=GRID, mode=mode, seed=0)
    results = transform(dict(img=np.zeros((64, 48, 3), np.uint8), id=number))
    keys = ('jigsaw_perm', 'jigsaw_grid', 'jigsaw_mode')
    return dict(
        {key: results[key] for key in keys},
        targets=results['keypoints'][0],
        input_size=SIZE,
        input_center=np.array([60.0, 40.0]),
        input_scale=np.array([40.0, 60.0]),
        ori_shape=(80, 120),  # height, width
    )


def heatmaps(points: np.ndarray, height: float = 1.0) -> torch.Tensor:
    """One peak a channel at points (K, 2) of the input, (K, 16, 12)."""
    maps = torch.zeros(len(points), 16, 12)
    for channel, (x, y) in enumerate(points / 4):
        maps[channel, int(y), int(x)] = height
    return maps


def score(pairs: list[tuple[dict[str, Any], torch.Tensor]], **options: Any) -> dict[str, float]:
    metric = JigsawMetric(hungarian=True, **options)
    samples = [dict(sample, pred_fields=dict(heatmaps=maps)) for sample, maps in pairs]
    metric.process(None, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('mode', ['identity', 'home'])
def test_perfect_network(mode: str) -> None:
    samples = [puzzle(number, mode) for number in range(5)]
    found = score([(sample, heatmaps(sample['targets'])) for sample in samples])
    assert found.pop('jigsaw/mre') == 0
    assert found.pop('jigsaw/chance') == pytest.approx(1 / 12)
    assert set(found.values()) == {1.0} and len(found) == 7


def test_mode_matters() -> None:
    samples = [puzzle(number, 'home') for number in range(5)]
    pairs = [
        (dict(sample, jigsaw_mode='identity'), heatmaps(sample['targets'])) for sample in samples
    ]
    assert score(pairs)['jigsaw/patch_acc'] < 0.5


def test_blind_network() -> None:
    """The same map in every channel: one patch of each puzzle is right."""
    middle = PatchGrid(*GRID, *SIZE).centres()[[4] * 12]
    found = score([(puzzle(number), heatmaps(middle)) for number in range(30)])
    assert found['jigsaw/patch_acc'] == pytest.approx(1 / 12)
    assert found['jigsaw/puzzle_acc'] == 0


@pytest.mark.parametrize('value', [0.0, -1.0])
def test_network_without_a_peak(value: float) -> None:
    found = score([(puzzle(0), torch.full((12, 16, 12), value))])
    for name in ('patch_acc', 'puzzle_acc', 'PCK@0.1', 'PCK@0.5'):
        assert found[f'jigsaw/{name}'] == 0, name
    assert 'jigsaw/mre' not in found


def test_figures_by_hand() -> None:
    """Channel 0 is one pixel of the heatmap off, channel 1 in another cell, the rest right."""
    sample = puzzle(0)
    points = sample['targets'].copy()
    points[0] += (4, 0)
    points[1] = points[2]
    apart = float(np.linalg.norm(points[1] - sample['targets'][1]))
    found = score([(sample, heatmaps(points))], pck=(0.2, 0.25))
    assert found['jigsaw/patch_acc'] == pytest.approx(11 / 12)
    assert found['jigsaw/puzzle_acc'] == 0
    assert found['jigsaw/PCK@0.2'] == pytest.approx(10 / 12)  # 4 pixels of 16 are 0.25
    assert found['jigsaw/PCK@0.25'] == pytest.approx(11 / 12)
    assert found['jigsaw/mre'] == pytest.approx((4 + apart) / 12)


def test_distance_is_of_peaks_that_are_there() -> None:
    """Channel 0 finds nothing and stays out of the mean; channel 1 is 4 pixels off."""
    sample = puzzle(0)
    points = sample['targets'].copy()
    points[1] += (0, 4)
    maps = heatmaps(points)
    maps[0] = 0
    assert score([(sample, maps)])['jigsaw/mre'] == pytest.approx(4 / 11)


def test_patches_and_strides_that_are_not_square() -> None:
    """Two by two patches of 24x32, heatmaps of 8x32: strides of 6 and 2."""
    transform = ShufflePatches(input_size=SIZE, grid=(2, 2), seed=0)
    results = transform(dict(img=np.zeros((64, 48, 3), np.uint8), id=0))
    sample = dict(puzzle(0), jigsaw_perm=results['jigsaw_perm'], jigsaw_grid=(2, 2))
    maps = torch.zeros(4, 32, 8)
    for channel, (x, y) in enumerate(results['keypoints'][0]):
        maps[channel, int(y / 2) + 3, int(x / 6)] = 1.0  # 6 pixels too low
    found = score([(sample, maps)], pck=(0.24, 0.25))
    assert found['jigsaw/patch_acc'] == 1 and found['jigsaw/mre'] == 6
    assert found['jigsaw/PCK@0.24'] == 0 and found['jigsaw/PCK@0.25'] == 1  # of 24
    centred = maps.roll(-3, dims=1)
    assert score([(sample, centred)])['jigsaw/hungarian_acc'] == 1
    assert score([(sample, centred)])['jigsaw/mre'] == 0


def test_assignment_is_one_to_one() -> None:
    """Two channels want one cell; the weaker one gets what is left, which is right."""
    sample = puzzle(0)
    maps = heatmaps(sample['targets'])
    x, y = (sample['targets'][2] / 4).astype(int)
    maps[1] *= 0.4
    maps[1, y, x] = 0.5
    found = score([(sample, maps)])
    assert found['jigsaw/patch_acc'] == pytest.approx(11 / 12)
    assert found['jigsaw/hungarian_acc'] == 1


@pytest.mark.parametrize(
    ('centre', 'inside'),
    [
        ((60, 40), True),
        ((20, 30), True),
        ((100, 50), True),
        ((19, 40), False),
        ((60, 29), False),
        ((60, 51), False),
        ((101, 40), False),
    ],
)
def test_crops_beyond_the_photo_are_told_apart(centre: tuple[int, int], inside: bool) -> None:
    right, wrong = puzzle(0), dict(puzzle(1), input_center=np.array(centre))
    zeros = torch.zeros(12, 16, 12)
    found = score([(right, heatmaps(right['targets'])), (wrong, zeros)])
    assert found['jigsaw/patch_acc'] == 0.5
    assert found['jigsaw/patch_acc_inside'] == (0.5 if inside else 1.0)
    assert 'jigsaw/patch_acc_inside' not in score([(dict(wrong, input_center=(0, 0)), zeros)])


@pytest.mark.parametrize('mode', ['identity', 'home'])
def test_confusion_table(mode: str, tmp_path: Path) -> None:
    """Patch 3 is always mistaken for patch 5, none else is wrong."""
    file, pairs = tmp_path / 'new' / 'table.json', []
    for number in range(4):
        sample = puzzle(number, mode)
        points, order = sample['targets'].copy(), sample['jigsaw_perm']
        if mode == 'identity':  # channel 3 points at where patch 5 lies
            points[3] = points[5]
        else:  # the cell that shows patch 3 is said to show patch 5
            points[order == 3] = PatchGrid(*GRID, *SIZE).centres()[5]
        pairs.append((sample, heatmaps(points)))
    pairs.append((puzzle(9, mode), torch.zeros(12, 16, 12)))  # finds nothing, counts nowhere
    score(pairs, confusion_file=str(file))
    expected = 4 * np.eye(12, dtype=int)
    expected[3, 3], expected[3, 5] = 0, 4
    assert json.loads(file.read_text()) == expected.tolist()


@pytest.mark.parametrize('key', ['jigsaw_perm', 'jigsaw_mode', 'input_scale'])
def test_says_what_the_samples_lack(key: str) -> None:
    sample = puzzle(0)
    del sample[key]
    with refused(key='val_dataloader.dataset.pipeline', problem=key, expected='meta_keys'):
        score([(sample, torch.zeros(12, 16, 12))])


def test_says_that_heatmaps_are_needed() -> None:
    with refused(key='model.test_cfg.output_heatmaps', fix='True'):
        JigsawMetric().process(None, [puzzle(0)])


def test_says_that_channels_differ() -> None:
    with refused(key='model.head.out_channels', problem='17 heatmaps', expected='12, the patches'):
        score([(puzzle(0), torch.zeros(17, 16, 12))])


def test_half_precision_heatmaps() -> None:
    sample = puzzle(0)
    assert score([(sample, heatmaps(sample['targets']).bfloat16())])['jigsaw/patch_acc'] == 1
