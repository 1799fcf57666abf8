"""The pretext task beside MMPose's own codec, packing and loss (docs/methods/hsjp.md)."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmpose')

from mmpose.registry import KEYPOINT_CODECS, MODELS, TRANSFORMS  # noqa: E402

import kdmm  # noqa: E402, F401
from kdmm.datasets import ShufflePatches  # noqa: E402
from kdmm.datasets.puzzle import META_KEYS, generator_of  # noqa: E402
from kdmm.hooks.jigsaw import loss_levels, slot_maps  # noqa: E402
from tests.errors import refused  # noqa: E402

SIZE = (192, 256)
ORDER = np.array([6, 11, 4, 10, 2, 8, 1, 7, 9, 3, 0, 5])  # of seed 0 and id 0
WHERE = np.array([10, 6, 4, 9, 2, 11, 0, 7, 5, 8, 3, 1])  # cell of each patch


def codec(sigma: float = 2, size: tuple[int, int] = SIZE, kind: str = 'MSRAHeatmap') -> Any:
    heatmap = (size[0] // 4, size[1] // 4)
    cfg = dict(type=kind, input_size=size, heatmap_size=heatmap, sigma=sigma)
    return KEYPOINT_CODECS.build(cfg)


def painted(cell: int = 64) -> np.ndarray:
    """Each cell of a 4x3 grid in the colour of its number."""
    numbers = np.arange(12, dtype=np.uint8).reshape(4, 3)
    return np.repeat(numbers.repeat(cell, 0).repeat(cell, 1)[..., None], 3, axis=2)


def shuffled(image: np.ndarray | None = None, **options: Any) -> dict[str, Any]:
    options.setdefault('seed', 0)
    image = painted() if image is None else image
    return ShufflePatches(input_size=SIZE, **options)(dict(img=image, id=0))


def test_keys_that_it_sets_and_keeps() -> None:
    before = dict(img=painted(), id=0, bbox=np.zeros((1, 4)), flip_indices=list(range(17)))
    after = ShufflePatches(input_size=SIZE, seed=0)(dict(before))
    for key in ('id', 'bbox', 'flip_indices'):
        assert after[key] is before[key]
    assert after['jigsaw_perm'].dtype == np.int64 and np.array_equal(after['jigsaw_perm'], ORDER)
    assert after['jigsaw_grid'] == (4, 3) and after['jigsaw_mode'] == 'identity'
    for key in ('keypoints', 'transformed_keypoints'):
        assert after[key].shape == (1, 12, 2) and after[key].dtype == np.float32
    assert not np.shares_memory(after['keypoints'], after['transformed_keypoints'])
    assert after['keypoints_visible'].dtype == np.float32
    assert after['keypoints_visible'].tolist() == [[1.0] * 12]
    assert after['img'].flags.c_contiguous and after['img'].dtype == np.uint8


def test_content_lies_under_the_peak() -> None:
    after = shuffled()
    for patch, (x, y) in enumerate(after['keypoints'][0].astype(int)):
        assert after['img'][y, x, 0] == patch
    home = shuffled(mode='home')
    assert np.array_equal(home['img'], after['img'])
    for cell, (x, y) in enumerate(home['keypoints'][0].astype(int)):
        assert painted()[y, x, 0] == ORDER[cell]


def test_worked_vector() -> None:
    identity, home = (shuffled(mode=mode)['keypoints'][0] for mode in ('identity', 'home'))
    assert identity[6].tolist() == [32, 32] and identity[0].tolist() == [96, 224]
    assert home[0].tolist() == [32, 160]
    maps = codec().encode(keypoints=identity[None], keypoints_visible=np.ones((1, 12)))['heatmaps']
    assert [np.unravel_index(maps[k].argmax(), (64, 48)) for k in (6, 0)] == [(8, 8), (56, 24)]


@pytest.mark.parametrize('kind', ['MSRAHeatmap', 'UDPHeatmap'])
@pytest.mark.parametrize('mode', ['identity', 'home'])
def test_codec_gives_back_the_cells(kind: str, mode: str) -> None:
    """Encode, then MMPose's own sub-pixel decoding: the centres of the cells again."""
    after, own = shuffled(mode=mode), codec(kind=kind)
    encoded = own.encode(
        keypoints=after['transformed_keypoints'], keypoints_visible=after['keypoints_visible']
    )
    assert encoded['keypoint_weights'].tolist() == [[1.0] * 12]
    heatmaps = encoded['heatmaps']
    assert heatmaps.shape == (12, 64, 48)
    cells = WHERE if mode == 'identity' else ORDER
    for heatmap, cell in zip(heatmaps, cells, strict=True):
        row, col = divmod(int(cell), 3)
        peak = (16 * row + 8, 16 * col + 8)
        if kind == 'MSRAHeatmap':  # UDP's pixels are spaced a little wider than 4
            assert np.unravel_index(heatmap.argmax(), heatmap.shape) == peak
            assert heatmap[peak] == 1.0
    decoded, _ = own.decode(heatmaps.astype(np.float32))
    # MMPose's UDP encodes with (input - 1) and decodes with the input's size
    scale = 1 if kind == 'MSRAHeatmap' else np.array(SIZE) / (np.array(SIZE) - 1)
    np.testing.assert_allclose(decoded, after['transformed_keypoints'] * scale, atol=0.02)


