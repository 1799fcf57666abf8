import dataclasses
import json

import cv2
import numpy as np
import pytest
from scenes import JOINTS, keypoints, render, sample_scene, write_scenes
from scenes.classes import PERSON
from scenes.description import Car, Person
from scenes.keypoints import PersonKeypoints

import kdmm  # noqa: F401  (makes mmpose importable)

pytest.importorskip('mmpose')
SIZE = (128, 256)
GREY = (120.0, 120.0, 120.0)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    write_scenes(root, 24, 8, SIZE, seed=1)
    return root


def read(root, split='train'):
    return json.loads((root / f'annotations/person_keypoints_{split}.json').read_text())


def dataset(root, split='val', **given):
    from mmpose.datasets import CocoDataset

    return CocoDataset(
        data_root=str(root),
        ann_file=f'annotations/person_keypoints_{split}.json',
        data_prefix=dict(img=f'img_dir/{split}/'),
        **given,
    )


def person(x=0.0, z=6.0, **given):
    """Stands still and looks into the camera, arms alike: its own mirror image."""
    given = dict(dict(arms=0.25, heading=0.0, stride=0.0), **given)
    return Person(x, z, 1.8, phase=0.0, skin=GREY, shirt=GREY, trousers=GREY, hair=GREY, **given)


def painted(*actors, size=SIZE):
    scene = sample_scene((5, 0))
    camera = dataclasses.replace(scene.camera, focal=1.0, height=1.6, horizon=0.5, centre=0.5)
    changed = dict(camera=camera, actors=actors, buildings=(), bonnet=0.0)
    return render(dataclasses.replace(scene, **changed), size)


def persons(*actors, size=SIZE):
    found = PersonKeypoints()
    found.add(0, '00000.jpg', painted(*actors, size=size))
    return found.persons


def test_format(root):
    content = read(root)
    assert [image['id'] for image in content['images']] == list(range(24))
    for image in content['images']:
        assert cv2.imread(str(root / 'img_dir/train' / image['file_name'])).shape[:2] == SIZE
        assert (image['height'], image['width']) == SIZE
    found = content['annotations']
    assert [item['id'] for item in found] == list(range(1, len(found) + 1)) and len(found) > 20
    assert {item['image_id'] for item in found} < set(range(24)), 'some pictures have nobody'
    for item in found:
        flags = item['keypoints'][2::3]
        assert len(flags) == 17 and item['num_keypoints'] == sum(flag > 0 for flag in flags)
        assert item['category_id'] == 1 and item['iscrowd'] == 0
        assert 0 < item['area'] <= item['bbox'][2] * item['bbox'][3]
    assert {flag for item in found for flag in item['keypoints'][2::3]} == {0, 1, 2}
    (category,) = content['categories']
    assert category['name'] == 'person' and category['keypoints'] == list(JOINTS)


def test_names_and_skeleton_are_cocos(root):
    (category,) = read(root)['categories']
    meta = dataset(root, lazy_init=True).metainfo
    names = [meta['keypoint_id2name'][i] for i in range(17)]
    assert category['keypoints'] == names
    links = {tuple(sorted((a - 1, b - 1))) for a, b in category['skeleton']}
    assert links == {tuple(sorted(link)) for link in meta['skeleton_links']}


def test_a_split_that_grows_keeps_its_ids(root, tmp_path):
    write_scenes(tmp_path / 'few', 10, 8, SIZE, seed=1)
    few, many = read(tmp_path / 'few')['annotations'], read(root)['annotations']
    assert few == many[: len(few)]
    assert read(tmp_path / 'few', 'val') == read(root, 'val')


def test_joints_lie_on_persons_and_in_boxes(root):
    on_person = []
    for item in read(root)['annotations']:
        label = root / f'ann_dir/train/{item["image_id"]:05d}.png'
        labels = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        marks = np.array(item['keypoints']).reshape(17, 3)
        column, row = np.rint(marks[marks[:, 2] == 2, :2]).astype(int).T
        on_person += (labels[row, column] == PERSON).tolist()
        x, y, width, height = item['bbox']
        inside = marks[marks[:, 2] > 0, :2]
        assert (inside >= (x - 0.51, y - 0.51)).all()
        assert (inside <= (x + width, y + height)).all()
        assert (marks[marks[:, 2] == 0] == 0).all()
    assert len(on_person) > 300 and np.mean(on_person) > 0.97


