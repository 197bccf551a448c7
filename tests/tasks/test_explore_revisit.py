"""Explore, Revisit and the guard: what is seen, what is remembered, what is left."""

import math

import numpy as np
import pytest
from task_worlds import (
    FORWARD,
    STAY,
    TURN,
    mirage,
    room_view,
    rooms,
    rooms_made_once,  # noqa: F401
    towards,
)

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import MOVER, STATIC
from mirage_env.poses import inverse
from mirage_env.tasks import Explore, FloorPlan, Guard, Revisit

# Explore


def ground_seen(info, T_ground_world, cell, max_range, floor=None):
    """Cells of the ground that an image of at most 32 x 32 pixels sees, slowly."""
    seen = set()
    for frame, T_world_cam in enumerate(info["frame_poses"]):
        for v, u in np.ndindex(info["frame_depth"].shape[1:]):
            z = float(info["frame_depth"][frame, v, u])
            if z > max_range or info["frame_labels"][frame, v, u] != STATIC:
                continue
            ray = np.linalg.inv(info["intrinsics"]) @ [u + 0.5, v + 0.5, 1.0]
            x, y, z = (T_ground_world @ T_world_cam @ [*(z * ray), 1.0])[:3]
            if y > 0.0:
                seen.add((math.floor(x / cell), math.floor(z / cell)))
    return seen if floor is None else seen & floor


@pytest.mark.parametrize("world", [mirage, rooms])
def test_explored_area_is_that_of_the_cells_seen(world):
    env = world(Explore(cell=0.2, max_range=4.0), info_frames=True)
    _, info = env.reset(seed=1)
    T_ground_world, floor = inverse(info["frame_poses"][0]), None
    if world is rooms:  # cells of the true plan, and free floor alone
        T_ground_world = np.array([[1, 0, 0, 0], [0, 0, -1, info["frame_poses"][0][2, 3]], [0, 1, 0, 0], [0, 0, 0, 1]])
        floor = set(map(tuple, np.argwhere(env.floor_plan(env.get_world(), 0.2).free).tolist()))
    seen = ground_seen(info, T_ground_world, 0.2, 4.0, floor)
    assert info["explored_area"] == pytest.approx(0.04 * len(seen))
    for action in (0.3 * FORWARD, TURN):
        _, reward, *_, info = env.step(action)
        before, seen = len(seen), seen | ground_seen(info, T_ground_world, 0.2, 4.0, floor)
        assert info["explored_area"] == pytest.approx(0.04 * len(seen))
        assert reward == pytest.approx(0.04 * (len(seen) - before), abs=1e-5)


def test_ground_is_new_only_once():
    env = rooms("explore")
    env.reset(seed=0)
    _, first, *_ = env.step(TURN)
    env.step(-TURN)
    _, again, *_ = env.step(TURN)
    assert first > 0.0
    assert again <= 0.2  # where movers went away


def test_enough_ground_is_success():
    env = rooms(Explore(target_area=0.1))
    env.reset(seed=0)
    *_, terminated, _, info = env.step(STAY)
    assert terminated
    assert info["is_success"]