@pytest.mark.parametrize(
    ('size', 'sigma', 'grid', 'zero', 'blind'),
    [
        ((192, 256), 2, (2, 2), 0.004091, 0.003068),
        ((192, 256), 2, (4, 3), 0.004091, 0.003750),
        ((192, 256), 2, (4, 4), 0.004091, 0.003835),
        ((192, 256), 2, (8, 6), 0.004083, 0.003993),
        ((288, 384), 3, (2, 2), 0.004091, 0.003068),
        ((288, 384), 3, (3, 3), 0.004091, 0.003636),
        ((288, 384), 3, (4, 3), 0.004091, 0.003750),
        ((288, 384), 3, (4, 4), 0.004091, 0.003835),
        ((288, 384), 3, (8, 6), 0.004084, 0.003994),
        ((288, 384), 2, (4, 3), 0.001818, 0.001667),
    ],
)
def test_loss_levels(
    size: tuple[int, int], sigma: float, grid: tuple[int, int], zero: float, blind: float
) -> None:
    """pi sigma^2 / (W H), times 1 - 1 / K for the mean map; 8 x 6 cuts and overlaps Gaussians.

    MMPose's own loss of these two outputs is the same.
    """
    transform = ShufflePatches(input_size=size, grid=grid, seed=3)
    slots = slot_maps(codec(sigma, size), transform.grid.centres())
    levels = loss_levels(slots, transform.prior())
    assert levels['loss_zero'] == pytest.approx(zero, abs=1e-6)
    assert levels['loss_blind'] == pytest.approx(blind, abs=1e-6)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    after = transform(dict(img=image, id=5))
    encoded = codec(sigma, size).encode(
        keypoints=after['transformed_keypoints'], keypoints_visible=after['keypoints_visible']
    )
    target = torch.from_numpy(encoded['heatmaps'])[None]
    weights = torch.from_numpy(encoded['keypoint_weights'])
    loss = MODELS.build(dict(type='KeypointMSELoss', use_target_weight=True))
    assert loss(target * 0, target, weights).item() == pytest.approx(levels['loss_zero'], abs=1e-7)
    mean = target.mean(dim=1, keepdim=True).expand_as(target)
    assert loss(mean, target, weights).item() == pytest.approx(levels['loss_blind'], abs=1e-7)


@pytest.mark.parametrize('mode', ['identity', 'home'])
@pytest.mark.parametrize('options', [dict(p_identity=0.5), dict(permutations=3), {}])
def test_prior_is_what_is_drawn(options: dict[str, Any], mode: str) -> None:
    transform = ShufflePatches(input_size=(6, 4), grid=(2, 3), mode=mode, **options)
    np.random.seed(0)
    counts = np.zeros((6, 6))
    for _ in range(4000):
        keypoints = transform(dict(img=np.zeros((4, 6, 3), np.uint8)))['keypoints'][0]
        counts[np.arange(6), transform.grid.nearest(keypoints)] += 1
    np.testing.assert_allclose(counts / 4000, transform.prior(), atol=0.04)


def test_blind_level_of_unequal_priors() -> None:
    """Numerically: no constant output has a lower expected loss than ``loss_blind``."""
    transform = ShufflePatches(input_size=SIZE, p_identity=0.3)
    prior, slots = transform.prior(), slot_maps(codec(), transform.grid.centres())
    levels = loss_levels(slots, prior)

    def expected(outputs: np.ndarray) -> float:
        return float(
            np.mean([
                sum(prior[k, s] * ((outputs[k] - slots[s]) ** 2).mean() for s in range(12))
                for k in range(12)
            ])
        )  # fmt: skip

    best = np.einsum('ks,shw->khw', prior, slots)
    assert expected(best) == pytest.approx(levels['loss_blind'], rel=1e-5)
    assert (
        expected(best * 0.9) > levels['loss_blind'] and expected(best * 1.1) > levels['loss_blind']
    )
    assert levels['loss_blind'] < 0.003750  # easier than uniform permutations


