"""Controls: exact, on a screw, in camera axes, and strict about what they take."""

import math
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mirage_env.camera import Camera
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.poses import inverse, pose_from_rotation_vector
from mirage_env.spaces.actions import (
    POSITION_LIMIT,
    AbsolutePose,
    DiscreteControl,
    PoseBox,
    RelativePose,
    Waypoints,
    make_control,
)

F = 4
CAMERA = Camera.from_fov(1.3, 32, 32, pose_from_rotation_vector([1.0, -2.0, 0.5], [0.3, -1.1, 0.4]))
shares = arrays(np.float64, 6, elements=st.floats(-1.0, 1.0))


@given(shares)
def test_relative_pose_ends_at_the_motion_asked_for(action):
    cameras = RelativePose(F, 2.0, 0.5).cameras(action, CAMERA)
    motion = pose_from_rotation_vector(2.0 * action[:3], 0.5 * action[3:])
    assert len(cameras) == F
    np.testing.assert_allclose(CAMERA.T_cam_world @ cameras[-1].T_world_cam, motion, atol=1e-9)


@given(shares)
def test_frames_between_lie_on_a_constant_screw(action):
    path = [CAMERA, *RelativePose(F).cameras(action, CAMERA)]
    steps = [inverse(a.T_world_cam) @ b.T_world_cam for a, b in pairwise(path)]
    for step in steps[1:]:
        np.testing.assert_allclose(step, steps[0], atol=1e-7)


@given(arrays(np.float64, (F, 6), elements=st.floats(-1.0, 1.0)))
def test_each_waypoint_is_relative_to_the_frame_before(action):
    path = [CAMERA, *Waypoints(F, 2.0, 0.5).cameras(action, CAMERA)]
    for share, (before, after) in zip(action / F, pairwise(path), strict=True):
        motion = pose_from_rotation_vector(2.0 * share[:3], 0.5 * share[3:])
        np.testing.assert_allclose(before.T_cam_world @ after.T_world_cam, motion, atol=1e-9)


def test_waypoints_along_one_axis_reach_as_far_as_a_relative_pose():
    for axis in (2, 4):
        action = np.eye(6)[axis]
        a = RelativePose(F).cameras(action, CAMERA)
        b = Waypoints(F).cameras(np.tile(action, (F, 1)), CAMERA)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x.T_world_cam, y.T_world_cam, atol=1e-9)


@given(st.integers(0, 2**31 - 1))
def test_absolute_pose_ends_at_the_pose_asked_for(seed):
    space = PoseBox(seed=seed)
    action = space.sample()
    last = AbsolutePose(F).cameras(action, CAMERA)[-1]
    vector = last.as_vector()
    np.testing.assert_allclose(vector[:3], action[:3], rtol=1e-6)
    assert abs(abs(float(vector[3:] @ action[3:])) - 1.0) < 1e-5


def test_absolute_pose_normalises_a_quaternion_within_tolerance():
    action = np.array([0.0, 0.0, 0.0, 0.995, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(AbsolutePose(F).cameras(action, CAMERA)[-1].T_world_cam, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("control", [RelativePose(F), Waypoints(F), AbsolutePose(F)])
def test_every_sample_of_the_space_is_a_valid_action(control):
    space = control.space
    space.seed(0)
    for _ in range(20):
        action = space.sample()
        assert action in space
        assert len(control.cameras(action, CAMERA)) == F


def test_batched_pose_space_holds_one_pose_per_world():
    space = batch_space(PoseBox(seed=1), 3)
    poses = space.sample()
    assert poses.shape == (3, 7)
    assert poses in space
    for pose in iterate(space, poses):
        AbsolutePose(F).cameras(pose, CAMERA)


@pytest.mark.parametrize("scale", [0.98, 1.02])
def test_pose_space_holds_unit_quaternions_only(scale):
    pose = np.array([0, 0, 0, 0.6, 0.0, 0.8, 0.0], np.float32)
    assert pose in PoseBox()
    assert pose * np.float32(scale) not in PoseBox()


@pytest.mark.parametrize(
    ("component", "direction"),
    [(0, (1, 0, 0)), (1, (0, 1, 0)), (2, (0, 0, 1))],
)
def test_translations_are_in_camera_axes(component, direction):
    end = RelativePose(F, max_translation=0.5).cameras(np.eye(6)[component], CAMERA)[-1]
    moved = CAMERA.T_world_cam[:3, :3].T @ (end.position - CAMERA.position)
    np.testing.assert_allclose(moved, 0.5 * np.array(direction), atol=1e-12)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((1, 6)), r"shape \(1, 6\)"),
        ([0, 0, 0, 0, np.nan, 0], r"action\[4\] \(rotation y\) is nan"),
        ([0, np.inf, 0, 0, 0, 0], r"action\[1\] \(translation y\) is inf"),
        ([0, 0, -1.5, 0, 0, 0], r"action\[2\] \(translation z\) is -1.5.*\[-1, 1\]"),
        ([0, 0, 0, 0, 0, 1.001], r"action\[5\]"),
        (np.full(6, 7.0), "6 of 6 components"),
        ("forward", "type <U7"),
        (None, "type object"),
        ([True] * 6, "type bool"),
        ([[0, 0], [0]], "no array"),
    ],
)
def test_bad_action_is_refused_by_component(action, says):
    with pytest.raises(InvalidActionError, match=says):
        RelativePose(F).cameras(action, CAMERA)


