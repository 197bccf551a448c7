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
)

from mirage_env.interfaces import MOVER, STATIC
from mirage_env.poses import inverse
from mirage_env.tasks import Explore, Guard, Revisit

# Explore


def ground_seen(info, T_ground_world, cell, max_range):
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
    return seen


@pytest.mark.parametrize("world", [mirage, rooms])
def test_explored_area_is_that_of_the_cells_seen(world):
    env = world(Explore(cell=0.2, max_range=4.0), info_frames=True)
    _, info = env.reset(seed=1)
    T_ground_world = inverse(info["frame_poses"][0])
    seen = ground_seen(info, T_ground_world, 0.2, 4.0)
    assert info["explored_area"] == pytest.approx(0.04 * len(seen))
    for action in (0.3 * FORWARD, TURN):
        _, reward, *_, info = env.step(action)
        before, seen = len(seen), seen | ground_seen(info, T_ground_world, 0.2, 4.0)
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


def test_start_view_shows_the_same_ground_in_both_worlds():
    for seed in range(3):
        _, imagined = mirage("explore", room_view).reset(seed=seed)
        _, true = rooms("explore").reset(seed=seed)
        # Movers are labelled by a network in one and known in the other.
        assert imagined["explored_area"] == pytest.approx(true["explored_area"], rel=0.5)


def test_enough_ground_is_success():
    env = rooms(Explore(target_area=0.1))
    env.reset(seed=0)
    *_, terminated, _, info = env.step(STAY)
    assert terminated
    assert info["is_success"]


# Revisit


@pytest.mark.parametrize("world", [mirage, rooms])
def test_being_back_after_having_been_out_is_success(world):
    env = world(Revisit(distance=1.0, slack=0.0))
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
    env = rooms(Revisit(distance=0.5), info_frames=True)
    for seed in range(20):
        _, first = env.reset(seed=seed)
        env.step(-FORWARD)
        *_, info = env.step(FORWARD)
        if not (first["frame_labels"][0] == MOVER).any() and not (info["frame_labels"][-1] == MOVER).any():
            assert info["revisit_psnr"] > 50.0
            return
    pytest.fail("something moves in every view")


def test_coming_back_with_the_eyes_elsewhere_is_no_success():
    env = mirage(Revisit(distance=0.9))
    env.reset(seed=0)
    env.step(-FORWARD)
    *_, terminated, _, info = env.step(np.array([0, 0, 1, 0, 0.9, 0], np.float32))
    assert info["been_out"]
    assert not terminated


# Guard


LEAST = 0.95  # the tiny world turns by half a view, and its wall hides little


@pytest.mark.parametrize("truncate", [False, True])
def test_leaving_the_memory_costs_or_truncates(truncate):
    env, free = (mirage("revisit", guard=guard) for guard in (Guard(LEAST, penalty=2.0, truncate=truncate), None))
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
