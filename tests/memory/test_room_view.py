"""Around a view of a room lie its surfaces: as they are seen, mirrored where they are not, without seams and holes."""

import copy
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from box_rooms import FAR, HIGH, looking, rays, rendered
from tiny import tiny_world_model

from mirage_env.config.world import FilterConfig, MemoryConfig
from mirage_env.interfaces import STATIC
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import depth_to_grid, lift
from mirage_env.memory.rgb import RgbMemory
from mirage_env.memory.room_view import RoomView
from mirage_env.memory.view_drawings import _guess
from mirage_env.memory.view_mesh import drawn
from mirage_env.models.small.refiner import BareReadout

CONFIG = replace(tiny_world_model().config, memory=MemoryConfig(shifts=2, sky=100.0, mirrored=True))
YAW = 0.5
START = looking(YAW, -0.05)
RED = torch.tensor([1.0, -1.0, -1.0])


def view_of(camera=START, walls_end=None, image=None, depth=None):
    """The view of a room, perhaps another picture or depth of it."""
    metres, picture = rendered(camera, camera.height, walls_end)
    depth, image = (metres if depth is None else depth), (picture if image is None else image)
    cells = depth_to_grid(depth, (32, 32))
    return RoomView.of(image, depth, camera, cells, CONFIG)


def drawn_of(view, cameras):
    images, number, depth = drawn([[*view.walls(), *view.things(), *view.level()]], cameras)
    return images, number >= 0, depth


@pytest.mark.parametrize("walls_end", [None, 0.7])
def test_surfaces_in_view_look_as_they_do_from_everywhere(walls_end):
    start = looking(YAW, -0.05, 192)
    view = view_of(start, walls_end)
    for camera in (START, looking(YAW + 0.2, at=(0.2, -0.2, 0.3)), looking(YAW, at=(-0.4, 0.1, 0.4))):
        images, shown, depth = drawn_of(view, [camera])
        metres, picture = rendered(camera, 64, walls_end)
        in_start = (camera.position + rays(camera, 64) * metres.numpy()[..., None]) @ start.T_world_cam[:3, :3]
        pixels = in_start @ start.K_image.T / in_start[..., 2:]
        inside = ((pixels[..., :2] > 8.0) & (pixels[..., :2] < 184.0)).all(-1) & (in_start[..., 2] > 0.0)
        known = torch.from_numpy(inside) & (metres < FAR / 2.0)
        assert known.float().mean() > 0.3
        assert shown.all()
        assert (images - picture)[0].abs().amax(0)[known].quantile(0.8) < 0.1  # others are beside corners
        assert (depth[0] / metres - 1.0)[known].abs().quantile(0.9) < 0.06


@pytest.mark.parametrize("walls_end", [None, 0.7])
def test_whoever_is_in_the_room_sees_it_whole_all_around(walls_end):
    view = view_of(walls_end=walls_end)
    cameras = [
        looking(yaw, pitch, at=(0.2, 0.1, -0.3)) for yaw in np.arange(0.0, 6.3, 0.9) for pitch in (-1.2, 0.0, 1.2)
    ]
    _, shown, depth = drawn_of(view, cameras)
    assert shown.all()
    places = np.stack([lift(d, c) for d, c in zip(depth, cameras, strict=True)])
    solid = np.linalg.norm(places, axis=-1) < FAR
    box = view.layout
    within = (places - box.position) @ box.axes.T
    assert (within[solid][:, :2] @ box.normals.T < box.distances + 0.01).all()
    assert (within[solid][:, 2] < box.floor + 0.01).all()
    assert (within[solid][:, 2] > -box.tops.max() - 0.01).all()
    assert solid.all() == (walls_end is None)


@pytest.mark.parametrize("walls_end", [None, 0.7])
def test_pictures_go_on_at_the_borders_of_the_view_without_a_seam(walls_end):
    view = view_of(walls_end=walls_end)
    for yaw in (YAW + 0.65, YAW - 0.65):  # the border is in the middle
        images, *_ = drawn_of(view, [looking(yaw, -0.05)])
        steps = images[0].diff(dim=2).abs().amax(0)
        assert steps[8:-8, 29:35].quantile(0.95) < 1.5 * steps[8:-8, 8:-8].quantile(0.95) + 0.02