def test_training_draws_anew_and_follows_the_global_generator() -> None:
    transform = ShufflePatches(input_size=SIZE)
    draws = []
    for _ in range(2):
        np.random.seed(7)
        draws.append([transform(dict(img=painted()))['jigsaw_perm'].tolist() for _ in range(3)])
    assert draws[0] == draws[1]
    assert len({tuple(order) for order in draws[0]}) == 3


def test_validation_depends_on_the_id_and_on_nothing_else() -> None:
    options = dict(input_size=SIZE, gap=8, jitter=True, color_jitter=0.3, seed=1)
    noise = np.random.default_rng(0).integers(0, 256, (256, 192, 3), dtype=np.uint8)
    results = []
    for state, ids in ((0, (3, 9)), (1, (9, 3))):
        np.random.seed(state)
        transform = ShufflePatches(**options)  # type: ignore[arg-type]
        found = {i: transform(dict(img=noise.copy(), id=i)) for i in ids}
        results.append(found)
    for i in (3, 9):
        assert np.array_equal(results[0][i]['jigsaw_perm'], results[1][i]['jigsaw_perm'])
        assert np.array_equal(results[0][i]['img'], results[1][i]['img'])
    assert not np.array_equal(results[0][3]['jigsaw_perm'], results[0][9]['jigsaw_perm'])


def test_fixed_set_is_kept_to() -> None:
    transform = ShufflePatches(input_size=SIZE, permutations=5)
    known = {tuple(row) for row in transform.permutations.tolist()}  # type: ignore[union-attr]
    np.random.seed(0)
    seen = {tuple(transform(dict(img=painted()))['jigsaw_perm'].tolist()) for _ in range(100)}
    assert seen == known and len(known) == 5


