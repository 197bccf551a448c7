"""Views of a robot that show nothing new: by what the memory shows, and by what it has refused to keep."""

from dataclasses import replace

import numpy as np
import pytest
from worlds import open_minded_model

from mirage_env.memory import known_share
from mirage_env.poses import pose_from_rotation_vector
from ros_bridge.sensing.known_views import KnownViews


@pytest.fixture(scope="module")
def world():
    """A world of a picket fence, whose edges the memory does not keep: model, camera, depth and state after a view."""
    model = open_minded_model()
    model = replace(
        model, config=replace(model.config, filters=replace(model.config.filters, edge_jump=0.2, edge_share=0.1))
    )
    height, width = model.config.image_size
    depth = np.full((height, width), 2.0, np.float32)
    depth[:, : width // 2] = np.where(np.arange(width // 2) // 4 % 2, 2.0, 4.0)
    image = np.zeros((height, width, 3), np.uint8)
    _, state = model.start(image, depth=depth)
    return model, state.camera, depth, state


def test_a_camera_that_stands_knows_what_the_memory_has_not_kept(world):
    _, camera, depth, state = world
    known = KnownViews()
    before = known.share(state.memory, camera, depth)
    assert before == known_share(state.memory, camera, depth) < 0.7, "the fence is not kept"
    known.written(state.memory, camera, depth)
    assert known.share(state.memory, camera, depth) == 1.0
    noisy = depth * np.random.default_rng(0).uniform(0.97, 1.03, depth.shape).astype(np.float32)
    trembling = camera.moved(pose_from_rotation_vector([0.005, 0.0, 0.0], [0.0, 0.005, 0.0]))
    assert known.share(state.memory, trembling, noisy) > 0.9


def test_what_changes_before_a_standing_camera_is_new(world):
    _, camera, depth, state = world
    known = KnownViews()
    known.written(state.memory, camera, depth)
    opened = depth.copy()
    opened[:, : depth.shape[1] // 2] = 8.0
    assert known.share(state.memory, camera, opened) < 0.7
    assert known.share(state.memory, camera.moved(pose_from_rotation_vector([0.5, 0, 0], [0, 0, 0])), depth) < 0.9


def test_another_world_knows_nothing_of_what_was_written_before(world):
    model, camera, depth, state = world
    known = KnownViews()
    known.written(state.memory, camera, depth)
    _, other = model.start(np.zeros((*depth.shape, 3), np.uint8), depth=np.full_like(depth, 20.0))
    assert known.share(other.memory, camera, depth) < 0.7
    assert known.share(None, camera, depth) == 0.0
    assert known.share(other.memory, camera, np.zeros_like(depth)) == 1.0, "nothing is measured"