@pytest.mark.parametrize("foot", [False, True])
def test_what_stands_before_a_surface_is_not_shown_on_it(foot):
    start = looking(YAW, -0.05, 192)
    depth, image = rendered(start, 192)
    last = 1 + int((depth[:, 96] >= 2.0).nonzero()[-1]) if foot else 150  # it stands on the floor
    depth[60:last, 84:108], image[..., 60:last, 84:108] = 2.0 if foot else 1.2, RED[:, None, None]
    view = view_of(start, image=image, depth=depth)
    images, *_ = drawn_of(view, [looking(yaw, pitch) for yaw in np.arange(0.0, 6.3, 0.7) for pitch in (-0.8, 0.0)])
    assert not ((images.permute(0, 2, 3, 1) - RED).abs().amax(-1) < 0.4).any()


def test_surfaces_out_of_view_are_as_rough_as_those_in_view_and_not_the_blur_of_their_colours():
    start = looking(YAW, -0.05, 192)
    depth, image = rendered(start, 192)
    stripes = torch.zeros(192, 192)
    stripes[:, ::6] = stripes[:, 1::6] = stripes[:, 2::6] = 0.6
    stripes[::6] = stripes[1::6] = stripes[2::6] = -0.6
    image = stripes.expand_as(image).clone()
    depth[60:150, 84:108] = 1.2
    view = view_of(start, image=image, depth=depth)
    ahead, behind, below = (looking(yaw, pitch, 192) for yaw, pitch in ((YAW, -0.05), (YAW + 3.0, -0.3), (YAW, -1.4)))
    rough = [float(image.std()) for image in drawn_of(view, [ahead, behind, below])[0]]
    hidden = drawn_of(view, [ahead])[0][0, :, 80:120, 88:104]
    assert min(rough) > 0.6 * float(stripes.std())
    assert float(hidden.std()) > 0.5 * float(stripes.std())


@pytest.mark.parametrize("side", [-1, 1])
def test_things_that_a_border_cuts_go_on_beyond_it(side):
    depth, image = rendered(START)
    columns = slice(0, 10) if side < 0 else slice(54, 64)
    depth[34:54, columns], image[..., 34:54, columns] = 1.2, RED[:, None, None]
    view, aside = view_of(image=image, depth=depth), looking(YAW + side * 0.65, -0.05)  # the border is in the middle
    images, _, metres = drawn_of(view, [aside])
    red = (images[0].permute(1, 2, 0) - RED).abs().amax(-1) < 0.2
    beyond = red[:, :32] if side < 0 else red[:, 32:]
    assert 4 <= beyond[44].sum() <= 14
    assert beyond[44, -1 if side < 0 else 0]  # without a gap
    assert torch.allclose(metres[0][red], torch.tensor(1.2), rtol=0.4)
    plain = drawn_of(view_of(), [aside])[0][0]
    assert not ((plain.permute(1, 2, 0) - RED).abs().amax(-1) < 0.2).any()


def test_a_wall_that_goes_on_shows_nothing_of_another_wall():
    start = looking(YAW, -0.05, 192)
    depth, image = rendered(start, 192)
    places = start.position + rays(start, 192) * depth.numpy()[..., None]
    ahead = torch.from_numpy(places[..., 2] > HIGH[2] - 0.01)
    image = torch.where(ahead, RED[:, None, None], torch.tensor([-1.0, -1.0, 1.0])[:, None, None])[None]
    depth[70:150, 140:170] = 1.0  # hides a part of the wall at the right
    images, _, metres = drawn_of(view_of(start, image=image, depth=depth), [looking(YAW + 0.7, -0.05, 192)])
    places = lift(metres[0], looking(YAW + 0.7, -0.05, 192))
    on_wall = (np.abs(places[..., 0] / HIGH[0] - 1.0) < 0.02) & (np.abs(places[..., 1]) < 1.1)
    right = torch.from_numpy(on_wall).view(192, 192)
    assert right.sum() > 1000
    assert (images[0][0][right] > 0.0).float().mean() < 0.03  # at the corner


def test_the_room_is_where_pixels_show_it():
    metres, image = rendered(START)
    view = RoomView.of(image, metres, START, 1.03 * depth_to_grid(metres, (32, 32)), CONFIG)
    assert sorted(view.layout.distances)[-1] == pytest.approx(HIGH[2], rel=0.01)
    assert view.layout.floor == pytest.approx(HIGH[1], rel=0.01)


