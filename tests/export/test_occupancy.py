"""Occupancy grids: the floor plan of a room, in any frame, and as map_server reads it."""

import math

import numpy as np
import pytest
import yaml
from PIL import Image
from room_memories import CONFIG, loop_through, written

from mirage_env import OccupancyGrid, occupancy
from mirage_env.errors import InvalidOptionError
from mirage_env.export import FREE, OCCUPIED, UNKNOWN, save_map
from mirage_env.export.voxels import WIDE, Rays, token_rays, traced
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import inverse, pose_from_rotation_vector
from mirage_env.rooms import Room
from mirage_env.rooms.scene import plan_distance


@pytest.fixture(scope="module")
def room() -> Room:
    return Room.generate(1, "test")


@pytest.fixture(scope="module")
def memory(room) -> LatentMemory:
    return written(room, loop_through(room))


@pytest.fixture(scope="module")
def grid(memory) -> OccupancyGrid:
    return occupancy(memory, resolution=0.1)


def floor_plan(room: Room, points: np.ndarray) -> np.ndarray:
    """Where in truth nothing stands; what moves is no part of a plan."""
    scene, flat = room.scene, points[..., :2].reshape(-1, 2)
    return plan_distance(scene, scene.geometry, scene.mover_of < 0, flat, 1.5).reshape(points.shape[:-1]) > 0.0


def overlap(room: Room, grid: OccupancyGrid) -> float:
    """Intersection over union of free space and the floor plan."""
    true, found = floor_plan(room, grid.centres()), grid.cells == FREE
    return float((true & found).sum() / (true | found).sum())


def test_free_space_of_a_walked_loop_is_that_of_the_floor_plan(room, grid):
    assert overlap(room, grid) >= 0.86


def test_surfaces_that_a_view_puts_too_near_do_not_hide_what_others_saw(room, memory):
    """As estimated depth does: half of the views say half the distance once more."""
    cameras = loop_through(room)
    wrong = [camera for i, camera in enumerate(cameras) if i % 2 == 0]
    grid = occupancy(written(room, wrong, scale=0.5, memory=memory), resolution=0.1, floor=0.0)
    assert overlap(room, grid) >= 0.8


def test_what_was_never_found_again_counts_only_if_nothing_is_asked(room, memory):
    known = [(occupancy(memory, resolution=0.1, confirmations=n).cells != UNKNOWN).sum() for n in (0, 1, 2)]
    assert known[0] > known[1] > known[2] > 0
    with pytest.raises(InvalidOptionError, match="found again 9 times"):
        occupancy(memory, confirmations=9)


def test_measurement_counts_by_its_area(memory):
    """A view from half as far writes four times as many tokens of a surface, which together say no more."""
    rays = token_rays(memory, np.eye(4), resolution=10.0)
    width = np.concatenate([block.footprint for block in memory.blocks]).astype(float)
    views = 1.0 + np.concatenate([block.confidence for block in memory.blocks])
    small = (width < WIDE) & (width > 0.02)
    share = rays.weight[small] / views[small] / width[small] ** 2
    assert share.max() == pytest.approx(share.min(), rel=1e-3)
    assert rays.weight.max() <= views.max()


def rays_to(ends, start=(0.05, 0.05, 1.3)):
    ends = np.array(ends, float)
    return Rays(np.tile(np.array(start), (len(ends), 1)), ends, np.ones(len(ends), np.float32))


def followed(ends):
    found = traced(rays_to(ends), 0.1, 0.2, 1.5)
    return found, lambda x: (int((0.05 - found.origin[1]) / 0.1), int((x - found.origin[0]) / 0.1))


def test_table_that_many_rays_look_over_is_there():
    found, cell = followed([[2.05, 0.05, 0.7]] * 2 + [[4.05, 0.05, 1.2]] * 50)
    assert found.occupied()[cell(2.05)]
    assert found.occupied()[cell(4.05)]
    assert not found.occupied()[cell(3.05)]


def test_rays_end_at_the_floor_and_say_nothing_of_what_is_above_the_highest():
    """Depth that is too large puts the floor below itself, and what lies beyond was not seen."""
    found, cell = followed([[4.05, 0.05, -1.3], [-4.05, 0.05, 3.3]])
    assert found.seen[cell(2.0)]
    assert not found.seen[cell(2.35)]
    assert found.seen[cell(-0.35)]
    assert not found.seen[cell(-1.05)]
    assert not found.occupied().any()


@pytest.mark.parametrize("distance", [1.21, 1.25, 1.29])
def test_what_stands_in_a_column_stands_where_rays_end_and_not_in_its_middle(distance):
    """Columns are 0.1 m wide; what is too low, too high or looked through is left out."""
    y, z = (a.ravel() for a in np.meshgrid(np.arange(-0.475, 0.5, 0.05), [0.1, 0.6, 1.0, 1.9]))
    aside = 0.02 * (-1.0) ** (distance > 1.25)
    x = distance + np.where((z < 0.2) | (z > 1.5), aside, 0.005 * (-1.0) ** np.arange(len(y)))
    ends = np.stack([x, y, z], 1)
    rays = rays_to([*ends, [0.75, 0.05, 1.15]])  # the last ends where others go through
    voxels = traced(rays, 0.1, 0.2, 1.5)
    places = voxels.standing(rays)
    assert len(places) == voxels.occupied().sum() == 10
    np.testing.assert_allclose(places[:, 0], distance, atol=1e-6)
    np.testing.assert_allclose(np.sort(places[:, 1]), np.arange(-0.45, 0.5, 0.1), atol=1e-6)


