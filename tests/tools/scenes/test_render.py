import dataclasses

import numpy as np
import pytest
from scenes import CLASSES, IGNORE, THINGS, render, sample_scene
from scenes.classes import CAR, PERSON, SIGN, SKY
from scenes.description import Car, Person

SIZE = (96, 192)


@pytest.fixture(scope='module')
def painted():
    return [render(sample_scene((5, number)), SIZE) for number in range(24)]


def alone(painting, *actors, bonnet=0.0):
    return dataclasses.replace(painting.scene, actors=actors, buildings=(), bonnet=bonnet)


def test_shapes_types_and_values(painted):
    for one in painted:
        assert one.image.shape == (*SIZE, 3) and one.image.dtype == np.uint8
        assert one.labels.shape == SIZE and one.labels.dtype == np.uint8
        assert set(np.unique(one.labels)) <= {*range(len(CLASSES)), IGNORE}
        assert one.instances.shape == SIZE


def test_same_scene_same_bytes(painted):
    again = render(sample_scene((5, 3)), SIZE)
    assert np.array_equal(again.image, painted[3].image)
    assert np.array_equal(again.labels, painted[3].labels)


def test_every_class_occurs(painted):
    seen = set().union(*(np.unique(one.labels) for one in painted))
    assert seen >= set(range(len(CLASSES)))


def test_rare_classes_are_rare(painted):
    share = np.bincount(np.concatenate([one.labels.ravel() for one in painted]), minlength=256)
    share = share / share.sum()
    assert share[PERSON] < 0.05 and share[SIGN] < 0.05 and share[SKY] > 0.05


def test_pictures_are_not_flat_colours(painted):
    for one in painted:
        sky = one.image[one.labels == SKY].astype(float)
        assert len(np.unique(one.image.reshape(-1, 3), axis=0)) > 1000
        assert sky.size == 0 or sky.std(axis=0).max() > 1.0


def test_labels_agree_between_sizes():
    scene = sample_scene((5, 1))
    small, large = render(scene, (48, 96)).labels, render(scene, (144, 288)).labels
    assert (large[1::3, 1::3] == small).mean() > 0.97


def test_instances_are_things_and_only_things(painted):
    for one in painted:
        marked = one.instances > 0
        assert np.isin(one.labels[marked], THINGS).all()
        assert marked[np.isin(one.labels, THINGS)].all()


def test_boxes_enclose_what_is_seen(painted):
    found = set()
    for one in painted:
        for thing in one.things():
            rows, columns = np.nonzero(one.instances == thing.instance)
            x0, y0, x1, y1 = thing.box
            assert x0 <= columns.min() and columns.max() + 1 <= x1
            assert y0 <= rows.min() and rows.max() + 1 <= y1
            assert 0 <= x0 < x1 <= SIZE[1] and 0 <= y0 < y1 <= SIZE[0]
            assert thing.pixels == len(rows)
            assert (one.labels[rows, columns] == thing.label).all()
            found.add(thing.label)
    assert found == set(THINGS)


def test_a_free_car_fills_its_box(painted):
    car = Car(x=0.0, z=8.0, width=1.8, length=4.0, height=1.5, cabin=1.5, colour=(9.0, 9.0, 9.0),
              glass=(9.0, 9.0, 9.0), away=True)  # fmt: skip
    one = render(alone(painted[0], car), SIZE)
    (thing,) = one.things()
    rows, columns = np.nonzero(one.labels == CAR)
    tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert thing.box == pytest.approx(tight, abs=1.0)


def test_joints_lie_in_the_box_and_only_persons_have_them(painted):
    flags = set()
    for one in painted:
        for thing in one.things():
            assert (thing.joints is not None) == (thing.label == PERSON)
            if thing.joints is None:
                continue
            x, y, visible = thing.joints.T
            inside = visible > 0
            x0, y0, x1, y1 = thing.box
            assert ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))[inside].all()
            assert (thing.joints[~inside] == 0).all()
            flags |= set(visible.astype(int))
    assert flags == {0, 1, 2}


def person(x, z):
    grey = (120.0, 120.0, 120.0)
    return Person(x, z, 1.8, 0.0, 0.0, 0.2, 0.3, skin=grey, shirt=grey, trousers=grey, hair=grey)


def test_a_free_person_is_seen_and_an_occluded_one_is_not(painted):
    free = render(alone(painted[0], person(0.0, 8.0)), SIZE).things()
    assert (free[0].joints[:, 2] == 2).all()
    car = Car(x=0.0, z=3.0, width=1.8, length=2.0, height=1.4, cabin=1.2, colour=(9.0, 9.0, 9.0),
              glass=(9.0, 9.0, 9.0), away=True)  # fmt: skip
    both = render(alone(painted[0], person(0.0, 8.0), car), SIZE).things(min_pixels=1)
    joints = next(thing.joints for thing in both if thing.label == PERSON)
    ankles, nose = joints[15:, 2], joints[0, 2]
    assert (ankles == 1).all() and nose == 2


def test_what_is_outside_the_picture_is_unlabelled(painted):
    camera = painted[0].scene.camera
    edge = -camera.centre * camera.aspect * 4.0 / camera.focal  # the left edge, 4 m ahead
    (thing,) = render(alone(painted[0], person(edge, 4.0)), SIZE).things()
    left = thing.joints[5, 2], thing.joints[6, 2]
    assert left == (2, 0)


def test_hidden_things_are_left_out(painted):
    one = render(alone(painted[0], person(0.0, 30.0)), SIZE)
    assert one.things(min_pixels=1) and not one.things(min_pixels=10**6)


def test_the_own_bonnet_is_void(painted):
    one = render(alone(painted[0], bonnet=0.1), SIZE)
    assert one.labels[-1, SIZE[1] // 2] == IGNORE
    assert (one.instances[one.labels == IGNORE] == 0).all()
