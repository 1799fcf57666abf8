import dataclasses
import math

import numpy as np
import pytest
from scenes import JOINTS, pose
from scenes.description import Person

GREY = (100.0, 100.0, 100.0)
PERSON = Person(
    x=2.0, z=9.0, height=1.8, heading=0.0, phase=0.7, stride=0.4, arms=0.5,
    skin=GREY, shirt=GREY, trousers=GREY, hair=GREY,
)  # fmt: skip


def joint(person, name):
    return pose.joints(person)[JOINTS.index(name)]


def at(heading):
    return dataclasses.replace(PERSON, heading=heading)


def test_seventeen_joints_in_cocos_order():
    assert len(JOINTS) == 17
    assert JOINTS[0] == 'nose' and JOINTS[-1] == 'right_ankle'
    assert pose.joints(PERSON).shape == (17, 3)


def test_facing_the_camera_left_is_right_in_the_picture():
    assert joint(PERSON, 'left_shoulder')[0] > joint(PERSON, 'right_shoulder')[0]
    assert joint(PERSON, 'nose')[2] < joint(PERSON, 'left_ear')[2]
    away = at(math.pi)
    assert joint(away, 'left_shoulder')[0] < joint(away, 'right_shoulder')[0]


def test_walking_to_the_right_the_left_side_is_the_far_one():
    right = at(math.pi / 2)
    assert joint(right, 'nose')[0] > joint(right, 'left_ear')[0]
    assert joint(right, 'left_hip')[2] > joint(right, 'right_hip')[2]


@pytest.mark.parametrize('phase', np.linspace(0, 6, 7))
@pytest.mark.parametrize('heading', [0.0, 1.0, 4.0])
def test_bones_keep_their_lengths_and_a_foot_is_down(heading, phase):
    person = dataclasses.replace(PERSON, heading=heading, phase=phase)
    for side in ('left', 'right'):
        thigh = joint(person, f'{side}_hip') - joint(person, f'{side}_knee')
        shank = joint(person, f'{side}_knee') - joint(person, f'{side}_ankle')
        assert np.linalg.norm(thigh) == pytest.approx(0.24 * 1.8)
        assert np.linalg.norm(shank) == pytest.approx(0.24 * 1.8)
    joints = pose.joints(person)
    assert joints[15:, 1].min() == pytest.approx(0.035 * 1.8)
    assert joints[:, 1].max() < 1.8


def test_the_head_hides_a_face_that_looks_away():
    names = {JOINTS[number] for number in np.nonzero(pose.hidden_by_head(at(math.pi)))[0]}
    assert names == {'nose', 'left_eye', 'right_eye'}
    assert not pose.hidden_by_head(PERSON).any()


def test_a_profile_hides_its_far_side():
    hidden = pose.hidden_by_head(at(math.pi / 2))
    assert {JOINTS[number] for number in np.nonzero(hidden)[0]} == {'left_eye', 'left_ear'}
