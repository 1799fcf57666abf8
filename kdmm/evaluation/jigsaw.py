"""Metrics of solved jigsaw puzzles."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor

from kdmm.datasets.puzzle import META_KEYS, PatchGrid
from kdmm.errors import ConfigError
from kdmm.registry import METRICS


@METRICS.register_module()
class JigsawMetric(BaseMetric):
    """Share of patches that are placed right, and distance of the peaks from their targets.

    Reads the heatmaps (``model.test_cfg`` with ``output_heatmaps=True``), not the keypoints, which
    MMPose maps back to the photo. A channel's peak is the maximum of its heatmap; one that is not
    positive counts as wrong and as a miss of every PCK, and stays out of ``mre``. Peaks are whole
    pixels of the heatmap, times its stride, as ``MSRAHeatmap`` has it; ``UDPHeatmap`` spaces them a
    little wider, so that there a perfect network has an ``mre`` of a few pixels.

    - ``patch_acc``: share of channels whose peak lies in the right cell. A blind network has
      ``chance``, 1 / K, on uniform permutations, and more with ``p_identity`` or a small set of
      them; an all-zero one has 0.
    - ``patch_acc_inside``: the same, of crops that lie fully inside the photo: the black of
      the others tells border patches apart. Missing where there is none.
    - ``puzzle_acc``: share of images with all patches right.
    - ``hungarian_acc``: as ``patch_acc``, of the one-to-one assignment that maximises the sum of
      the heatmaps at the cells' centres.
    - ``PCK@a``: share of peaks within ``a`` times the smaller side of a patch.
    - ``mre``: mean distance of the peaks in pixels of the input.

    Args:
        pck: The values of ``a``.
        hungarian: Whether to compute ``hungarian_acc`` (needs SciPy).
        confusion_file: JSON file for the (K, K) counts: row, the patch that a channel should have
            found; column, the one it found.
        collect_device: As ``BaseMetric``.
        prefix: As ``BaseMetric``.

    Raises:
        ConfigError: If the samples lack heatmaps or the puzzle.
    """

    default_prefix = 'jigsaw'

    def __init__(
        self,
        pck: Sequence[float] = (0.1, 0.25, 0.5),
        hungarian: bool = False,
        confusion_file: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.pck, self.hungarian, self.confusion_file = tuple(pck), hungarian, confusion_file

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep a few numbers of each sample."""
        for sample in data_samples:
            check_sample(sample)
            self.results.append(self._result(sample))

    def _result(self, sample: dict[str, Any]) -> dict[str, Any]:
        heatmaps = sample['pred_fields']['heatmaps']  # (K, H, W)
        grid = PatchGrid(*sample['jigsaw_grid'], *sample['input_size'])
        order = np.asarray(sample['jigsaw_perm'])
        targets = np.argsort(order) if sample['jigsaw_mode'] == 'identity' else order
        peaks, found = peaks_of(heatmaps, grid)
        cells = grid.nearest(peaks)
        result = dict(
            right=found & (cells == targets),
            distance=np.where(
                found, np.linalg.norm(peaks - grid.centres()[targets], axis=1), np.inf
            ),
            patch=min(grid.patch),
            inside=lies_inside(sample),
            confusion=self._confusion(sample, targets, np.where(found, cells, -1), order),
        )
        if self.hungarian:
            result['assigned'] = assign(heatmaps, grid) == targets
        return result

    @staticmethod
    def _confusion(
        sample: dict[str, Any], targets: np.ndarray, cells: np.ndarray, order: np.ndarray
    ) -> np.ndarray:
        """(K, 2): the patch that each channel should have found, the one it found (-1: none)."""
        if sample['jigsaw_mode'] == 'home':  # channels are cells, and the peaks lie at homes
            return np.stack([targets, cells], axis=1)
        return np.stack([order[targets], np.where(cells < 0, -1, order[cells])], axis=1)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over all samples."""
        right = np.stack([one['right'] for one in results])  # (N, K)
        distance = np.stack([one['distance'] for one in results])
        limit = np.array([[one['patch']] for one in results])
        inside = np.array([one['inside'] for one in results])
        found = np.isfinite(distance)
        metrics = dict(patch_acc=right.mean(), puzzle_acc=right.all(axis=1).mean())
        if inside.any():
            metrics['patch_acc_inside'] = right[inside].mean()
        if self.hungarian:
            metrics['hungarian_acc'] = np.mean([one['assigned'] for one in results])
        metrics.update({f'PCK@{a:g}': (distance <= a * limit).mean() for a in self.pck})
        if found.any():
            metrics['mre'] = distance[found].mean()
        metrics['chance'] = 1 / right.shape[1]
        if self.confusion_file:
            self._write(np.concatenate([one['confusion'] for one in results]), right.shape[1])
        return {name: float(value) for name, value in metrics.items()}

    def _write(self, pairs: np.ndarray, count: int) -> None:
        table = np.zeros((count, count), int)
        seen = pairs[pairs[:, 1] >= 0]
        np.add.at(table, (seen[:, 0], seen[:, 1]), 1)
        path = Path(str(self.confusion_file))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table.tolist()))


def peaks_of(heatmaps: Tensor, grid: PatchGrid) -> tuple[np.ndarray, np.ndarray]:
    """Find the maxima (K, 2) of heatmaps (K, H, W) in input pixels, and which are positive (K,).

    Raises:
        ConfigError: If there is not one heatmap a patch.
    """
    if len(heatmaps) != grid.count:
        raise ConfigError(
            f'the model gives {len(heatmaps)} heatmaps',
            key='model.head.out_channels',
            expected=f'{grid.count}, the patches of a grid of {grid.rows}x{grid.cols}',
        )
    height, width = heatmaps.shape[1:]
    value, index = heatmaps.detach().float().flatten(1).max(dim=1)
    row, col = np.divmod(index.cpu().numpy(), width)
    stride = np.array([grid.width / width, grid.height / height])
    return np.stack([col, row], axis=1) * stride, (value > 0).cpu().numpy()


def cells_of(heatmaps: Tensor, grid: PatchGrid) -> tuple[np.ndarray, np.ndarray]:
    """Find the cell (K,) of each heatmap's maximum, and which maxima are positive (K,)."""
    peaks, found = peaks_of(heatmaps, grid)
    return grid.nearest(peaks), found


