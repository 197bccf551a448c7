"""Scripted policies act inside the action space and draw the paths they are named after."""

import gymnasium as gym
import numpy as np
import pytest
from transforms3d import axangles

from policies.base import Policy
from policies.scripted import SCRIPTS, Scripted, forward, look_around, orbit, still

SPACE = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
MAX_TRANSLATION, MAX_ROTATION = 0.5, 0.25


def walk(policy: Policy, steps: int) -> list[np.ndarray]:
    """Poses [4, 4] of a camera that obeys the policy."""
    policy.reset(seed=0)
    poses = [np.eye(4)]
    for _ in range(steps):
        action = policy.act({}).astype(np.float64)
        rotation = action[3:] * MAX_ROTATION
        T_cam_new = np.eye(4)
        T_cam_new[:3, 3] = action[:3] * MAX_TRANSLATION
        if angle := float(np.linalg.norm(rotation)):
            T_cam_new[:3, :3] = axangles.axangle2mat(rotation / angle, angle)
        poses.append(poses[-1] @ T_cam_new)
    return poses


@pytest.mark.parametrize("name", SCRIPTS)
def test_actions_lie_in_the_space(name):
    policy = SCRIPTS[name]()
    assert all(SPACE.contains(policy.act({})) for _ in range(5))


def test_actions_are_clipped():
    assert SPACE.contains(forward(speed=3.0).act({}))


def test_reset_starts_the_script_again():
    policy = Scripted(lambda step: (0.1 * step, 0.0, 0.0, 0.0, 0.0, 0.0))
    first = [policy.act({}) for _ in range(3)]
    policy.reset(seed=1)
    np.testing.assert_array_equal([policy.act({}) for _ in range(3)], first)


def test_actions_share_no_memory():
    policy = still()
    policy.act({})[:] = 1.0
    assert not policy.act({}).any()


def test_still_stays():
    np.testing.assert_array_equal(walk(still(), 4)[-1], np.eye(4))


def test_forward_moves_along_the_view():
    np.testing.assert_allclose(walk(forward(), 4)[-1][:3, 3], [0.0, 0.0, 4 * MAX_TRANSLATION])


def test_look_around_turns_right_on_the_spot():
    T = walk(look_around(), 1)[-1]
    np.testing.assert_array_equal(T[:3, 3], 0.0)
    assert T[0, 2] > 0.0  # the view direction, now pointing to the right


def test_orbit_keeps_its_distance_and_its_point_in_view():
    # A regular polygon whose sides turn by MAX_ROTATION has this radius to its corners.
    radius = MAX_TRANSLATION / (2.0 * np.sin(MAX_ROTATION / 2.0))
    poses = walk(orbit(), 30)
    positions = np.array([T[:3, 3] for T in poses])
    centre = np.linalg.lstsq(2.0 * (positions[1:] - positions[0])[:, ::2], (positions[1:] ** 2).sum(1), rcond=None)[0]
    np.testing.assert_allclose(np.linalg.norm(positions[:, ::2] - centre, axis=1), radius, rtol=1e-6)
    for T in poses:
        ahead = np.linalg.inv(T) @ [centre[0], 0.0, centre[1], 1.0]
        assert ahead[2] > 0.9 * radius
