"""The z-buffer against its reference, and the rules that no reference shows."""

import warnings
from dataclasses import fields

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from scenes import CONFIGS, GRID, NEAR, block_of, cloud, readouts, views

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.readout import zbuffer_numba as module
from mirage_env.readout import zbuffer_torch
from mirage_env.readout.zbuffer import Rule, Splat, gather, projections, visible_tiles
from mirage_env.readout.zbuffer_numba import splat_numba
from mirage_env.tokens.blocks import MemoryBlock

UNIT = Camera(np.eye(4), np.diag([1.0, 1.0, 1.0]), 4, 6)  # at depth 1, a metre is a cell


def splat(blocks, cameras, config, grid=GRID, threads=1) -> Splat:
    return splat_numba(blocks, cameras, grid, Rule.of(config, NEAR), threads)


def assert_identical(found: Splat, expected: Splat) -> None:
    for field in fields(Splat):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


@readouts
@given(seed=st.integers(0, 1000), count=st.integers(1, 60))
def test_splat_equals_the_reference(config, seed, count):
    rng = np.random.default_rng(seed)
    blocks, cameras = cloud(rng, count), views(rng)
    found = splat(blocks, cameras, config)
    expected = reference.splat(blocks, cameras, GRID, Rule.of(config, NEAR))
    for name in ("block", "token", "depth", "offset"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-6, atol=1e-6)  # the reference asks math.log


@readouts
def test_splat_of_nothing_shows_nothing(config, rng):
    nothing = block_of(np.zeros((0, 3)), np.zeros(0))
    for blocks in ([], [nothing], [nothing, *cloud(rng, 50)][:1]):
        found = splat(blocks, views(rng), config)
        assert not found.observed.any()
        assert not any(getattr(found, name).any() for name in ("depth", "offset", "scale"))


@readouts
def test_an_empty_block_between_others_changes_nothing_but_the_numbers(config, rng):
    blocks, cameras = cloud(rng, 200), views(rng)
    expected = splat(blocks, cameras, config)
    found = splat([block_of(np.zeros((0, 3)), np.zeros(0)), *blocks], cameras, config)
    np.testing.assert_array_equal(found.block, np.where(expected.observed, expected.block + 1, -1))
    np.testing.assert_array_equal(found.token, expected.token)


@readouts
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_and_repetition_change_nothing(config, threads, rng, monkeypatch):
    monkeypatch.setattr(module, "THREADED_FROM", 1)
    blocks, cameras = cloud(rng, 400), views(rng, 6)
    alone = splat(blocks, cameras, config)
    for _ in range(5):
        assert_identical(splat(blocks, cameras, config, threads=threads), alone)


@readouts
def test_views_do_not_depend_on_each_other(config, rng):
    blocks, cameras = cloud(rng, 300), views(rng, 4)
    together = splat(blocks, cameras, config)
    for i, camera in enumerate(cameras):
        assert_identical(splat(blocks, [camera], config), together[[i]])


@readouts
def test_order_of_points_matters_for_ties_only(config, rng):
    xyz, size = rng.uniform(-4.0, 4.0, (300, 3)), rng.uniform(0.02, 1.5, 300)
    order = rng.permutation(300)
    cameras = views(rng)
    expected, found = (splat([block_of(xyz[o], size[o])], cameras, config) for o in (np.arange(300), order))
    np.testing.assert_array_equal(found.depth, expected.depth)
    np.testing.assert_array_equal(found.offset, expected.offset)


@readouts
def test_ties_go_to_the_newest_token_then_to_the_first(config, rng):
    for _ in range(50):  # a tie must survive any rounding of the fit
        point, size = rng.uniform([-0.5, -0.5, 1.0], [0.5, 0.5, 3.0]), rng.uniform(0.01, 0.5)
        blocks = [block_of([point] * 3, [size] * 3, born=born) for born in range(3)]
        cameras = [Camera.from_fov(1.3, 32, 48)]
        found = splat(blocks, cameras, config)
        assert set(found.block.ravel()) == {-1, 2}
        assert set(found.token.ravel()) == {-1, 0}
        merged = splat([MemoryBlock.join(blocks)], cameras, config)
        assert set(merged.token.ravel()) == {-1, 0}  # where the tokens of the newest block lie


