"""Two images of a sample: loaded, treated alike, packed; and colours taken apart."""

import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmcv')
mmpretrain = pytest.importorskip('mmpretrain')

from mmcv.transforms import BaseTransform, Compose  # noqa: E402
from mmengine.registry import DefaultScope, init_default_scope  # noqa: E402

import kdmm  # noqa: E402, F401
from kdmm.datasets import BothImages, ToChrominance, ToLuminance  # noqa: E402
from kdmm.distillers.views import Views  # noqa: E402
from kdmm.registry import TRANSFORMS  # noqa: E402
from tests.errors import refused  # noqa: E402

HEIGHT, WIDTH = 24, 32
FLIP = dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical'])


@pytest.fixture(autouse=True)
def scope() -> Any:
    before = DefaultScope.get_current_instance()
    init_default_scope('mmpretrain')
    yield
    if before is not None:
        init_default_scope(before.scope_name)


def grid() -> np.ndarray:
    """An image whose pixels say where they are, (H, W, 3) uint8; no pixel is black."""
    y, x = np.mgrid[1 : HEIGHT + 1, 1 : WIDTH + 1]
    return np.stack([y, x, y + x], -1).astype(np.uint8)


def sample(**more: Any) -> dict[str, Any]:
    return dict(img=grid(), img2=grid()[..., :1].astype(np.int32) * 300, img_shape=(HEIGHT, WIDTH),
                gt_label=3, **more)  # fmt: skip


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.mark.parametrize(
    'transforms',
    [
        [FLIP],
        [dict(type='RandomCrop', crop_size=16, padding=4), FLIP],
        [dict(type='Resize', scale=(20, 20), interpolation='nearest'), FLIP],
        [dict(type='RandomResizedCrop', scale=16, interpolation='nearest'), FLIP],
        [dict(type='mmseg.RandomRotFlip', rotate_prob=0.0, flip_prob=0.7)],  # draws unmarked
        [dict(type='Rotate', angle=30.0, prob=0.5, interpolation='nearest')],
        [dict(type='RandAugment', num_policies=2, total_level=10, magnitude_level=9, policies=[
            dict(type='Translate', magnitude_range=(0, 0.4), direction='horizontal',
                 interpolation='nearest'),
            dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical',
                 interpolation='nearest')])],
    ],
    ids=lambda transforms: '+'.join(item['type'] for item in transforms),
)  # fmt: skip
def test_both_images_are_treated_alike(transforms):
    """The second image is 300 times the row that the first one's first channel says."""
    if 'mmseg' in transforms[0]['type']:
        pytest.importorskip('mmseg')
    wrapper, shown = BothImages(transforms), set()
    for number in range(12):
        seed(number)
        found = wrapper(sample(seg_fields=[]))
        first, second = found['img'].astype(np.int64), np.atleast_3d(found['img2'])[..., 0]
        inside = (first[..., 0] > 0) & (second > 0) & (first != 128).any(-1)
        assert first.shape[:2] == second.shape and inside.mean() > 0.2
        filled = (first[..., 0] == 128) & (second == 128)  # where there is no image
        assert np.array_equal(second[~filled], 300 * first[..., 0][~filled])
        shown.add(first.tobytes())
    assert len(shown) > 1, 'nothing was drawn'


def test_the_image_and_the_random_numbers_are_as_without():
    transforms = [dict(type='RandomCrop', crop_size=16, padding=4), FLIP]
    results = []
    for step in (BothImages(transforms), Compose(transforms)):
        seed(5)
        found = step(sample())
        results.append((found, random.random(), np.random.rand(), torch.rand(1).item()))
    (both, *after), (plain, *expected) = results
    assert after == expected
    assert np.array_equal(both['img'], plain['img']) and both['gt_label'] == 3
    assert {key: value for key, value in both.items() if key not in ('img', 'img2')} == {
        key: value for key, value in plain.items() if key not in ('img', 'img2')
    }


def test_draws_by_annotations_are_the_same():
    """MMSegmentation draws a crop again where one class fills it."""
    pytest.importorskip('mmseg')
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:6, :6] = 1
    crop = dict(type='mmseg.RandomCrop', crop_size=(12, 12), cat_max_ratio=0.9)
    for number in range(8):
        seed(number)
        found = BothImages([crop])(sample(gt_seg_map=labels.copy(), seg_fields=['gt_seg_map']))
        assert np.array_equal(found['img2'][..., 0], 300 * found['img'][..., 0].astype(np.int32))
        rows = found['img'][:, 0, 0] - 1
        assert np.array_equal(found['gt_seg_map'], labels[rows][:, found['img'][0, :, 1] - 1])


