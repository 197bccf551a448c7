"""What the CPU readout does to whole tiles, against the same in plain NumPy or single numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import CONFIGS, GRID, NEAR, block_of, views

from mirage_env.config.world import ReadoutConfig
from mirage_env.readout.numba_kernels import (
    BlockArrays,
    Views,
    compress,
    covered_cells,
    extent,
    mark,
    misfits,
    own_cells,
    project_tile,
)
from mirage_env.readout.zbuffer import Rule, projected
from mirage_env.tokens.blocks import TILE

H, W = GRID
RULE = Rule.of(ReadoutConfig(), NEAR)
seeds = given(seed=st.integers(0, 10_000))


def scene(seed: int):
    """A block with several tiles, and views of it."""
    rng = np.random.default_rng(seed)
    block = block_of(rng.uniform(-3.0, 3.0, (90, 3)), rng.uniform(0.05, 1.0, 90))
    cameras = views(rng)
    return block, cameras, next(BlockArrays.newest_first([block])), Views.of(*projected(cameras, GRID), RULE, GRID)


def tile_of(block, arrays, seen, view: int, tile: int) -> np.ndarray:  # [4, n]
    m, at = np.empty(12, np.float32), np.full((4, TILE), np.nan, np.float32)
    start, n = project_tile(arrays, seen, view, tile, RULE.near, m, at)
    assert (start, n) == (block.first[tile], block.first[tile + 1] - block.first[tile])
    return at[:, :n]


@seeds
def test_tokens_are_projected_as_by_the_camera_in_double_precision(seed):
    block, cameras, arrays, seen = scene(seed)
    positions, metres = block.positions(), block.footprint.astype(np.float64)
    for view, camera in enumerate(cameras):
        K_latent = camera.K_at(*GRID)
        q = (positions @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]) @ K_latent.T
        size = metres * np.sqrt(K_latent[0, 0] * K_latent[1, 1]) / q[:, 2]
        expected = np.stack([q[:, 0] / q[:, 2], q[:, 1] / q[:, 2], q[:, 2], size])
        for tile in range(len(block.low)):
            own = slice(block.first[tile], block.first[tile + 1])
            found, visible = tile_of(block, arrays, seen, view, tile), q[own, 2] > 1.01 * NEAR
            np.testing.assert_allclose(found[:, visible], expected[:, own][:, visible], rtol=2e-4, atol=2e-4)


@seeds
def test_the_size_of_a_misfit_is_the_log_of_the_footprint(seed):
    rng = np.random.default_rng(seed)
    at, misfit = np.empty((4, TILE), np.float32), np.empty(TILE, np.float32)
    at[3] = 10.0 ** rng.uniform(-6.0, 6.0, TILE)
    misfits(TILE, at, misfit)
    np.testing.assert_allclose(misfit, np.abs(np.log(at[3].astype(np.float64))), rtol=1e-5, atol=1e-6)


def places(seed: int) -> np.ndarray:  # [4, TILE]
    """Places in and around a grid, some behind the near plane."""
    rng = np.random.default_rng(seed)
    u, v, z = rng.uniform(-2.0, W + 2.0, TILE), rng.uniform(-2.0, H + 2.0, TILE), rng.uniform(0.0, 3.0, TILE)
    return np.stack([u, v, z, rng.uniform(0.01, 6.0, TILE)]).astype(np.float32)


def pairs(cells: np.ndarray) -> list[set[tuple[int, int]]]:
    """Cells that each token competes for."""
    top, bottom, left, right = cells.astype(int)
    return [{(r, c) for r in range(top[i], bottom[i] + 1) for c in range(left[i], right[i] + 1)} for i in range(TILE)]


@seeds
def test_a_token_competes_for_the_cell_that_holds_its_centre(seed):
    at, cells = places(seed), np.empty((4, TILE), np.float32)
    own_cells(RULE, H, W, TILE, at, cells)
    for (u, v, z), found in zip(at[:3].T, pairs(cells), strict=True):
        inside = z > NEAR and 0.0 <= u < W and 0.0 <= v < H
        assert found == ({(int(v), int(u))} if inside else set())


@pytest.mark.parametrize("least", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (1.6, 0.625), (0.5, 2.0)])
@seeds
def test_a_token_covers_the_cells_whose_middle_its_footprint_reaches(seed, shape, least):
    at, cells = places(seed), np.empty((4, TILE), np.float32)
    focal = np.array([9.0, *shape], np.float32)
    covered_cells(RULE, focal, np.float32(least), H, W, TILE, at, cells)
    r = np.minimum(0.6 * at[3], 2.0)
    x, y = np.maximum(r * focal[1], least), np.maximum(r * focal[2], least)
    for i, found in enumerate(pairs(cells)):
        u, v, z, _ = at[:, i]
        middles = [(row, col) for row in range(H) for col in range(W)]
        near = {(a, b) for a, b in middles if abs(a + 0.5 - v) <= y[i] and abs(b + 0.5 - u) <= x[i]}
        assert found == (near if z > NEAR else set())
    rows, cols = extent(TILE, cells)
    sizes = [(len({a for a, _ in some}), len({b for _, b in some})) for some in pairs(cells)]
    assert (rows, cols) == (max(a for a, _ in sizes), max(b for _, b in sizes))


@pytest.mark.parametrize("fits", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@seeds
def test_marked_tokens_are_those_that_beat_the_best_so_far_somewhere(seed, config, fits):
    rng, at, rule = np.random.default_rng(seed), places(seed), Rule.of(config, NEAR)
    cells, misfit = np.empty((4, TILE), np.float32), np.empty(TILE, np.float32)
    misfits(TILE, at, misfit)
    covered_cells(rule, np.ones(3, np.float32), np.float32(0.5), H, W, TILE, at, cells)
    limit, best = rng.uniform(0.0, 4.0, (2, H * W + 1)).astype(np.float32)
    best[-1] = -np.inf
    work, hit = np.empty((2, TILE), np.float32), np.empty(TILE, np.int32)
    rows, cols = map(np.int32, extent(TILE, cells))  # as a kernel hands them on: others would be compiled for
    mark(fits, W, TILE, rows, cols, at, misfit, cells, limit, best, work, hit)
    for i, mine in enumerate(pairs(cells)):
        u, v, z, _ = at[:, i]
        ranks = {(r, c): np.hypot(u - c - 0.5, v - r - 0.5) + misfit[i] if fits else z for r, c in mine}
        better = [rank < best[r * W + c] and (not fits or z <= limit[r * W + c]) for (r, c), rank in ranks.items()]
        assert bool(hit[i]) == any(better)
    hits = np.empty(TILE, np.int64)
    count = compress(hit, TILE, hits)
    assert hits[:count].tolist() == np.flatnonzero(hit).tolist()


def test_blocks_come_newest_first_and_empty_ones_not_at_all():
    some, nothing = block_of(np.ones((2, 3)), np.ones(2)), block_of(np.zeros((0, 3)), np.zeros(0))
    assert [b.number for b in BlockArrays.newest_first([some, nothing, some])] == [2, 0]