@readouts
def test_points_behind_or_on_the_near_plane_are_never_seen(config):
    z = [-5.0, -1e-30, -0.0, 0.0, 1e-45, 1e-30, 1e-6, NEAR - 2.0**-16, NEAR, NEAR + 2.0**-16]
    # One block each: rounding inside a common box would move them across the plane.
    blocks = [block_of([[0.01, -0.01, metres]], [0.1]) for metres in z]
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        hidden = splat(blocks[:-1], [Camera.from_fov(1.3, 32, 48)], config)
        found = splat(blocks, [Camera.from_fov(1.3, 32, 48)], config)
    assert not hidden.observed.any()
    assert set(found.block.ravel()) == {-1, len(z) - 1}
    assert all(np.isfinite(getattr(found, field.name)).all() for field in fields(Splat))


@readouts
def test_a_point_beside_the_camera_is_finite_and_shows_nowhere(config):
    camera = Camera.from_fov(1.3, 32, 48)
    far = [[1e4, 0.0, NEAR + 0.001], [0.0, -1e4, NEAR + 0.001], [-1e7, 1e7, NEAR + 0.001]]
    assert not splat([block_of([p], [0.1]) for p in far], [camera], config).observed.any()


@readouts
def test_a_point_just_inside_a_cell_border_hides_nothing_of_its_neighbours(config):
    # At x = 3 - 1e-9 cells, which rounds to 3, the point must belong to one cell, the same one, in both passes.
    camera = UNIT.at(pose_from_rotation_vector([1e-9, 0.0, 0.0], np.zeros(3)))
    blocks = [block_of([[3.0, 1.5, 1.0]], [0.1]), block_of([[5.0, 3.0, 2.0]], [0.1])]
    found = splat(blocks, [camera], config)
    assert found.block[0, 1, 3] == 0
    assert found.block[0, 1, 2] == 1


def test_best_fit_prefers_the_point_in_the_middle_of_the_cell_among_those_as_near():
    points = np.array([[2.9, 1.1, 1.0], [2.5 * 1.05, 1.5 * 1.05, 1.05], [2.5 * 1.2, 1.5 * 1.2, 1.2]])
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):  # whichever comes first
        blocks = [block_of([points[i]], [points[i, 2]]) for i in order]
        assert splat(blocks, [UNIT], CONFIGS["best_fit-one_cell"]).block[0, 1, 2] == order.index(1)
        assert splat(blocks, [UNIT], CONFIGS["nearest-one_cell"]).block[0, 1, 2] == order.index(0)


def test_second_layer_covers_holes_and_hides_what_lies_behind_but_never_a_cells_own_surface():
    # A large near patch centred in cell (1, 1), a point 5 % farther in (1, 2), one far behind in (2, 1).
    points = [[1.5, 1.5, 1.0], [2.5 * 1.05, 1.5 * 1.05, 1.05], [1.5 * 4, 2.5 * 4, 4.0]]
    blocks = [block_of([p], [size]) for p, size in zip(points, [2.5, 1.05, 4.0], strict=True)]
    one = splat(blocks, [UNIT], CONFIGS["best_fit-one_cell"]).block[0]
    two = splat(blocks, [UNIT], CONFIGS["best_fit-two_layers"]).block[0]
    np.testing.assert_array_equal(one[:3, :4], [[-1, -1, -1, -1], [-1, 0, 1, -1], [-1, 2, -1, -1]])
    np.testing.assert_array_equal(two[:3, :4], [[0, 0, 0, -1], [0, 0, 1, -1], [0, 0, 0, -1]])


def test_a_footprint_reaches_no_farther_than_its_cap():
    camera = Camera(np.eye(4), np.diag([1.0, 1.0, 1.0]), 16, 16)
    config = ReadoutConfig(footprint=1.2, footprint_cap=4.0)
    found = splat([block_of([[8.5, 8.5, 1.0]], [100.0])], [camera], config, (16, 16))
    rows, cols = np.nonzero(found.block[0] == 0)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (6, 10, 6, 10)


@readouts
def test_more_candidates_than_there_is_room_for_change_nothing(config, rng):
    # Ever nearer points, given from the back, each better than all before.
    z = np.linspace(1.0, 3.0, 4000)
    xyz = np.stack([0.2 * rng.uniform(-1, 1, 4000), 0.2 * rng.uniform(-1, 1, 4000), np.ones(4000)], 1) * z[:, None]
    blocks = [block_of(part, rng.uniform(0.02, 0.5, len(part))) for part in np.array_split(xyz, 40)]
    camera, grid = Camera.from_fov(0.4, 32, 48), (2, 3)
    found = splat(blocks, [camera], config, grid)
    expected = reference.splat(blocks, [camera], grid, Rule.of(config, NEAR))
    np.testing.assert_array_equal(found.block, expected.block)
    np.testing.assert_array_equal(found.token, expected.token)


