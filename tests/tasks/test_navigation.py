"""PointNav and ImageNav: goals that can be reached, the field's measures, distances around obstacles."""

import math

import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from task_worlds import (
    FORWARD,
    TURN,
    mirage,
    paths,
    room_view,
    rooms,
    rooms_made_once,  # noqa: F401
    towards,
)

from mirage_env.camera import Camera
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.tasks import TASKS, ImageNav, PointNav

# PointNav


@pytest.mark.parametrize(("world", "goals"), [(mirage, "seen"), (rooms, "seen"), (rooms, "free")])
@settings(max_examples=6)
@given(path=paths, seed=st.integers(0, 5))
def test_rewards_of_an_episode_are_the_way_that_was_saved(world, goals, path, seed):
    task = PointNav(goals=goals, stop="automatic")
    env = world(task)
    _, start = env.reset(seed=seed)
    total = bonuses = 0.0
    for action in path:
        *_, reward, terminated, _, info = env.step(action)
        total, bonuses = total + reward, bonuses + task.bonus * info["is_success"]
        assert terminated == info["is_success"] == (info["distance_to_goal"] <= task.radius)
    saved = start["distance_to_goal"] - info["distance_to_goal"]
    assert total == pytest.approx(saved + bonuses - task.slack * len(path), abs=1e-5)


@given(path=paths, polar=st.booleans())
@settings(max_examples=10)
def test_goal_is_the_point_as_the_camera_sees_it(path, polar):
    env = mirage(PointNav(goal_format="polar" if polar else "cartesian", stop="automatic"))
    env.reset(seed=0)
    for action in path:
        observation, *_, info = env.step(action)
        point = observation["goal"].astype(float)
        if polar:
            r, azimuth, elevation = point
            level = r * math.cos(elevation)
            point = [level * math.sin(azimuth), -r * math.sin(elevation), level * math.cos(azimuth)]
        T_world_cam = Camera.from_fov(1.0, 4, 4).at(env.get_world().camera.T_world_cam).T_world_cam
        np.testing.assert_allclose((T_world_cam @ [*point, 1.0])[:3], info["goal_position"], atol=1e-5)


@pytest.mark.parametrize("world", [mirage, rooms])
def test_goal_in_view_is_reached_by_walking_straight(world):
    for seed in range(4):
        env = world(PointNav(stop="automatic", max_distance=2.0))
        observation, info = env.reset(seed=seed)
        for _ in range(4):
            observation, *_, terminated, _, info = env.step(towards(observation["goal"]))
            if terminated:
                break
        assert info["is_success"]
        assert info["spl"] == pytest.approx(1.0)


def test_same_seed_gives_the_same_start_and_goal_in_both_worlds():
    for name in ("point_nav", "image_nav"):
        task = TASKS[name]()  # also as they are without arguments
        for seed in range(4):
            (a, told), (b, true) = (env.reset(seed=seed) for env in (mirage(task, room_view), rooms(task)))
            np.testing.assert_array_equal(a["pixels"], b["pixels"])
            key = "goal_position" if name == "point_nav" else "goal_pose"
            np.testing.assert_allclose(told[key], true[key], atol=1e-12)
            assert told["distance_to_goal"] == pytest.approx(true["distance_to_goal"])


@pytest.mark.parametrize("name", ["point_nav", "image_nav"])
def test_drawn_goals_are_free_reachable_and_as_far_as_wanted(name):
    key = {"point_nav": "goal_position", "image_nav": "goal_pose"}[name]
    env = rooms(TASKS[name](goals="free"))
    for seed in range(8):
        _, info = env.reset(seed=seed)
        assert env.get_world().room.is_free(info[key][:3], 0.3)
        assert 0.9 <= info["distance_to_goal"] <= 4.1