@TRANSFORMS.register_module(force=True)
class FlipBright(BaseTransform):
    """Draws by the pixels."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results['flip'] = bool(results['img'].max() > 255)
        return results


@TRANSFORMS.register_module(force=True)
class GiveUp(BaseTransform):
    def transform(self, results: dict[str, Any]) -> None:
        return None


class Albumentations(BaseTransform):
    """Stands for MMPretrain's and MMSegmentation's, which need a library of their own."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        return results


def test_what_cannot_be_shared_is_refused():
    with refused(key='BothImages.transforms', problem=("'flip'", "'img2'")):
        BothImages([dict(type='kdmm.FlipBright')])(sample())
    with refused(key='BothImages.transforms', got='Albumentations'):
        BothImages([Albumentations()])
    with refused(key='BothImages.key', got='depth', fix='KeyMapper'):
        BothImages([FLIP], key='depth')(sample())
    with refused(key='BothImages', problem=('24 x 32', '24 x 30', 'a.png')):
        BothImages([FLIP])({**sample(img_path='a.png'), 'img2': grid()[:, :30]})
    assert BothImages([dict(type='kdmm.GiveUp')])(sample()) is None


def write_pairs(root: Path, count: int = 3) -> None:
    """``rgb/<i>.png``, ``depth/<i>.png`` of 16 bits, and ``pairs.json``."""
    rows = []
    for folder in ('rgb', 'depth'):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image = np.roll(grid(), index, 1)
        cv2.imwrite(str(root / f'rgb/{index}.png'), image)
        cv2.imwrite(str(root / f'depth/{index}.png'), image[..., 1].astype(np.uint16) * 300)
        rows.append(dict(img_path=f'{index}.png', img2_path=f'{index}.png', gt_label=index % 2))
    content = dict(metainfo=dict(classes=['a', 'b']), data_list=rows)
    (root / 'pairs.json').write_text(json.dumps(content))


PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(
        type='KeyMapper',
        mapping=dict(img_path='img2_path'),
        remapping=dict(img='img2'),
        transforms=[dict(type='LoadImageFromFile', color_type='unchanged')],
    ),
    dict(
        type='kdmm.BothImages', transforms=[dict(type='RandomCrop', crop_size=16, padding=4), FLIP]
    ),
    dict(
        type='PackInputs',
        meta_keys=('sample_idx', 'img_path', 'img_shape', 'flip', 'flip_direction', 'img2'),
    ),
]


def test_pairs_of_files_arrive_packed(tmp_path: Path):
    """Stock data set, loader and packing; a teacher's view reads what comes."""
    from mmpretrain.registry import DATASETS

    write_pairs(tmp_path)
    prefix = dict(img_path='rgb', img2_path='depth')
    dataset = DATASETS.build(dict(type='BaseDataset', data_root=str(tmp_path), data_prefix=prefix,
                                  ann_file='pairs.json', pipeline=PIPELINE))  # fmt: skip
    for index in range(len(dataset)):
        seed(index)
        item = dataset[index]
        inputs, packed = item['inputs'], item['data_samples']
        assert inputs.shape == (3, 16, 16) and packed.sample_idx == index
        view = Views(dict(type='SecondImage', channels=1), 'here')
        depth = view(inputs[None].float(), [packed])
        assert torch.equal(depth[0, 0], inputs[1].float() * 300)


# colours taken apart


def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    'step, view',
    [
        (ToLuminance(1), dict(type='Luminance', channels=1)),
        (ToLuminance(), dict(type='Luminance')),
        (ToChrominance(), dict(type='Chrominance')),
    ],
)
def test_the_pipeline_gives_what_the_view_gives_to_the_bit(step, view):
    bgr = colours()
    found = step(dict(img=bgr))['img']
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    expected = Views(view, 'here')(rgb, None)[0].permute(1, 2, 0)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert np.array_equal(found, expected.numpy())


def test_chroma_is_opencvs_within_its_table():
    bgr = colours()
    theirs = cv2.cvtColor((bgr / 255).astype(np.float32), cv2.COLOR_BGR2Lab)[..., 1:] + 128
    assert np.abs(ToChrominance()(dict(img=bgr))['img'] - theirs).max() < 0.5
    other = ToChrominance(bgr=False)(dict(img=bgr[..., ::-1]))['img']
    assert np.array_equal(other, ToChrominance()(dict(img=bgr))['img'])


def test_the_image_stays_where_asked_for():
    bgr = colours()
    found = ToChrominance(keep='img2')(dict(img=bgr))
    assert found['img2'] is bgr and found['img'].shape == (HEIGHT, WIDTH, 2)
    assert set(ToChrominance()(dict(img=bgr))) == {'img'}


def test_pipelines_of_colours_refuse():
    with refused(key='ToChrominance', problem='(24, 32)', expected='three channels'):
        ToChrominance()(dict(img=colours()[..., 0]))
    with refused(key='ToLuminance.channels', got=2):
        ToLuminance(2)
    with refused(key='ToChrominance.keep', got='img'):
        ToChrominance(keep='img')
