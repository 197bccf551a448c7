"""Triangles drawn by the compiled kernel, against a ray for every pixel in plain NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.camera import Camera
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.readout.triangles_numba import NEAREST, draw_triangles, nothing_drawn

H, W = 20, 24
CAMERA = Camera.from_fov(1.2, H, W)
seeds = given(seed=st.integers(0, 10_000))


def projection(camera: Camera) -> np.ndarray:  # [3, 4]
    return (camera.K_image @ camera.T_cam_world[:3]).astype(np.float32)


def mesh(rng: np.random.Generator, nearest: float = 0.4):
    """Points of a crumpled sheet, some of it folded, columns and rows of its picture, triangles, and cover."""
    m, n = rng.integers(2, 6, 2)
    x, y = np.sort(rng.uniform(0.0, 50.0, n)), np.sort(rng.uniform(0.0, 50.0, m))
    across, down = np.meshgrid(np.linspace(-1.0, 1.0, n), np.linspace(-1.0, 1.0, m))
    points = np.stack([across, down, rng.uniform(nearest, 3.0, (m, n))], -1) + rng.normal(0.0, 0.2, (m, n, 3))
    points[..., 2] = points[..., 2].clip(nearest)
    points[..., :2] *= points[..., 2:]
    arrays = (a.astype(np.float32) for a in (points, x, y))
    return *arrays, rng.random((m - 1, n - 1, 2)) < 0.9, np.ones((m, n), np.float32)


def drawn(*meshes, camera: Camera = CAMERA):
    """Number of the mesh, place and depth of every pixel, where all of it is covered."""
    return tuple(both[0] for both in drawn_parts(*meshes, camera=camera)[:3])


def drawn_parts(*meshes, camera: Camera = CAMERA):
    """Number of the mesh, place, depth and part, of wholly covered pixels and of others."""
    shown = nothing_drawn(camera.height, camera.width)
    for number, parts in meshes:
        free = np.ones((camera.height, camera.width), np.bool_)
        draw_triangles(projection(camera), *parts, number, free, *shown)
    return shown


def triangles(points, x, y, whole, _):
    """Corners [N, 3, 3] and their places [N, 3, 2], in order around the front."""
    for row, column, lower in np.argwhere(whole):
        own, right, below = ((1, 1), (1, 0), (0, 1)) if lower else ((0, 0), (0, 1), (1, 0))
        at = [(row + r, column + c) for r, c in (own, right, below)]
        yield np.array([points[i] for i in at], np.float64), np.array([(x[j], y[i]) for i, j in at], np.float64)


def reference(parts, camera: Camera = CAMERA):
    """Depth and place of the nearest triangle before every pixel, and pixels of which rounding may say otherwise."""
    v, u = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K_image).T  # z is 1
    depth, place, unsure = np.full(u.shape, np.inf), np.zeros((2, *u.shape)), np.zeros(u.shape, bool)
    second = depth.copy()
    for corners, at in triangles(*parts):
        corners = corners @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
        if corners[:, 2].min() <= NEAREST or np.linalg.det(corners) <= 0.0:
            continue
        weights = rays @ np.linalg.inv(corners)  # weights @ corners = ray
        share = weights * corners[:, 2]  # of the triangle's area in the picture
        hit = share.min(-1) >= 0.0
        unsure |= np.abs(share.min(-1)) < 1e-3
        metres = np.where(hit, 1.0 / np.where(hit, weights.sum(-1), 1.0), np.inf)
        nearer = metres < depth
        second = np.minimum(second, np.where(nearer, depth, metres))
        place[:, nearer] = np.moveaxis(weights @ at / weights.sum(-1, keepdims=True), -1, 0)[:, nearer]
        depth = np.minimum(depth, metres)
    return depth, place, unsure | (second < 1.001 * depth)


@seeds
def test_every_pixel_shows_the_nearest_front_that_its_ray_meets_at_the_place_it_meets_it(seed):
    rng = np.random.default_rng(seed)
    parts = mesh(rng)
    T = pose_from_rotation_vector(rng.normal(0.0, 0.2, 3), rng.normal(0.0, 0.2, 3))
    camera = Camera(T, CAMERA.K_image * np.array([[1.0], [rng.uniform(0.5, 2.0)], [1.0]]), H, W)
    number, place, depth = drawn((3, parts), camera=camera)
    expected, where, unsure = reference(parts, camera)
    there = np.isfinite(expected)
    assert unsure.mean() < 0.1
    assert np.array_equal((number == 3)[~unsure], there[~unsure])
    assert (number[~there & ~unsure] == -1).all()
    assert np.isinf(depth[number < 0]).all()
    sure = there & ~unsure
    np.testing.assert_allclose(depth[sure], expected[sure], rtol=1e-3)
    np.testing.assert_allclose(place[:, sure], where[:, sure], atol=0.02)


def sheet(camera: Camera, columns: np.ndarray, rows: np.ndarray, slope: np.ndarray):
    """A plane, as vertices at columns and rows of a camera's picture; inverse depth grows by `slope` per pixel."""
    inverse = 0.5 + slope[0] * columns + slope[1] * rows[:, None]
    K = camera.K_image
    rays = [(columns - K[0, 2]) / K[0, 0], (rows[:, None] - K[1, 2]) / K[1, 1], 1.0]
    points = np.stack(np.broadcast_arrays(*rays), -1) / inverse[..., None]
    points = points @ camera.T_world_cam[:3, :3].T + camera.T_world_cam[:3, 3]
    whole, cover = np.ones((len(rows) - 1, len(columns) - 1, 2), bool), np.ones(points.shape[:2], np.float32)
    return *(a.astype(np.float32) for a in (points, columns, rows)), whole, cover