def test_measures_are_those_of_the_field():
    env = mirage(PointNav(stop="automatic"))
    env.reset(seed=0, options={"goal": [0.0, 0.0, 3.0]})
    sideways = np.array([1, 0, 0, 0, 0, 0], np.float32)
    *_, info = env.step(sideways)
    assert (info["path_length"], info["spl"]) == (pytest.approx(1.0), 0.0)
    left = math.hypot(1.0, 3.0)
    assert info["distance_to_goal"] == pytest.approx(left)
    assert info["soft_spl"] == 0.0
    env.step(-sideways)
    for _ in range(2):
        *_, info = env.step(FORWARD)
    assert info["soft_spl"] == pytest.approx((1 - 1 / 3) * 3 / 4)
    *_, terminated, _, info = env.step(FORWARD)
    assert terminated
    assert info["spl"] == pytest.approx(3 / 5)
    assert info["soft_spl"] == pytest.approx(3 / 5)


def test_stop_ends_the_episode_right_or_wrong():
    env = mirage(PointNav(stop="action"))
    assert env.action_space == Box(-1.0, 1.0, (7,), np.float32)
    near = {"goal": [0.0, 0.0, 1.0]}
    for motion, stop, ends, succeeds in (
        (FORWARD, -1.0, False, False),
        (FORWARD, 1.0, True, True),
        (-FORWARD, 1.0, True, False),
    ):
        env.reset(seed=0, options=near)
        *_, terminated, _, info = env.step(np.append(motion, np.float32(stop)))
        assert (terminated, info["is_success"], info["spl"] > 0.0) == (ends, succeeds, succeeds)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="stop"):
        env.step(np.append(FORWARD, np.float32(2.0)))


@pytest.mark.parametrize("world", [mirage, rooms])
@pytest.mark.parametrize("control", ["relative_pose", "absolute_pose", "waypoints"])
def test_standing_still_says_stop_in_every_control(world, control):
    env = world(PointNav(), control=control)
    for near in (True, False):
        observation, _ = env.reset(seed=0)
        if near:
            observation, _ = env.reset(seed=0, options={"goal": env.get_world().camera.position})
        still = {"relative_pose": 0.049 * FORWARD, "waypoints": np.zeros((4, 6), np.float32)}
        if control == "relative_pose":
            *_, terminated, _, info = env.step(0.051 * FORWARD)
            assert (terminated, info["is_success"]) == (False, False)  # near it may be, but it did not say so
        *_, terminated, _, info = env.step(still.get(control, observation["agent_pos"]))
        assert (terminated, info["is_success"]) == (True, near)


def test_a_blocked_step_is_no_stop():
    env = rooms(PointNav(), contact="stop")
    env.reset(seed=0)
    for _ in range(12):
        *_, terminated, _, info = env.step(FORWARD)
        assert not terminated
    assert info["contact"]


def test_free_goals_are_refused_where_no_free_space_is_known():
    with pytest.raises(InvalidOptionError, match=r"knows no free space.*goals='seen'"):
        mirage(PointNav(goals="free")).reset(seed=0)
    mirage(PointNav(goals="free")).reset(seed=0, options={"goal": [0.0, 0.0, 1.0]})


# Distances in rooms


def dijkstra(free, goal):
    """Shortest ways over the 8 neighbours of a cell, slowly."""
    distance = np.full(free.shape, np.inf)
    distance[goal] = 0.0
    todo = {goal}
    while todo:
        cell = min(todo, key=distance.__getitem__)
        todo.remove(cell)
        for step in np.ndindex(3, 3):
            other = (cell[0] + step[0] - 1, cell[1] + step[1] - 1)
            if 0 <= min(other) and other[0] < free.shape[0] and other[1] < free.shape[1] and free[other]:
                new = distance[cell] + 0.1 * math.hypot(step[0] - 1, step[1] - 1)
                if new < distance[other] - 1e-12:
                    distance[other] = new
                    todo.add(other)
    return distance


