"""The pretext task of jigsaw pretraining, as a transform (needs mmcv)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from kdmm.datasets.puzzle import PatchGrid, generator_of, permutation_set
from kdmm.errors import ConfigError, about, listed
from kdmm.registry import TRANSFORMS

FILL = (104, 116, 124)
"""ImageNet's mean, BGR: about 0 after MMPose's normalisation."""

MODES = ('identity', 'home')


@TRANSFORMS.register_module()
class ShufflePatches(BaseTransform):
    """Shuffles the patches of a person crop and asks where each of them is.

    Our reconstruction of heatmap-style jigsaw puzzles (arXiv 2012.07101; 10.1145/3475723.3484252):
    the papers' abstracts state the task; grid, label convention and everything below are chosen by
    us. It stands behind ``TopdownAffine`` and before ``GenerateTarget``. Patches take the place of
    joints, so codec, head, loss and estimator are MMPose's own, with ``out_channels=K``.

    Required keys: ``img`` (h, w, 3) uint8; ``id`` if ``seed`` is given.

    Set: ``img``; ``transformed_keypoints`` and ``keypoints`` (1, K, 2) float32, pixels of the
    input; ``keypoints_visible`` (1, K) of ones; ``jigsaw_perm`` (K,) int64, cell ``s`` shows patch
    ``jigsaw_perm[s]``; ``jigsaw_grid``; ``jigsaw_mode``. The metric reads the last three, so
    ``PackPoseInputs`` has them in its ``meta_keys``.

    Args:
        input_size: Width and height of ``img``, as ``TopdownAffine`` has it.
        grid: Rows and columns; K is their product.
        mode: ``'identity'``: channel k marks the cell where patch k now lies. ``'home'``: channel s
            marks the cell from which what cell s shows came.
        gap: Pixels, even, below half a patch: the patch is cut down by so much and lies in the
            middle of its cell, so that edges do not continue in a neighbour.
        jitter: With a gap, cut the patch at a random place of its cell instead of the middle.
        fill: Colour of the gap, BGR.
        p_identity: Share of images that stay as they are.
        permutations: A fixed set to draw from: a list of permutations, or how many.
        color_jitter: c: brightness and contrast of each patch are multiplied by factors drawn from
            [1 - c, 1 + c].
        seed: Makes the permutation a function of (seed, ``id``), for validation. None draws
            from NumPy's global generator.

    Raises:
        ConfigError: For a grid that does not divide the input and other values that cannot be.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        grid: tuple[int, int] = (4, 3),
        mode: str = 'identity',
        gap: int = 0,
        jitter: bool = False,
        fill: Sequence[int] = FILL,
        p_identity: float = 0.0,
        permutations: int | Sequence[Sequence[int]] | None = None,
        color_jitter: float = 0.0,
        seed: int | None = None,
    ) -> None:
        with about('ShufflePatches'):
            self.grid = PatchGrid(*grid, *input_size)
            if mode not in MODES:
                raise ConfigError(key='mode', got=mode, expected=f'one of {listed(MODES)}')
            if not 0 <= gap < min(self.grid.patch) / 2 or gap % 2:
                raise ConfigError(
                    key='gap',
                    got=gap,
                    expected='an even number of pixels from 0 to below half a patch, which has '
                    f'{self.grid.patch[0]}x{self.grid.patch[1]} pixels',
                )
            if jitter and not gap:
                raise ConfigError('there is no room for it without a gap', key='jitter', got=jitter)
            for name, value in dict(p_identity=p_identity, color_jitter=color_jitter).items():
                if not 0 <= value <= 1:
                    raise ConfigError(key=name, got=value, expected='0 to 1')
            self.mode, self.gap, self.jitter = mode, gap, jitter
            self.fill = np.asarray(fill, np.uint8)
            self.p_identity, self.color_jitter, self.seed = p_identity, color_jitter, seed
            self.permutations = (
                None if permutations is None else permutation_set(self.grid.count, permutations)
            )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Shuffle ``results['img']`` and set what the codec and the metric read."""
        image = results['img']
        if image.shape[:2] != (self.grid.height, self.grid.width):
            raise ConfigError(
                f'an image has {image.shape[1]}x{image.shape[0]} pixels (w x h)',
                key='ShufflePatches.input_size',
                got=(self.grid.width, self.grid.height),
                fix='Put ShufflePatches behind TopdownAffine, and give it the same input_size.',
            )
        random = np.random if self.seed is None else generator_of(self.seed, results['id'])
        order = self._draw(random)
        targets = self.grid.centres()[np.argsort(order) if self.mode == 'identity' else order]
        results['img'] = self._shuffle(image, order, random)
        results['keypoints'] = targets[None]
        results['transformed_keypoints'] = targets[None].copy()
        results['keypoints_visible'] = np.ones((1, self.grid.count), np.float32)
        results['jigsaw_perm'] = order
        results['jigsaw_grid'] = (self.grid.rows, self.grid.cols)
        results['jigsaw_mode'] = self.mode
        return results

    def _draw(self, random: Any) -> np.ndarray:
        """A permutation (K,) int64."""
        if self.permutations is None:
            order = random.permutation(self.grid.count)
        else:
            order = self.permutations[random.randint(len(self.permutations))]
        if self.p_identity and random.random_sample() < self.p_identity:
            order = np.arange(self.grid.count)
        return order.astype(np.int64)

    def _shuffle(self, image: np.ndarray, order: np.ndarray, random: Any) -> np.ndarray:
        patches = self.grid.split(image)[order]  # (K, ph, pw, 3), a copy
        if self.color_jitter:
            patches = self._recolour(patches, random)
        if self.gap:
            patches = self._cut(patches, random)
        return self.grid.join(patches)

    def _recolour(self, patches: np.ndarray, random: Any) -> np.ndarray:
        low, high = 1 - self.color_jitter, 1 + self.color_jitter
        brightness, contrast = random.uniform(low, high, (2, len(patches), 1, 1, 1))
        mean = patches.mean(axis=(1, 2, 3), keepdims=True)
        changed = (mean + (patches - mean) * contrast) * brightness
        return changed.round().clip(0, 255).astype(np.uint8)

    def _cut(self, patches: np.ndarray, random: Any) -> np.ndarray:
        """A window of each patch in the middle of a cell of the fill colour."""
        half, (width, height) = self.gap // 2, self.grid.patch
        corners = np.full((len(patches), 2), half)
        if self.jitter:
            corners = random.randint(0, self.gap + 1, corners.shape)
        cells = np.empty_like(patches)
        cells[:] = self.fill
        for cell, patch, (left, top) in zip(cells, patches, corners, strict=True):
            cell[half : height - half, half : width - half] = patch[
                top : top + height - self.gap, left : left + width - self.gap
            ]
        return cells

    def prior(self) -> np.ndarray:
        """Return the probability, (K, K), that channel k has its peak in cell s, of any image."""
        count = self.grid.count
        rows = np.full((count, count), 1 / count)
        if self.permutations is not None:
            cells = (
                np.argsort(self.permutations, 1) if self.mode == 'identity' else self.permutations
            )
            rows = (cells[..., None] == np.arange(count)).mean(axis=0)
        return self.p_identity * np.eye(count) + (1 - self.p_identity) * rows
