"""Mirrored views: they meet at their borders, fill the circle, stand upright, and show only what is unknown."""

import copy
import gc
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_world_model
from transforms3d.euler import euler2mat

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig, MemoryConfig
from mirage_env.interfaces import MOVER, SKY, STATIC, Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import lift
from mirage_env.memory.mirror_images import MOST_VIEWS, mirrored_cameras
from mirage_env.memory.mirrored import SEAM, closed
from mirage_env.memory.rgb import RgbMemory
from mirage_env.models.small.refiner import BareReadout

FOV = 1.2
CAMERA = Camera.from_fov(FOV, 32, 32)


def pose(rotation: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = rotation
    return T


def yawed(yaw: float, pitch: float = 0.0) -> np.ndarray:
    return pose(euler2mat(yaw, pitch, 0.0, "ryxz"))


def ray(camera: Camera, column: float, row: float) -> np.ndarray:
    """Direction of a place in the picture, world axes."""
    direction = camera.T_world_cam[:3, :3] @ np.linalg.solve(camera.K_image, [column, row, 1.0])
    return direction / np.linalg.norm(direction)


@given(st.floats(0.2, 2.5), st.floats(-3.0, 3.0), st.floats(0.2, 0.8), st.floats(0.0, 32.0))
def test_mirrored_views_meet_at_their_borders(fov, yaw, centre, row):
    K = Camera.from_fov(fov, 32, 32).K_image.copy()
    K[0, 2] = 32.0 * centre
    start = Camera(yawed(yaw), K, 32, 32)
    views = [camera for _, camera in mirrored_cameras(start)]
    half = len(views) // 2
    for edge, chain in ((0.0, [start, *views[:half]]), (32.0, [start, *views[half:]])):
        for one, beyond in pairwise(chain):
            assert np.allclose(ray(one, edge, row), ray(beyond, 32.0 - edge, row), atol=1e-9)


@given(st.floats(0.2, 2.5), st.floats(-0.7, 0.7))
def test_mirrored_views_fill_the_circle_and_stand_as_upright_as_the_first(fov, pitch):
    start = Camera.from_fov(fov, 32, 32, yawed(0.3, pitch))
    views = mirrored_cameras(start)
    assert len(views) == MOST_VIEWS or (len(views) < MOST_VIEWS and (len(views) + 1) * fov >= 2.0 * np.pi - 1e-9)
    for _, camera in views:
        assert np.allclose(camera.T_world_cam[1, :3], start.T_world_cam[1, :3], atol=1e-9)
        assert np.array_equal(camera.position, start.position)


def test_a_vertical_that_no_axis_of_the_world_is_near_is_that_of_the_picture():
    down = np.ones(3) / np.sqrt(3.0)
    right = np.array([1.0, -1.0, 0.0]) / np.sqrt(2.0)
    start = Camera.from_fov(1.0, 32, 32, pose(np.stack([right, down, np.cross(right, down)], 1)))
    assert all(np.allclose(camera.T_world_cam[:3, 1], down) for _, camera in mirrored_cameras(start))


def mirroring_model():
    """A tiny model that mirrors, whose readout is shown as it is stored."""
    model = tiny_world_model()
    memory = MemoryConfig(shifts=2, sky=100.0, mirrored=True)
    filters = FilterConfig(edge_share=1.0)  # cells on edges are kept, as in the shipped model
    return replace(model, config=replace(model.config, memory=memory, filters=filters), refiner=BareReadout())


MODEL = mirroring_model()


def begun(model=MODEL):
    """A world that begins before a painted wall, aslant."""
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return model.start(image, CAMERA, np.tile(np.linspace(2.0, 2.6, 32), (32, 1)), labels=np.zeros((32, 32), np.int64))[
        1
    ]


def filled(memory, cameras, observed=1.0, model=MODEL):
    """What the generator is shown of a memory of which only so much is known."""
    known = memory.read(cameras, now=0)
    known = Readout(**{f.name: masked(getattr(known, f.name), observed) for f in fields(Readout)})
    return known, model.mirror.filled(known, memory, cameras, model.codec, model.refiner, model.config)


def masked(values, observed):
    mask = torch.as_tensor(observed, dtype=torch.float32)
    return values * (mask[:, None] if mask.ndim and values.ndim == 4 else mask)


@torch.no_grad()
@pytest.mark.parametrize("factory", [LatentMemory.empty, RgbMemory.factory(MODEL.codec)])
def test_who_turns_by_a_field_of_view_sees_the_mirror_image_and_by_two_the_view_itself(factory):
    state = begun(replace(MODEL, memory_factory=factory))
    start = state.memory.read([CAMERA], 0)
    image = MODEL.codec.decode(start.latent)
    for flip, camera in mirrored_cameras(CAMERA)[:2]:
        _, shown = filled(state.memory, [camera], 0.0)
        there = shown.observed > 0
        assert there.float().mean() > 0.9
        depth = start.depth.flip(flip)
        assert torch.allclose(shown.depth[there], depth[there], atol=1e-3)
        there, expected = there[:, None].expand_as(shown.latent), MODEL.codec.encode(image.flip(flip))
        # Stored in 8 bits.
        assert torch.corrcoef(torch.stack([shown.latent[there], expected[there]]))[0, 1] > 0.99


@torch.no_grad()
def test_floor_and_sky_go_on_below_and_above_at_their_height_and_a_wall_does_not(monkeypatch):
    monkeypatch.setattr("mirage_env.memory.mirrored.SEAM", 0)
    monkeypatch.setattr("mirage_env.memory.mirrored.RoomView.of", lambda *_: None)
    model, start = replace(MODEL, config=MODEL.config.at((64, 64))), Camera.from_fov(FOV, 64, 64)
    fall = (np.arange(64) + 0.5 - 32.0) / start.K_image[1, 1]  # per metre ahead
    rows = np.where(fall > 0.2, 1.5 / np.maximum(fall, 0.2), 7.5)  # a wall behind a floor 1.5 m below
    labels, depth = np.full((64, 64), STATIC), np.tile(rows[:, None], (1, 64))
    depth[:, 32:] = 1.0  # at the right a wall is near
    labels[:24, :32] = SKY
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    memory = model.start(image, start, depth, labels=labels)[1].memory
    for pitch, below in ((-0.5, True), (0.5, False)):
        look = start.at(yawed(0.0, pitch))
        known, shown = filled(memory, [look], model=model)
        new = ((shown.observed > 0) & (known.observed == 0))[0].numpy()
        assert new[:, :3].any()
        assert not new[:, 5:].any()
        points = (lift(shown.depth[0], look) - look.position).reshape(8, 8, 3)[new]
        points = points[np.abs(points[:, 1]) > np.tan(0.5 * FOV) * points[:, 2]]  # others lie behind things
        assert len(points)
        if below:
            assert np.allclose(points[:, 1], 1.5, rtol=0.2)  # at the middle of the cell that a token lies in
        else:
            assert np.allclose(np.linalg.norm(points, axis=1), 100.0, rtol=0.1)


@torch.no_grad()
def test_a_floor_goes_on_as_far_as_depth_does_and_not_to_the_horizon():
    model = replace(MODEL, config=replace(MODEL.config.at((256, 256)), far=25.0))
    start = Camera.from_fov(FOV, 256, 256, yawed(0.0, -0.75))  # sees nothing but floor
    pixels = np.stack(np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5, [1.0]), -1)[:, :, 0]
    depth = 1.5 / (pixels @ np.linalg.inv(start.K_image).T @ start.T_world_cam[1, :3])
    assert depth.min() > 0.0
    image, labels = np.full((256, 256, 3), 90, np.uint8), np.full((256, 256), STATIC)
    memory = model.start(image, start, depth, labels=labels)[1].memory
    views = [start.at(yawed(0.0, pitch)) for pitch in (-0.4, -0.2, 0.0)]
    known, shown = memory.read(views, now=0), filled(memory, views, model=model)[1]
    new = shown.observed > known.observed
    assert new.any()
    assert float(shown.depth[new].max()) < 1.5 * 25.0  # the corners of a view are farther away than its middle


