"""The z-buffer against its reference, and the rules that no reference shows."""

import warnings
from dataclasses import fields

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from mirage_env import splat as splat_module
from mirage_env.camera import Camera, pose_from_rotation_vector
from mirage_env.config import ReadoutConfig
from mirage_env.splat import Splat, in_view, splat

NEAR = 0.5  # a power of two, so that points can lie exactly on the near plane
GRID = (4, 6)
CONFIGS = {
    f"{winner}-{layers}": ReadoutConfig(winner=winner, footprint=footprint)
    for winner in ("best_fit", "nearest")
    for layers, footprint in (("one_cell", 0.0), ("two_layers", 1.2))
}
readouts = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def views(rng: np.random.Generator, count: int = 3) -> list[Camera]:
    camera = Camera.from_fov(1.3, 32, 48)
    return [
        camera.at(pose_from_rotation_vector(rng.normal(0.0, 0.5, 3), rng.normal(0.0, 0.5, 3))) for _ in range(count)
    ]


def cloud(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points all around the cameras, some of them twice, oldest first."""
    xyz = rng.uniform(-4.0, 4.0, (count, 3)).astype(np.float32)
    footprint = rng.uniform(0.02, 1.5, count).astype(np.float32)
    again = rng.integers(0, count, count // 4)
    xyz, footprint = np.concatenate([xyz, xyz[again]]), np.concatenate([footprint, footprint[again]])
    return xyz, footprint, np.sort(rng.integers(0, 4, len(xyz)))


def assert_equal(found: Splat, expected: Splat) -> None:
    """The same winners; their geometry to the rounding of float32."""
    np.testing.assert_array_equal(found.winner, expected.winner)
    for name in ("depth", "offset", "scale"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5, err_msg=name)


def assert_identical(found: Splat, expected: Splat) -> None:
    for field in fields(Splat):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


@readouts
@given(seed=st.integers(0, 1000), count=st.integers(1, 60))
def test_splat_equals_the_reference(config, seed, count):
    rng = np.random.default_rng(seed)
    scene = (*cloud(rng, count), views(rng), GRID, config, NEAR)
    assert_equal(splat(*scene), reference.splat(*scene))


@readouts
def test_splat_of_nothing_shows_nothing(config, rng):
    empty = np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    found = splat(*empty, views(rng), GRID, config, NEAR)
    assert (found.winner == -1).all()
    assert not any(getattr(found, name).any() for name in ("depth", "offset", "scale"))


@readouts
def test_threads_change_nothing(config, rng, monkeypatch):
    monkeypatch.setattr(splat_module, "THREADED_FROM", 1)
    scene = (*cloud(rng, 400), views(rng, 6), GRID, config, NEAR)
    alone = splat(*scene, threads=1)
    for _ in range(5):
        assert_identical(splat(*scene, threads=4), alone)


@readouts
def test_order_of_points_matters_for_ties_only(config, rng):
    xyz, footprint, newest = (a[:300] for a in cloud(rng, 300))  # without the doubles
    cameras = views(rng)
    expected = splat(xyz, footprint, newest, cameras, GRID, config, NEAR)
    order = rng.permutation(len(xyz))
    found = splat(xyz[order], footprint[order], newest[order], cameras, GRID, config, NEAR)
    np.testing.assert_array_equal(np.where(found.winner < 0, -1, order[found.winner]), expected.winner)
    np.testing.assert_array_equal(found.depth, expected.depth)


@readouts
@pytest.mark.parametrize(("newest", "winner"), [([0, 0, 0], 0), ([0, 1, 1], 1), ([0, 0, 2], 2), ([2, 1, 0], 0)])
def test_ties_go_to_the_newest_point_then_to_the_lowest_index(config, newest, winner, rng):
    for _ in range(50):  # a tie must survive any rounding of the fit
        point = rng.uniform([-0.5, -0.5, 1.0], [0.5, 0.5, 3.0]).astype(np.float32)
        size = np.full(3, rng.uniform(0.01, 0.5), np.float32)
        found = splat(np.stack([point] * 3), size, np.array(newest), [Camera.from_fov(1.3, 32, 48)], GRID, config, NEAR)
        assert set(found.winner.ravel()) == {-1, winner}


@readouts
def test_points_behind_or_on_the_near_plane_are_never_seen(config):
    z = np.float32([-5.0, -1e-30, -0.0, 0.0, 1e-45, 1e-30, 1e-6, NEAR, np.nextafter(np.float32(NEAR), np.float32(1))])
    xyz = np.stack([np.full_like(z, 0.01), np.full_like(z, -0.01), z], 1)
    scene = np.full(len(z), 0.1, np.float32), np.zeros(len(z), np.int64), [Camera.from_fov(1.3, 32, 48)], GRID
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        hidden = splat(xyz[:-1], *(a[:-1] for a in scene[:2]), *scene[2:], config, NEAR)
        found = splat(xyz, *scene, config, NEAR)
    assert (hidden.winner == -1).all()
    assert set(found.winner.ravel()) == {-1, len(z) - 1}
    assert all(np.isfinite(getattr(found, field.name)).all() for field in fields(Splat))


@readouts
def test_a_point_just_inside_a_cell_border_hides_nothing_of_its_neighbours(config):
    # At x = 3 - 1e-9 cells, which rounds to 3, the point must belong to one cell, the same one, in both passes.
    camera = Camera(pose_from_rotation_vector([1e-9, 0.0, 0.0], np.zeros(3)), np.diag([1.0, 1.0, 1.0]), 4, 6)
    xyz = np.float32([[3.0, 1.5, 1.0], [5.0, 3.0, 2.0]])
    found = splat(xyz, np.float32([0.1, 0.1]), np.zeros(2, np.int64), [camera], GRID, config, NEAR)
    assert found.winner[0, 1, 3] == 0
    assert found.winner[0, 1, 2] == 1


def test_best_fit_prefers_the_point_in_the_middle_of_the_cell_among_those_as_near():
    camera = Camera(np.eye(4), np.diag([1.0, 1.0, 1.0]), 4, 6)
    xyz = np.float32([[2.9, 1.1, 1.0], [2.5 * 1.05, 1.5 * 1.05, 1.05], [2.5 * 1.2, 1.5 * 1.2, 1.2]])
    scene = xyz, np.float32([1.0, 1.05, 1.2]), np.zeros(3, np.int64), [camera], GRID
    assert splat(*scene, CONFIGS["best_fit-one_cell"], NEAR).winner[0, 1, 2] == 1
    assert splat(*scene, CONFIGS["nearest-one_cell"], NEAR).winner[0, 1, 2] == 0


def test_second_layer_covers_holes_and_hides_what_lies_behind_but_never_a_cells_own_surface():
    camera = Camera(np.eye(4), np.diag([1.0, 1.0, 1.0]), 4, 6)
    # A large near patch centred in cell (1, 1), a point 5 % farther in (1, 2), one far behind in (2, 1).
    xyz = np.float32([[1.5, 1.5, 1.0], [2.5 * 1.05, 1.5 * 1.05, 1.05], [1.5 * 4, 2.5 * 4, 4.0]])
    scene = xyz, np.float32([2.5, 1.05, 4.0]), np.zeros(3, np.int64), [camera], GRID
    one = splat(*scene, CONFIGS["best_fit-one_cell"], NEAR).winner[0]
    two = splat(*scene, CONFIGS["best_fit-two_layers"], NEAR).winner[0]
    np.testing.assert_array_equal(one[:3, :4], [[-1, -1, -1, -1], [-1, 0, 1, -1], [-1, 2, -1, -1]])
    np.testing.assert_array_equal(two[:3, :4], [[0, 0, 0, -1], [0, 0, 1, -1], [0, 0, 0, -1]])


def test_a_footprint_reaches_no_farther_than_its_cap():
    camera = Camera(np.eye(4), np.diag([1.0, 1.0, 1.0]), 16, 16)
    scene = np.float32([[8.5, 8.5, 1.0]]), np.float32([100.0]), np.zeros(1, np.int64), [camera], (16, 16)
    found = splat(*scene, ReadoutConfig(footprint=1.2, footprint_cap=4.0), NEAR)
    rows, cols = np.nonzero(found.winner[0] == 0)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (6, 10, 6, 10)


@given(seed=st.integers(0, 1000))
def test_a_box_out_of_view_holds_no_visible_point(seed):
    rng = np.random.default_rng(seed)
    (camera,) = views(rng, 1)
    low = rng.uniform(-5.0, 4.0, (40, 3))
    high = low + rng.uniform(0.0, 2.0, (40, 3))
    kept = in_view(low, high, camera, NEAR, margin=0.0)
    inside = rng.uniform(low, high, (50, 40, 3))
    q = inside @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
    x, y, z = np.moveaxis(q @ camera.K_image.T, -1, 0)
    seen = (z > NEAR) & (x >= 0) & (x < camera.width * z) & (y >= 0) & (y < camera.height * z)
    assert not (seen.any(0) & ~kept).any()
    assert (~kept).any()
