"""The room around a view is told from walls at right angles, a floor, and a ceiling or the sky."""

import math

import numpy as np
import pytest
import torch
from box_rooms import FAR, HIGH, LOW, looking, rays, rendered
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_env.memory.room_layout import RoomLayout, directions


def noisy(depth: torch.Tensor, share: float = 0.02) -> torch.Tensor:
    return depth * torch.from_numpy(np.random.default_rng(0).normal(1.0, share, depth.shape)).float()


def in_world(layout: RoomLayout) -> dict[str, float]:
    """Distances of a layout's walls by the direction, in the world, that they are nearest to."""
    found = {}
    for normal, distance in zip(layout.normals, layout.distances, strict=True):
        x, _, z = normal @ layout.axes[:2]
        name = ("+x" if x > 0 else "-x") if abs(x) > abs(z) else ("+z" if z > 0 else "-z")
        assert max(abs(x), abs(z)) > math.cos(math.radians(4.0))
        found[name] = float(distance)
    return found


@pytest.mark.parametrize(
    ("yaw", "walls"),
    [
        (0.0, {"+z": HIGH[2]}),
        (0.5, {"+z": HIGH[2], "+x": HIGH[0]}),
        (-0.6, {"+z": HIGH[2], "-x": -LOW[0]}),
        (2.4, {"+x": HIGH[0], "-z": -LOW[2]}),
        (-2.2, {"-x": -LOW[0], "-z": -LOW[2]}),
    ],
)
def test_walls_in_view_are_found_and_the_others_lie_beyond_what_is_seen(yaw, walls):
    camera = looking(yaw, -0.05)
    depth = rendered(camera, 32)[0]
    depth[14:22, 14:17] = 1.0  # a thing stands before them
    layout = RoomLayout.of(noisy(depth), camera, FAR)
    found = in_world(layout)
    for name, distance in walls.items():
        assert found[name] == pytest.approx(distance, rel=0.05)
    assert layout.floor == pytest.approx(HIGH[1], rel=0.05)
    assert not layout.open_air
    assert np.array_equal(layout.position, camera.position)
    places = directions(camera, layout.axes, 32, 32) * depth.numpy()[..., None]
    assert (places[..., :2] @ layout.normals.T < 1.1 * layout.distances).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(-math.pi, math.pi), st.floats(-0.2, 0.0))
def test_a_layout_turns_with_the_camera(yaw, pitch):
    depth = rendered(looking(0.5, pitch), 32)[0]
    one, other = (RoomLayout.of(depth, looking(turn, pitch), FAR) for turn in (0.0, yaw))
    assert np.allclose(one.distances, other.distances)
    assert np.allclose(one.normals, other.normals)
    turned = np.linalg.inv(looking(0.0).T_world_cam[:3, :3]) @ looking(yaw).T_world_cam[:3, :3]
    assert np.allclose(other.axes, one.axes @ turned.T, atol=1e-9)


def test_the_ceiling_is_found_where_it_is_seen_and_guessed_above_all_that_is_seen_where_not():
    assert RoomLayout.of(rendered(looking(0.5, 0.05), 32)[0], looking(0.5, 0.05), FAR).top == pytest.approx(
        -LOW[1], rel=0.05
    )
    for camera in (looking(0.5, -0.5, fov=1.0), looking(0.5, -0.1, fov=0.8, at=(0.0, 0.9, 0.0))):
        depth = rendered(camera, 32)[0]
        layout = RoomLayout.of(depth, camera, FAR)
        places = directions(camera, layout.axes, 32, 32) * depth.numpy()[..., None]
        assert layout.top >= np.quantile(-places[..., 2], 0.98)
        assert layout.top > 0.5 * layout.floor


@pytest.mark.parametrize("ends", [0.4, 0.8])
def test_in_the_open_air_walls_end_below_the_sky(ends):
    camera = looking(0.5, 0.05)
    layout = RoomLayout.of(rendered(camera, 64, walls_end=ends)[0], camera, FAR)
    assert layout.open_air
    assert 0.8 * ends < layout.top < 1.05 * ends


def test_a_near_thing_turns_no_walls():
    camera = looking(0.5, -0.05)
    depth = rendered(camera, 32)[0]
    depth[8:26, 10:23] = 1.0  # faces the camera and not the walls
    found = in_world(RoomLayout.of(depth, camera, FAR))
    assert found["+z"] == pytest.approx(HIGH[2], rel=0.05)
    assert found["+x"] == pytest.approx(HIGH[0], rel=0.05)


