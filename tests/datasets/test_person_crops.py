"""Persons from boxes alone, and from a folder of crops."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmpose')

from mmpose.registry import TRANSFORMS  # noqa: E402

import kdmm  # noqa: E402, F401
from kdmm.datasets import PersonCropDataset  # noqa: E402
from tests.errors import refused  # noqa: E402

PIPELINE = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal', prob=1.0),
    dict(type='RandomBBoxTransform', scale_factor=(0.75, 1.25), rotate_factor=30),
    dict(type='TopdownAffine', input_size=(48, 64)),
    dict(type='kdmm.ShufflePatches', input_size=(48, 64)),
    dict(
        type='GenerateTarget',
        encoder=dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=1),
    ),
    dict(type='PackPoseInputs'),
]


def pipeline() -> list[Any]:
    return [TRANSFORMS.build(step) for step in PIPELINE]


def write(root: Path, annotations: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A picture of 100x80 and its annotations; arguments of the data set."""
    (root / 'img').mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    cv2.imwrite(str(root / 'img' / 'a.png'), picture)
    content = dict(
        images=[dict(id=1, file_name='a.png', width=100, height=80)],
        categories=[dict(id=1, name='person'), dict(id=2, name='dog')],
        annotations=[
            dict(dict(id=number, image_id=1, category_id=1, iscrowd=0), **annotation)
            for number, annotation in enumerate(annotations, start=10)
        ],
    )
    (root / 'boxes.json').write_text(json.dumps(dict(content, **more)))
    return dict(data_root=str(root), ann_file='boxes.json', data_prefix=dict(img='img/'))


def test_a_box_is_enough(tmp_path: Path) -> None:
    where = write(
        tmp_path,
        [
            dict(bbox=[10, 10, 30, 60], segmentation=[[10, 10, 40, 10, 40, 70]]),
            dict(bbox=[50, 10, 30, 60], keypoints=[0] * 51, num_keypoints=0),
            dict(bbox=[50, 10, 30, 60], keypoints=[9, 9, 2] * 17, num_keypoints=17),
            dict(bbox=[10, 10, 30, 60], category_id=2),
            dict(bbox=[10, 10, 30, 60], iscrowd=1, segmentation=dict(counts=[], size=[80, 100])),
            dict(bbox=[10, 10, 0, 60]),
            dict(keypoints=[9, 9, 2] * 17, num_keypoints=17),
        ],
    )
    data = PersonCropDataset(**where, pipeline=pipeline())
    assert [data.get_data_info(i)['id'] for i in range(len(data))] == [10, 11, 12]
    assert data.get_data_info(0)['bbox'].tolist() == [[10, 10, 40, 70]]
    assert 'segmentation' not in data.get_data_info(0)['raw_ann_info']  # memory
    sample = data[0]['data_samples']
    assert sample.gt_fields.heatmaps.shape == (12, 16, 12)


def test_small_persons_are_left_out(tmp_path: Path) -> None:
    where = write(tmp_path, [dict(bbox=[0, 0, 30, 60]), dict(bbox=[0, 0, 20, 60])])
    assert len(PersonCropDataset(**where, min_size=20)) == 2
    assert len(PersonCropDataset(**where, min_size=21)) == 1
    with refused(problem=('no box of category', 'at least 31x31')):
        PersonCropDataset(**where, min_size=31)


def test_folder_of_crops(tmp_path: Path) -> None:
    (tmp_path / 'crops' / 'b').mkdir(parents=True)
    for name, size in (('b/x.jpg', (40, 20)), ('a.PNG', (64, 48)), ('tiny.png', (2, 9))):
        cv2.imwrite(str(tmp_path / 'crops' / name), np.full((*size, 3), 7, np.uint8))
    (tmp_path / 'crops' / 'notes.txt').write_text('no picture')
    data = PersonCropDataset(
        data_root=str(tmp_path), data_prefix=dict(img='crops'), pipeline=pipeline(), min_size=4
    )
    assert [Path(data.get_data_info(i)['img_path']).name for i in range(2)] == ['a.PNG', 'x.jpg']
    assert data.get_data_info(1)['bbox'].tolist() == [[0, 0, 20, 40]]
    assert len({data.get_data_info(i)['id'] for i in range(2)}) == 2
    assert data[1]['inputs'].shape == (3, 64, 48)


