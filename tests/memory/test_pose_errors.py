"""Poses are moved where pictures tell that they err, and only there."""

from __future__ import annotations

import math

import numpy as np
from two_walls import still, wall_camera, wall_views

from mirage_env.memory.depth_from_motion import _views
from mirage_env.memory.pose_errors import moved, set_right

CAMERAS = [wall_camera(-0.4), wall_camera(), wall_camera(0.4)]


def turn(T: np.ndarray) -> float:
    return math.acos(min(1.0, max(-1.0, (float(np.trace(T[:3, :3])) - 1.0) / 2.0)))


def test_right_poses_stay_to_within_a_tenth_of_a_degree() -> None:
    truth, images, _ = wall_views(CAMERAS, near=1.6)
    a, b, c = _views(truth, images, still(truth), CAMERAS)
    pairs = [(a, b), (b, c), (c, b), (b, a)]
    poses, _ = set_right(pairs)
    for (view, other), T in zip(pairs, poses, strict=True):
        assert turn(T @ np.linalg.inv(view.in_sight_of(other))) < math.radians(0.1)


def test_a_turned_camera_is_set_right() -> None:
    told = [CAMERAS[0], wall_camera(0.0, 0.0, 0.012), CAMERAS[2]]
    truth, images, _ = wall_views(CAMERAS, near=1.6)
    right = _views(truth, images, still(truth), CAMERAS)
    wrong = _views(truth, images, still(truth), told)
    order = [(0, 1), (1, 2), (2, 1), (1, 0)]
    poses, off = set_right([(wrong[i], wrong[j]) for i, j in order])
    assert off > 0.0
    for (i, j), T in zip(order, poses, strict=True):
        assert turn(T @ np.linalg.inv(right[i].in_sight_of(right[j]))) < 0.4 * 0.012


def test_no_pairs_no_errors() -> None:
    assert set_right([]) == ([], 0.0)


def test_no_errors_move_nothing() -> None:
    T = np.eye(4)
    assert moved(T, np.zeros(6)) is T
