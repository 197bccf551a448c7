"""Observations and info are copies of what was shown, in the spaces that are announced."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from mirage_env.camera import Camera
from mirage_env.spaces.observations import (
    EXTRAS,
    PER_FRAME,
    Shown,
    WorldFormat,
    info_of,
    observation_of,
    observation_space,
)

WORLD = WorldFormat((8, 12), (2, 3), 2, near=0.5, far=10.0, frames_per_second=8.0)


@pytest.fixture
def shown(rng):
    camera = Camera.from_fov(1.0, 8, 12)
    end = np.eye(4)
    end[:3, 3] = 1.0, 2.0, 3.0
    depth = rng.uniform(0.0, 20.0, (2, 8, 12)).astype(np.float32)
    depth[:, 0] = np.inf
    return Shown(
        cameras=(camera, camera.at(end)),
        frames=rng.integers(0, 256, (2, 8, 12, 3), np.uint8),
        depth=depth,
        labels=np.zeros((2, 8, 12), np.uint8),
        readout=rng.integers(0, 256, (8, 12, 3), np.uint8),
        observed=rng.uniform(0.0, 1.0, (2, 3)).astype(np.float32),
        chunk=4,
        coverage=0.25,
        memory_points=7,
        memory_bytes=70,
    )


@pytest.mark.parametrize("extras", [(), ("depth",), EXTRAS])
@pytest.mark.parametrize("goal", [None, np.array([0.5], np.float32)])
def test_observation_has_what_its_space_says(shown, extras, goal):
    space = observation_space(WORLD, extras, None if goal is None else Box(0.0, 1.0, (1,)))
    observation = observation_of(shown, WORLD, extras, goal)
    assert observation in space
    assert set(space) == {"pixels", "agent_pos", *extras, *([] if goal is None else ["goal"])}


def test_observation_is_of_the_last_frame(shown):
    observation = observation_of(shown, WORLD, EXTRAS)
    np.testing.assert_array_equal(observation["pixels"], shown.frames[-1])
    np.testing.assert_allclose(observation["agent_pos"], [1, 2, 3, 1, 0, 0, 0])
    np.testing.assert_array_equal(observation["depth"], shown.depth[-1].clip(0.5, 10.0))


def test_whole_chunks_are_in_the_info_where_they_are_wanted(shown):
    brief, whole = info_of(shown, False), info_of(shown, True)
    assert set(whole) - set(brief) == {"frames", "frame_depth", "frame_labels", "frame_poses", "intrinsics"}
    assert set(PER_FRAME) <= set(whole)
    for name in PER_FRAME:
        assert len(whole[name]) == 2, name
    np.testing.assert_array_equal(whole["frame_poses"][1], shown.cameras[1].T_world_cam)
    assert (brief["chunk"], brief["coverage"], brief["memory_points"], brief["memory_bytes"]) == (4, 0.25, 7, 70)


def test_writing_into_results_does_not_change_what_was_shown(shown):
    goal = np.ones(1, np.float32)
    before = shown.frames.copy(), shown.depth.copy(), shown.observed.copy(), shown.cameras[1].K_image.copy()
    for result in (observation_of(shown, WORLD, EXTRAS, goal), info_of(shown, True)):
        for value in result.values():
            if isinstance(value, np.ndarray):
                value[...] = 0
    after = shown.frames, shown.depth, shown.observed, shown.cameras[1].K_image
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)
    assert goal[0] == 1.0