def test_bad_waypoint_is_refused_by_frame_and_component():
    action = np.zeros((F, 6))
    action[2, 3] = 2.0
    with pytest.raises(InvalidActionError, match=r"action\[2, 3\] \(rotation x\) is 2"):
        Waypoints(F).cameras(action, CAMERA)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ([0, 0, 0, 0, 0, 0, 0], "length 0"),
        ([0, 0, 0, 0.9, 0, 0, 0], "length 0.9"),
        ([2 * POSITION_LIMIT, 0, 0, 1, 0, 0, 0], r"action\[0\] \(x\)"),
        ([0, 0, 0, 1], "7 numbers"),
        ([0, 0, 0, np.nan, 0, 0, 1], r"\(qw\) is nan"),
    ],
)
def test_bad_absolute_pose_is_refused(action, says):
    with pytest.raises(InvalidActionError, match=says):
        AbsolutePose(F).cameras(action, CAMERA)


def test_rounding_beyond_a_bound_is_put_on_it():
    end = RelativePose(F).cameras([0, 0, 1.0 + 1e-7, 0, 0, 0], CAMERA)[-1]
    assert np.linalg.norm(end.position - CAMERA.position) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("wheel",), "control is 'wheel'; choose one of relative_pose"),
        (("relative_pose", F, 0.0), "max_translation is 0.0"),
        (("waypoints", F, math.nan), "max_translation is nan"),
        (("relative_pose", F, 1.0, 2.0), "max_rotation is 2.0"),
    ],
)
def test_bad_control_is_refused(arguments, says):
    with pytest.raises(InvalidOptionError, match=says):
        make_control(*arguments, *(() if len(arguments) > 1 else (F,)))


def test_batching_poses_draws_nothing_from_the_single_space():
    """Gymnasium's rule for every space: the batch begins with a copy of the generator."""
    single, same, again = PoseBox(seed=0), PoseBox(seed=0), PoseBox(seed=0)
    batch = batch_space(single, 4)
    np.testing.assert_array_equal([single.sample() for _ in range(3)], [same.sample() for _ in range(3)])
    poses = batch.sample()
    np.testing.assert_array_equal(poses, batch_space(again, 4).sample())
    assert poses in batch
    assert len(np.unique(poses, axis=0)) == 4


@pytest.mark.parametrize("action", [torch.zeros(6, requires_grad=True), [[1.0], [1.0, 2.0]], {"x": 1}])
def test_what_is_no_array_is_refused(action):
    with pytest.raises(InvalidActionError, match="action"):
        RelativePose(F).cameras(action, Camera.from_fov(1.3, 32, 32))


class Relative(gym.Env):
    """Remembers the last action."""

    observation_space = Box(-1.0, 1.0, (1,))

    def __init__(self, control="relative_pose"):
        self.action_space = make_control(control, F).space

    def step(self, action):
        self.last = action
        return np.zeros(1, np.float32), 0.0, False, False, {}


def pose_after(*keys, **shares):
    env = DiscreteControl(Relative(), **shares)
    camera = Camera.from_fov(1.3, 32, 32)
    for key in keys:
        env.step(np.int64(DiscreteControl.KEYS.index(key)))
        camera = RelativePose(F).cameras(env.unwrapped.last, camera)[-1]
    return camera.T_world_cam


@pytest.mark.parametrize(
    ("key", "opposite"),
    [("forward", "back"), ("left", "right"), ("turn_left", "turn_right"), ("look_up", "look_down")],
)
def test_opposite_keys_cancel(key, opposite):
    assert not np.allclose(pose_after(key), np.eye(4))
    np.testing.assert_allclose(pose_after(key, opposite), np.eye(4), atol=1e-6)


def test_keys_mean_what_they_say():
    assert pose_after("forward", translation=0.5)[2, 3] == pytest.approx(0.5)
    assert pose_after("right")[0, 3] == pytest.approx(1.0)
    assert pose_after("turn_right")[0, 2] == pytest.approx(math.sin(0.7), abs=1e-6)  # the axis points right
    assert pose_after("look_up")[1, 2] == pytest.approx(-math.sin(0.7), abs=1e-6)  # y is down
    np.testing.assert_array_equal(pose_after("stay"), np.eye(4))


@pytest.mark.parametrize("action", [-1, 9, 1.0, "forward", None, [1]])
def test_unknown_key_is_refused_with_the_list_of_keys(action):
    with pytest.raises(InvalidActionError, match="0 stay, 1 forward"):
        DiscreteControl(Relative()).step(action)


def test_keys_need_a_relative_pose():
    with pytest.raises(InvalidOptionError, match="relative_pose"):
        DiscreteControl(Relative("absolute_pose"))
    with pytest.raises(InvalidOptionError, match="rotation is 0"):
        DiscreteControl(Relative(), rotation=0.0)
