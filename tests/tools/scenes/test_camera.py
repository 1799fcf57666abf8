import numpy as np
import pytest
from scenes.camera import NEAR, Camera

CAMERA = Camera(focal=1.2, height=1.5, horizon=0.45, centre=0.4, aspect=2.0)


def test_points_far_ahead_meet_in_the_vanishing_point():
    u, v = CAMERA.project(np.array([3.0, 0.0, 1e9]))
    assert (u, v) == pytest.approx((0.8, 0.45))


def test_what_is_as_high_as_the_camera_lies_on_the_horizon():
    assert CAMERA.project(np.array([[-2.0, 1.5, 4.0], [5.0, 1.5, 40.0]]))[:, 1] == pytest.approx(
        0.45
    )


def test_ground_depth_inverts_the_projection():
    depth = np.array([2.0, 7.5, 60.0])
    rows = CAMERA.project(np.stack([0 * depth, 0 * depth, depth], axis=-1))[:, 1]
    assert CAMERA.ground_depth(rows) == pytest.approx(depth)


def test_above_the_horizon_there_is_no_ground():
    assert CAMERA.ground_depth(np.array([0.0, 0.45]), sky=900.0).tolist() == [900.0, 900.0]


def test_length_is_that_of_a_projected_segment():
    ends = CAMERA.project(np.array([[0.0, 0.0, 8.0], [0.0, 1.7, 8.0]]))
    assert CAMERA.length(1.7, 8.0) == pytest.approx(ends[0, 1] - ends[1, 1])


def test_nothing_comes_closer_than_near():
    assert np.isfinite(CAMERA.project(np.array([1.0, 1.0, -5.0]))).all()
    assert CAMERA.length(1.0, -5.0) == CAMERA.length(1.0, NEAR)
