"""Ids that repeat, and names that a file does not have, are refused with the id or the nearest."""

import copy
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from kdmm.datasets import coco_files
from kdmm.datasets.coco_files import check_class_names, check_coco, check_coco_file
from kdmm.engine import Runner, check_data
from tests.errors import refused


def content() -> dict[str, Any]:
    """Two images with a box each."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=90, height=60) for i in (1, 2)],
        annotations=[
            dict(id=i, image_id=i, category_id=1, bbox=[i, 2, 3, 4], area=12, iscrowd=0)
            for i in (1, 2)
        ],
        categories=[dict(id=1, name='cat'), dict(id=2, name='zebra')],
    )


def changed(part: str, index: int, **entry: Any) -> dict[str, Any]:
    made = content()
    made[part][index].update(entry)
    return made


@pytest.mark.parametrize(
    ('wrong', 'key', 'told'),
    [
        (
            changed('annotations', 1, id=1),
            'x: annotations',
            ('1 id(s) repeat, first id 1,', 'stands 2 times'),
        ),
        (changed('images', 1, id=1), 'x: images', 'first id 1, which stands 2 times'),
        (changed('categories', 1, id=1), 'x: categories', 'first id 1'),
        (
            dict(content(), images=[dict(i, id=i['id'] + 6) for i in content()['images']]),
            'x',
            ('2 of 2 annotations', 'first image_id 1'),
        ),
        (
            changed('annotations', 0, image_id='1'),
            'x',
            ('1 of 2 annotations', "first image_id '1'"),
        ),
    ],
)
def test_ids_that_cannot_be_meant(wrong, key, told):
    with refused(key=key, problem=told):
        check_coco(wrong, 'x')


def test_a_subset_that_lists_fewer_images_is_told():
    """COCO's reader leaves their annotations out, which is what is wanted."""
    with mock.patch('kdmm.datasets.coco_files.print_log') as told:
        check_coco(changed('annotations', 0, image_id=7), 'x')
    assert 'x: 1 of 2 annotations' in told.call_args.args[0]


def test_all_that_repeat_are_counted():
    made = content()
    made['annotations'] = [dict(made['annotations'][0], id=i) for i in (3, 4, 3, 4, 4, 5)]
    with refused(problem='2 id(s) repeat, first id 3, which stands 2 times'):
        check_coco(made, 'x')


@pytest.mark.parametrize(
    'fine',
    [
        content(),
        changed('annotations', 0, image_id=2),  # an image with two, and one without
        {key: value for key, value in content().items() if key != 'categories'},
        dict(content(), annotations=[dict(image_id=1, segments_info=[])] * 2),  # panoptic
        dict(images=content()['images']),
        dict(content(), annotations=[dict(id=1, image_id=1, category_id=1, keypoints=[])]),
        dict(images=dict(a=1), annotations=3),
        dict(data_list=[]),
        [1, 2],
    ],
)
def test_what_passes(fine):
    given = copy.deepcopy(fine)
    check_coco(fine, 'x')
    assert fine == given


def write(folder: Path, made: Any) -> str:
    path = folder / 'x.json'
    path.write_text(json.dumps(made))
    return str(path)


def test_a_file_is_read_once_as_long_as_it_stays(tmp_path, monkeypatch):
    path, read = write(tmp_path, content()), []
    monkeypatch.setattr(coco_files, 'check_coco', lambda *_: read.append(1))
    check_coco_file(path)
    check_coco_file(path)
    assert len(read) == 1
    monkeypatch.undo()
    path = write(tmp_path, changed('annotations', 1, id=1))
    os.utime(path, (1, 1))
    with refused(key=f'{path!r}: annotations'):
        check_coco_file(path)


def test_files_that_are_not_judged(tmp_path, monkeypatch):
    for path in (None, 'gone.json', 's3://x.json', str(tmp_path), ['a.json']):
        check_coco_file(path)
    path = write(tmp_path, changed('annotations', 1, id=1))
    monkeypatch.setattr(coco_files, 'LARGEST', 10)
    check_coco_file(path)


def test_a_file_that_is_cut_off(tmp_path):
    path = Path(write(tmp_path, content()))
    path.write_text(path.read_text()[:-9])
    with refused(key=repr(str(path)), problem='no whole JSON file'):
        check_coco_file(str(path))


@pytest.mark.parametrize('library', ['mmdet', 'mmpose'])
def test_the_command_line_looks_before_anything_is_built(tmp_path, library):
    write(tmp_path, changed('annotations', 1, id=1))
    data = dict(type=f'{library}.CocoDataset', data_root=str(tmp_path), ann_file='x.json')
    with refused(key=f'{str(tmp_path / "x.json")!r}: annotations', problem='first id 1'):
        check_data(Config(dict(val_dataloader=dict(dataset=data))), ('val',))