@given(seed=st.integers(0, 1000))
def test_a_tile_out_of_view_holds_no_visible_point(seed):
    rng = np.random.default_rng(seed)
    cameras = views(rng, 2)
    low = rng.uniform(-5.0, 4.0, (40, 3)).astype(np.float32)
    step = (rng.uniform(0.0, 2.0, (40, 3)) / 65535).astype(np.float32)
    for config in (CONFIGS["best_fit-one_cell"], CONFIGS["best_fit-two_layers"]):
        kept = np.empty((2, 40), np.bool_)
        rule = Rule.of(config, NEAR)
        visible_tiles(projections(cameras, GRID), np.zeros(3), low, step, rule, *GRID, kept)
        inside = low + 65535 * step * rng.uniform(0.0, 1.0, (50, 40, 3))
        for view, camera in enumerate(cameras):
            q = inside @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
            x, y, z = np.moveaxis(q @ camera.K_at(*GRID).T, -1, 0)
            f_x, f_y = np.diag(camera.K_at(*GRID))[:2]
            across, down = 0.5 * rule.widest * z * np.sqrt([f_x / f_y, f_y / f_x])[:, None, None] * bool(rule.reach)
            columns, rows = (x >= -across) & (x < GRID[1] * z + across), (y >= -down) & (y < GRID[0] * z + down)
            seen = (z > NEAR) & columns & rows
            assert not (seen.any(0) & ~kept[view]).any()
            assert (~kept[view]).any()


@readouts
def test_culling_never_changes_a_result(config, monkeypatch):
    # The compiled kernel cannot be told to cull nothing; the plain torch one can, and shows the same otherwise.
    monkeypatch.setattr(zbuffer_torch, "_in_view", lambda planes, tiles: tiles.count > 0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        blocks, cameras = cloud(rng, 300), views(rng)
        everything = zbuffer_torch.splat_torch(blocks, cameras, GRID, Rule.of(config, NEAR), 1)
        assert_identical(splat(blocks, cameras, config), everything)


@readouts
def test_a_world_far_from_the_origin_reads_as_at_the_origin(config, rng):
    far = np.array([100_000.0, -50_000.0, 80_000.0])
    xyz, size = rng.uniform(-4.0, 4.0, (500, 3)), rng.uniform(0.02, 1.5, 500)
    # Multiples of 2^-20 m, which float64 holds in both places.
    xyz = np.round(xyz * 2.0**20) / 2.0**20
    here, there = block_of(xyz, size), block_of(xyz + far, size)
    cameras = views(rng)
    moved = [c.at(np.vstack([np.c_[c.T_world_cam[:3, :3], c.position + far], [0, 0, 0, 1]])) for c in cameras]
    expected, found = splat([here], cameras, config), splat([there], moved, config)
    np.testing.assert_array_equal(found.token, expected.token)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-6)
    np.testing.assert_allclose(found.offset, expected.offset, atol=1e-5)


def test_gather_takes_each_winners_feature_and_birth(rng):
    blocks = cloud(rng, 200)
    found = splat(blocks, views(rng), CONFIGS["best_fit-two_layers"])
    feature, born = gather(blocks, found)
    for cell in np.ndindex(found.block.shape):
        block, token = found.block[cell], found.token[cell]
        expected = blocks[block].values()[token] if block >= 0 else np.zeros(feature.shape[-1])
        np.testing.assert_array_equal(feature[cell], expected)
        assert born[cell] == (blocks[block].births()[token] if block >= 0 else 0)


def test_gather_of_views_that_show_nothing_is_zero(rng):
    blocks, away = [block_of([[0.0, 0.0, 1.0]], [0.1])], UNIT.at(pose_from_rotation_vector([0, 0, 9], np.zeros(3)))
    feature, born = gather(blocks, splat(blocks, [away], CONFIGS["best_fit-two_layers"]))
    assert feature.shape == (1, *GRID, 1)
    assert not feature.any()
    assert not born.any()


def test_gather_reads_half_precision(rng):
    values = np.concatenate([rng.normal(0.0, 1.0, (1, 5)), [[0.0, 6e-8, -6e-8, 65504.0, -1e-5]]]).astype(np.float32)
    for value in values:
        blocks = [block_of([[0.0, 0.0, 1.0]], [0.1], feature=value[None], features="float16")]
        found = splat(blocks, [Camera.from_fov(1.3, 32, 48)], CONFIGS["nearest-one_cell"])
        feature, _ = gather(blocks, found)
        np.testing.assert_array_equal(feature[found.observed], value[None].astype(np.float16).astype(np.float32))