@pytest.mark.parametrize(('p', 'low', 'high'), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_share_of_images_left_alone(p: float, low: int, high: int) -> None:
    transform = ShufflePatches(input_size=SIZE, p_identity=p)
    np.random.seed(0)
    orders = [transform(dict(img=painted()))['jigsaw_perm'] for _ in range(200)]
    assert low <= sum(np.array_equal(order, np.arange(12)) for order in orders) <= high


@pytest.mark.parametrize('jitter', [False, True])
def test_gap(jitter: bool) -> None:
    """The margin is filled, the label stays, the window comes from inside the home cell."""
    image = painted() + 100  # no pixel has the fill's colours
    after = shuffled(image, gap=8, jitter=jitter, fill=(1, 2, 3))
    filled = (after['img'] == (1, 2, 3)).all(axis=2)
    assert filled.mean() == pytest.approx(1 - 56 * 56 / 64 / 64)
    cell = filled[:64, :64]
    assert cell[:4].all() and cell[-4:].all() and cell[:, :4].all() and not cell[4:-4, 4:-4].any()
    plain = shuffled(image)
    assert np.array_equal(after['keypoints'], plain['keypoints'])
    assert np.array_equal(after['img'][~filled], plain['img'][~filled])  # one colour a cell


def test_gap_of_patches_that_are_not_square() -> None:
    """Filled with ImageNet's mean in BGR, which recolouring leaves alone."""
    image = np.full((256, 192, 3), 200, np.uint8)
    after = shuffled(image, grid=(2, 2), gap=8, color_jitter=0.2)['img']
    filled = (after == (104, 116, 124)).all(axis=2)
    cell = np.ones((128, 96), bool)
    cell[4:-4, 4:-4] = False
    assert np.array_equal(filled, np.tile(cell, (2, 2)))


def test_window_of_the_gap() -> None:
    """In the middle without jitter; anywhere in the cell with it."""
    image = np.zeros((256, 192, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(192), np.arange(256)[:, None] % 256
    corners = set()
    for number in range(60):
        transform = ShufflePatches(input_size=SIZE, gap=8, jitter=number > 0)
        after = transform(dict(img=image.copy()))
        for cell, patch in enumerate(after['jigsaw_perm']):
            row, col = divmod(cell, 3)
            home = np.array([patch % 3 * 64, patch // 3 * 64])
            corner = after['img'][64 * row + 4, 64 * col + 4, :2] - home
            corners.add((number > 0, *corner.tolist()))
    assert {corner[1:] for corner in corners if not corner[0]} == {(4, 4)}
    moved = {corner[1:] for corner in corners if corner[0]}
    assert {x for x, _ in moved} == {y for _, y in moved} == set(range(9))


def test_color_jitter() -> None:
    image = np.full((256, 192, 3), 100, np.uint8)
    np.random.seed(0)
    after = ShufflePatches(input_size=SIZE, color_jitter=0.3)(dict(img=image))['img']
    colours = {after[64 * r : 64 * r + 64, 64 * c : 64 * c + 64].mean() for r in range(4) for c in range(3)}  # fmt: skip  # noqa: E501
    assert len(colours) > 6 and min(colours) >= 70 and max(colours) <= 130
    noise = np.random.default_rng(0).integers(0, 256, (256, 192, 3), dtype=np.uint8)
    transform = ShufflePatches(input_size=SIZE, color_jitter=1.0, permutations=[list(range(12))])
    spread = transform(dict(img=noise))['img'].reshape(4, 64, 3, 64, 3).std(axis=(1, 3, 4))
    assert spread.max() / spread.min() > 1.5  # contrast differs


def test_color_jitter_of_each_patch() -> None:
    """Contrast about the patch's own mean, brightness after it, cut off at the ends."""
    random = np.random.default_rng(0)
    means = np.arange(20, 260, 20).reshape(4, 1, 3, 1, 1)
    noise = random.integers(-20, 20, (4, 64, 3, 64, 3))
    image = (means + noise).clip(0, 255).reshape(256, 192, 3).astype(np.uint8)
    transform = ShufflePatches(
        input_size=SIZE, color_jitter=0.5, permutations=[list(range(12))], seed=0
    )
    after = transform(dict(img=image, id=3))['img']
    generator = generator_of(0, 3)
    generator.randint(1)  # the permutation of the set
    factors = generator.uniform(0.5, 1.5, (2, 12))
    for cell, (brightness, contrast) in enumerate(factors.T):
        row, col = divmod(cell, 3)
        place = np.s_[64 * row : 64 * row + 64, 64 * col : 64 * col + 64]
        mean = image[place].mean()
        expected = (mean + (image[place] - mean) * contrast) * brightness
        assert np.array_equal(after[place], np.clip(np.round(expected), 0, 255)), cell


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (dict(grid=(3, 3)), dict(problem='256')),
        (dict(gap=7), dict(expected=('even', '64x64'))),
        (dict(gap=32), {}),
        (dict(gap=-2), {}),
        (dict(jitter=True), dict(problem='without a gap')),
        (dict(mode='houme'), dict(expected='home')),
        (dict(p_identity=1.5), dict(expected='0 to 1')),
        (dict(color_jitter=-0.1), dict(expected='0 to 1')),
        (dict(permutations=[[0, 1]]), dict(expected='0 to 11')),
    ],
)
def test_refuses_what_cannot_be(options: dict[str, Any], told: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with refused(key=f'ShufflePatches.{key}', got=value, **told):
        ShufflePatches(input_size=SIZE, **options)


def test_refuses_images_of_another_size() -> None:
    key = 'ShufflePatches.input_size'
    with refused(key=key, got=(192, 256), problem='480x640', fix='TopdownAffine'):
        ShufflePatches(input_size=SIZE)(dict(img=np.zeros((640, 480, 3), np.uint8)))


def test_whole_pipeline() -> None:
    """From a photo with 17 joints to what MMPose's estimator takes."""
    own = dict(type='MSRAHeatmap', input_size=SIZE, heatmap_size=(48, 64), sigma=2)
    steps = [
        dict(type='GetBBoxCenterScale'),
        dict(type='RandomFlip', direction='horizontal', prob=1.0),
        dict(type='RandomBBoxTransform', scale_factor=(0.75, 1.25), rotate_factor=30),
        dict(type='TopdownAffine', input_size=SIZE),
        dict(type='kdmm.ShufflePatches', input_size=SIZE),
        dict(type='GenerateTarget', encoder=own),
        dict(type='PackPoseInputs', meta_keys=('id', 'flip_indices', *META_KEYS)),
    ]
    results: Any = dict(
        img=np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8),
        img_shape=(480, 640),
        id=1,
        bbox=np.array([[100, 80, 300, 400]], np.float32),
        bbox_score=np.ones(1, np.float32),
        keypoints=np.random.default_rng(1).uniform(80, 300, (1, 17, 2)).astype(np.float32),
        keypoints_visible=np.ones((1, 17), np.float32),
        flip_indices=list(range(17)),
    )
    for step in steps:
        results = TRANSFORMS.build(step)(results)
    sample = results['data_samples']
    assert results['inputs'].shape == (3, 256, 192)
    assert sample.gt_fields.heatmaps.shape == (12, 64, 48)
    assert sample.gt_instance_labels.keypoint_weights.tolist() == [[1.0] * 12]
    assert sample.gt_instances.keypoints.shape == (1, 12, 2)
    assert sorted(sample.metainfo['jigsaw_perm'].tolist()) == list(range(12))
