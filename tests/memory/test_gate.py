"""The gate: only what the memory does not show as well is new, and what it holds hidden is known."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from scenes import CONFIGS, GRID, NEAR, block_of, cloud, views

from mirage_env.camera import Camera
from mirage_env.config.world import GateConfig, ReadoutConfig
from mirage_env.memory.gate import new_cells
from mirage_env.readout.zbuffer import Rule
from mirage_env.readout.zbuffer_numba import splat_numba
from mirage_env.tokens.blocks import MemoryBlock

GATE = GateConfig()
RULE = Rule.of(ReadoutConfig(), NEAR)
UNIT = Camera(np.eye(4), np.diag([1.0, 1.0, 1.0]), 4, 6)
"""At depth 1 a metre is a cell."""
ROW, COL = 2, 2


def written(*tokens: tuple[float, float], cell: tuple[int, int] = (ROW, COL)) -> list[MemoryBlock]:
    """Tokens in the middle of a cell, as (depth, size in cells)."""
    depth, size = np.array(tokens).T
    ray = np.array([cell[1] + 0.5, cell[0] + 0.5, 1.0])
    return [block_of(depth[:, None] * ray, size * depth)]


def is_new(blocks, depth: float, gate: GateConfig = GATE, rule: Rule = RULE, cell=(ROW, COL)) -> bool:
    shown = splat_numba(blocks, [UNIT], GRID, rule, 1)
    metres = np.zeros((1, *GRID), np.float32)
    metres[0, *cell] = depth
    return bool(new_cells(blocks, shown, metres, [UNIT], rule, gate)[0, *cell])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), coarser=st.sampled_from([0.2, 0.6, 1.5]))
def test_new_cells_are_those_of_the_reference(config, seed, count, coarser):
    rng, gate = np.random.default_rng(seed), replace(GATE, coarser=coarser)
    blocks, cameras, rule = cloud(rng, count), views(rng), Rule.of(config, NEAR)
    shown = splat_numba(blocks, cameras, GRID, rule, 1)
    depth = reference.depths_of_tokens(blocks, cameras, GRID, rule, rng)
    found = new_cells(blocks, shown, depth, cameras, rule, gate)
    np.testing.assert_array_equal(found, reference.new_cells(blocks, shown, depth, cameras, rule, gate))


def test_nothing_shown_is_new_and_the_same_depth_is_not():
    assert is_new(written((20.0, 0.1)), 3.0, cell=(0, 0))
    assert not is_new(written((3.0, 1.0)), 3.0)


@pytest.mark.parametrize(
    ("depth", "new"), [(3.0 * 1.19, False), (3.0 * 0.86, False), (3.0 * 1.3, True), (3.0 * 0.8, True)]
)
def test_another_depth_is_new_beyond_the_tolerance(depth, new):
    assert is_new(written((3.0, 1.0)), depth) == new


@pytest.mark.parametrize(("size", "new"), [(1.0, False), (1.7, False), (1.95, True), (3.0, True)])
def test_what_is_shown_much_coarser_is_written_again(size, new):
    assert is_new(written((3.0, size)), 3.0) == new  # exp(0.6) is 1.82


@pytest.mark.parametrize(("behind", "new"), [(6.0, False), (6.2, False), (6.5, True), (5.5, True)])
def test_what_is_hidden_at_that_depth_is_known(behind, new):
    assert is_new(written((3.0, 1.0), (6.0, 1.0)), behind) == new


def test_what_is_hidden_but_much_coarser_is_not_known():
    assert not is_new(written((3.0, 1.0), (6.0, 1.7)), 6.0)
    assert is_new(written((3.0, 1.0), (6.0, 1.95)), 6.0)


@pytest.mark.parametrize(("size", "new"), [(1.7, False), (0.7, True)])
def test_a_hidden_token_is_known_in_every_cell_that_its_footprint_reaches(size, new):
    blocks = [*written((3.0, 1.0), cell=(ROW, COL + 1)), *written((6.0, size))]
    assert is_new(blocks, 6.0, cell=(ROW, COL + 1)) == new  # 1.2 x 1.7 / 2 cells reach the next middle


def test_what_lies_behind_what_is_shown_is_new_where_nothing_is_hidden():
    assert is_new(written((3.0, 1.0)), 9.0)


def test_views_that_ask_for_nothing_are_left_alone():
    blocks = written((3.0, 1.0), (6.0, 1.0))
    cameras = [UNIT, UNIT.at(np.diag([-1.0, 1.0, -1.0, 1.0])), UNIT]
    shown = splat_numba(blocks, cameras, GRID, RULE, 1)
    depth = np.zeros((3, *GRID), np.float32)
    depth[2, ROW, COL] = 6.0
    assert not new_cells(blocks, shown, depth, cameras, RULE, GATE)[2, ROW, COL]