def test_only_what_is_unknown_is_mirrored_and_nothing_where_no_model_or_memory_is_made_for_it():
    memory, aside = begun().memory, [CAMERA.at(CAMERA.T_world_cam @ yawed(0.4 * i)) for i in range(1, 4)]
    known, shown = filled(memory, aside, (torch.rand(3, 4, 4) < 0.5).float())
    there = known.observed > 0
    assert shown.observed[~there].any()
    for of in fields(Readout):
        before, after = (
            getattr(r, of.name).movedim(1, -1) if getattr(r, of.name).ndim == 4 else getattr(r, of.name)
            for r in (known, shown)
        )
        assert torch.equal(before[there], after[there])
    plain = replace(MODEL, config=replace(MODEL.config, memory=replace(MODEL.config.memory, mirrored=False)))
    for model, of in ((plain, memory), (MODEL, MODEL.memory_factory(MODEL.config))):
        known, shown = filled(of, aside, model=model)
        assert torch.equal(known.observed, shown.observed)


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("wall", [None, 3.0])
def test_a_room_is_shown_to_the_generator_unless_it_is_drawn_over_its_frames(drawn, wall):
    camera = Camera.from_fov(1.4, 128, 128)
    x, y, z = np.moveaxis(
        np.stack([ray(camera, u, v) for v in range(128) for u in range(128)]).reshape(128, 128, 3), 2, 0
    )
    box = (
        np.min(
            [
                np.where(along > 0, size / np.maximum(along, 1e-9), np.inf)
                for along, size in ((x, 2.0), (-x, 2.0), (y, 1.3), (-y, 1.3), (z, 3.0))
            ],
            axis=0,
        )
        * z
    )
    config = replace(MODEL.config, image_size=(128, 128), latent_size=(16, 16))
    model = replace(MODEL, config=replace(config, memory=replace(config.memory, drawn=drawn)))
    depth = box if wall is None else np.full((128, 128), wall)
    grey = np.full((128, 128, 3), 90, np.uint8)
    memory = model.start(grey, camera, depth, labels=np.zeros((128, 128), np.int64))[1].memory
    behind = [camera.at(yawed(3.0))]
    shown = filled(memory, behind, model=model)[1]
    assert bool(shown.observed.any()) == (not drawn or wall is not None)
    holed = torch.ones(1, 16, 16)
    holed[0, 6:9, 8] = 0.0
    assert filled(memory, [camera], holed, model)[1].observed.all()


