"""Depth on the latent grid, depth edges, lifting."""

import math

import numpy as np
import pytest
import reference
import torch
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.errors import InvalidDepthError
from mirage_env.memory.lifting import depth_edges, depth_to_grid, footprint, lift
from mirage_env.poses import pose_from_rotation_vector

TILTED = pose_from_rotation_vector([1.0, -2.0, 0.5], [0.3, -0.8, 0.2])


def plane_depth(camera: Camera, normal: list[float], distance: float) -> torch.Tensor:  # [H, W]
    """z-depth at pixel centres of the plane normal . q = distance in the camera's frame."""
    v, u = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
    rays = np.linalg.inv(camera.K_image) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    return torch.from_numpy((distance / (np.array(normal) @ rays)).reshape(u.shape)).float()


@pytest.mark.parametrize("size", [(24, 32), (32, 32), (10, 15)])
def test_lift_then_project_returns_cell_centres_and_depth(size, rng):
    h, w = 6, 8
    camera = Camera.from_fov(1.2, *size, TILTED)
    depth = torch.from_numpy(rng.uniform(0.2, 20.0, (h, w))).float()
    q = lift(depth, camera) @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
    place = q @ camera.K_at(h, w).T
    place = (place[:, :2] / place[:, 2:]).reshape(h, w, 2)
    np.testing.assert_allclose(q[:, 2].reshape(h, w), depth, rtol=1e-5)
    for row in range(h):
        for col in range(w):
            np.testing.assert_allclose(place[row, col], [col + 0.5, row + 0.5], atol=1e-4)


def test_footprint_is_the_distance_between_neighbours_on_a_frontal_wall():
    camera = Camera.from_fov(1.2, 32, 32, TILTED)
    depth = torch.full((4, 4), 3.0)
    points = torch.from_numpy(lift(depth, camera)).float().reshape(4, 4, 3)
    expected = torch.linalg.norm(points[:, 1:] - points[:, :-1], dim=-1)
    torch.testing.assert_close(footprint(depth, camera)[:, 1:], expected)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 5), (8, 8), (16, 16)])
def test_depth_to_grid_equals_the_reference(stride, rng):
    grid = (3, 4)
    depth = rng.uniform(0.1, 30.0, (grid[0] * stride[0], grid[1] * stride[1])).astype(np.float32)
    np.testing.assert_array_equal(depth_to_grid(torch.from_numpy(depth), grid), reference.depth_to_grid(depth, grid))
    depth[rng.random(depth.shape) < 0.4] = 0.0  # not measured
    found = depth_to_grid(torch.from_numpy(depth), grid)
    np.testing.assert_array_equal(found, reference.depth_to_grid(depth, grid))


def test_depth_to_grid_takes_views_one_by_one(rng):
    depth = torch.from_numpy(rng.uniform(0.1, 30.0, (2, 3, 16, 24)))
    together = depth_to_grid(depth, (2, 3))
    assert together.shape == (2, 3, 2, 3)
    torch.testing.assert_close(together[1, 2], depth_to_grid(depth[1, 2], (2, 3)), rtol=0.0, atol=0.0)


def test_depth_to_grid_makes_no_depth_that_its_cell_does_not_hold(rng):
    for _ in range(20):
        depth = torch.from_numpy(rng.choice([1.0, 2.5, 9.0], (32, 32)))
        found = depth_to_grid(depth, (4, 4))
        cells = depth.unflatten(0, (4, 8)).unflatten(2, (4, 8)).transpose(1, 2).flatten(2)
        assert (cells == found[..., None]).any(-1).all()


def test_bilinear_and_mean_depth_make_depths_that_no_surface_has():
    depth = torch.full((32, 32), 9.0)
    depth[:, :12] = 1.0  # the edge runs through the middle of the second column of cells
    surfaces = torch.tensor([1.0, 9.0])
    bilinear = F.interpolate(depth[None, None], size=(4, 4), mode="bilinear", align_corners=False)[0, 0]
    mean = F.avg_pool2d(depth[None, None], 8)[0, 0]
    for mixed in (bilinear, mean):
        assert not torch.isin(mixed, surfaces).all()
    assert torch.isin(depth_to_grid(depth, (4, 4)), surfaces).all()


def test_depth_of_another_grid_is_refused():
    with pytest.raises(InvalidDepthError, match="multiple of the grid"):
        depth_to_grid(torch.ones(30, 32), (4, 4))


@pytest.mark.parametrize("normal", [[0.0, 0.0, 1.0], [0.0, 1.0, 0.6], [0.7, 0.0, 1.0], [0.4, -0.5, 1.0]])
def test_no_slanted_plane_has_an_edge(normal):
    depth = plane_depth(Camera.from_fov(math.radians(50.0), 32, 32), normal, 2.0)
    assert (depth > 0).all()
    torch.testing.assert_close(depth_edges(depth), torch.zeros(32, 32), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("at", [1, 7, 30, 31])
def test_occlusion_is_an_edge_on_every_side_of_every_jump(axis, at):
    near, far = 2.0, 3.0
    depth = torch.full((32, 32), far)
    depth.narrow(axis, 0, at).fill_(near)
    edges = depth_edges(depth).narrow(axis, max(at - 1, 1), 1 if at in (1, 31) else 2)
    assert edges.min() > 0.3  # 1 - near / far on the near side, far / near - 1 on the far side
    untouched = [i for i in range(32) if abs(i - at + 0.5) > 1]
    assert depth_edges(depth).index_select(axis, torch.tensor(untouched)).max() == 0.0