@pytest.mark.parametrize("aligned", [True, False])
@seeds
def test_neighbours_leave_no_gap_even_where_their_sides_go_through_the_middle_of_pixels(aligned, seed):
    rng = np.random.default_rng(seed)
    T = pose_from_rotation_vector(rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3))
    camera = Camera(T, CAMERA.K_image, H, W)
    columns, rows = np.arange(3, W - 4) + 0.5, np.arange(2, H - 1) + 0.5
    if not aligned:
        columns, rows = np.linspace(3.2, W - 4.3, rng.integers(2, 60)), np.linspace(2.4, H - 1.8, rng.integers(2, 60))
    number = drawn((0, sheet(camera, columns, rows, rng.uniform(-0.01, 0.01, 2))), camera=camera)[0]
    inside = np.zeros((H, W), bool)
    inside[3 : H - 2, 4 : W - 5] = True
    assert (number[inside] == 0).all()
    outside = np.ones((H, W), bool)
    outside[2 : H - 1, 3 : W - 4] = False
    assert (number[outside] == -1).all()


def test_pixels_on_the_outline_are_drawn():
    columns, rows = np.arange(3, 9) + 0.5, np.arange(2, 6) + 0.5
    number = drawn((0, sheet(CAMERA, columns, rows, np.zeros(2))))[0]
    assert np.array_equal(np.argwhere(number == 0)[[0, -1]], [[2, 3], [5, 8]])
    assert (number == 0).sum() == 6 * 4


def test_who_looks_from_behind_sees_nothing():
    parts = sheet(CAMERA, np.linspace(0.0, W, 4), np.linspace(0.0, H, 4), np.zeros(2))
    behind = CAMERA.at(np.diag([-1.0, 1.0, -1.0, 1.0]) + np.outer([0, 0, 4.0, 0], [0, 0, 0, 1]))
    assert (drawn((0, parts))[0] == 0).all()
    assert (drawn((0, parts), camera=behind)[0] == -1).all()
    turned = (parts[0][:, ::-1].copy(), *parts[1:])
    assert (drawn((0, turned))[0] == -1).all()
    assert (drawn((0, turned), camera=behind)[0] == 0).any()


@pytest.mark.parametrize("metres", [-1.0, 0.0, 0.9 * float(NEAREST)])
def test_triangles_that_reach_the_camera_or_behind_it_are_left_out_and_others_stay(metres):
    points, x, y, whole, cover = sheet(CAMERA, np.linspace(0.0, W, 4), np.linspace(0.0, H, 4), np.zeros(2))
    others, reaching = whole.copy(), points.copy()
    reaching[1, 1, 2] = metres
    for triangle in ((0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)):  # around that vertex
        others[triangle] = False
    found, expected = drawn((0, (reaching, x, y, whole, cover))), drawn((0, (points, x, y, others, cover)))
    assert (found[0] == 0).any()
    assert (found[0] == -1).any()
    for first, second in zip(found, expected, strict=True):
        assert np.array_equal(first, second)


@seeds
def test_the_nearest_is_seen_whatever_comes_first(seed):
    rng = np.random.default_rng(seed)
    meshes = [(number, mesh(rng)) for number in range(3)]
    one, other = drawn(*meshes), drawn(*meshes[::-1])
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first, second)
    alone = np.stack([drawn(some)[2] for some in meshes])
    assert np.array_equal(one[2], alone.min(0))
    assert np.array_equal(one[0], np.where(np.isinf(one[2]), -1, alone.argmin(0)))


@pytest.mark.parametrize("scale", [1, 3])
@given(slope=st.floats(-0.5, 0.5), end=st.floats(6.0, 14.0))
def test_where_its_cover_is_a_half_a_mesh_ends_within_the_pixel_however_large_it_is_drawn(scale, slope, end):
    columns, rows = np.arange(W) + 0.5, np.arange(H) + 0.5
    points, x, y, whole, cover = sheet(CAMERA, columns, rows, np.zeros(2))
    away = rows[:, None] - end - slope * (columns - W / 2)  # pixels below the line
    cover = (0.5 + 0.5 * away).clip(0.0, 1.0).astype(np.float32)
    camera = Camera(CAMERA.T_world_cam, np.diag([scale, scale, 1.0]) @ CAMERA.K_image, scale * H, scale * W)
    mesh, _, _, part = drawn_parts((0, (points, x, y, whole, cover)), camera=camera)
    share = np.where(mesh[0] == 0, 1.0, np.where(mesh[1] == 0, part[1], 0.0))
    line = scale * (end + slope * ((np.arange(scale * W) + 0.5) / scale - W / 2))
    inside = np.s_[: -2 * scale, 2 * scale : -2 * scale]  # the sheet ends in the middle of the outermost pixels
    assert np.abs((1.0 - share[inside]).sum(0) - line[inside[1]]).max() < 0.15
    assert ((share > 0.0) & (share < 1.0)).sum(0).max() <= 3


def test_of_what_covers_a_part_of_a_pixel_the_nearest_is_kept_and_what_is_behind_it_too():
    near, far = (sheet(CAMERA, np.linspace(0.0, W, 4), np.linspace(0.0, H, 4), np.zeros(2)) for _ in range(2))
    half = np.full(near[-1].shape, 0.5, np.float32)
    further = (2.0 * far[0], *far[1:])
    for meshes in ([(0, (*near[:-1], half)), (1, further)], [(1, further), (0, (*near[:-1], half))]):
        mesh, _, depth, part = drawn_parts(*meshes)
        assert (mesh[0] == 1).all()
        assert (mesh[1] == 0).all()
        np.testing.assert_allclose(depth[0], 2.0 * depth[1], rtol=1e-5)
        np.testing.assert_allclose(part[1], 0.5)
