"""Both worlds at 32 x 32 pixels and four frames a step, with a task."""

from functools import cache, partial

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import strategies as st
from stand_ins import start_view, walled_world_model

from mirage_env.envs.world import MirageEnv
from mirage_env.interfaces import StartView
from mirage_env.rooms import Room
from mirage_env.rooms.env import RoomsEnv
from mirage_env.tasks import ObjectNav

F = 4
SMALL = {"image_size": (32, 32), "chunk_frames": F, "samples": 1}
NAMES = ("Explore", "PointNav", "ImageNav", "Revisit")
IDS = [f"{world}/{name}-v0" for world in ("Mirage", "Rooms") for name in NAMES]
EVERY_ID = [*IDS, *(f"{name}-v0" for name in ("Mirage/World", "Rooms/World", "Mirage/Readout"))]
EVERY_ID += [f"Mirage/Readout{name}-v0" for name in NAMES]
FORWARD = np.array([0, 0, 1, 0, 0, 0], np.float32)
TURN = np.array([0, 0, 0, 0, 1, 0], np.float32)
STAY = np.zeros(6, np.float32)

paths = st.lists(st.lists(st.floats(-0.5, 0.5, width=32), min_size=6, max_size=6), min_size=2, max_size=4).map(
    lambda rows: np.array(rows, np.float32)
)


@pytest.fixture(autouse=True, scope="module")
def rooms_made_once():
    """Every check resets to the same few seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "generate", staticmethod(cache(Room.generate)))
        yield


@cache
def model():
    return walled_world_model()


def room_view(rng):
    """The view that `Rooms` would begin with, for worlds of 32 x 32 pixels."""
    room = Room.generate(int(rng.integers(2**31)), "test")
    camera = room.start_camera(rng, 32, 32)
    view = room.render(camera, samples=1)
    return StartView(view.image, camera, view.depth, objects=partial(room.objects_around, camera))


def mirage(task=None, views=None, **arguments):
    named = task == "object_nav" or isinstance(task, ObjectNav)  # things with a name are in rooms
    views = views or (room_view if named else start_view)
    return MirageEnv(model(), views, task=task, **arguments)


def rooms(task=None, **arguments):
    return RoomsEnv(**SMALL, task=task, **arguments)


def make(name):
    world = SMALL if name.startswith("Rooms") else {"model": model(), "start_views": start_view}
    return gym.make(name, **world)


def rollout(env, actions=(TURN, FORWARD)):
    return [env.step(0.5 * action) for action in actions]


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) or (isinstance(a, np.ndarray) and a.dtype == object):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


def towards(goal):
    """The action that goes to a point, as far as one step goes."""
    return np.array([*(goal / max(1.0, np.abs(goal).max())), 0, 0, 0], np.float32)
