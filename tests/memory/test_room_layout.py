"""Beyond the borders of a view walls go straight on in their planes, floors stay level, corners are right angles."""

import copy
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tiny import tiny_world_model
from transforms3d.euler import euler2mat

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig, MemoryConfig
from mirage_env.interfaces import STATIC
from mirage_env.memory.lifting import lift
from mirage_env.memory.mirrored import mirrored_cameras
from mirage_env.memory.straight import Surroundings, draw
from mirage_env.memory.walls import wall_at_border
from mirage_env.models.small.refiner import BareReadout

FOV, FLOOR, CEILING = 1.3, 1.4, 1.3
BORDER = FOV / 2.0


def yawed(yaw: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = euler2mat(yaw, 0.0, 0.0, "ryxz")
    return T


CAMERA = Camera.from_fov(FOV, 64, 64, yawed(0.8))
DOWN = np.array([0.0, 1.0, 0.0])


def upright(points: np.ndarray, camera: Camera = CAMERA) -> np.ndarray:
    """Points of the world as right, ahead, down of the camera."""
    return (points - camera.position) @ camera.T_world_cam[:3, :3][:, [0, 2, 1]]


def azimuths(points: np.ndarray) -> np.ndarray:
    return np.arctan2(points[..., 0], points[..., 1])


def room(*walls: tuple[float, float], size: int = 32, floor: float = FLOOR, ceiling: float = CEILING) -> torch.Tensor:
    """Depth [size, size] of walls, each given by the azimuth it is nearest at and its distance, floor and ceiling."""
    rays = upright(lift(torch.ones(size, size), CAMERA)).reshape(size, size, 3)
    length, azimuth = np.hypot(rays[..., 0], rays[..., 1]), azimuths(rays)
    fall = rays[..., 2] / length
    metres = np.where(fall > 0.0, floor, ceiling) / np.abs(fall)
    for facing, distance in walls:
        metres = np.minimum(metres, distance / np.maximum(np.cos(azimuth - facing), 1e-9))
    return torch.from_numpy(metres / length).float()


def beyond(depth: torch.Tensor, side: int, image: torch.Tensor | None = None, farthest: float = math.inf):
    """Points [N, 3] that are drawn beyond a border, pictures and depth of the views, and what was found."""
    around = Surroundings.of(depth, CAMERA, DOWN, farthest)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) if image is None else image
    points, pictures = [], []
    for _, view in mirrored_cameras(CAMERA):
        picture, metres = draw(around, view, image, depth, farthest)
        found = upright(lift(metres, view))[metres.numpy().ravel() > 0.0]
        points.append(found[side * azimuths(found) > BORDER])
        pictures.append((picture, metres))
    return np.concatenate(points), pictures, around


def standing(points: np.ndarray, ceiling: float = CEILING) -> np.ndarray:
    """Points that lie neither on the floor nor on the ceiling."""
    return points[(points[:, 2] < 0.9 * FLOOR) & (points[:, 2] > -0.9 * ceiling)]


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("oblique", [-0.8, -0.4, 0.0, 0.5])
def test_an_oblique_wall_goes_straight_on_in_its_plane_and_then_turns_by_a_right_angle(side, oblique):
    facing, distance = BORDER - oblique, 3.0
    rng = np.random.default_rng(0)
    depth = room((side * facing, distance), (side * (facing - np.pi / 2), 8.0))
    depth *= torch.from_numpy(rng.normal(1.0, 0.03, depth.shape)).float()
    depth[14:22, 14:17] = 1.0  # a thing stands before it
    points, _, around = beyond(depth, side)
    azimuth = side * azimuths(points)
    end = facing + np.pi / 4
    assert around.walls[side > 0].end == pytest.approx(end, abs=0.05)
    on = standing(points[(azimuth > BORDER + 0.05) & (azimuth < end - 0.05)])
    normal = np.array([np.sin(side * facing), np.cos(facing)])
    assert len(on) > 50
    assert np.quantile(np.abs(on[:, :2] @ normal / distance - 1.0), 0.8) < 0.03  # others are images of the thing
    along = np.array([np.cos(side * facing), -np.sin(side * facing)]) * side
    turned = standing(points[(azimuth > end + 0.05) & (azimuth < end + 0.25)])
    assert np.median(np.abs(turned[:, :2] @ along / distance - 1.0)) < 0.05


@pytest.mark.parametrize("side", [-1, 1])
def test_a_wall_that_runs_away_turns_at_the_border_by_a_right_angle(side):
    facing, distance = BORDER - 1.1, 2.0
    points, _, around = beyond(room((side * facing, distance)), side)
    wall = around.walls[side > 0]
    assert wall.turns
    along = np.array([np.cos(side * facing), -np.sin(side * facing)]) * side
    azimuth = side * azimuths(points)
    on = standing(points[(azimuth > BORDER + 0.05) & (azimuth < wall.end - 0.05)])
    assert len(on) > 50
    assert np.median(np.abs(on[:, :2] @ along / (distance * np.tan(1.1)) - 1.0)) < 0.05