def test_views_are_made_once_for_a_world_whatever_later_evidence_says_and_forgotten_with_it(monkeypatch):
    model = mirroring_model()
    memory = begun(model).memory
    filled(memory, [CAMERA], 0.0, model)
    with monkeypatch.context() as patched:
        patched.setattr(model.codec, "encode", lambda _: pytest.fail("made again"))
        block = memory.blocks[0]
        doubted = replace(memory, blocks=(block.with_confidence(block.confidence * 0),))
        filled(doubted, [CAMERA], 0.0, model)
    assert len(model.mirror._guesses) == 1
    assert not copy.deepcopy(model.mirror)._guesses
    del memory, block, doubted
    gc.collect()
    assert not model.mirror._guesses


def test_a_world_tells_what_it_knew_and_a_copy_of_it_goes_on_alike():
    state = begun()
    path = [CAMERA.at(CAMERA.T_world_cam @ yawed(FOV * (0.7 + 0.1 * i))) for i in range(1, 5)]
    chunk, _ = MODEL.step(state, path)
    assert 0.0 < chunk.coverage < 1.0
    assert torch.equal(chunk.readout.observed, state.memory.read(path, now=1).observed)
    assert not chunk.known[(chunk.readout.observed == 0)[:, None].expand_as(chunk.known)].any()
    again, _ = MODEL.step(copy.deepcopy(state), path)
    assert torch.equal(again.frames, chunk.frames)
    other, _ = replace(MODEL, config=replace(MODEL.config, memory=replace(MODEL.config.memory, mirrored=False))).step(
        state, path
    )
    assert not torch.equal(other.frames, chunk.frames)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("gap", "left"), [([], 0), ([3], 0), ([2, 3, 4, 5], 0), ([2, 3, 4, 5, 6], 1), ([0, 1, 2], 1)])
