"""Sky that stays: written on a far sphere, read wherever one looks from, and no surface to anything that measures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import Labels, open_minded_model

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.export import occupancy, patches_of
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.memory import LatentMemory
from mirage_env.memory.filters import keep_cells, with_sky
from mirage_env.memory.lifting import depth_to_grid, lift
from mirage_env.memory.rgb import RgbMemory
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.viz.pictures import memory_map

RADIUS = 100.0


def opened(model):
    """A model that remembers sky, and what it has seen: a wall 3 m ahead and a floor, and sky above them."""
    model = replace(model, config=replace(model.config, memory=replace(model.config.memory, sky=RADIUS)))
    camera = Camera.from_fov(1.2, *model.config.image_size)
    height, width = model.config.image_size
    depth, labels = np.full((height, width), 3.0, np.float32), np.full((height, width), STATIC, np.uint8)
    rows = np.arange(height)[:, None] + 0.5
    floor = 1.0 * camera.K_image[1, 1] / np.maximum(rows - camera.K_image[1, 2], 1e-3)  # 1 m below the camera
    depth = np.minimum(depth, floor).astype(np.float32)
    depth[: height // 2], labels[: height // 2] = np.inf, SKY
    model = replace(model, segmenter=Labels(torch.from_numpy(labels.astype(np.int64))))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    _, state = model.start(image, camera, depth, labels=labels)
    return model, camera, state


@pytest.fixture(scope="module")
def seen():
    return opened(open_minded_model())


def turned(camera, yaw, move=0.0):
    return camera.at(camera.T_world_cam @ pose_from_rotation_vector([move, 0.0, 0.0], [0.0, yaw, 0.0]))


def test_every_pixel_of_the_sky_lies_on_the_sphere():
    camera = turned(Camera.from_fov(1.5, 64, 96), 0.7)
    labels = torch.full((1, 64, 96), SKY)
    labels[:, 40:] = STATIC
    depth = with_sky(torch.full((1, 64, 96), torch.inf), labels, [camera], RADIUS)
    points = lift(depth[0, :40], Camera(camera.T_world_cam, camera.K_image, 40, 96))
    np.testing.assert_allclose(np.linalg.norm(points - camera.position, axis=1), RADIUS, rtol=1e-5)
    assert torch.isinf(depth[:, 40:]).all()
    assert with_sky(depth, labels, [camera], 0.0) is depth


def test_cells_of_sky_and_of_its_border_are_kept_where_sky_is():
    labels = torch.full((1, 32, 32), SKY)
    labels[:, 20:] = STATIC  # the third row of cells is sky and wall
    labels[:, 28:, 24:] = MOVER
    depth, config = torch.where(labels == SKY, torch.inf, 2.0), FilterConfig(edge_share=1.0)
    without, with_it = (keep_cells(depth, labels, (4, 4), config, 0.1, 50.0, sky) for sky in (False, True))
    assert with_it[0, :3].all()
    assert not without[0, :3].any()
    assert torch.equal(with_it[0, 3], without[0, 3])
    assert with_it[0, 3].tolist() == [True, True, True, False]


def test_the_rival_memory_remembers_the_sky_as_well(seen):
    model, camera, state = seen
    rival = opened(replace(model, memory_factory=RgbMemory.factory(model.codec)))[2]
    cells = [s.memory.read([camera], 1).depth[0] > model.config.far for s in (state, rival)]
    assert torch.equal(*cells)
    assert cells[0].any()


def test_the_sky_is_read_again_from_elsewhere(seen):
    model, camera, state = seen
    here, aside = (state.memory.read([c], 1) for c in (camera, turned(camera, 0.0, move=1.0)))
    sky = here.depth[0] > model.config.far
    assert sky[: sky.shape[0] // 2 - 1].all()
    assert not sky[sky.shape[0] // 2 :].any()
    apart = torch.where(sky, (here.latent - aside.latent).abs().amax((0, 1)), 0.0)
    assert float(apart.max()) < 1e-6, "a metre aside the sky is the same"
    later = turned(camera, 0.5)
    _, after = model.step(state, [turned(camera, 0.5 * i / 4) for i in range(1, 5)])
    again = after.memory.read([camera], 2)
    assert torch.equal(again.latent[:, :, sky], here.latent[:, :, sky])
    assert (after.memory.read([later], 2).depth > model.config.far).any()


def test_who_measures_sees_no_sky(seen):
    model, camera, state = seen
    memory = state.memory
    assert memory.surfaces.points < memory.points
    assert float(memory.read([camera], 1).surface(model.config.far).max()) < 4.0
    assert float(memory.surfaces.read([camera], 1).depth.max()) < 4.0
    assert np.abs(patches_of(memory, model.codec).xyz).max() < 10.0
    blind = LatentMemory.empty(model.config).surfaces
    assert blind.points == 0
    cells = occupancy(memory).cells
    assert cells.shape[0] < 200
    np.testing.assert_array_equal(cells, occupancy(memory.surfaces).cells)
    np.testing.assert_array_equal(memory_map(memory, None, [camera]), memory_map(memory.surfaces, None, [camera]))


def test_a_world_of_nothing_but_sky_has_no_surface_to_show(seen):
    model, camera, _ = seen
    size = model.config.image_size
    nothing, all_of_it = np.full(size, np.inf, np.float32), np.full(size, SKY, np.uint8)
    _, state = model.start(np.zeros((*size, 3), np.uint8), camera, nothing, labels=all_of_it)
    assert state.memory.points
    for make in (occupancy, lambda memory: patches_of(memory, model.codec)):
        with pytest.raises(InvalidOptionError, match="a world that has been seen"):
            make(state.memory)


def test_the_depth_network_is_told_of_surfaces_only(seen):
    model, camera, state = seen
    told = []

    class Listening:
        def estimate(self, images, cameras, known=None):
            told.append(known)
            return model.depth.estimate(images, cameras, known)

    replace(model, depth=Listening()).step(state, [camera] * 4)
    assert 0.0 < float(told[0].max()) < model.config.far


def test_a_sphere_among_the_surfaces_is_refused():
    config = open_minded_model().config
    with pytest.raises(InvalidOptionError, match="at least twice far"):
        replace(config, memory=replace(config.memory, sky=1.5 * config.far))
    with pytest.raises(InvalidOptionError):
        replace(config.memory, sky=-1.0)


def test_depth_of_sky_cells_is_that_of_their_middle():
    camera = Camera.from_fov(1.2, 64, 64)
    depth = with_sky(torch.zeros(1, 64, 64), torch.full((1, 64, 64), SKY), [camera], RADIUS)
    points = lift(depth_to_grid(depth, (8, 8))[0], camera)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, rtol=0.06)
