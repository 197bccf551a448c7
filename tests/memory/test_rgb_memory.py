"""The image-resolution memory behaves as the latent one does, at another resolution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_world_model
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import MemoryConfig
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.reposing import Correction, repose
from mirage_env.memory.rgb import RgbMemory, cells_to_pixels, fill_holes
from mirage_env.poses import pose_from_rotation_vector

MODEL = tiny_world_model()
CONFIG = MODEL.config
H, W = CONFIG.image_size
h, w = CONFIG.latent_size
CAMERA = Camera.from_fov(1.2, H, W)


def colours(seed=0, frames=1):
    """8-bit images."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (frames, 3, H, W))).float() / 127.5 - 1.0


def slope(frames=1):
    """A wall seen at an angle: inverse depth is linear in the image."""
    inverse = torch.linspace(0.3, 0.5, W).expand(frames, H, W)
    return 1.0 / inverse


def written(memory, images, depth, keep=None, cameras=(CAMERA,), born=0):
    keep = torch.ones(len(images), h, w, dtype=torch.bool) if keep is None else keep
    return memory.write(MODEL.codec.encode(images), images, depth, keep, cameras, born)


def rgb():
    return RgbMemory.factory(MODEL.codec)(CONFIG)


def to_bytes(images):
    return ((images + 1.0) * 127.5).round().to(torch.uint8)


def test_view_reads_its_own_image_back_exactly():
    images = colours()
    raster = written(rgb(), images, slope()).rasterise([CAMERA], now=1)
    assert raster.seen.all()
    assert torch.equal(to_bytes(raster.images), to_bytes(images))
    assert torch.allclose(raster.depth, slope(), rtol=1e-4)


def test_image_is_exact_where_cells_were_kept_and_unseen_elsewhere():
    images, keep = colours(), torch.zeros(1, h, w, dtype=torch.bool)
    keep[0, 1:3, :2] = True
    raster = written(rgb(), images, slope(), keep).rasterise([CAMERA], now=1)
    pixels = cells_to_pixels(keep, (H, W))
    assert torch.equal(raster.seen, pixels)
    same = to_bytes(raster.images) == to_bytes(images)
    assert same.permute(0, 2, 3, 1)[pixels].all()


def test_readout_at_the_source_is_the_encoded_image():
    images = colours()
    readout = written(rgb(), images, slope()).read([CAMERA], now=3)
    assert torch.allclose(readout.latent, MODEL.codec.encode(images), atol=1e-2)
    assert (readout.age == 3).all()
    assert (readout.offset == 0).all()
    assert (readout.scale == 0).all()


