"""Which earlier views the network looks at beside a chunk."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import Reference
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.references import BANK, LEAST_OVERLAP, chosen, intersection_over_union, remembered, shown_tiles
from mirage_env.poses import pose_from_rotation_vector

CONFIG = WorldModelConfig("test", (64, 64), (16, 16), 4)
FRONT = Camera.from_fov(1.3, 64, 64)


def turned(yaw: float, x: float = 0.0) -> Camera:
    return FRONT.moved(pose_from_rotation_vector([x, 0.0, 0.0], [0.0, yaw, 0.0]))


def reference(camera: Camera) -> Reference:
    return Reference(torch.randn(4, 16, 16), camera)


def looked_at(*cameras: Camera) -> LatentMemory:
    """A memory of a wall 2 m before every camera."""
    memory = LatentMemory.empty(CONFIG)
    for i, camera in enumerate(cameras):
        feature = np.random.default_rng(i).standard_normal((1, 16, 16, 4), np.float32)
        keep = np.ones((1, 16, 16), np.bool_)
        memory = memory.insert(feature, torch.full((1, 16, 16), 2.0), keep, [camera], i)
    return memory


def test_views_of_the_same_place_are_chosen_and_others_are_not():
    ahead, beside, behind = turned(0.02), turned(0.6), turned(math.pi)
    memory = looked_at(ahead, beside, behind)
    bank = tuple(reference(camera) for camera in (ahead, beside, behind))
    assert chosen(memory, bank, [FRONT], most=4) == bank[:2]
    assert chosen(memory, bank, [FRONT], most=1) == bank[:1]
    assert chosen(memory, bank, [turned(math.pi + 0.1)], most=1) == bank[2:]
    assert chosen(memory, bank, [FRONT], most=0) == ()


def test_the_view_that_the_chunk_begins_with_is_left_out():
    memory, bank = looked_at(FRONT), (reference(FRONT), reference(turned(0.1)))
    assert chosen(memory, bank, [FRONT, turned(0.2)], most=4) == bank[1:]


def test_an_empty_memory_chooses_nothing():
    assert chosen(LatentMemory.empty(CONFIG), (reference(turned(0.1)),), [FRONT], most=4) == ()


def test_a_readout_that_is_known_gives_the_same_choice():
    memory, bank = looked_at(FRONT), (reference(turned(0.3)), reference(turned(math.pi)))
    views = [turned(0.1), turned(0.2)]
    assert chosen(memory, bank, views, most=4) == chosen(memory, bank, views, 4, memory.splat(views)) == bank[:1]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 2**31))
def test_overlap_is_that_of_sets(first, seed):
    second = np.random.default_rng(seed).random(len(first)) < 0.5
    a, b = {i for i, one in enumerate(first) if one}, set(np.flatnonzero(second).tolist())
    expected = len(a & b) / len(a | b) if a | b else 0.0
    found = intersection_over_union(np.array([first]), second)
    assert found[0] == expected


def test_shown_tiles_are_those_of_the_tokens_that_win_cells():
    memory = looked_at(FRONT, turned(0.4))
    found = memory.splat([FRONT, turned(2.0)])
    shown = shown_tiles(memory, found)
    starts = np.cumsum([0, *(len(block.low) for block in memory.blocks)])
    for view in range(2):
        tiles = {
            starts[b] + memory.blocks[b].tile_of[t]
            for b, t in zip(found.block[view].ravel(), found.token[view].ravel(), strict=True)
            if b >= 0
        }
        assert set(np.flatnonzero(shown[view])) == tiles
    assert LEAST_OVERLAP > 0.0


@given(st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=30), st.integers(1, 3))
def test_the_bank_keeps_the_start_and_the_newest_and_its_size(places, most):
    bank = ()
    for x in places:
        bank = remembered(bank, reference(turned(0.0, x)), most)
    positions = [r.camera.position[0] for r in bank]
    assert len(bank) == min(len(places), BANK * most)
    assert positions[0] == places[0]
    assert positions[-1] == places[-1]
    order = iter(places)
    assert all(any(x == y for y in order) for x in positions)  # in the order in which they came


def test_a_full_bank_loses_the_view_that_adds_least():
    bank = ()
    for x in (0.0, 1.0, 1.01, 2.0, 3.0):
        bank = remembered(bank, reference(turned(0.0, x)), 1)
    assert [r.camera.position[0] for r in bank] == [0.0, 1.0, 2.0, 3.0]
    assert remembered((), reference(FRONT), 0) == ()