@pytest.mark.parametrize("seed", range(3))
def test_way_lies_between_the_straight_line_and_the_way_over_cells(seed):
    env = rooms("point_nav")
    env.reset(seed=seed)
    state = env.get_world()
    free = state.room.free_cells
    rng = np.random.default_rng(seed)
    cells = np.argwhere(free)
    goal = tuple(int(i) for i in cells[rng.integers(len(cells))])
    point = np.array([*(np.array(goal) + 0.5) * 0.1, 1.4])
    distance, slow = env.distance_to(state, point), dijkstra(free, goal)
    for cell in cells[rng.integers(len(cells), size=200)]:
        place = np.array([*(cell + 0.5) * 0.1, 1.4])
        way = distance(place)
        assert np.linalg.norm(place - point) - 1e-9 <= way
        # Eight directions are at most 8.24 % too long, the equation of first order 5 % and near obstacles a cell.
        assert slow[tuple(cell)] / 1.0824 - 1e-9 <= way <= 1.05 * slow[tuple(cell)] + 0.1


def test_distance_at_the_goal_is_zero_even_where_nobody_can_stand():
    env = rooms()
    env.reset(seed=0)
    for point in (np.array([0.1, 0.1, 1.4]), np.array([-3.0, 2.0, 1.0]), np.array([2.0, 2.0, 1.4])):
        assert env.distance_to(env.get_world(), point)(point) == 0.0


# ImageNav


def test_goal_image_is_what_walking_there_shows():
    env = mirage(ImageNav(max_distance=1.2))
    observation, info = env.reset(seed=0)
    assert info["distance_to_goal"] > 1.0
    there = mirage(control="absolute_pose", max_translation=5.0)
    there.set_state(env.get_world())
    world = env.get_world()
    near = world.camera.moved(pose_from_rotation_vector([0.1, 0.0, 0.4], [0.0, 0.2, 0.0]))
    shown, *_ = there.step(near.as_vector())
    observation, _ = env.reset(seed=0, options={"goal": near})
    np.testing.assert_array_equal(observation["goal"], shown["pixels"])


def test_goal_image_of_a_room_is_its_view():
    env = rooms("image_nav")
    observation, info = env.reset(seed=0)
    state = env.get_world()
    np.testing.assert_array_equal(
        rooms().reset(seed=0, options={"room": state.room.seed, "camera": info["goal_pose"]})[0]["pixels"],
        observation["goal"],
    )


@pytest.mark.parametrize(("turn", "succeeds"), [(0.0, True), (0.4, True), (0.6, False), (math.pi, False)])
def test_goal_must_be_looked_at(turn, succeeds):
    env = mirage(ImageNav(stop="automatic"), max_rotation=1.8)
    env.reset(seed=0, options={"goal": pose_from_rotation_vector([0.0, 0.0, 0.9], [0.0, turn, 0.0])})
    *_, terminated, _, info = env.step(FORWARD)
    assert info["angle_to_goal"] == pytest.approx(turn, abs=1e-6)
    assert terminated == info["is_success"] == succeeds


def test_turning_to_the_goal_is_rewarded_and_turning_back_takes_it_away():
    env = mirage(ImageNav(slack=0.0))
    env.reset(seed=0, options={"goal": pose_from_rotation_vector([0.0, 0.0, 2.0], [0.0, 1.0, 0.0])})
    _, there, *_ = env.step(TURN)
    _, back, *_ = env.step(-TURN)
    assert there == pytest.approx(0.5 * 0.7, abs=1e-5)
    assert back == pytest.approx(-there, abs=1e-5)


def test_known_image_of_the_goal_is_taken():
    env = mirage(ImageNav())
    image = np.full((32, 32, 3), 7, np.uint8)
    observation, _ = env.reset(seed=0, options={"goal": np.eye(4), "goal_image": image})
    np.testing.assert_array_equal(observation["goal"], image)
    large = np.full((48, 64), 7, np.uint8)  # of another camera: grey, and not square
    observation, _ = env.reset(seed=0, options={"goal": np.eye(4), "goal_image": large})
    np.testing.assert_array_equal(observation["goal"], image)