def test_behind_what_the_view_shows_walls_are_no_higher_than_the_lowest_and_beside_it_as_high_as_they_are():
    view = view_of(walls_end=0.7)
    view = replace(view, layout=replace(view.layout, top=0.5, tops=np.full(4, 0.8)))
    start = SimpleNamespace(image=view.image, coarse=view.depth, camera=START, cells=view.depth)
    model, beside = SimpleNamespace(config=CONFIG), looking(YAW + 1.3, -0.05)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RoomView, "of", staticmethod(lambda *_: view))
        guess, before_sky = _guess(start, model)
    for meshes, top in ((guess, 0.5), (before_sky, 0.8)):
        _, layer, metres = drawn([meshes], [beside])
        places = lift(metres[0].nan_to_num(posinf=0.0), beside)[(layer[0] >= 0).numpy().ravel()]
        solid = places[np.linalg.norm(places, axis=1) < FAR]
        assert -solid[:, 1].min() == pytest.approx(top, abs=0.1)
    within = drawn([before_sky], [START])[1][0, 4:-4, 4:-4]
    assert not (within >= 0).any()


def test_a_surface_of_which_nothing_is_seen_has_the_colours_of_the_view():
    camera = looking(YAW, -0.35, fov=1.0)  # sees no ceiling
    view = view_of(camera)
    assert view is not None
    images, *_ = drawn_of(view, [looking(YAW, 1.3)])
    assert torch.allclose(images[0, :, 20, 32], view.image.mean((0, 2, 3)), atol=0.02)


def test_the_cube_sees_all_of_the_room_in_every_direction():
    view = view_of(walls_end=0.7)
    pictures = view.cube((32, 32))
    assert len(pictures) == 6
    for image, metres, camera in pictures:
        assert image.shape == (3, 64, 64)
        assert metres.shape == (32, 32)
        assert (metres > 0.0).all()
        assert np.allclose(camera.position, START.position)
        expected, *_ = drawn_of(view, [camera])
        assert torch.equal(image, expected[0])
    everywhere = np.random.default_rng(0).normal(size=(500, 3))
    pixels = [everywhere @ camera.T_world_cam[:3, :3] @ camera.K_image.T for *_, camera in pictures]
    inside = [(p[:, 2] > 0) & (p[:, :2] > 0).all(1) & (p[:, :2] < 64.0 * p[:, 2:]).all(1) for p in pixels]
    assert np.any(inside, 0).all()
    ahead = np.stack([camera.T_world_cam[:3, 2] for *_, camera in pictures])
    assert np.allclose(ahead @ ahead.T, np.eye(6) - np.eye(6)[[2, 3, 0, 1, 5, 4]], atol=1e-9)
    assert all(np.linalg.det(camera.T_world_cam[:3, :3]) == pytest.approx(1.0) for *_, camera in pictures)


@torch.no_grad()
@pytest.mark.parametrize("factory", [LatentMemory.empty, RgbMemory.factory(tiny_world_model().codec)])
def test_a_world_shows_its_walls_straight_and_a_copy_of_it_the_same_bits(factory):
    tiny = tiny_world_model()
    config = replace(tiny.config.at((128, 128)), memory=CONFIG.memory, filters=FilterConfig(edge_share=1.0))
    model = replace(tiny, config=config, refiner=BareReadout(), memory_factory=factory)
    start = START.resized(128, 128)
    metres, image = rendered(start, 128)
    pixels = ((image[0].permute(1, 2, 0) + 1.0) * 127.5).numpy().astype(np.uint8)
    memory = model.start(pixels, start, metres.numpy().astype(np.float64), labels=np.full((128, 128), STATIC))[1].memory
    aside = [looking(YAW + turn, -0.05, 128) for turn in (0.9, 2.4, 3.6)]
    known = memory.read(aside, now=0)
    shown, again = (
        of.mirror.filled(known, world, aside, of.codec, of.refiner, of.config)
        for of, world in ((model, memory), (copy.deepcopy(model), copy.deepcopy(memory)))
    )
    assert all(torch.equal(getattr(shown, f.name), getattr(again, f.name)) for f in fields(shown))
    assert (shown.observed > 0).float().mean() > 0.95
    for t, camera in enumerate(aside[:1]):  # sees the wall at the right, of which the start view sees a part
        new = ((shown.observed > 0) & (known.observed == 0))[t].numpy().ravel()
        points = lift(shown.depth[t], camera)[new]
        wall = points[np.abs(points[:, 1]) < 0.8]
        assert len(wall) > 10
        assert np.median(np.abs(wall[:, 0] / HIGH[0] - 1.0)) < 0.08
