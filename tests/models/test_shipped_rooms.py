"""What the shipped weights must not unlearn."""

import numpy as np
import pytest
import torch
from transforms3d.axangles import axangle2mat

from mirage_env import load_world_model
from mirage_env.rooms import Room


@pytest.fixture(scope="module")
def model():
    return load_world_model("rooms", image_size=(128, 128))


@pytest.mark.parametrize("world", [100, 101])
def test_a_room_keeps_its_size_while_the_camera_turns_fast(model, world):
    """What is imagined at 32 degrees a chunk is soft, and soft is not near: rooms once shrank to a third."""
    room = Room.generate(world, "test")
    camera = room.start_camera(np.random.default_rng(0), 128, 128)
    _, state = model.start(room.render(camera, 0.0).image, camera, seed=0)
    for chunk in range(3):
        angles = np.radians(4.0 * (8 * chunk + np.arange(1, 9)))
        path = []
        for angle in angles:
            turn = np.eye(4)
            turn[:3, :3] = axangle2mat((0.0, 1.0, 0.0), angle)
            path.append(camera.at(camera.T_world_cam @ turn))
        imagined, state = model.step(state, path)
        true = room.render(path[-1], 0.0)
        depth = imagined.depth[-1][imagined.depth[-1] < model.config.far]
        ratio = float(torch.median(depth)) / float(np.median(true.depth[~true.sky]))
        assert 0.6 < ratio < 1.6, f"chunk {chunk + 1}"