def test_narrow_gaps_show_what_is_beside_them_and_the_rest_of_wide_ones_stays(gap, left, turned):
    known = torch.ones(2, 1, 9)
    known[..., gap] = 0.0
    number = torch.arange(9.0).expand(2, 1, 9)
    parts = (
        number[:, None],
        torch.ones_like(known),
        1.0 + number,
        number[:, None].expand(2, 2, 1, 9),
        number,
        number,
    )
    whole = Readout(*(f.transpose(-1, -2) for f in parts)) if turned else Readout(*parts)
    mask = known.transpose(-1, -2) if turned else known
    shown = closed(Readout(**{f.name: masked(getattr(whole, f.name), mask) for f in fields(Readout)}))
    assert int((shown.observed == 0).sum()) == 2 * left
    for source, there in zip(shown.scale[0].ravel().tolist(), range(9), strict=True):
        if shown.observed[0].ravel()[there]:
            assert source == there if there not in gap else source not in gap
            assert abs(source - there) <= SEAM
    assert torch.equal(shown.depth, (1.0 + shown.scale) * shown.observed)
    assert torch.equal(shown.latent[:, 0], shown.scale)
    assert torch.equal(shown.offset[:, 1], shown.scale)


@torch.no_grad()
@pytest.mark.parametrize("moves", [False, True])
def test_who_steps_aside_sees_the_wall_go_on_behind_a_thing_and_where_a_mover_was(moves, monkeypatch):
    monkeypatch.setattr("mirage_env.memory.mirrored.SEAM", 0)
    model, start = replace(MODEL, config=MODEL.config.at((128, 128))), Camera.from_fov(FOV, 128, 128)
    labels, depth = np.full((128, 128), STATIC), np.full((128, 128), 4.0)
    thing = np.s_[:, 48:80]
    depth[thing] = 1.5
    labels[thing] = MOVER if moves else STATIC
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    memory = model.start(image, start, depth, labels=labels)[1].memory
    aside = start.moved(pose(np.eye(3)) + np.eye(4, k=3) * 0.4)  # to the right
    known, shown = filled(memory, [aside], model=model)
    new = ((shown.observed > 0) & (known.observed == 0))[0]
    inside = torch.zeros_like(new)
    inside[:, 2:-3] = True  # what lies beyond the borders is another matter
    assert (new & inside).sum() >= 16
    assert not ((shown.observed[0] == 0) & inside).any()
    assert torch.allclose(shown.depth[0][new & inside], torch.tensor(4.0))
    assert (filled(memory, [mirrored_cameras(start)[0][1]], model=model)[1].observed > 0).all()


@torch.no_grad()
def test_the_outline_of_a_mover_is_mirrored_no_more_than_the_mover():
    model, start = replace(MODEL, config=MODEL.config.at((128, 128))), Camera.from_fov(FOV, 128, 128)
    labels, depth = np.full((128, 128), STATIC), np.full((128, 128), 4.0)
    labels[:, 48:80], depth[:, 48:80] = MOVER, 1.5
    shown = []
    for color in (120, (255, 0, 0)):
        image = np.full((128, 128, 3), 120, np.uint8)
        image[:, 40:88] = color
        memory = model.start(image, start, depth, labels=labels)[1].memory
        shown.append(filled(memory, [mirrored_cameras(start)[0][1]], model=model)[1].latent)
    assert float((shown[0] - shown[1]).abs().max()) < 0.1 * float(shown[0].abs().max())
