"""Cameras, rigid motions and rays."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.camera import (
    Camera,
    between,
    inverse,
    pluecker_rays,
    pose_from_rotation_vector,
    pose_from_vector,
    rigid,
    rotation_angle,
    screw,
)
from mirage_env.errors import InvalidCameraError, InvalidPoseError, MirageError

ROUNDING = 1e-7
"""Metres and matrix entries; positions reach 10 m here."""


@st.composite
def motions(draw) -> np.ndarray:  # [4, 4]
    """Rigid motions with rotation angles from 0 to just below pi, small ones as likely as large ones."""
    numbers = st.floats(-1.0, 1.0)
    axis = np.array([draw(numbers) for _ in range(3)])
    length = np.linalg.norm(axis)
    axis = axis / length if length > 0.1 else np.array([0.0, 0.0, 1.0])
    angle = draw(st.one_of(st.just(0.0), st.floats(-12.0, 0.49).map(lambda e: 10.0**e), st.floats(0.0, 3.14)))
    return pose_from_rotation_vector([10.0 * draw(numbers) for _ in range(3)], angle * axis)


@given(motions(), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_screw_is_a_one_parameter_group(T, s, t):
    np.testing.assert_allclose(screw(T, 0.0), np.eye(4), atol=ROUNDING)
    np.testing.assert_allclose(screw(T, 1.0), T, atol=ROUNDING)
    np.testing.assert_allclose(screw(T, s + t), screw(T, s) @ screw(T, t), atol=ROUNDING)


def test_screw_of_half_a_turn():
    T = pose_from_rotation_vector([2.0, 1.0, 0.0], [0.0, 0.0, math.pi])
    half = screw(T, 0.5)
    assert rotation_angle(half) == pytest.approx(math.pi / 2)
    np.testing.assert_allclose(half @ half, T, atol=ROUNDING)


def test_screw_of_a_translation_is_a_straight_line():
    T = pose_from_rotation_vector([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(screw(T, 0.25)[:3, 3], [0.25, 0.5, 0.75])


@given(motions(), motions(), st.integers(1, 5))
def test_between_leaves_out_the_start_and_ends_at_the_end(T_start, T_end, steps):
    start = Camera.from_fov(1.0, 8, 8, T_start)
    path = between(start, start.at(T_end), steps)
    assert len(path) == steps
    np.testing.assert_allclose(path[-1].T_world_cam, T_end, atol=ROUNDING)
    T_step = start.T_cam_world @ path[0].T_world_cam
    for a, b in pairwise(path):
        np.testing.assert_allclose(a.T_cam_world @ b.T_world_cam, T_step, atol=ROUNDING)


@given(motions())
def test_inverse_undoes_a_motion(T):
    np.testing.assert_allclose(inverse(T) @ T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(T @ inverse(T), np.eye(4), atol=1e-12)


@given(motions())
def test_pose_vector_round_trip(T):
    np.testing.assert_allclose(pose_from_vector(Camera.from_fov(1.0, 8, 8, T).as_vector()), T, atol=ROUNDING)


def test_pose_vector_is_position_and_wxyz():
    quarter_turn_about_y = [1.0, 2.0, 3.0, math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0]
    np.testing.assert_allclose(pose_from_vector(quarter_turn_about_y) @ [0, 0, 1, 1], [2, 2, 3, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ([0, 0, 0, 1, 0, 0], "7 finite numbers"),
        ([0, 0, math.nan, 1, 0, 0, 0], "7 finite numbers"),
        ([0, 0, 0, 2, 0, 0, 0], "unit quaternion"),
        ([0, 0, 0, 0, 0, 0, 0], "unit quaternion"),
    ],
)
def test_bad_pose_vector_is_refused(vector, says):
    with pytest.raises(InvalidPoseError, match=says):
        pose_from_vector(vector)


def _changed(row: int, col: int, value: float) -> np.ndarray:
    T = np.eye(4)
    T[row, col] = value
    return T


@pytest.mark.parametrize(
    ("T", "says"),
    [
        (np.eye(3), "4 x 4"),
        (np.eye(4)[None], "4 x 4"),
        (np.diag([1.1, 1.1, 1.1, 1.0]), "scale"),
        (_changed(0, 1, 0.1), "shear"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "mirror"),
        (np.zeros((4, 4)) + np.diag([0.0, 0.0, 0.0, 1.0]), "no rotation"),
        (_changed(0, 3, np.nan), "NaN"),
        (_changed(1, 1, np.inf), "NaN or infinite"),
        (_changed(3, 0, 1.0), "last row"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
    ],
)
def test_what_is_no_rigid_motion_is_refused(T, says):
    with pytest.raises(InvalidPoseError, match=says):
        rigid(T)
    with pytest.raises(InvalidPoseError, match=says):
        Camera.from_fov(1.0, 8, 8).at(T)


@given(motions())
def test_rigid_removes_the_rounding_of_single_precision(T):
    R = rigid(T.astype(np.float32))[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(R, T[:3, :3], atol=1e-6)


def test_camera_keeps_its_own_copy_of_pose_and_intrinsics():
    T, K = np.eye(4), np.array([[8.0, 0.0, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]])
    camera = Camera(T, K, 8, 8)
    T[0, 3] = K[0, 0] = 99.0
    np.testing.assert_array_equal(camera.position, 0.0)
    assert camera.K_image[0, 0] == 8.0


def test_camera_cannot_be_moved_by_writing_into_it():
    camera = Camera.from_fov(1.0, 8, 8)
    for array in (camera.position, camera.T_world_cam, camera.K_image):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5.0


def test_a_camera_equals_itself_and_can_be_a_key():
    camera = Camera.from_fov(1.0, 8, 8)
    assert camera == camera
    assert camera != camera.at(np.eye(4))
    assert {camera: 1}[camera] == 1


@pytest.mark.parametrize(
    ("K", "size"),
    [
        (np.eye(2), (8, 8)),
        (np.diag([0.0, 8.0, 1.0]), (8, 8)),
        (np.diag([8.0, -8.0, 1.0]), (8, 8)),
        (np.diag([8.0, 8.0, 2.0]), (8, 8)),
        (np.diag([np.nan, 8.0, 1.0]), (8, 8)),
        (np.array([[8.0, 0.5, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]]), (8, 8)),
        (np.diag([8.0, 8.0, 1.0]), (0, 8)),
    ],
)
def test_what_is_no_pinhole_camera_is_refused(K, size):
    with pytest.raises(InvalidCameraError):
        Camera(np.eye(4), K, *size)


@pytest.mark.parametrize("fov", [0.0, -1.0, math.pi, math.nan])
def test_impossible_field_of_view_is_refused(fov):
    with pytest.raises(InvalidCameraError, match="field of view"):
        Camera.from_fov(fov, 8, 8)


def test_camera_errors_are_the_projects_and_the_built_in_ones():
    for error in (InvalidCameraError, InvalidPoseError):
        assert issubclass(error, MirageError)
        assert issubclass(error, ValueError)


def test_field_of_view_spans_the_image():
    camera = Camera.from_fov(math.radians(90.0), 6, 8)
    left = np.linalg.inv(camera.K_image) @ [0.0, 3.0, 1.0]
    right = np.linalg.inv(camera.K_image) @ [8.0, 3.0, 1.0]
    np.testing.assert_allclose([left, right], [[-1, 0, 1], [1, 0, 1]], atol=1e-12)


def test_latent_intrinsics_keep_the_projected_place():
    K_image = np.array([[30.0, 0.0, 17.0], [0.0, 33.0, 11.0], [0.0, 0.0, 1.0]])
    camera = Camera(np.eye(4), K_image, 24, 32)
    q = np.array([0.3, -0.2, 2.0])
    x, y, _ = camera.K_image @ q / q[2]
    u, v, _ = camera.K_at(3, 4) @ q / q[2]
    assert (u / 4, v / 3) == pytest.approx((x / 32, y / 24))
    small = camera.resized(3, 4)
    np.testing.assert_array_equal(small.K_image, camera.K_at(3, 4))
    assert (small.height, small.width) == (3, 4)


def test_moved_is_given_in_the_cameras_own_frame():
    quarter_turn = pose_from_rotation_vector([5.0, 0.0, 0.0], [0.0, math.pi / 2, 0.0])
    ahead = Camera.from_fov(1.0, 8, 8, quarter_turn).moved(pose_from_rotation_vector([0.0, 0.0, 1.0], [0.0, 0.0, 0.0]))
    np.testing.assert_allclose(ahead.position, [6.0, 0.0, 0.0], atol=1e-12)


def _tilted(position=(0.5, -0.3, 0.2), turn=(0.2, -0.4, 0.1)) -> Camera:
    return Camera.from_fov(1.2, 24, 32, pose_from_rotation_vector(position, turn))


def test_rays_are_unit_directions_with_orthogonal_moments():
    rays = pluecker_rays([_tilted(), _tilted(turn=(0.0, 0.9, 0.0))], np.eye(4), 3, 4)
    assert rays.shape == (2, 6, 3, 4)
    direction, moment = rays[:, :3], rays[:, 3:]
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose((direction * moment).sum(1), 0.0, atol=1e-6)


def test_every_point_of_a_ray_gives_its_moment():
    camera = _tilted()
    rays = pluecker_rays([camera], np.eye(4), 3, 4)[0]
    for row in range(3):
        for col in range(4):
            direction, moment = rays[:3, row, col], rays[3:, row, col]
            ray = np.linalg.inv(camera.K_at(3, 4)) @ [col + 0.5, row + 0.5, 1.0]
            for depth in (0.5, 3.0):
                point = (camera.T_world_cam @ [*(depth * ray), 1.0])[:3]
                np.testing.assert_allclose(np.cross(point, direction), moment, atol=1e-5)


@given(motions())
def test_rays_in_the_first_cameras_frame_do_not_depend_on_the_world_frame(T_new_world):
    here = [_tilted(), _tilted(turn=(0.0, 0.9, 0.0))]
    there = [c.at(T_new_world @ c.T_world_cam) for c in here]
    expected = pluecker_rays(here, here[0].T_cam_world, 3, 4)
    np.testing.assert_allclose(pluecker_rays(there, there[0].T_cam_world, 3, 4), expected, atol=1e-6)
    np.testing.assert_allclose(expected[0, 3:], 0.0, atol=1e-6)  # the first camera is the origin
