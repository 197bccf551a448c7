"""Goals that the start view does not show, in both worlds."""

from dataclasses import replace

import numpy as np
import pytest
from stand_ins import start_view
from task_worlds import (
    mirage,
    model,
    room_view,
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.camera import Camera
from mirage_env.envs.readout import ReadoutEnv
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import StartView
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import surroundings
from mirage_env.tasks import ImageNav, ObjectNav, PointNav
from mirage_env.tasks.navigation import KNOWN


def around(rng):
    view = surroundings(rng, size=32)
    return view


WORLDS = {
    "rooms": rooms,
    "one view": lambda task: mirage(task, room_view),
    "surroundings": lambda task: MirageEnv(model(), around, task=task),
    "readout": lambda task: ReadoutEnv(model(), start_views=around, task=task),
}


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_of_a_goal_behind_is_in_sight_at_the_start(name):
    env = WORLDS[name](PointNav(goals="behind"))
    for seed in range(3):
        seen, info = env.reset(seed=seed)
        x, _, z = seen["goal"]
        assert abs(np.arctan2(x, z)) > np.radians(55.0)
        assert info["distance_to_goal"] == pytest.approx(np.linalg.norm(seen["goal"]), rel=1e-4)


def test_the_start_is_that_of_the_room_and_the_memory_knows_more():
    task = ImageNav(goals="behind")
    true, learned, one = rooms(task), MirageEnv(model(), around, task=task), mirage(None, room_view)
    (a, _), (b, more), (_, less) = true.reset(seed=0), learned.reset(seed=0), one.reset(seed=0)
    np.testing.assert_allclose(a["agent_pos"], b["agent_pos"], atol=1e-5)
    assert more["memory_points"] > 2 * less["memory_points"]
    assert more["chunk"] == 0
    assert b["goal"].shape == (32, 32, 3)
    learned.step(np.zeros(6, np.float32))


def test_further_views_change_the_memory_and_nothing_else():
    view = start_view(np.random.default_rng(0))
    turned = Camera.from_fov(1.3, 32, 32, np.diag([-1.0, 1.0, -1.0, 1.0]))
    other = StartView(view.image[::-1].copy(), turned)
    worlds = []
    for others in ((), (other,)):
        env = MirageEnv(model(), lambda rng, others=others: replace(view, others=others))
        env.reset(seed=0)
        worlds.append(env.get_world())
    one, both = worlds
    assert both.memory.points > one.memory.points
    assert (both.camera is one.camera) or (both.camera.T_world_cam == one.camera.T_world_cam).all()
    assert (both.latents == one.latents).all()
    assert (both.noise == one.noise).all()


def test_a_goal_behind_is_looked_for_until_there_is_room_for_it(monkeypatch):
    """Where a start has its back to a wall, standing still would reach a goal before that wall."""
    env = rooms(PointNav(goals="behind"))

    def distances():
        return np.array([env.reset(seed=seed)[1]["distance_to_goal"] for seed in (12, 19)])

    assert (distances() > 0.99).all()
    monkeypatch.setattr("mirage_env.envs.chunk_world.GLANCES", 1)
    assert (distances() < 0.5).all()


RECOGNISED = [ImageNav(goals="behind"), ObjectNav(goals="behind"), ObjectNav(goals="behind", show="image")]


@pytest.mark.parametrize("task", RECOGNISED)
def test_what_the_world_has_never_seen_is_no_goal_to_be_recognised(task):
    """It shows mirror images of the start view there, and the same in other places."""
    for env in (mirage(task, room_view), ReadoutEnv(model(), start_views=room_view, task=task)):
        with pytest.raises(InvalidOptionError, match="made up; open it with views all around"):
            env.reset(seed=0)
    for name in ("rooms", "surroundings", "readout"):
        seen, info = WORLDS[name](task).reset(seed=0)
        assert seen["goal"].any()
        assert info.get("goal_known", 1.0) >= (1.0 if name == "rooms" else KNOWN)


def test_a_goal_that_is_given_may_be_unknown_and_info_says_so():
    env = mirage(ImageNav(), room_view)
    env.reset(seed=0)
    start = env.get_world().camera
    for turn, known in ((0.0, True), (3.0, False)):
        goal = start.moved(pose_from_rotation_vector([0.0, 0.0, 0.5], [0.0, turn, 0.0]))
        _, info = env.reset(seed=0, options={"goal": goal, "goal_image": np.zeros((32, 32, 3), np.uint8)})
        assert (info["goal_known"] >= KNOWN) == known
        *_, after = env.step(np.zeros(6, np.float32))
        assert after["goal_known"] == info["goal_known"]