# names of classes


def detection(folder: Path, classes: tuple[str, ...] | None) -> Any:
    pytest.importorskip('mmdet')
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    return CocoDataset(
        ann_file=write(folder, content()), data_prefix=dict(img=''), pipeline=[],
        metainfo=classes and dict(classes=classes),
    )  # fmt: skip


def test_names_that_the_file_has_not(tmp_path):
    near = "'cta': nearest: cat", "'debra': nearest: zebra"
    told = '2 of 3 names are no category', 'x.json', *near
    with refused(key='metainfo.classes', problem=told):
        check_class_names(detection(tmp_path, ('cta', 'zebra', 'debra')))


def test_a_name_given_twice(tmp_path):
    with refused(key='metainfo.classes', problem="several classes are called 'cat'"):
        check_class_names(detection(tmp_path, ('cat', 'zebra', 'cat')))


@pytest.mark.parametrize('classes', [('cat', 'zebra'), ('zebra',), None])
def test_names_that_are_there_and_cocos_own(tmp_path, classes):
    check_class_names(detection(tmp_path, classes))  # a file of two of COCO's 80 is fine


def test_of_cocos_own_names_there_must_be_one(tmp_path):
    data = detection(tmp_path, None)
    made = content()
    made['categories'] = [dict(id=1, name='cell'), dict(id=2, name='nucleus')]
    data.ann_file, data.cat_ids = write(tmp_path, made), []
    with refused(key='metainfo.classes', problem='80 of 80 names are no category'):
        check_class_names(data)


def test_the_runners_loaders_refuse_too(tmp_path):
    with refused(key='metainfo.classes', problem="'cta': nearest: cat"):
        Runner.build_dataloader(
            dict(
                batch_size=1,
                dataset=detection(tmp_path, ('cta', 'zebra')),
                sampler=dict(type='DefaultSampler', shuffle=False),
            )
        )


@pytest.mark.parametrize(
    ('wrong', 'key', 'told'),
    [
        (changed('images', 1, width=None), 'images[1], id 2', 'width is None'),
        (changed('images', 0, height='60'), 'images[0], id 1', "height is '60'"),
        (changed('images', 0, width=0), 'images[0], id 1', 'width is 0, expected a number of pi'),
        (changed('images', 0, file_name=7), 'images[0], id 1', 'file_name is 7'),
        (changed('annotations', 1, bbox=[]), 'annotations[1], id 2', 'bbox is [], exp'),
        (changed('annotations', 0, bbox='1,2'), 'annotations[0], id 1', "bbox is '1,2'"),
        (changed('annotations', 0, bbox=[1, '3']), 'annotations[0], id 1', "bbox is [1, '3']"),
        (
            changed('annotations', 0, bbox=[1, 2, float('nan'), 4]),
            'annotations[0], id 1',
            ('bbox is ', 'nan'),
        ),
        (changed('annotations', 0, area='12'), 'annotations[0], id 1', "area is '12'"),
        (
            changed('annotations', 0, category_id='1'),
            'annotations[0], id 1',
            ("category_id '1' is none", ': 1, 2'),
        ),
        (changed('annotations', 0, category_id=9), 'annotations[0], id 1', 'category_id 9 is none'),
        (changed('categories', 1, name=None), 'categories[1], id 2', 'name is None'),
        (changed('categories', 0, id='1'), 'annotations[0], id 1', 'category_id 1 is none'),
        ({k: v for k, v in content().items() if k != 'images'}, '', 'it lists no images'),
        (dict(content(), categories=['cat']), 'categories[0]', "expected a dict, got 'cat'"),
        (dict(content(), annotations={}), 'annotations', 'expected a list, got a dict'),
    ],
)
def test_entries_that_no_library_can_read(wrong, key, told):
    with refused(key=f'x: {key}' if key else 'x', problem=told):
        check_coco(wrong, 'x')


def test_files_without_boxes_pass():
    """Lists of images to test, and panoptic files."""
    made = content()
    check_coco({key: made[key] for key in ('images', 'categories')}, 'x')
    segments = [dict(image_id=1, file_name='1.png', segments_info=[dict(id=3, category_id=1)])]
    check_coco(dict(made, annotations=segments), 'x')


def test_a_byte_order_mark(tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(b'\xef\xbb\xbf' + json.dumps(content()).encode())
    with refused(key=repr(str(path)), problem=('byte order mark', 'BOM')):
        check_coco_file(str(path))
