"""Presets are gentle, whole and level; pose files are read as they say or refused by the pose at fault."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import inverse, pose_from_rotation_vector, pose_from_vector, rotation_angle
from mirage_env.trajectories import MAX_STEP, MAX_TURN, PRESETS, path_from_file, preset_path

CLOSED = ("loop", "orbit", "out_and_back", "look_away_and_back")
ON_THE_SPOT = ("look_around", "look_away_and_back")
DOWN = pose_from_rotation_vector([0, 0, 0], [-math.pi / 2, 0, 0])
"""Rotates the world's OpenCV axes (y down) to z up."""


def room_camera(yaw=0.4, pitch=0.1):
    """A camera in a world with z up, slightly tilted."""
    turn = pose_from_rotation_vector([1.0, 2.0, 1.4], [0, 0, yaw]) @ DOWN
    return Camera.from_fov(1.3, 32, 32, turn @ pose_from_rotation_vector([0, 0, 0], [pitch, 0, 0]))


presets = st.sampled_from(sorted(PRESETS))


@given(presets, st.integers(1, 200), st.floats(0.01, 5.0), st.floats(0.01, 7.0))
def test_preset_is_gentle_and_has_every_frame(name, frames, size, turn):
    start = room_camera()
    cameras = preset_path(name, start, frames, size, turn)
    assert len(cameras) == frames
    for a, b in itertools.pairwise([start, *cameras]):
        T_a_b = a.T_cam_world @ b.T_world_cam
        assert np.linalg.norm(T_a_b[:3, 3]) <= MAX_STEP * (1 + 1e-9)
        assert rotation_angle(T_a_b) <= MAX_TURN + 1e-6


@given(presets, st.floats(-3, 3), st.floats(-0.3, 0.3))
def test_preset_keeps_height_and_tilt(name, yaw, pitch):
    start = room_camera(yaw, pitch)
    for camera in preset_path(name, start, 40):
        assert camera.position[2] == pytest.approx(start.position[2])
        assert camera.T_world_cam[2, 2] == pytest.approx(start.T_world_cam[2, 2])
        assert camera.T_world_cam[2, 0] == pytest.approx(0.0, abs=1e-9), "no roll"


@pytest.mark.parametrize("name", CLOSED)
def test_closed_preset_ends_where_it_began(name):
    start = room_camera()
    assert np.allclose(preset_path(name, start, 64)[-1].T_world_cam, start.T_world_cam, atol=1e-12)


def test_looking_around_is_a_full_turn_where_there_are_frames_for_it():
    start = room_camera()
    cameras = preset_path("look_around", start, 80)
    assert np.allclose(cameras[-1].T_world_cam, start.T_world_cam, atol=1e-9)
    assert np.allclose(cameras[39].T_world_cam[:2, 2], -start.T_world_cam[:2, 2], atol=1e-9)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_stays_within_its_size(name):
    start = room_camera()
    reach = max(np.linalg.norm(c.position - start.position) for c in preset_path(name, start, 64, size=0.8))
    assert reach <= 0.8 + 0.05
    assert (reach < 1e-9) == (name in ON_THE_SPOT)


def test_orbit_looks_at_one_point():
    start = room_camera(pitch=0.0)
    target = start.position + 1.6 * start.T_world_cam[:3, 2]
    for camera in preset_path("orbit", start, 64):
        x, y, z = camera.T_cam_world[:3, :3] @ target + camera.T_cam_world[:3, 3]
        assert (x, y, z) == pytest.approx((0.0, 0.0, 1.6), abs=1e-9)


def test_turns_go_right_first():
    start = Camera.from_fov(1.3, 32, 32)
    assert preset_path("look_around", start, 80)[5].T_world_cam[0, 2] > 0.0
    assert preset_path("orbit", start, 64)[5].position[0] > 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("stroll",), "'stroll' is unknown.*loop"),
        (("loop", 0), "0 frames"),
        (("loop", 8, -1.0), "size of a path is -1"),
        (("loop", 8, math.nan), "size"),
        (("loop", 8, 1.0, 0.0), "turn of a path is 0"),
    ],
)
def test_impossible_presets_are_refused(arguments, says):
    name, frames, *rest = (*arguments, 8) if len(arguments) == 1 else arguments
    with pytest.raises(InvalidOptionError, match=says):
        preset_path(name, room_camera(), frames, *rest)


# Files


def test_path_of_a_file_is_moved_so_that_its_first_camera_is_the_start(tmp_path):
    rng, start = np.random.default_rng(0), room_camera()
    poses = [pose_from_rotation_vector(rng.normal(size=3), 0.3 * rng.normal(size=3)) for _ in range(5)]
    (tmp_path / "p.json").write_text(json.dumps([T.tolist() for T in poses]))
    cameras = path_from_file(tmp_path / "p.json", start)
    assert len(cameras) == len(poses) - 1
    for camera, T in zip(cameras, poses[1:], strict=True):
        assert np.allclose(start.T_cam_world @ camera.T_world_cam, inverse(poses[0]) @ T, atol=1e-9)
        assert np.array_equal(camera.K_image, start.K_image)


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (json.dumps([np.eye(4).tolist(), (2 * np.eye(4)).tolist()]), InvalidPoseError, "pose 1: .*last row"),
        ("[[1, 0, 0, 1, 0, 0, 0]]", InvalidPoseError, "holds 1 poses"),
        (None, InvalidOptionError, "there is no pose file .*presets are forward"),
    ],
)
def test_bad_file_is_refused_by_what_is_wrong(tmp_path, content, error, says):
    if content is not None:
        (tmp_path / "p.json").write_text(content)
    with pytest.raises(error, match=says):
        path_from_file(tmp_path / "p.json", room_camera())


def test_vectors_are_poses_in_our_order(tmp_path):
    (tmp_path / "p.json").write_text("[[0, 0, 0, 1, 0, 0, 0], [1, 2, 3, 0.7071, 0.7071, 0, 0]]")
    (camera,) = path_from_file(tmp_path / "p.json", Camera.from_fov(1.0, 8, 8))
    assert np.allclose(camera.T_world_cam, pose_from_vector([1, 2, 3, math.sqrt(0.5), math.sqrt(0.5), 0, 0]))
