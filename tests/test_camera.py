"""Cameras and rays."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigid_motions import motions

from mirage_env.camera import Camera, between, pluecker_rays, up_direction
from mirage_env.errors import InvalidCameraError, InvalidPoseError, MirageError
from mirage_env.poses import pose_from_rotation_vector

Z_UP = pose_from_rotation_vector([0, 0, 0], [-math.pi / 2, 0, 0])
ROUNDING = 1e-7
"""Metres and matrix entries; positions reach 10 m here."""


@given(motions(), motions(), st.integers(1, 5))
def test_between_leaves_out_the_start_and_ends_at_the_end(T_start, T_end, steps):
    start = Camera.from_fov(1.0, 8, 8, T_start)
    path = between(start, start.at(T_end), steps)
    assert len(path) == steps
    np.testing.assert_allclose(path[-1].T_world_cam, T_end, atol=ROUNDING)
    T_step = start.T_cam_world @ path[0].T_world_cam
    for a, b in pairwise(path):
        np.testing.assert_allclose(a.T_cam_world @ b.T_world_cam, T_step, atol=ROUNDING)


def test_a_pose_that_is_no_rigid_motion_is_refused():
    with pytest.raises(InvalidPoseError, match="scale"):
        Camera.from_fov(1.0, 8, 8).at(np.diag([1.1, 1.1, 1.1, 1.0]))
    with pytest.raises(InvalidPoseError, match="last row"):
        Camera.from_fov(1.0, 8, 8).moved(np.ones((4, 4)))


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
    rays = pluecker_rays([_tilted(), _tilted(turn=(0.0, 0.9, 0.0))], 3, 4)
    assert rays.shape == (2, 6, 3, 4)
    direction, moment = rays[:, :3], rays[:, 3:]
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose((direction * moment).sum(1), 0.0, atol=1e-6)


def test_every_point_of_a_ray_gives_its_moment():
    camera = _tilted()
    rays = pluecker_rays([Camera.from_fov(1.2, 24, 32), camera], 3, 4)[1]
    for row in range(3):
        for col in range(4):
            direction, moment = rays[:3, row, col], rays[3:, row, col]
            ray = np.linalg.inv(camera.K_at(3, 4)) @ [col + 0.5, row + 0.5, 1.0]
            for depth in (0.5, 3.0):
                point = (camera.T_world_cam @ [*(depth * ray), 1.0])[:3]
                np.testing.assert_allclose(np.cross(point, direction), moment, atol=1e-5)


@given(motions())
def test_rays_do_not_depend_on_the_world_frame(T_new_world):
    here = [_tilted(), _tilted(turn=(0.0, 0.9, 0.0))]
    there = [c.at(T_new_world @ c.T_world_cam) for c in here]
    expected = pluecker_rays(here, 3, 4)
    np.testing.assert_allclose(pluecker_rays(there, 3, 4), expected, atol=1e-6)
    np.testing.assert_allclose(expected[0, 3:], 0.0, atol=1e-6)  # the first camera is the origin


@pytest.mark.parametrize(
    ("T_world_cam", "up"),
    [
        (np.eye(4), [0, -1, 0]),
        (Z_UP, [0, 0, 1]),
        (Z_UP @ pose_from_rotation_vector([0, 0, 0], [0.3, 0, 0]), [0, 0, 1]),
        (pose_from_rotation_vector([0, 0, 0], [0.8, 0, 0]), [0, -math.cos(0.8), -math.sin(0.8)]),
    ],
)
def test_up_is_the_axis_a_camera_stands_on(T_world_cam, up):
    assert up_direction(Camera.from_fov(1.0, 8, 8, T_world_cam)) == pytest.approx(up)