def test_walls_are_occupied_and_what_lies_behind_them_is_unknown(room, grid):
    x, y = room.scene.shell[:2]
    inside = np.array([[s * x, t * y, 0.0] for s in np.linspace(0.02, 0.98, 20) for t in np.linspace(0.02, 0.98, 20)])
    assert (grid.at(inside[floor_plan(room, inside)]) != UNKNOWN).mean() > 0.97
    walls = np.array(
        [[(0.0, t * y, 1.0), (x, t * y, 1.0), (t * x, 0.0, 1.0), (t * x, y, 1.0)] for t in (0.3, 0.5, 0.7)]
    )
    around = np.array([[dx, dy, 0.0] for dx in (-0.1, 0.0, 0.1) for dy in (-0.1, 0.0, 0.1)])
    assert (grid.at(walls[..., None, :] + around) == OCCUPIED).any(-1).mean() > 0.9
    assert (grid.at([[-1.0, 1.0, 0.0], [x + 1.0, y, 0.0], [99.0, 0.0, 0.0]]) == UNKNOWN).all()


def test_places_where_the_camera_stood_are_free(room, grid):
    assert (grid.at([c.position for c in loop_through(room)]) == FREE).mean() > 0.95


def test_floor_is_found(grid):
    assert grid.T_world_map[2, 3] == pytest.approx(0.0, abs=0.06)


def test_map_is_the_same_in_the_frame_of_the_first_camera(room, memory):
    """Worlds that begin with a picture have y down and their floor at the height of a camera below it."""
    cameras = loop_through(room)
    level = cameras[0].T_world_cam @ inverse(pose_from_rotation_vector([0, 0, 0], [-0.15, 0, 0]))
    T_other_room = inverse(level)
    other = occupancy(written(room, cameras, T_other_room), resolution=0.1)
    plan = floor_plan(room, other.centres() @ inverse(T_other_room)[:3, :3].T + inverse(T_other_room)[:3, 3])
    found = other.cells == FREE
    assert (plan & found).sum() / (plan | found).sum() >= 0.8
    assert other.T_world_map[:3, 2] == pytest.approx([0.0, -1.0, 0.0], abs=1e-9)
    assert np.linalg.det(other.T_world_map[:3, :3]) == pytest.approx(1.0)
    assert other.T_world_map[1, 3] == pytest.approx(1.4, abs=0.06)


def test_given_floor_and_up_are_taken(memory):
    grid = occupancy(memory, resolution=0.2, floor=1.0, up=[0.0, 0.0, 2.0])
    assert grid.T_world_map[2, 3] == 1.0


def test_what_is_higher_than_asked_does_not_stand_in_the_way(memory):
    low, tall = (occupancy(memory, resolution=0.1, low=0.1, high=h) for h in (0.5, 1.5))
    assert (low.cells == OCCUPIED).sum() < (tall.cells == OCCUPIED).sum()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resolution": 0.0}, "resolution is 0"),
        ({"resolution": math.nan}, "resolution"),
        ({"confirmations": -1}, "confirmations -1"),
        ({"low": 1.0, "high": 0.5}, "low 1.0, high 0.5"),
        ({"up": [0, 0, 0]}, "up is"),
        ({"resolution": 1e-4}, "coarser"),
    ],
)
def test_impossible_maps_are_refused(memory, changes, says):
    with pytest.raises(InvalidOptionError, match=says):
        occupancy(memory, **changes)


def test_empty_memory_has_no_map():
    with pytest.raises(InvalidOptionError, match="holds nothing"):
        occupancy(LatentMemory.empty(CONFIG))


def test_map_server_files_are_read_by_others(grid, tmp_path):
    picture, about = save_map(grid, tmp_path / "room.yaml")
    said = yaml.safe_load(about.read_text())
    with Image.open(about.parent / said["image"]) as image:
        pixels = np.asarray(image)
    assert picture.name == said["image"]
    assert said["resolution"] == grid.resolution
    assert said["origin"][:2] == pytest.approx(grid.origin)
    # map_server: probability (255 - p) / 255; occupied above .65, free below .196, the top row has the highest y.
    p = (255 - pixels[::-1].astype(float)) / 255.0
    read = np.where(p > said["occupied_thresh"], OCCUPIED, np.where(p < said["free_thresh"], FREE, UNKNOWN))
    assert np.array_equal(read, grid.cells)
    with pytest.raises(InvalidOptionError, match="ending"):
        save_map(grid, tmp_path / "room.png")
