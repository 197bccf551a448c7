"""Contact: bodies that obstacles stop, in both worlds."""

from dataclasses import dataclass, replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from room_memories import loop_through, written
from stand_ins import Breathing, start_view
from task_worlds import (
    FORWARD,
    SMALL,
    TURN,
    mirage,
    model,
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.adapters.rgbd_env import RgbdEnv
from mirage_env.camera import Camera, between
from mirage_env.envs.conformance import check_world_env
from mirage_env.envs.contact import STEP, reachable_path, touched
from mirage_env.envs.known_obstacles import known_obstacles
from mirage_env.envs.readout import ReadoutEnv
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidOptionError
from mirage_env.memory.movers import Mover
from mirage_env.rooms import Room
from mirage_env.rooms.free_space import RoomObstacles
from mirage_env.rooms.scene import plan_distance
from mirage_env.tasks import Explore

RADIUS = 0.2
START = Camera.from_fov(1.3, 32, 32)


@dataclass
class Wall:
    """A wall that fills z > 1, in a world whose up is -y."""

    up = np.array([0.0, -1.0, 0.0])

    def clearance(self, points, seconds):
        return 1.0 - points[:, 2]


@dataclass
class Pillar:
    """A round pillar half a metre thick, which `speed` metres per second take to the right."""

    speed: float = 0.0
    up = np.array([0.0, -1.0, 0.0])

    def clearance(self, points, seconds):
        return np.hypot(points[:, 0] - 0.3 - self.speed * seconds, points[:, 2] - 1.5) - 0.25


def asked(*places, frames=4):
    path, before = [], START
    for place in places:
        T = np.eye(4)
        T[:3, 3] = place
        path += between(before, START.at(T), frames)
        before = path[-1]
    return path


def positions(cameras):
    return np.stack([camera.position for camera in cameras])


follow = partial(reachable_path, radius=RADIUS, start=START, frame_seconds=0.1)
places = st.lists(st.tuples(*[st.floats(-2.0, 2.0)] * 3), min_size=1, max_size=3)


@pytest.mark.parametrize("contact", ["stop", "slide"])
@settings(max_examples=25)
@given(places=places)
def test_no_body_comes_closer_than_its_radius(contact, places):
    for obstacles in (Wall(), Pillar()):
        path = follow(contact, obstacles=obstacles, asked=asked(*places))
        assert obstacles.clearance(positions(path), 0.0).min() > RADIUS - 1e-3
        steps = np.linalg.norm(np.diff(positions([START, *path]), axis=0), axis=1)
        wanted = np.linalg.norm(np.diff(positions([START, *asked(*places)]), axis=0), axis=1)
        assert (steps <= 1.05 * wanted + 1e-6).all()  # nobody is pushed faster than asked


@pytest.mark.parametrize("contact", ["stop", "slide"])
def test_a_free_path_is_the_path_that_was_asked_for(contact):
    path = asked((-1.0, 0.5, 0.2), (-1.0, 0.0, -1.0))
    reached = follow(contact, obstacles=Wall(), asked=path)
    np.testing.assert_allclose(positions(reached), positions(path), atol=1e-9)
    assert not touched(path, reached)


def test_a_body_stops_at_a_wall_and_turns_on():
    T = np.eye(4)
    T[:3, :3] = START.moved(np.eye(4)).T_world_cam[:3, :3] @ np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    T[:3, 3] = (1.0, 0.0, 2.0)
    path = between(START, START.at(T), 8)
    reached = follow("stop", obstacles=Wall(), asked=path)
    assert positions(reached)[-1][2] == pytest.approx(0.8, abs=0.05)
    assert (positions(reached)[-1] == positions(reached)[-2]).all()
    np.testing.assert_allclose(reached[-1].T_world_cam[:3, :3], T[:3, :3], atol=1e-9)
    assert touched(path, reached)


def test_a_body_slides_along_a_wall_and_around_a_pillar():
    along = follow("slide", obstacles=Wall(), asked=asked((0.0, 0.0, 0.7), (1.0, 0.0, 1.5), frames=8))
    assert positions(along)[-1][0] == pytest.approx(1.0, abs=1e-6)
    around = follow("slide", obstacles=Pillar(), asked=asked((0.0, 0.0, 2.5), frames=8))
    assert positions(around)[-1][2] > 1.5
    assert positions(around)[-1][0] < -0.1


def test_a_body_that_something_came_close_to_may_leave():
    pillar = Pillar()
    start = START.at(np.array([[1.0, 0, 0, 0.3], [0, 1, 0, 0], [0, 0, 1, 1.2], [0, 0, 0, 1]]))
    back = between(start, start.at(np.eye(4)), 4)
    assert not touched(back, reachable_path("stop", RADIUS, pillar, start, back, 0.1))
    into = between(start, start.at(np.array([[1.0, 0, 0, 0.3], [0, 1, 0, 0], [0, 0, 1, 1.5], [0, 0, 0, 1]])), 4)
    assert touched(into, reachable_path("stop", RADIUS, pillar, start, into, 0.1))


def test_things_that_move_are_where_they_are_at_each_frame():
    path = asked((0.3, 0.0, 1.4), frames=8)
    assert touched(path, follow("stop", obstacles=Pillar(), asked=path))
    assert not touched(path, follow("stop", obstacles=Pillar(speed=2.0), asked=path))


@pytest.mark.parametrize("seed", range(4))
def test_obstacles_of_a_room_begin_where_a_level_ray_ends(seed):
    room = Room.generate(seed, "validation")
    camera = room.start_camera(np.random.default_rng(seed), 16, 16)
    obstacles = RoomObstacles(room, 0.0, camera.position[2] + 0.01)
    for yaw in np.linspace(0.0, 6.0, 12):
        way = room.view_distance(*camera.position[:2], yaw, camera.position[2])
        end = camera.position + way * np.array([np.cos(yaw), np.sin(yaw), 0.0])
        assert obstacles.clearance(end[None], 0.0)[0] < 0.02
    assert obstacles.clearance(camera.position[None], 0.0)[0] > 0.3
    assert obstacles.clearance(np.array([[-1.0, 1.0, 1.0]]), 0.0)[0] < 0.0


def test_obstacles_of_a_memory_are_what_it_has_seen():
    env = mirage()
    env.reset(seed=0)
    world = env.get_world()
    obstacles = known_obstacles(world.memory, 1.5)
    ahead = world.camera.position + np.outer(np.linspace(0.0, 3.0, 31), world.camera.T_world_cam[:3, 2])
    clearance = obstacles.clearance(ahead, 0.0)
    assert clearance[0] > 1.0
    assert clearance.min() < 0.5  # tokens are 0.9 m apart
    assert 1.9 < 0.1 * clearance.argmin() < 2.5  # the wall stands at 2.0 to 2.4 m
    assert known_obstacles(world.memory, 1.5) is obstacles
    assert len(known_obstacles(world.memory, STEP + 0.3).places) <= len(obstacles.places)


def test_a_surface_that_some_views_put_too_near_stands_where_most_saw_it():
    """The nearest of several estimates is not the best: it would close nine tenths of the free floor here."""
    room = Room.generate(1, "test")
    cameras = loop_through(room)
    axes = [np.arange(0.3, size - 0.3, 0.1) for size in room.scene.shell[:2]]
    here = np.stack([*(a.ravel() for a in np.meshgrid(*axes)), np.full(len(axes[0]) * len(axes[1]), 1.4)], 1)
    true = plan_distance(room.scene, room.scene.geometry, room.scene.mover_of < 0, here, 1.5)
    memory = written(room, cameras)
    known = known_obstacles(memory, 1.5).clearance(here, 0.0)
    assert (known < RADIUS)[true > 0.5].mean() < 0.01
    assert (known < 2.0 * RADIUS)[np.abs(true) < RADIUS].mean() > 0.85
    known = known_obstacles(written(room, cameras[::4], scale=0.7, memory=memory), 1.5).clearance(here, 0.0)
    assert (known < RADIUS)[true > 0.5].mean() < 0.6


def test_a_mover_stands_in_the_way_where_it_should_be_by_then():
    env = mirage(contact="stop")
    env.reset(seed=0)
    world = env.get_world()
    ago = np.array([0.6, 0.4, 0.2, 0.0])
    track = np.stack([ago, -0.5 * ago, np.full(4, 0.2), np.full(4, 0.7)], 1)  # half a metre per second to the right
    offset = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.9, 1.2, 0.0]], np.float32)  # the last lies on the floor
    ones = np.ones(len(offset), np.float32)
    mover = Mover(offset, ones, ones[:, None], track, np.eye(4), 0, 1)
    floor, moving = known_obstacles(world.memory, 1.5), replace(world, movers=(mover,))
    obstacles = env.obstacles(moving, 1.5)
    for seconds in (0.0, 1.0):
        place = mover.place(seconds)[None]
        assert floor.clearance(place, seconds)[0] > 0.5 > 0.0 > obstacles.clearance(place, seconds)[0]
    assert obstacles.clearance(mover.place()[None], 1.0)[0] > 0.0  # it is gone
    assert obstacles.clearance(mover.place()[None] + offset[2], 0.0)[0] > 0.3
    [(_, free), (_, shown)] = env.move([world, moving], [env.path(FORWARD)] * 2)
    assert not touched(env.path(FORWARD), free.cameras)
    assert touched(env.path(FORWARD), shown.cameras)