@pytest.mark.parametrize("oblique", [-0.8, 0.0, 0.5, 1.1])
def test_floors_and_ceilings_stay_level_and_nothing_is_below_or_above_them(oblique):
    points, *_ = beyond(room((BORDER - oblique, 3.0), (BORDER - oblique - np.pi / 2, 4.0)), 1)
    assert (points[:, 2] < 1.1 * FLOOR).all()
    assert (points[:, 2] > -1.1 * CEILING).all()
    near = points[np.hypot(points[:, 0], points[:, 1]) < 2.5][:, 2]  # before all walls
    assert (near > 0.0).sum() > 50
    assert (near < 0.0).sum() > 50
    assert np.allclose(np.abs(near), np.where(near > 0.0, FLOOR, CEILING), rtol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("seen", ["floor", "round"])
def test_where_no_wall_can_be_told_the_view_is_mirrored_at_its_borders(seen):
    depth = room()
    if seen == "round":  # a tower: no plane
        depth = room(*[(a, 2.0 + 2.0 * (k % 2)) for k, a in enumerate(np.linspace(-1.5, 1.5, 31))])
        depth = depth * torch.from_numpy(np.random.default_rng(1).uniform(0.6, 1.4, (1, 32))).float()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    _, pictures, around = beyond(depth, 1, image)
    assert around.walls == (None, None)
    half = len(pictures) // 2
    for picture, metres in pictures[::half]:  # beside the left and the right border
        assert torch.allclose(picture, image.flip(-1), atol=1e-4)
        assert torch.allclose(metres, depth.flip(-1), rtol=1e-4)


@pytest.mark.parametrize("oblique", [-0.5, 0.1, 0.5, 1.1])
def test_a_picture_is_continuous_at_its_border(oblique):
    ramp = torch.linspace(-1.0, 1.0, 64).repeat(1, 3, 64, 1)
    _, pictures, around = beyond(room((BORDER - oblique, 3.0)), 1, ramp)
    assert around.walls[1] is not None
    beside = pictures[len(pictures) // 2][0]  # the first beyond the right border
    assert float((beside[..., 0] - 1.0).abs().max()) < 0.05
    assert float((beside[..., 32] - 1.0).abs().max()) > 0.1


def test_nothing_is_shown_inside_the_view_nearer_than_what_is_known_there():
    depth = room((BORDER + 0.5, 3.0), (BORDER + 0.5 - np.pi / 2, 4.0))
    around = Surroundings.of(depth, CAMERA, DOWN, math.inf)
    for yaw in (-0.6, 0.3, 0.9):
        view = CAMERA.at(yawed(0.8 + yaw))
        metres = draw(around, view, torch.zeros(1, 3, 64, 64), depth, math.inf)[1]
        points = lift(metres, view)[metres.numpy().ravel() > 0.0]
        seen = (points - CAMERA.position) @ CAMERA.T_world_cam[:3, :3]
        pixels = seen @ CAMERA.K_image.T
        cells = np.floor(0.5 * pixels[:, :2] / np.maximum(pixels[:, 2:], 1e-9)).astype(int)
        inside = (pixels[:, 2] > 0.0) & (cells >= 0).all(1) & (cells < 32).all(1)
        assert inside.sum() > 100
        known = depth.numpy()[cells[inside, 1], cells[inside, 0]]
        assert (seen[inside, 2] > 0.85 * known).all()  # cells of an oblique floor differ by so much


def test_sky_stays_sky_above_a_wall_that_goes_straight_on():
    depth = room((0.3, 3.0), ceiling=np.inf)
    rays = lift(torch.ones(32, 32), CAMERA) - CAMERA.position
    sky = (upright(lift(depth, CAMERA))[:, 2] < -1.0).reshape(32, 32)
    depth = torch.where(
        torch.from_numpy(sky), torch.from_numpy(100.0 / np.linalg.norm(rays, axis=1)).reshape(32, 32), depth
    )
    points, _, around = beyond(depth.float(), 1, farthest=90.0)
    assert around.walls[1] is not None
    assert around.ceiling == math.inf
    distance = np.linalg.norm(points, axis=1)
    assert (distance > 90.0).sum() > 50
    assert np.allclose(distance[distance > 30.0], 100.0, rtol=1e-3)


def test_views_of_too_few_columns_or_without_depth_have_no_wall():
    for columns, told in ((15, False), (32, True)):
        wall = np.tile(np.stack([np.linspace(-2.0, 2.0, columns), np.full(columns, 3.0)], 1), (8, 1, 1))
        assert (wall_at_border(wall, np.zeros((8, columns)), np.arctan(2.0 / 3.0)) is not None) == told
    assert wall_at_border(np.zeros((32, 32, 2)), np.zeros((32, 32)), 0.5) is None


@torch.no_grad()
def test_a_world_shows_its_walls_straight_and_a_copy_of_it_the_same_bits():
    tiny = tiny_world_model()
    config = replace(
        tiny.config.at((128, 128)),
        memory=MemoryConfig(shifts=2, sky=100.0, mirrored=True),
        filters=FilterConfig(edge_share=1.0),
    )
    model, start = replace(tiny, config=config, refiner=BareReadout()), CAMERA.resized(128, 128)
    depth = room((BORDER + 0.4, 3.0), (BORDER + 0.4 - np.pi / 2, 4.0), size=128).numpy().astype(np.float64)
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    memory = model.start(image, start, depth, labels=np.full((128, 128), STATIC))[1].memory
    aside = [start.at(yawed(0.8 + turn)) for turn in (0.5, 0.9)]
    known = memory.read(aside, now=0)
    shown, again = (
        of.mirror.filled(known, world, aside, of.codec, of.refiner, of.config)
        for of, world in ((model, memory), (copy.deepcopy(model), copy.deepcopy(memory)))
    )
    assert all(torch.equal(getattr(shown, f.name), getattr(again, f.name)) for f in fields(shown))
    for t, view in enumerate(aside):
        new = ((shown.observed > 0) & (known.observed == 0))[t].numpy().ravel()
        points = standing(upright(lift(shown.depth[t], view), start)[new])
        points = points[azimuths(points) < BORDER + 0.9]
        assert len(points) > 20
        normal = np.array([np.sin(BORDER + 0.4), np.cos(BORDER + 0.4)])
        assert np.median(np.abs(points[:, :2] @ normal / 3.0 - 1.0)) < 0.05
