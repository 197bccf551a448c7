"""The rooms simulator: determinism, exact geometry, plausible pictures, walks that stay free."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import rotation_angle
from mirage_env.rooms import FOV, FRAME_SECONDS, SPLITS, Room, RoomView, random_walk, start_view
from mirage_env.rooms.camera_poses import yaw_pitch
from mirage_env.rooms.camera_walks import PITCH_LIMIT
from mirage_env.rooms.clips import TILTED, TILTS, rooms_clip, tilt

SEEDS = range(6)


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [Room.generate(seed, "validation") for seed in SEEDS]


@pytest.fixture(scope="module")
def walks(rooms: list[Room]) -> list[list[Camera]]:
    return [random_walk(room, np.random.default_rng(room.seed), 40) for room in rooms]


def _camera_points(camera: Camera, depth: np.ndarray) -> np.ndarray:  # [H, W, 3]
    v, u = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
    return np.stack([u, v, np.ones_like(u)], axis=2) @ np.linalg.inv(camera.K_image).T * depth[..., None]


def _away_from_edges(view: RoomView, margin: int = 1) -> np.ndarray:  # [H, W]
    """Pixels without a depth edge around them: 1/z is linear over a plane, so its second difference shows edges."""
    inverse = np.where(view.sky, 0.0, 1.0 / view.depth)
    edge = view.sky.copy()
    for axis in (0, 1):
        bend = np.abs(np.roll(inverse, 1, axis) + np.roll(inverse, -1, axis) - 2.0 * inverse)
        edge |= bend > 0.02 * inverse
    grown = edge.copy()
    for dv in range(-margin, margin + 1):
        for du in range(-margin, margin + 1):
            grown |= np.roll(edge, (dv, du), (0, 1))
    return ~grown


def _bilinear(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = u - 0.5, v - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    return top * (1 - fy) + (image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx) * fy


def _warp(a: Camera, view_a: RoomView, b: Camera, view_b: RoomView, shift: float = 0.0):
    """View b seen from camera a; returns colours, mask, depth of a's points in b and depth found there.

    `shift` moves the principal point used for the look-up, in pixels.
    """
    depth = np.where(view_a.sky, 1.0, view_a.depth)
    T_b_a = b.T_cam_world @ a.T_world_cam
    points = _camera_points(a, depth) @ T_b_a[:3, :3].T + T_b_a[:3, 3]
    z = np.maximum(points[..., 2], 1e-3)
    u, v = (points[..., i] / z * b.K_image[i, i] + b.K_image[i, 2] for i in (0, 1))
    mask = (points[..., 2] > 0.1) & (u > 6) & (v > 6) & (u < b.width - 6) & (v < b.height - 6)
    mask &= ~view_a.sky & _away_from_edges(view_a)
    ui, vi = np.where(mask, u, 8.0), np.where(mask, v, 8.0)
    row, column = vi.astype(int), ui.astype(int)
    mask &= _away_from_edges(view_b)[row, column]
    inverse = np.where(view_b.sky, 0.0, 1.0 / view_b.depth)[..., None]
    found = 1.0 / np.maximum(_bilinear(inverse, ui, vi)[..., 0], 1e-6)
    mask &= np.abs(found - z) < 0.02 * z
    return _bilinear(view_b.image.astype(np.float64), ui + shift, vi), mask, z, found


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10.0 * math.log10(255.0**2 / float(np.mean((a - b) ** 2)))


def test_same_seed_gives_the_same_bytes():
    for seed in (3, 4):
        views = []
        for _ in range(2):
            room = Room.generate(seed)
            walk = random_walk(room, np.random.default_rng(7), 12)
            views.append(room.render(walk[-1], 1.5))
        for name in ("image", "depth", "instance", "mover", "sky"):
            assert getattr(views[0], name).tobytes() == getattr(views[1], name).tobytes()


def test_threads_over_frames_do_not_change_a_byte(rooms: list[Room], walks: list[list[Camera]]):
    jobs = [(room, walk[i], i * FRAME_SECONDS) for room, walk in zip(rooms, walks, strict=True) for i in (0, 20)]
    alone = [room.render(camera, time).image.tobytes() for room, camera, time in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: job[0].render(job[1], job[2]).image.tobytes(), jobs))
    assert alone == together


def test_seeds_and_splits_are_different_worlds():
    worlds = {Room.generate(seed, split).scene.geometry.tobytes() for seed in range(5) for split in SPLITS}
    assert len(worlds) == 5 * len(SPLITS)


def test_views_have_documented_types_and_shapes(rooms: list[Room]):
    camera = rooms[0].start_camera(np.random.default_rng(0), 48, 80)
    view = rooms[0].render(camera)
    assert view.image.shape == (48, 80, 3)
    assert view.image.dtype == np.uint8
    for name, dtype in [("depth", np.float32), ("instance", np.int16), ("mover", np.bool_), ("sky", np.bool_)]:
        assert getattr(view, name).shape == (48, 80)
        assert getattr(view, name).dtype == dtype
    assert camera.K_image[0, 0] == pytest.approx(40 / math.tan(FOV / 2))


def test_pictures_are_bright_enough_and_not_flat(rooms: list[Room], walks: list[list[Camera]]):
    images = [room.render(walk[0]).image for room, walk in zip(rooms, walks, strict=True)]
    assert 110 < np.mean(images) < 190
    for image in images:
        assert 70 < image.mean() < 225
        assert image.std() > 12


def test_sky_is_where_depth_is_infinite_and_only_in_courtyards(rooms: list[Room], walks: list[list[Camera]]):
    kinds = {room.scene.courtyard for room in rooms}
    assert kinds == {True, False}
    for room, walk in zip(rooms, walks, strict=True):
        views = [room.render(camera) for camera in walk[::13]]
        for view in views:
            assert np.array_equal(view.sky, np.isinf(view.depth))
            assert np.array_equal(view.sky, view.instance == 0)
            assert not (view.mover & view.sky).any()
            assert (view.depth > 0.0).all()
        assert any(view.sky.any() for view in views) == room.scene.courtyard


def test_movers_move_and_nothing_else_does(rooms: list[Room]):
    moved = 0
    for room in rooms:
        before, after = room.scene.geometry, room.scene.mover_of
        assert 2 <= len(room.scene.paths) <= 4 or len(np.unique(after)) > 1
        camera = _overview(room)
        a, b = room.render(camera, 0.0), room.render(camera, 1.0)
        still = ~a.mover & ~b.mover
        assert np.array_equal(a.depth[still], b.depth[still])
        assert np.array_equal(a.instance[still], b.instance[still])
        moved += not np.array_equal(a.mover, b.mover)
        assert np.array_equal(before, room.scene.geometry)
    assert moved >= len(rooms) - 2


def _overview(room: Room) -> Camera:
    """From high up in a corner down into the room."""
    x, y, height = room.scene.shell[:3]
    forward = np.array([0.5 * x, 0.5 * y, 0.3]) - np.array([0.3, 0.3, height - 0.2])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = 0.3, 0.3, height - 0.2
    return Camera.from_fov(math.radians(95), 96, 96, T)


def test_unprojected_depth_lies_on_floor_and_walls(rooms: list[Room], walks: list[list[Camera]]):
    for room, walk in zip(rooms, walks, strict=True):
        view = room.render(walk[0])
        points = _camera_points(walk[0], np.where(view.sky, 1.0, view.depth))
        world = points @ walk[0].T_world_cam[:3, :3].T + walk[0].position
        x, y, z = np.moveaxis(world, 2, 0)
        size_x, size_y, height = room.scene.shell[:3]
        planes = [(1, z), (2, z - height), (3, x), (4, x - size_x), (5, y), (6, y - size_y)]
        for number, distance in planes:
            assert np.abs(distance[view.instance == number]).max(initial=0.0) < 1e-5


def test_depth_agrees_with_the_neighbouring_view(rooms: list[Room], walks: list[list[Camera]]):
    errors = []
    for room, walk in zip(rooms, walks, strict=True):
        a, b = walk[6], walk[9]
        _, mask, expected, found = _warp(a, room.render(a), b, room.render(b))
        errors.append(np.abs(found - expected)[mask] / expected[mask])
    errors = np.concatenate(errors)
    # Planes are exact under bilinear look-up of 1/z; curved things and creases within one instance are not.
    assert np.quantile(errors, 0.9) < 1e-5
    assert errors.size > 0.3 * len(rooms) * 128 * 128


def test_a_view_warped_by_depth_and_pose_is_the_other_view(rooms: list[Room]):
    right, wrong = [], []
    for room in rooms:
        rng = np.random.default_rng(room.seed)
        walk = random_walk(room, rng, 12)
        a, b = walk[5], walk[7]
        view_a, view_b = room.render(a), room.render(b)
        for shift, results in [(0.0, right), (3.0, wrong)]:
            colors, mask, _, _ = _warp(a, view_a, b, view_b, shift)
            results.append(_psnr(colors[mask], view_a.image[mask]))
    assert min(right) >= 30.0, right
    assert np.mean(right) >= 36.0, right
    # The pictures are smooth on purpose, so that even an error of three pixels leaves about 26 dB.
    assert np.mean(wrong) < 28.0, wrong
    assert np.mean(wrong) < np.mean(right) - 10.0, (right, wrong)


def test_more_samples_only_refine_the_colour(rooms: list[Room], walks: list[list[Camera]]):
    one, two, four = (rooms[1].render(walks[1][0], samples=n) for n in (1, 2, 4))
    assert np.array_equal(one.depth, four.depth)
    assert np.array_equal(one.instance, two.instance)
    assert _psnr(two.image.astype(float), four.image) > max(28.0, _psnr(one.image.astype(float), four.image))


def test_walks_are_smooth_free_and_nearly_level(rooms: list[Room], walks: list[list[Camera]]):
    for room, walk in zip(rooms, walks, strict=True):
        assert len(walk) == 40
        for previous, camera in pairwise(walk):
            T = previous.T_cam_world @ camera.T_world_cam
            assert np.linalg.norm(T[:3, 3]) <= 0.13
            assert rotation_angle(T) <= math.radians(5.0)
        for camera in walk:
            forward, right = camera.T_world_cam[:3, 2], camera.T_world_cam[:3, 0]
            assert room.is_free(camera.position)
            assert 1.1 < camera.position[2] < 1.7
            assert abs(forward[2]) < math.sin(math.radians(13.0))
            assert abs(right[2]) < math.sin(math.radians(1.5))
            assert room.render(camera.resized(24, 24), samples=1).depth.min() > 0.15


def test_start_camera_has_space_ahead(rooms: list[Room]):
    for room in rooms:
        for seed in range(4):
            camera = room.start_camera(np.random.default_rng(seed))
            assert np.median(room.render(camera.resized(24, 24)).depth[9:15, 9:15]) > 1.2


def test_start_view_is_reproducible():
    a, b = (start_view(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.camera.T_world_cam, b.camera.T_world_cam)
    assert a.depth is not None
    assert a.depth.shape == a.image.shape[:2]


def test_walls_things_and_mover_paths_are_not_free(rooms: list[Room]):
    for room in rooms:
        x, y, cx, cy = room.scene.shell[0], room.scene.shell[1], *room.scene.paths[0, :2]
        assert not room.is_free((-1.0, 1.0, 1.4))
        assert not room.is_free((0.1, 0.5 * y, 1.4))
        assert not room.is_free((x + 1.0, y, 1.4))
        assert not room.is_free((1.0, 1.0, 9.0))
        a, turn = room.scene.paths[0, 2], room.scene.paths[0, 4]
        assert not room.is_free((cx + a * math.cos(turn), cy + a * math.sin(turn), 1.4))


def test_bad_input_is_refused_with_the_choices(rooms: list[Room]):
    camera = rooms[0].start_camera(np.random.default_rng(0), 16, 16)
    with pytest.raises(InvalidOptionError, match="train, validation, test"):
        Room.generate(0, "practice")
    with pytest.raises(InvalidOptionError, match="negative"):
        Room.generate(-1)
    with pytest.raises(InvalidOptionError, match="samples"):
        rooms[0].render(camera, samples=0)
    with pytest.raises(InvalidOptionError, match="time"):
        rooms[0].render(camera, time=math.nan)
    with pytest.raises(InvalidPoseError, match="three finite"):
        rooms[0].is_free((0.0, 1.0))
    with pytest.raises(InvalidOptionError, match="frames"):
        random_walk(rooms[0], np.random.default_rng(0), 0)


def test_some_cameras_of_clips_look_down_at_the_floor_all_the_time():
    pitches = np.arcsin([-tilt(seed)[1, 2] for seed in range(300)])  # the optical axis; y points down
    assert (pitches == 0.0).mean() == pytest.approx(1.0 - TILTED, abs=0.07)
    assert TILTS[0] <= pitches.min() < 0.8 * TILTS[0]
    assert 0.8 * TILTS[1] < pitches.max() <= TILTS[1]
    lowest = int(pitches.argmin())
    poses = rooms_clip(lowest, "train", 2, 16).poses
    assert yaw_pitch(poses[0])[1] == pytest.approx(pitches[lowest], abs=PITCH_LIMIT)