def test_a_world_too_large_for_fine_voxels_has_coarse_ones(monkeypatch):
    """Never none: a body that passes through walls because the world is large would not be told."""
    env = mirage()
    env.reset(seed=0)
    memory = env.get_world().memory
    fine = known_obstacles(memory, 1.5)
    monkeypatch.setattr("mirage_env.envs.known_obstacles.MOST_CELLS", 2_000)
    coarse = known_obstacles(replace(memory), 1.5)
    assert coarse.side > fine.side
    middles = fine.places @ np.linalg.pinv(fine.T_map_world).T  # of the fine columns, in the world
    near = coarse.clearance(middles, 0.0) <= coarse.side
    assert near.mean() > 0.8


WORLDS = {
    "mirage": mirage,
    "rooms": rooms,
    "readout": lambda **arguments: ReadoutEnv(model(), start_views=mirage().start_views, **arguments),
}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("contact", ["stop", "slide"])
def test_an_agent_that_only_walks_ahead_is_stopped_in_every_world(name, contact):
    free, env = WORLDS[name](), WORLDS[name](contact=contact, contact_cost=0.5, body_radius=0.5)
    free.reset(seed=0)
    _, info = env.reset(seed=0)
    assert info["contact"] is False
    start = env.get_world().camera.position
    rewards, contacts = [], []
    for _ in range(6):
        _, reward, *_, info = env.step(FORWARD)
        *_, asked_for = free.step(FORWARD)
        rewards.append(reward)
        contacts.append(info["contact"])
    assert any(contacts)
    assert rewards == [-0.5 * hit for hit in contacts]
    assert np.linalg.norm(env.get_world().camera.position - start) < 5.5
    assert np.linalg.norm(free.get_world().camera.position - start) == pytest.approx(6.0, abs=1e-6)
    assert type(info["contact"]) is bool
    assert "contact" not in asked_for