def assign(heatmaps: Tensor, grid: PatchGrid) -> np.ndarray:
    """Assign a cell (K,) to each channel, one to one, by the largest sum of heatmaps at centres."""
    from scipy.optimize import linear_sum_assignment

    height, width = heatmaps.shape[1:]
    centres = grid.centres() * (width / grid.width, height / grid.height)
    col, row = centres.round().astype(int).T
    scores = heatmaps.detach().float().cpu().numpy()[:, row, col]  # (channel, cell)
    return linear_sum_assignment(scores, maximize=True)[1]


def lies_inside(sample: dict[str, Any]) -> bool:
    """Return whether the unrotated crop of validation lies inside the photo."""
    centre, half = np.asarray(sample['input_center']), np.asarray(sample['input_scale']) / 2
    height, width = sample['ori_shape'][:2]
    return bool((centre >= half).all() and (centre + half <= (width, height)).all())


def check_sample(sample: dict[str, Any]) -> None:
    """Refuse a data sample, as a dict, without heatmaps or without its puzzle.

    Raises:
        ConfigError: Says what to set.
    """
    missing = [
        key
        for key in (*META_KEYS, 'input_size', 'input_center', 'input_scale', 'ori_shape')
        if key not in sample
    ]
    if missing:
        raise ConfigError(
            f'the data samples do not say {", ".join(missing)}',
            key='val_dataloader.dataset.pipeline',
            expected='kdmm.ShufflePatches, and PackPoseInputs with these names in its meta_keys',
        )
    if 'heatmaps' not in sample.get('pred_fields', {}):
        raise ConfigError(
            'JigsawMetric reads heatmaps',
            key='model.test_cfg.output_heatmaps',
            fix='Set it to True.',
        )
