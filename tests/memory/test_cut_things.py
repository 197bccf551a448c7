"""Things that a border cuts go on beyond it, straight, and end."""

import math

import numpy as np
import pytest
import torch
from box_rooms import looking, rays
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.memory.cut_things import LONG, cut_things
from mirage_env.memory.room_layout import upright_axes
from mirage_env.memory.view_mesh import drawn

SIZE, FOV = 96, 1.3
START = looking(0.0, -0.25, SIZE, FOV)
BORDERS = (-FOV / 2.0, FOV / 2.0)
RED = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, SIZE, SIZE)


def table(camera, middle, turned, length, breadth, fall=0.7):
    """Depth of a level rectangle so far below the camera, 0 elsewhere; `middle` is to the right and ahead."""
    towards = rays(camera, SIZE)
    with np.errstate(divide="ignore"):
        metres = np.where(towards[..., 1] > 0.0, (fall - camera.position[1]) / towards[..., 1], 0.0)
    ground = (camera.position + towards * metres[..., None])[..., [0, 2]] - middle
    c, s = math.cos(turned), math.sin(turned)
    along, beside = ground @ np.array([c, s]), ground @ np.array([-s, c])
    on = (metres > 0.0) & (np.abs(along) < length / 2.0) & (np.abs(beside) < breadth / 2.0)
    return torch.from_numpy(np.where(on, metres, 0.0)).float()


def ball(camera, middle, radius):
    """Depth of a ball, 0 elsewhere."""
    towards, centre = rays(camera, SIZE), np.array(middle) - camera.position
    a, b = (towards**2).sum(-1), towards @ centre
    root = b * b - a * (centre @ centre - radius**2)
    metres = np.where(root > 0.0, (b - np.sqrt(np.maximum(root, 0.0))) / a, 0.0)
    return torch.from_numpy(np.maximum(metres, 0.0)).float()


def gone_on(depth, camera=START):
    return cut_things(RED, depth, camera, upright_axes(camera), BORDERS)


def places_of(mesh):
    """Vertices of triangles that are drawn, in the world."""
    square = mesh.whole.all(-1)
    there = np.zeros(mesh.cover.shape, bool)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        there[a : a + square.shape[0], b : b + square.shape[1]] |= square
    return (mesh.points + mesh.anchor)[there & (mesh.cover > 0.5)]


def seen_with(meshes, camera):
    _, layer, metres = drawn([meshes], [camera])
    return layer[0] >= 0, metres[0]


@pytest.mark.parametrize("side", [-1, 1])
def test_a_table_of_which_a_corner_is_out_of_view_is_whole_and_no_longer(side):
    where = np.array([side * 1.2, 1.6]), side * 0.3, 1.2, 1.0
    depth, aside = table(START, *where), looking(side * 0.6, -0.35, SIZE, FOV)
    expected = table(aside, *where)
    beyond, metres = seen_with(gone_on(depth), aside)
    in_start = (rays(aside, SIZE) @ START.T_world_cam[:3, :3]) @ START.K_image.T
    hidden = torch.from_numpy((in_start[..., 0] / in_start[..., 2] - SIZE / 2) * side > SIZE / 2)
    both, either = (hidden & beyond & (expected > 0.0)), hidden & (beyond | (expected > 0.0))
    assert both.sum() > 0.7 * either.sum() > 100
    assert torch.allclose(metres[both], expected[both], rtol=0.03)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("turned", [0.0, 0.35])
def test_edges_go_straight_on_at_their_height_and_end(turned, side):
    depth = table(START, np.array([side * 1.6, 2.6]), side * turned, 2.4, 0.5)
    (mesh,) = gone_on(depth)
    places = places_of(mesh)
    assert np.allclose(places[:, 1], 0.7, atol=0.01)
    ground = places[:, [0, 2]] - np.array([side * 1.6, 2.6])
    c, s = math.cos(side * turned), math.sin(side * turned)
    beside = ground @ np.array([-s, c])
    assert np.abs(beside).max() < 0.25 + 0.06
    assert (ground @ np.array([c, s]) * side).max() < 1.2  # the table itself is longer


def test_half_a_ball_is_made_round():
    camera = looking(0.0, 0.0, SIZE, FOV)
    radius, border = 0.4, math.tan(FOV / 2.0) * 2.5
    (mesh,) = cut_things(RED, ball(camera, (border, 0.2, 2.5), radius), camera, upright_axes(camera), BORDERS)
    aside = looking(0.5, 0.0, SIZE, FOV)
    beyond, _ = seen_with([mesh], aside)
    expected = ball(aside, (border, 0.2, 2.5), radius) > 0.0
    assert (beyond & ~expected).sum() < 0.25 * expected.sum()
    assert (beyond & expected).sum() > 0.4 * expected.sum()  # the other half was seen


@pytest.mark.parametrize(("seen", "expected"), [(0.3, 0.3), (0.8, LONG - 0.8)])
def test_a_face_goes_on_as_its_mirror_image_until_it_is_long(seen, expected):
    camera = looking(0.0, 0.0, SIZE, FOV)
    depth, half = torch.zeros(SIZE, SIZE), math.tan(FOV / 2.0) * 2.0
    columns = round(seen / (2.0 * half) * SIZE)
    depth[30:70, SIZE - columns :] = 2.0
    (mesh,) = cut_things(RED, depth, camera, upright_axes(camera), BORDERS)
    places = places_of(mesh)
    assert np.allclose(places[:, 2], 2.0, atol=0.1)  # on the same plane
    assert places[:, 0].max() - half == pytest.approx(expected, abs=0.06)


def test_every_thing_goes_on_by_itself_and_what_no_border_cuts_does_not():
    depth = torch.zeros(SIZE, SIZE)
    depth[10:40, 86:], depth[50:80, 80:], depth[20:60, :9], depth[30:60, 40:50] = 4.0, 1.5, 2.0, 1.0
    meshes = gone_on(depth)
    assert len(meshes) == 3
    assert gone_on(torch.zeros(SIZE, SIZE)) == []
    alone = torch.where(depth == 4.0, depth, 0.0)
    (one,) = gone_on(alone)
    assert any(np.array_equal(one.points, mesh.points) for mesh in meshes)


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_whatever_stands_at_a_border_goes_on_in_finite_places(seed, side):
    rng = np.random.default_rng(seed)
    camera = looking(0.3, -0.25, 32, FOV)
    depth = rng.choice([0.0, 0.0, 1.0, 1.1, 3.0], (32 // side, 32 // side)).repeat(side, 0).repeat(side, 1)
    depth = torch.from_numpy(np.pad(depth, ((0, 32 - len(depth)), (32 - len(depth), 0)))).float()
    depth[:, 1:-1] *= float(rng.integers(2))  # a single column at the border, too
    for mesh in cut_things(RED[:, :32, :32], depth, camera, upright_axes(camera), BORDERS):
        assert np.isfinite(mesh.points).all()
        assert ((mesh.cover >= 0.0) & (mesh.cover <= 1.0)).all()