def test_no_step_in_a_room_ends_in_a_wall_and_nothing_behind_it_is_explored():
    area = {}
    for contact in ("none", "slide"):
        env = rooms(Explore(), contact=contact)
        env.reset(seed=3)
        for _ in range(8):
            *_, info = env.step(FORWARD)
            state = env.get_world()
            here, scene = state.camera.position[:2], state.room.scene
            clearance = plan_distance(scene, scene.geometry, scene.mover_of < 0, here[None], 1.5)[0]
            assert contact == "none" or clearance > RADIUS - 0.02
        area[contact] = info["explored_area"]
        assert (contact == "none") == bool((here < 0).any() or (here > scene.shell[:2]).any())
    assert area["slide"] > 0.0


def test_what_a_step_discovers_stops_it_too():
    """The memory shows a wall at 2 m; the frames of the step show one half a metre ahead."""
    env = MirageEnv(replace(model(), depth=Breathing(0.25)), start_view, contact="stop", body_radius=0.4)
    env.reset(seed=0)
    before, path = env.get_world(), env.path(FORWARD)
    [(after, shown)] = env.walk([before], [path])
    assert not touched(path, shown.cameras)
    [(after, shown)] = env.move([before], [path])
    assert touched(path, shown.cameras)
    assert after.camera.position[2] < 0.8


def test_worlds_with_contact_keep_every_promise_and_step_together():
    check_world_env(rooms(contact="slide"))
    envs = gym.make_vec("Rooms/World-v0", num_envs=2, contact="stop", **SMALL)
    single = rooms(contact="stop")
    envs.reset(seed=3)
    single.reset(seed=4)
    for _ in range(3):
        observations, *_, infos = envs.step(np.stack([0.3 * TURN, FORWARD]))
        observation, *_, info = single.step(FORWARD)
        np.testing.assert_array_equal(observations["agent_pos"][1], observation["agent_pos"])
        assert infos["contact"][1] == info["contact"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"contact": "bounce"}, "choose one of none, stop, slide"),
        ({"contact_cost": 1.0}, "contact='stop' or 'slide'"),
        ({"contact": "stop", "contact_cost": -1.0}, "0 or more"),
        ({"contact": "stop", "body_radius": 0.0}, "body_radius is 0"),
        ({"contact": "stop", "body_height": 0.1}, "body_height is 0.1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(InvalidOptionError, match=says):
        rooms(**arguments)


def test_a_world_that_knows_no_obstacles_refuses_contact():
    with pytest.raises(InvalidOptionError, match="RgbdEnv knows no obstacles"):
        RgbdEnv(lambda camera, time: None, START, (32, 32), contact="stop")
