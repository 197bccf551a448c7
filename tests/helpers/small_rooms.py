"""Rooms of made-up pictures, for viewers of a tiny world model."""

import numpy as np
from stand_ins import picture

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownWorld, StartView
from mirage_env.poses import pose_from_rotation_vector, pose_from_vector

START = Camera.from_fov(1.3, 32, 32, pose_from_vector([1.0, 2.0, 0.5, 0.5, -0.5, 0.5, -0.5]))  # z up


def open_room(model, seed):
    if seed == 13:
        raise InvalidOptionError("room 13 is closed")
    view = StartView(picture(seed), START.moved(pose_from_rotation_vector([0.0, 0.0, 0.1 * seed], np.zeros(3))))
    return KnownWorld(view, truth, lambda camera: bool(np.linalg.norm(camera.position - START.position) < 5.0))


def truth(camera, frame):
    return np.full((32, 32, 3), frame % 256, np.uint8), np.ones((32, 32), bool)