def test_cell_is_observed_from_half_of_its_pixels():
    images, depth = colours(), slope()
    # The valid row next to one without depth is an edge.
    depth[0, : CONFIG.stride // 2 - 1] = torch.inf
    depth[0, -CONFIG.stride // 2 :] = torch.inf
    observed = written(rgb(), images, depth).read([CAMERA], now=1).observed[0]
    assert (observed[0] == 1).all()
    assert (observed[1:-1] == 1).all()
    assert (observed[-1] == 0).all()


def test_nothing_is_reported_where_nothing_was_observed():
    keep = torch.zeros(1, h, w, dtype=torch.bool)
    keep[0, 0, 0] = True
    readout = written(rgb(), colours(), slope(), keep).read([CAMERA, CAMERA], now=2)
    for field in (readout.latent.abs().sum(1), readout.depth, readout.scale, readout.age):
        assert (field[readout.observed == 0] == 0).all()
    assert readout.observed.sum() == 2


def test_readout_has_the_shapes_and_types_of_the_latent_memory():
    images = colours(frames=2)
    cameras = [CAMERA, CAMERA.at(pose_from_rotation_vector([0.1, 0, 0], [0, 0.05, 0]))]
    ours = written(rgb(), images, slope(2), cameras=cameras).read(cameras, now=1)
    theirs = written(LatentMemory.empty(CONFIG), images, slope(2), cameras=cameras).read(cameras, now=1)
    for name in Readout.__dataclass_fields__:
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_empty_memory_shows_nothing():
    readout = rgb().read([CAMERA], now=1)
    assert all((getattr(readout, name) == 0).all() for name in Readout.__dataclass_fields__)


def test_one_view_holds_a_point_per_pixel_where_the_latent_memory_holds_one_per_cell():
    images = colours()
    ours, theirs = written(rgb(), images, slope()), written(LatentMemory.empty(CONFIG), images, slope())
    assert ours.points == H * W
    assert ours.points == theirs.points * CONFIG.stride**2
    per_point = 3 + 6 + 2 + 2 + 2 + 1  # colour, place, footprint, frame, cell (4 above 65,536 pixels), confidence
    tiles = len(ours.blocks[0].low)
    assert tiles < ours.points / 32
    assert ours.nbytes == ours.points * per_point + tiles * (24 + 4 + 4) + 4 + (4 + 128 + 72 + 2 + 4) + 24


def test_gate_writes_the_same_view_only_once():
    once = written(rgb(), colours(), slope())
    again = written(once, colours(1), slope(), born=1)
    assert again.points == once.points
    assert torch.equal(again.rasterise([CAMERA], 1).images, once.rasterise([CAMERA], 1).images)


def test_writing_leaves_the_old_memory_as_it_was():
    old = written(rgb(), colours(), slope())
    before = old.rasterise([CAMERA], 1).images
    written(old, colours(1), 0.5 * slope(), born=1)
    assert torch.equal(old.rasterise([CAMERA], 1).images, before)


def test_pixels_on_depth_edges_and_without_depth_are_not_written():
    depth = torch.full((1, H, W), 2.0)
    depth[..., W // 2 :] = 4.0
    depth[0, 0, 0] = torch.inf  # and its two neighbours lie on an edge
    memory = written(rgb(), colours(), depth)
    assert memory.points == H * (W - 2) - 3


def test_every_8_bit_colour_is_kept_exactly_whatever_the_latents_are_kept_as():
    levels = torch.arange(H * W).reshape(1, 1, H, W) % 256
    images = levels.expand(1, 3, H, W) / 127.5 - 1.0
    for features in ("int8", "float16"):
        config = replace(CONFIG, memory=MemoryConfig(features=features))
        memory = written(RgbMemory.factory(MODEL.codec)(config), images, slope())
        assert memory.blocks[0].features == "integer"
        assert torch.equal(to_bytes(memory.rasterise([CAMERA], 1).images), levels.expand(1, 3, H, W).to(torch.uint8))


def test_blocks_merge_and_a_byte_budget_holds_as_in_the_latent_memory():
    config = replace(CONFIG, memory=MemoryConfig(max_bytes=3 * H * W * 19))
    memory = RgbMemory.factory(MODEL.codec)(config)
    away = [CAMERA.at(pose_from_rotation_vector([20.0 * i, 0, 0], [0, 0, 0])) for i in range(6)]
    free = rgb()
    for born, camera in enumerate(away):
        memory = written(memory, colours(born), slope(), cameras=[camera], born=born)
        free = written(free, colours(born), slope(), cameras=[camera], born=born)
    assert len(free.blocks) < len(away)
    assert memory.nbytes <= config.memory.max_bytes
    assert memory.blocks[0].pinned


def test_what_opened_up_is_forgotten_and_a_corrected_pose_moves_the_points():
    memory = written(rgb(), colours(), slope())
    for born in range(1, 4):
        memory = written(memory, colours(1, 2), 3.0 * slope(2), cameras=[CAMERA] * 2, born=born)
    assert torch.allclose(memory.rasterise([CAMERA], 4).depth, 3.0 * slope(), rtol=1e-4)
    there = CAMERA.at(pose_from_rotation_vector([5.0, 0, 0], [0, 1.0, 0]))
    moved = repose(written(rgb(), colours(), slope()), {0: Correction(there.T_world_cam)})
    assert torch.equal(to_bytes(moved.rasterise([there], 1).images), to_bytes(colours()))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_holes_are_filled_as_the_pyramid_in_torch_does(share):
    def pyramid(images, seen):  # [T, 3, H, W], [T, H, W]
        weight = seen[:, None].float()
        if bool(seen.all()) or min(images.shape[-2:]) < 2:
            return images * weight
        mean, covered = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (images * weight, weight))
        coarse = pyramid(mean / covered.clamp_min(1e-6), covered[:, 0] > 0)
        smooth = F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return torch.where(weight > 0, images, smooth)

    rng = np.random.default_rng(0)
    images, seen = rng.normal(size=(2, 32, 48, 3)).astype(np.float32), rng.random((2, 32, 48)) < share
    expected = pyramid(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(seen)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(fill_holes(images, seen), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_holes_take_colours_from_around_them_and_seen_pixels_keep_theirs(seed):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.2, 0.6, (2, H - seed, W, 3)).astype(np.float32)
    seen = rng.random((2, H - seed, W)) < 0.3
    filled = fill_holes(images, seen)
    np.testing.assert_array_equal(filled[seen], images[seen])
    assert filled.min() >= 0.2 - 1e-5
    assert filled.max() <= 0.6 + 1e-5


def test_the_same_world_model_walks_with_either_memory():
    model = replace(MODEL, memory_factory=RgbMemory.factory(MODEL.codec))
    image = to_bytes(colours())[0].permute(1, 2, 0).numpy()
    _, state = model.start(image, CAMERA)
    # The tiny segmenter keeps nothing.
    state = replace(state, memory=written(rgb(), colours(), slope()))
    path = [CAMERA.at(pose_from_rotation_vector([0, 0, 0.05 * i], np.zeros(3))) for i in range(1, 5)]
    chunk, after = model.step(state, path)
    assert chunk.coverage > 0.5
    assert isinstance(after.memory, RgbMemory)