@pytest.mark.parametrize(('orientation', 'turned'), [(1, False), (3, False), (6, True)])
def test_box_of_a_turned_picture(tmp_path: Path, orientation: int, turned: bool) -> None:
    """The box is the picture as it is loaded: OpenCV turns it, its header says how."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (20, 40)).save(tmp_path / 'a.jpg', exif=exif)
    data = PersonCropDataset(data_root=str(tmp_path), data_prefix=dict(img=''))
    info = data.get_data_info(0)
    loaded = TRANSFORMS.build(dict(type='LoadImage'))(info)
    assert loaded['img_shape'] == ((20, 40) if turned else (40, 20))
    assert info['bbox'].tolist() == [[0, 0, *loaded['img_shape'][::-1]]]


@pytest.mark.parametrize('annotations', [[], [dict(keypoints=[9, 9, 2] * 17, num_keypoints=17)]])
def test_annotations_without_boxes(tmp_path: Path, annotations: list[dict[str, Any]]) -> None:
    where = write(tmp_path, annotations)
    with refused(key=str(tmp_path / 'boxes.json'), problem="no box of category 'person'"):
        PersonCropDataset(**where)


def test_annotations_without_the_category(tmp_path: Path) -> None:
    where = write(tmp_path, [dict(bbox=[10, 10, 30, 60])])
    with refused(key=str(tmp_path / 'boxes.json'), problem="no category 'cat'; it has dog, person"):
        PersonCropDataset(**where, category='cat')


def test_missing_pictures(tmp_path: Path) -> None:
    images = [dict(id=i, file_name=f'{i}.png', width=9, height=9) for i in range(4)]
    boxes = [dict(bbox=[0, 0, 9, 9], image_id=i) for i in range(4)]
    where = write(tmp_path, boxes, images=images)
    with refused(
        key=str(tmp_path / 'boxes.json'),
        problem=('4 of 4 pictures are not there', '0.png'),
        fix='data_prefix.img',
    ):
        PersonCropDataset(**where)


def test_no_folder_no_picture_no_image(tmp_path: Path) -> None:
    prefix = dict(data_root=str(tmp_path), data_prefix=dict(img='crops'))
    with refused(key='data_prefix.img', got=str(tmp_path / 'crops'), problem='no such folder'):
        PersonCropDataset(**prefix)
    (tmp_path / 'crops').mkdir()
    with refused(key=str(tmp_path / 'crops'), problem='no picture of'):
        PersonCropDataset(**prefix)
    (tmp_path / 'crops' / 'broken.jpg').write_bytes(b'nothing')
    with refused(key=str(tmp_path / 'crops' / 'broken.jpg'), problem='is no picture'):
        PersonCropDataset(**prefix)


@pytest.mark.parametrize(('ids', 'told'), [((5, 5), 'first id 5'), ((5, 6), '')])
def test_each_picture_has_its_own_box(tmp_path: Path, ids: tuple[int, int], told: str) -> None:
    """COCO's reader would give both the last box of that id."""
    images = [dict(id=i, file_name='a.png', width=100, height=80) for i in (1, 2)]
    boxes = [
        dict(id=number, image_id=image, bbox=[x, 10, 30, 60])
        for image, (number, x) in enumerate(zip(ids, (10, 60), strict=True), start=1)
    ]
    where = write(tmp_path, boxes, images=images)
    if told:
        file = str(tmp_path / 'boxes.json')
        with refused(key=f'{file!r}: annotations', problem=told):
            PersonCropDataset(**where)
    else:
        data = PersonCropDataset(**where)
        found = [data.get_data_info(i)['bbox'][0, 0] for i in range(2)]
        assert found == [10, 60]
