"""Depth of cameras whose height above the floor is known."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.memory.floor import Floor, GroundedDepth, falling
from mirage_env.rooms import FOV, Room
from mirage_env.rooms.camera_poses import upright

HEIGHT = 1.3


@dataclass
class Estimate:
    """Depth that somebody estimated, whatever the images show."""

    metres: torch.Tensor

    def estimate(self, images, cameras, known=None):
        return self.metres


def grounded(metres, cameras, start=None):
    floor = Floor.below(start or cameras[0], HEIGHT)
    return GroundedDepth(Estimate(metres), floor).estimate(torch.zeros(len(cameras), 3, 1, 1), cameras)


@pytest.fixture(scope="module", params=[0, 1, 2])
def views(request):
    """Cameras of a room that look ahead and down, true depth, and the height above the floor of what pixels show."""
    room = Room.generate(request.param, "validation")
    place = room.start_camera(np.random.default_rng(0), 32, 32).position
    poses = [upright(place[0], place[1], HEIGHT, yaw, pitch) for yaw in (0.3, 2.4) for pitch in (-0.1, -0.5)]
    cameras = [Camera.from_fov(FOV, 32, 32, pose) for pose in poses]
    seen = [room.render(camera, samples=1) for camera in cameras]
    depth = torch.from_numpy(np.stack([np.where(view.sky, 50.0, view.depth) for view in seen]))
    above = HEIGHT - torch.stack([falling(camera, (0.0, 0.0, 1.0)) for camera in cameras]) * depth
    return cameras, depth, above, torch.from_numpy(np.stack([view.instance == 1 for view in seen]))


def test_rays_fall_to_the_floor(views):
    _, _, above, floor = views
    assert floor.float().mean() > 0.1
    assert above[floor].abs().max() < 1e-3


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_the_floor_comes_to_lie_where_it_is_and_what_is_as_high_as_the_camera_stays(views, factor):
    cameras, depth, above, floor = views
    found = grounded(depth * factor, cameras)
    seen = floor.float().mean((1, 2)) > 0.1  # views that show the floor well
    assert seen.any()
    assert (found / depth - 1.0).abs()[seen][floor[seen]].max() < 0.02
    level = above > HEIGHT  # not below the camera
    torch.testing.assert_close(found[level], (depth * factor)[level])
    nearer = (found / depth).log().abs()[seen] <= (torch.tensor(factor).log().abs() + 1e-3)
    assert nearer.all()  # nothing becomes worse


def test_every_view_has_a_ratio_of_its_own(views):
    cameras, depth, _, floor = views
    factors = torch.tensor([0.8, 1.1, 0.9, 1.0])[:, None, None]
    found = grounded(depth * factors, cameras)
    seen = floor & (floor.float().mean((1, 2), keepdim=True) > 0.1)
    assert (found / depth - 1.0).abs()[seen].max() < 0.02


def test_a_view_without_a_floor_is_left_as_it_is(views):
    cameras, depth, *_ = views
    up = [camera.at(upright(*camera.position, 0.0, 0.9)) for camera in cameras]
    torch.testing.assert_close(grounded(depth, up, cameras[0]), depth)
    wall = torch.full_like(depth, 0.2)  # in front of everything
    torch.testing.assert_close(grounded(wall, cameras), wall)


def test_worlds_may_have_any_axis_up(views):
    cameras, depth, *_ = views
    turned = np.eye(4)
    turned[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # z becomes -y
    turned[:3, 3] = [3.0, 7.0, -1.0]
    others = [camera.at(turned @ camera.T_world_cam) for camera in cameras]
    assert Floor.below(others[0], HEIGHT).up == (0.0, -1.0, 0.0)
    torch.testing.assert_close(grounded(0.9 * depth, others), grounded(0.9 * depth, cameras), rtol=1e-4, atol=1e-4)


def test_the_floor_stays_where_it_is_when_the_camera_rises(views):
    """What rises is the camera: the floor of its view lies as much farther below it."""
    cameras, depth, *_ = views
    start = cameras[0].at(upright(*cameras[0].position[:2], 0.9, 0.3, 0.0))  # a start view from lower down
    found = GroundedDepth(Estimate(0.9 * depth), Floor.below(start, 0.9)).estimate(torch.zeros(4), cameras)
    torch.testing.assert_close(found, grounded(0.9 * depth, cameras), rtol=1e-4, atol=1e-4)
    sunk = GroundedDepth(Estimate(depth), Floor((0.0, 0.0, 1.0), HEIGHT + 1.0)).estimate(torch.zeros(4), cameras)
    torch.testing.assert_close(sunk, depth)  # below its floor a camera sees none


def test_where_there_is_no_surface_there_is_none_afterwards(views):
    cameras, depth, *_ = views
    holes = depth.clone()
    holes[:, ::3] = torch.inf
    found = grounded(0.9 * holes, cameras)
    assert torch.isinf(found[:, ::3]).all()
    assert torch.isfinite(found).sum() == torch.isfinite(holes).sum()
    level = cameras[0].at(upright(*cameras[0].position, 0.0, 0.0)).resized(33, 33)  # a row of pixels looks level
    drop = falling(level, (0.0, 0.0, 1.0))
    flat = torch.where(drop > 0.01, HEIGHT / drop, torch.inf)
    assert torch.isinf(grounded(flat[None], [level])[0, 16]).all()


@pytest.mark.parametrize("height", [0.0, -1.0, math.nan, 50.0, True, "1.3"])
def test_a_height_out_of_range_is_refused(height, views):
    with pytest.raises(InvalidOptionError, match="camera_height"):
        Floor.below(views[0][0], height)


@pytest.mark.parametrize("floor", [((0.0, 0.0, 2.0), 0.0), ((0.0, math.nan, 1.0), 0.0), ((0.0, 0.0, 1.0), math.inf)])
def test_a_plane_that_is_none_is_refused(floor):
    with pytest.raises(InvalidOptionError, match="floor"):
        Floor(*floor)
