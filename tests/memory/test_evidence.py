"""What later views say: agreement is counted, what changed is forgotten in a few looks, and nothing else is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import GateConfig, MemoryConfig, WorldModelConfig
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import pose_from_rotation_vector

GRID = (6, 8)
CONFIG = WorldModelConfig("evidence", (48, 64), GRID, 2, memory=MemoryConfig(merge_tokens=0))
CAMERA = Camera.from_fov(1.2, 48, 64)
ALL = np.ones(GRID, bool)
DOOR = np.zeros(GRID, bool)
DOOR[:, 2:6] = True
INNER = np.zeros(GRID, bool)
INNER[:, 3:5] = True
"""Cells of the door that have no cell beside the door as a neighbour."""


def wall(distance: float, door: float | None = None) -> np.ndarray:  # [h, w]
    """A wall with a door in it, at their distances."""
    depth = np.full(GRID, distance)
    if door is not None:
        depth[DOOR] = door
    return depth


def look(
    memory: LatentMemory,
    depth: np.ndarray,
    born: int,
    views: int = 2,
    keep: np.ndarray = ALL,
    camera: Camera = CAMERA,
    true: bool = False,
) -> LatentMemory:
    """Write a chunk of equal views."""
    images = torch.zeros(views, 3, 48, 64)
    latents = torch.full((views, 2, *GRID), float(born))
    metres = torch.from_numpy(np.kron(depth, np.ones((8, 8)))).float().expand(views, 48, 64)
    return memory.write(latents, images, metres, mask(keep, views), [camera] * views, born, shifts=int(true))


def mask(keep: np.ndarray, views: int) -> Tensor:
    return torch.from_numpy(keep).expand(views, *GRID)


def empty(**gate) -> LatentMemory:
    return LatentMemory.empty(replace(CONFIG, gate=GateConfig(**gate)))


def shown(memory: LatentMemory, camera: Camera = CAMERA) -> np.ndarray:  # [h, w] metres
    return memory.read([camera], now=99).depth[0].numpy()


def confidence(memory: LatentMemory, block: int = 0) -> list[int]:
    """The values that occur in a block."""
    return sorted(set(memory.blocks[block].confidence.tolist()))


def confirmed(times: int, depth: np.ndarray, **gate) -> LatentMemory:
    """A memory of a view that so many later chunks agreed with."""
    memory = look(empty(**gate), depth, born=1)
    for i in range(times):
        memory = look(memory, depth, born=2 + i)
    return memory


# Agreement


@pytest.mark.parametrize("views", [1, 2, 5])
def test_a_chunk_that_agrees_adds_one_however_many_views_it_has(views):
    memory = look(empty(), wall(3.0), born=1)
    assert confidence(memory) == [0]
    for count in (1, 2, 3, 4, 4, 4):
        memory = look(memory, wall(3.0), born=1 + count, views=views)
        assert confidence(memory) == [count]
        assert len(memory.blocks) == 1


def test_the_start_view_begins_with_the_most_confidence():
    memory = look(empty(max_confidence=7), wall(3.0), born=0)
    assert confidence(memory) == [7]
    assert confidence(look(memory, wall(3.0), born=1)) == [7]


def test_confidence_beyond_a_lowered_maximum_is_kept():
    memory = look(empty(max_confidence=7), wall(3.0), born=0)
    memory = look(replace(memory, gate=GateConfig(max_confidence=2)), wall(3.0), born=1)
    assert confidence(memory) == [7]


def test_only_tokens_that_are_shown_are_confirmed():
    memory = look(empty(), wall(3.0), born=1)
    keep = np.eye(*GRID, dtype=bool)
    memory = look(memory, wall(3.0), born=2, keep=keep)
    block = memory.blocks[0]
    seen = np.isin(block.cell, np.flatnonzero(keep))
    np.testing.assert_array_equal(block.confidence, seen)


def test_depth_that_differs_less_than_the_gate_allows_still_agrees():
    memory = look(empty(), wall(3.0), born=1)
    assert confidence(look(memory, wall(3.0 * 1.15), born=2)) == [1]


# Contradiction


@pytest.mark.parametrize(("times", "chunks"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (9, 3)])
def test_a_door_that_opened_is_forgotten_after_the_stated_chunks(times, chunks):
    """The better it was confirmed, the longer it takes; what is behind becomes visible."""
    memory = confirmed(times, wall(5.0, door=3.0))
    for i in range(chunks):
        assert (shown(memory)[INNER] < 4.0).all()
        memory = look(memory, wall(5.0, door=9.0), born=50 + i)
    assert (shown(memory)[INNER] > 8.0).all()
    assert shown(memory)[~DOOR] == pytest.approx(5.0, rel=1e-3)


def test_a_door_of_the_start_view_is_forgotten_too():
    memory = look(empty(), wall(5.0, door=3.0), born=0)
    for born in (1, 2, 3):
        memory = look(memory, wall(5.0, door=9.0), born=born)
    assert (shown(memory)[INNER] > 8.0).all()
    assert memory.blocks[0].pinned


def test_a_mover_that_left_is_forgotten():
    mover = wall(6.0)
    mover[2:5, 2:5] = 2.0
    memory = look(empty(), mover, born=1)
    assert shown(memory)[3, 3] == pytest.approx(2.0, rel=1e-3)
    memory = look(memory, wall(6.0), born=2)
    np.testing.assert_allclose(shown(memory), 6.0, rtol=1e-3)


def test_when_nothing_is_left_of_a_block_it_is_gone():
    memory = look(look(empty(), wall(2.0), born=1), wall(6.0), born=2)
    assert [b.newest for b in memory.blocks] == [2]


def test_what_is_behind_is_written_once_while_the_door_is_still_believed():
    memory = confirmed(4, wall(5.0, door=3.0))
    before = memory.points
    memory = look(memory, wall(5.0, door=9.0), born=20)
    written = memory.points - before
    assert written == DOOR.sum()
    again = look(memory, wall(5.0, door=9.0), born=21)
    assert again.points <= memory.points


def test_one_contradicting_view_alone_removes_nothing():
    memory = look(empty(), wall(3.0), born=1)
    for born in range(2, 8):
        after = look(memory, wall(9.0), born=born, views=1)
        assert confidence(after) == [0]
        assert (shown(after) < 4.0).all()


@pytest.mark.parametrize(("times", "looks"), [(0, 1), (1, 1), (2, 2), (4, 3)])
def test_a_robot_that_shows_one_view_at_a_time_sees_that_a_door_has_opened(times, looks):
    memory = confirmed(times, wall(5.0, door=3.0))
    for i in range(looks):
        assert (shown(memory)[INNER] < 4.0).all()
        memory = look(memory, wall(5.0, door=9.0), born=50 + i, views=1, true=True)
    assert (shown(memory)[INNER] > 8.0).all()
    assert shown(memory)[~DOOR] == pytest.approx(5.0, rel=1e-3)


def test_one_of_several_true_views_alone_removes_nothing():
    memory = look(empty(), wall(3.0), born=1)
    other = CAMERA.at(pose_from_rotation_vector([500.0, 0, 0], [0, 0, 0]))
    views = torch.zeros(2, 2, *GRID), torch.zeros(2, 3, 48, 64), torch.full((2, 48, 64), 9.0), mask(ALL, 2)
    after = memory.write(*views, [CAMERA, other], 2, shifts=1)
    assert confidence(after) == [0]
    assert len(after.blocks[0]) == 48


def test_a_view_of_the_chunk_that_agrees_outweighs_those_that_do_not():
    memory = look(empty(), wall(3.0), born=1)
    metres = torch.tensor([9.0, 9.0, 9.0, 3.0])[:, None, None].expand(4, 48, 64)
    after = memory.write(torch.zeros(4, 2, *GRID), torch.zeros(4, 3, 48, 64), metres, mask(ALL, 4), [CAMERA] * 4, 2)
    assert confidence(after) == [1]


def box_before_a_wall(camera: Camera, row: int, col: int) -> np.ndarray:  # [h, w]
    """True depth of a box 3 m away, 4 x 4 cells as `CAMERA` sees it, before a wall at 6 m; cameras face the wall."""
    v, u = np.meshgrid(np.arange(6) + 0.5, np.arange(8) + 0.5, indexing="ij")
    rays = np.linalg.inv(camera.K_at(*GRID)) @ np.stack([u.ravel(), v.ravel(), np.ones(48)])
    there = camera.position[:, None] + rays * (3.0 - camera.position[2])
    x, y, _ = CAMERA.K_at(*GRID) @ there / 3.0
    box = ((y >= row) & (y < row + 4) & (x >= col) & (x < col + 4)).reshape(GRID)
    return np.where(box, 3.0, 6.0) - camera.position[2]


@settings(max_examples=20)
@given(sideways=st.floats(-1.0, 1.0), forward=st.floats(-0.5, 1.0), row=st.integers(0, 1), col=st.integers(0, 3))
def test_a_silhouette_is_not_eaten_away_by_views_from_elsewhere(sideways, forward, row, col):
    """No token of the box goes, wherever it is seen from."""
    memory = look(empty(), box_before_a_wall(CAMERA, row, col), born=1)
    box = int((memory.blocks[0].positions()[:, 2] < 4.0).sum())
    elsewhere = CAMERA.at(pose_from_rotation_vector([sideways, 0.0, forward], np.zeros(3)))
    for born in range(2, 6):
        memory = look(memory, box_before_a_wall(elsewhere, row, col), born=born, camera=elsewhere)
    first = np.concatenate([b.positions()[b.births() == 1] for b in memory.blocks])
    assert (first[:, 2] < 4.0).sum() == box


@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_a_walk_that_is_walked_again_adds_nothing_in_the_end(seed):
    """What a nearer token hides is known all the same."""
    rng = np.random.default_rng(seed)
    places = rng.uniform([-1.0, -0.5, -0.5], [1.0, 0.5, 1.0], (8, 3))
    views = [CAMERA.at(pose_from_rotation_vector(place, np.zeros(3))) for place in places]
    memory, points = empty(), []
    for lap in range(5):
        for i, view in enumerate(views):
            memory = look(memory, box_before_a_wall(view, 1, 2), born=8 * lap + i, camera=view)
        points.append(memory.points)
    assert points[4] == points[3]
    assert points[4] <= 1.1 * points[0]


def test_what_comes_to_stand_in_front_hides_and_removes_nothing():
    memory = look(empty(), wall(6.0), born=1)
    hidden = look(look(memory, wall(6.0, door=2.0), born=2), wall(6.0, door=2.0), born=3)
    assert (shown(hidden)[DOOR] < 3.0).all()
    first = hidden.blocks[0]
    assert len(first) == len(memory.blocks[0])
    behind = np.isin(first.cell, np.flatnonzero(DOOR))
    assert (first.confidence[behind] == 0).all()
    assert (first.confidence[~behind] == 2).all()


def test_cells_that_may_not_be_written_contradict_nothing():
    """Sky and movers, and what lies beside them."""
    memory = look(empty(), wall(3.0), born=1)
    keep = np.zeros(GRID, bool)
    keep[::2, ::2] = True  # every kept cell has a neighbour that is not
    for depth in (np.full(GRID, np.inf), wall(9.0)):
        after = look(memory, depth, born=2, keep=keep)
        assert confidence(after) == [0]
        assert len(after.blocks[0]) == 48


def test_contradiction_can_be_switched_off():
    memory = look(empty(contradiction=0), wall(3.0), born=1)
    for born in range(2, 6):
        memory = look(memory, wall(9.0), born=born, views=4)
    assert len(memory.blocks[0]) == 48
    assert (shown(memory) < 4.0).all()


@pytest.mark.parametrize("needed", [1, 2, 3])
def test_the_number_of_contradicting_views_is_an_option(needed):
    memory = look(empty(contradicting_views=needed), wall(3.0), born=1)
    for views in (1, 2, 3):
        gone = look(memory, wall(9.0), born=2, views=views).blocks[0].newest == 2
        assert gone == (views >= needed)


def test_old_memories_keep_their_tokens_and_evidence():
    memory = confirmed(1, wall(5.0, door=3.0))
    block, before = memory.blocks[0], shown(memory)
    copy = block.confidence.copy()
    after = look(memory, wall(5.0, door=9.0), born=9)
    assert memory.blocks[0] is block
    np.testing.assert_array_equal(block.confidence, copy)
    np.testing.assert_array_equal(shown(memory), before)
    assert len(after.blocks[0]) < len(block)


def test_new_evidence_shares_the_tokens():
    memory = look(empty(), wall(3.0), born=1)
    after = look(memory, wall(3.0), born=2)
    assert after.blocks[0] is not memory.blocks[0]
    assert after.blocks[0].feature is memory.blocks[0].feature
    for born in range(3, 7):
        after = look(after, wall(3.0), born=born)
    assert look(after, wall(3.0), born=9).blocks[0] is after.blocks[0]  # all that can be said has been said