def test_keypoints_count_pixels_from_their_middle_and_boxes_from_their_edge():
    one = painted(person())
    (found,) = persons(person())
    rows, columns = np.nonzero(one.instances)
    marks = np.array(found['keypoints']).reshape(17, 3)
    for left in (3, 5, 7, 11, 15):  # with the joint on the other side: the person's axis
        assert marks[left : left + 2, 0].mean() == pytest.approx(columns.mean(), abs=0.15)
    x, y, width, height = found['bbox']
    assert 0 <= columns.min() - x < 1 and 0 <= x + width - (columns.max() + 1) < 1
    assert 0 <= rows.min() - y < 1 and 0 <= y + height - (rows.max() + 1) < 1


def test_mmpose_warps_keypoints_as_it_warps_pixels():
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    one = painted(person())
    (found,) = persons(person())
    x, y, width, height = found['bbox']
    results = dict(
        img=(one.instances > 0).astype(np.uint8) * 255,
        bbox=np.array([[x, y, x + width, y + height]], np.float32),
        keypoints=np.array(found['keypoints'], np.float32).reshape(1, 17, 3)[..., :2],
    )
    results = TopdownAffine((192, 256))(GetBBoxCenterScale()(results))
    weight = results['img'].sum(axis=0).astype(float)
    middle = (weight * np.arange(192)).sum() / weight.sum()
    warped = results['transformed_keypoints'][0, 5:13].reshape(4, 2, 2).mean(axis=1)
    assert warped[:, 0] == pytest.approx(middle, abs=0.6), 'half a pixel is two of these'


def wall(height):
    return Car(x=0.0, z=3.0, width=1.8, length=2.0, height=height, cabin=1.2, colour=GREY,
               glass=GREY, away=True)  # fmt: skip


def test_small_and_hidden_persons_are_left_out():
    assert len(persons(person())) == 1 and not persons(wall(1.5))
    assert not persons(person(), wall(1.9))
    # only the head looks over the car: the face is five joints, its back no more than the ears
    (face,) = persons(person(), wall(1.55))
    assert face['keypoints'][2::3] == [2] * 5 + [1] * 12
    assert not persons(person(heading=np.pi), wall(1.55))
    low = 1.8 * SIZE[0] / (keypoints.MIN_HEIGHT - 4)  # the depth at which a person is 4 px too low
    assert not persons(person(z=low))
    assert len(persons(person(z=low), size=(256, 512))) == 1


def test_ground_truth_as_prediction_is_perfect(root):
    from mmengine.structures import InstanceData
    from mmpose.evaluation import CocoMetric
    from mmpose.structures import PoseDataSample

    data = dataset(root, test_mode=True)
    metric = CocoMetric(ann_file=data.ann_file, nms_mode='none')
    metric.dataset_meta = data.metainfo
    assert len(data) == len(read(root, 'val')['annotations']) > 5
    for shift in (0.0, 4.0):
        for item in (data.get_data_info(i) for i in range(len(data))):
            truth = InstanceData(bboxes=item['bbox'], bbox_scores=item['bbox_score'])
            guess = InstanceData(keypoints=item['keypoints'] + shift)
            guess.keypoint_scores = np.ones((1, 17))
            sample = PoseDataSample(gt_instances=truth, pred_instances=guess)
            sample.set_metainfo({key: item[key] for key in ('id', 'img_id')} | dict(ori_shape=SIZE))
            sample.set_metainfo(dict(category_id=1))
            metric.process([{}], [sample.to_dict()])
        score = metric.evaluate(len(data))['coco/AP']
        assert score == 1.0 if shift == 0 else score < 0.5


def test_mmpose_crops_train_on_them(root):
    pipeline = [
        dict(type='LoadImage'),
        dict(type='GetBBoxCenterScale'),
        dict(type='TopdownAffine', input_size=(48, 64)),
        dict(type='GenerateTarget', encoder=dict(type='MSRAHeatmap', input_size=(48, 64),
             heatmap_size=(12, 16), sigma=1.0)),
        dict(type='PackPoseInputs'),
    ]  # fmt: skip
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmpose'):
        data = dataset(root, 'train', pipeline=pipeline)
        assert len(data) == len(read(root)['annotations'])
        sample = data[0]
    assert sample['inputs'].shape == (3, 64, 48)
    assert sample['data_samples'].gt_fields.heatmaps.shape == (17, 16, 12)