def test_what_is_invented_behind_the_walls_is_worth_nothing():
    """The plan of a room bounds what its twin in a learned world may claim."""
    true, task = rooms(Explore()), Explore()
    true.reset(seed=0)
    plan = true.floor_plan(true.get_world(), task.cell)
    state = true.get_world()
    cells = (np.argwhere(plan.free) + 0.5) * task.cell
    assert all(state.room.is_free((*cell, 1.4), 0.0) for cell in cells[::7] if not state.room.scene.paths.size)
    free, bound = mirage(task, room_view), mirage(task, room_view)
    free.reset(seed=0)
    _, info = bound.reset(seed=0, options={"floor_plan": plan})
    assert 0.0 < info["explored_share"] == pytest.approx(info["explored_area"] / plan.area)
    for _ in range(5):
        *_, claimed = free.step(FORWARD)
        *_, info = bound.step(FORWARD)
    assert claimed["explored_share"] == 0.0  # not known
    assert info["explored_area"] < claimed["explored_area"]
    assert info["explored_share"] <= 1.0
    nowhere = FloorPlan(
        np.ones((4, 4), bool), task.cell, np.array([[1.0, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    _, info = bound.reset(seed=0, options={"floor_plan": nowhere})
    assert info["explored_area"] == 0.0


def test_the_start_view_explores_the_same_floor_in_both_worlds():
    true, learned = rooms("explore"), mirage("explore", room_view)
    _, a = true.reset(seed=0)
    _, b = learned.reset(seed=0, options={"floor_plan": true.floor_plan(true.get_world(), 0.25)})
    assert b["explored_area"] == pytest.approx(a["explored_area"], rel=0.3)


def test_enough_of_the_floor_is_success():
    env = rooms(Explore(target_share=0.01))
    env.reset(seed=0)
    *_, terminated, _, info = env.step(STAY)
    assert terminated == info["is_success"] == (info["explored_share"] >= 0.01)


@pytest.mark.parametrize("plan", ["map", FloorPlan(np.ones((2, 2), bool), 0.1)])
def test_a_floor_plan_that_does_not_fit_is_refused(plan):
    with pytest.raises(InvalidOptionError, match=r"give a tasks\.FloorPlan with cells of 0\.25 m"):
        rooms("explore").reset(seed=0, options={"floor_plan": plan})
    with pytest.raises(InvalidOptionError, match="a floor plan has cells"):
        FloorPlan(np.zeros((2, 2), bool), 0.25)


# Revisit


@pytest.mark.parametrize("world", [lambda task: mirage(task, room_view), rooms])
def test_a_detour_leads_over_its_places_and_each_is_a_wrong_place_to_stop_at(world):
    env = world(Revisit(detour=2))
    observation, info = env.reset(seed=3)
    home = observation["agent_pos"]
    assert (info["places_left"], info["been_out"], observation["goal"][7]) == (2, False, 0.0)
    twin = env.fork()
    *_, terminated, _, info = twin.step(STAY)
    assert (terminated, info["is_success"]) == (True, False)  # back already, but never out
    while not info["been_out"] or info["distance_to_goal"] > 0.2:
        before = info["places_left"]
        observation, *_, info = env.step(towards(observation["goal"][:3].astype(float)))
        if info["places_left"] < before == 2:
            *_, lost = env.fork().step(STAY)
            assert not lost["is_success"]
    *_, terminated, _, info = env.step(STAY)
    assert (terminated, info["is_success"]) == (True, True)
    assert 0.8 < info["spl"] <= 1.0
    assert info["soft_spl"] <= info["spl"]
    np.testing.assert_allclose(env.get_world().camera.position, home[:3], atol=0.2)


def test_a_blind_walk_out_and_back_is_no_revisit():
    done = 0
    for seed in range(12):
        env = rooms(Revisit())
        env.reset(seed=seed)
        for action in (FORWARD, FORWARD, -FORWARD, -FORWARD, STAY):
            *_, terminated, _, info = env.step(action)
        assert terminated
        done += info["is_success"]
    assert done <= 2


@pytest.mark.parametrize("world", [mirage, rooms])
def test_being_back_after_having_been_out_is_success(world):
    env = world(Revisit(distance=1.0, detour=0, stop="automatic", slack=0.0))
    env.reset(seed=0)
    *_, terminated, _, info = env.step(STAY)
    assert not terminated  # at the start, but never out
    observation, reward, terminated, _, info = env.step(-FORWARD)
    assert (terminated, info["been_out"], observation["goal"][7]) == (False, True, 1.0)
    assert reward == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(observation["goal"][:3], [0.0, 0.0, 1.0], atol=1e-5)
    _, reward, terminated, _, info = env.step(FORWARD)
    assert terminated
    assert info["is_success"]
    assert reward == pytest.approx(1.0 + 2.5, abs=1e-5)
    assert info["spl"] == pytest.approx(1.0)
    assert 5.0 < info["revisit_psnr"] <= 100.0


def test_true_world_remembers_perfectly_where_nothing_moves():
    env = rooms(Revisit(distance=0.5, detour=0, stop="automatic"), info_frames=True)
    for seed in range(20):
        _, first = env.reset(seed=seed)
        env.step(-FORWARD)
        *_, info = env.step(FORWARD)
        if not (first["frame_labels"][0] == MOVER).any() and not (info["frame_labels"][-1] == MOVER).any():
            assert info["revisit_psnr"] > 50.0
            return
    pytest.fail("something moves in every view")


def test_coming_back_with_the_eyes_elsewhere_is_no_success():
    env = mirage(Revisit(distance=0.9, detour=0, stop="automatic"))
    env.reset(seed=0)
    env.step(-FORWARD)
    *_, terminated, _, info = env.step(np.array([0, 0, 1, 0, 0.9, 0], np.float32))
    assert info["been_out"]
    assert not terminated


# Guard


LEAST = 0.95  # the tiny world turns by half a view, and its wall hides little


@pytest.mark.parametrize("truncate", [False, True])
def test_leaving_the_memory_costs_or_truncates(truncate):
    env, free = (
        mirage(Revisit(stop="automatic"), guard=guard) for guard in (Guard(LEAST, penalty=2.0, truncate=truncate), None)
    )
    for e in (env, free):
        e.reset(seed=0)
    _, reward, _, truncated, info = env.step(STAY)
    assert (truncated, info["guard_acted"]) == (False, False)
    assert reward == free.step(STAY)[1]
    acted = False
    for _ in range(6):
        _, reward, _, truncated, info = env.step(TURN)
        _, plain, *_ = free.step(TURN)
        assert info["guard_acted"] == (info["coverage"] < LEAST)
        assert truncated == (truncate and info["guard_acted"])
        assert reward == pytest.approx(plain - 2.0 * info["guard_acted"], abs=1e-5)
        acted |= info["guard_acted"]
    assert acted


def test_guard_never_acts_in_the_true_world():
    env = rooms("explore", guard=Guard(1.0, penalty=5.0, truncate=True))
    env.reset(seed=0)
    _, reward, _, truncated, info = env.step(FORWARD)
    assert (truncated, info["guard_acted"]) == (False, False)
    assert reward >= 0.0