def test_no_room_is_seen_without_a_floor_or_walls_or_where_much_lies_beyond_them():
    camera = looking(0.5, -0.05)
    depth = rendered(camera, 32)[0]
    assert RoomLayout.of(depth, camera, FAR) is not None
    assert RoomLayout.of(torch.zeros(32, 32), camera, FAR) is None
    assert RoomLayout.of(torch.full((32, 32), 2.0 * FAR), camera, FAR) is None  # nothing but sky
    above = depth.clone()
    above[17:] = 0.0
    assert RoomLayout.of(above, camera, FAR) is None
    towards = rays(camera, 32)
    floor = np.where(towards[..., 1] > 0.05, HIGH[1] / np.maximum(towards[..., 1], 0.05), 0.0)
    assert RoomLayout.of(torch.from_numpy(floor).float(), camera, FAR) is None
    gate = depth.clone()
    gate[:, 20:26] = torch.from_numpy(np.random.default_rng(0).uniform(8.0, 16.0, (32, 6))).float()
    gate = torch.minimum(gate, torch.from_numpy(np.where(floor > 0.0, floor, np.inf)).float())
    assert RoomLayout.of(gate, camera, FAR) is None
    wood = np.random.default_rng(0).uniform(1.0, 6.0, (1, 32)).repeat(32, 0)  # trunks at all distances
    wood = torch.from_numpy(np.where(floor > 0.0, np.minimum(wood, floor), wood)).float()
    assert RoomLayout.of(wood, camera, FAR) is None


def test_rays_meet_what_stepping_along_them_meets():
    layout = RoomLayout.of(rendered(looking(0.5), 32)[0], looking(0.5), FAR)
    towards = np.random.default_rng(0).normal(size=(40, 3))
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    (to_wall, wall), to_level = layout.to_walls(towards), layout.to_levels(towards)
    for ray, number, near, level in zip(towards, wall, to_wall, to_level, strict=True):
        steps = np.arange(0.0, 40.0, 0.001)[:, None] * ray
        out = (steps[:, :2] @ layout.normals.T > layout.distances).any(1)
        first = steps[np.argmax(out)] if out.any() else None
        if first is not None:
            assert np.hypot(*first[:2]) == pytest.approx(near, abs=0.01)
            assert number == np.argmax(first[:2] @ layout.normals.T - layout.distances)
        beyond = (steps[:, 2] > layout.floor) | (steps[:, 2] < -layout.top)
        if beyond.any():
            assert np.hypot(*steps[np.argmax(beyond)][:2]) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("walls_end", [None, 0.7])
def test_a_finer_depth_puts_the_box_where_it_is(walls_end):
    camera = looking(0.5, 0.05)
    fine = rendered(camera, 128, walls_end)[0]
    rough = noisy(rendered(camera, 32, walls_end)[0]) * 1.03
    layout = RoomLayout.of(rough, camera, FAR)
    refined = layout.refined(fine, camera, FAR)
    walls = in_world(refined)
    assert (walls["+z"], walls["+x"]) == (pytest.approx(HIGH[2], rel=0.012), pytest.approx(HIGH[0], rel=0.012))
    assert refined.floor == pytest.approx(HIGH[1], rel=0.005)
    seen = [k for k in range(4) if refined.distances[k] != layout.distances[k]]
    assert len(seen) == 2
    assert refined.tops == pytest.approx(np.full(4, walls_end or -LOW[1]), rel=0.02)
    assert refined.top <= refined.tops[seen].max()
    assert np.array_equal(refined.normals, layout.normals)


def test_a_box_is_refined_where_it_goes_on_out_of_view():
    camera = looking(0.0, -0.05)  # faces a wall that both borders cut
    depth = rendered(camera, 128, 0.7)[0]
    bent = torch.where(depth < FAR / 2.0, 1.02 * depth, depth)
    bent[:, :24], bent[:, -24:] = depth[:, :24], depth[:, -24:]
    layout = RoomLayout.of(depth[::4, ::4], camera, FAR).refined(bent, camera, FAR)
    ahead = int(np.argmax(layout.normals[:, 1]))
    assert layout.distances[ahead] == pytest.approx(HIGH[2], rel=0.003)
    assert layout.floor == pytest.approx(HIGH[1], rel=0.003)
    assert layout.tops[ahead] == pytest.approx(0.7, abs=0.03)  # half a pixel


def test_walls_reach_up_to_where_they_end_beside_the_borders_and_all_of_them_to_where_few_end_lower():
    camera = looking(0.0, -0.05)
    depth, lower = (rendered(camera, 128, walls_end)[0] for walls_end in (0.9, 0.6))
    layout = RoomLayout.of(depth[::4, ::4], camera, FAR)
    ahead = int(np.argmax(layout.normals[:, 1]))
    depth[:, 36:-36] = lower[:, 36:-36]  # most of a wall is lower, but not where it goes on
    refined = layout.refined(depth, camera, FAR)
    assert refined.tops[ahead] == pytest.approx(0.9, abs=0.04)
    assert refined.top == pytest.approx(0.6, abs=0.04)


def test_a_wall_of_which_a_finer_depth_shows_nothing_stays_where_it_was():
    camera = looking(0.5, 0.05)
    layout = RoomLayout.of(rendered(camera, 32)[0], camera, FAR)
    refined = layout.refined(torch.zeros(64, 64), camera, FAR)
    assert np.array_equal(refined.distances, layout.distances)
    assert (refined.floor, refined.top, refined.tops.tolist()) == (layout.floor, layout.top, layout.tops.tolist())
