"""The line between things and the sky: found within the pixel, though labels are coarse, and closed from behind."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.camera import Camera
from mirage_env.memory.skyline import Skyline
from mirage_env.memory.view_mesh import ViewMesh, drawn
from mirage_env.poses import pose_from_rotation_vector

SIDE = 48
CAMERA = Camera.from_fov(1.1, SIDE, SIDE)
FAR, NEAR = 100.0, 3.0
THING, SKY = torch.tensor([0.4, 0.1, -0.3]), torch.tensor([0.1, 0.4, 0.9])


def share_below(end: float, slope: float, fine: int = 8) -> torch.Tensor:  # [H, W]
    """Share of every pixel below a line that crosses the middle column at a row."""
    at = (torch.arange(SIDE * fine) + 0.5) / fine
    below = at[:, None] > end + slope * (at - SIDE / 2)
    return below.view(SIDE, fine, SIDE, fine).float().mean((1, 3))


def picture(share: torch.Tensor) -> torch.Tensor:  # [3, H, W]
    return THING[:, None, None] * share + SKY[:, None, None] * (1.0 - share)


def coarse(share: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """Labels of squares of two pixels, perhaps some pixels too low."""
    return (share[::2, ::2] < 0.5).repeat_interleave(2, 0).repeat_interleave(2, 1).roll(shift, 0)


def line_of(share: torch.Tensor, slope: float = 0.0, end: float = 20.0, shift: int = 0) -> Skyline:
    sky = coarse(share, shift)
    sky[: abs(shift)] = True
    return Skyline.of(torch.full((SIDE, SIDE), NEAR), sky, picture(share))


def views(line: Skyline, *cameras: Camera):
    things = ViewMesh.of(line.image, line.things, CAMERA, line.cover)
    sky = ViewMesh.of(line.sky_image, torch.where(line.sky, FAR, 0.0), CAMERA)
    images, layer, _ = drawn([[things, sky]], cameras)
    return images, layer >= 0


def blown_up(scale: int) -> Camera:
    return Camera(CAMERA.T_world_cam, np.diag([scale, scale, 1.0]) @ CAMERA.K_image, scale * SIDE, scale * SIDE)


@pytest.mark.parametrize("scale", [1, 3])
@given(end=st.floats(18.0, 30.0), slope=st.floats(-0.4, 0.4), shift=st.integers(-1, 1))
def test_a_slanted_line_is_straight_to_a_third_of_a_pixel_of_the_picture_however_large_it_is_drawn(
    scale, end, slope, shift
):
    images, shown = views(line_of(share_below(end, slope), shift=shift), blown_up(scale))
    assert shown.all()
    way = THING - SKY
    share = ((images[0] - SKY[:, None, None]) * way[:, None, None]).sum(0) / (way @ way)
    found = (1.0 - share).sum(0) / scale
    columns = (torch.arange(scale * SIDE) + 0.5) / scale
    inside = slice(3 * scale, -3 * scale)
    assert (found - end - slope * (columns - SIDE / 2))[inside].abs().max() < 0.33


@given(end=st.floats(18.0, 30.0), slope=st.floats(-0.4, 0.4))
def test_the_start_camera_shows_the_picture_up_to_a_little_at_the_line(end, slope):
    share = share_below(end, slope)
    images, shown = views(line_of(share), CAMERA)
    assert shown.all()
    wrong = (images[0] - picture(share)).abs().amax(0)
    beside = torch.nn.functional.avg_pool2d(share[None], 5, 1, 2)[0]
    assert wrong[(beside == 0.0) | (beside == 1.0)].max() < 1e-3
    assert wrong.max() < 0.5 * (THING - SKY).abs().max()


@given(end=st.floats(18.0, 30.0), slope=st.floats(-0.4, 0.4), pixels=st.integers(-3, 3))
def test_no_gap_opens_and_neither_shows_the_colour_of_the_other(end, slope, pixels):
    step = -pixels * NEAR / float(CAMERA.K_image[0, 0])
    camera = CAMERA.moved(pose_from_rotation_vector([0.0, step, 0.0], [0.0, 0.0, 0.0]))
    images, shown = views(line_of(share_below(end, slope)), camera)
    assert shown[0, : 2 * SIDE // 3 - 8].all()
    seen, inside = images[0][..., 3:-3], shown[0][..., 3:-3]
    moved = share_below(end + pixels, slope)[:, 3:-3]
    around = torch.nn.functional.avg_pool2d(moved[None], 3, 1, 1)[0]
    for colour, alone in ((THING, around == 1.0), (SKY, around == 0.0)):
        assert (seen - colour[:, None, None]).abs().amax(0)[alone & inside].max() < 1e-3


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_thin_pole_before_the_sky_survives_and_gets_no_wider_than_it_is(width):
    share = torch.zeros(SIDE, SIDE)
    share[10:, 20 : 20 + width] = 1.0
    line = Skyline.of(torch.full((SIDE, SIDE), NEAR), share == 0.0, picture(share))
    images, shown = views(line, CAMERA)
    assert shown.all()
    way = THING - SKY
    seen = ((images[0] - SKY[:, None, None]) * way[:, None, None]).sum(0) / (way @ way)
    assert ((seen[14:-3].sum(1) - width).abs() < 0.35).all()
    assert (seen[14:-3, 20 : 20 + width] > 0.4).all()


@given(end=st.floats(18.0, 30.0), slope=st.floats(-0.4, 0.4))
def test_where_thing_and_sky_look_alike_the_labels_say_where_the_line_is(end, slope):
    share = share_below(end, slope)
    line = Skyline.of(torch.full((SIDE, SIDE), NEAR), coarse(share), torch.zeros(3, SIDE, SIDE))
    differs = (line.cover > 0.5) == coarse(share)
    assert differs.float().mean() < 0.01


@pytest.mark.parametrize("everywhere", [True, False])
def test_without_a_line_there_is_only_the_one(everywhere):
    sky, image = torch.full((SIDE, SIDE), everywhere), picture(share_below(20.0, 0.1))
    line = Skyline.of(torch.full((SIDE, SIDE), NEAR), sky, image)
    assert (line.cover == float(not everywhere)).all()
    assert (line.sky == everywhere).all()
    assert ((line.things > 0.0) != everywhere).all()
    assert torch.equal(line.sky_image if everywhere else line.image, image)
