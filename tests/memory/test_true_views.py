"""True views: written whole and at sub-cell shifts; a camera that stands still adds nothing and sees no change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import true_rows
from tiny import tiny_world_model
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import MemoryConfig
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.rgb import RgbMemory
from mirage_env.memory.true_views import shifted, shifts, written_start
from mirage_env.rooms import Room

MODEL = tiny_world_model()
DENSE = replace(MODEL.config, memory=MemoryConfig(shifts=2))
CAMERA = Camera.from_fov(1.3, 32, 32)


def wall_view(distance: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, depth and kept cells of a textured wall."""
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return image, torch.full((1, 32, 32), distance), torch.ones(1, 4, 4, dtype=torch.bool)


def written(config, per_side: int, memory=None):
    image, depth, keep = wall_view()
    views = (MODEL.codec.encode(image), image, depth, keep, [CAMERA])
    return written_start(memory or LatentMemory.empty(config), MODEL.codec, views, per_side)[0]


@pytest.mark.parametrize("per_side", [1, 2, 4])
def test_shifts_divide_a_cell_evenly(per_side):
    found = shifts(per_side, 8)
    assert found[0] == (0, 0)
    assert len(set(found)) == per_side**2
    assert {down % (8 // per_side) for down, _ in found} == {0}
    assert max(max(map(abs, s)) for s in found) <= 4


def test_a_shifted_view_is_what_a_camera_with_its_principal_point_aside_sees():
    room = Room.generate(3, "train")
    camera = room.start_camera(np.random.default_rng(0), 32, 32)
    view = room.render(camera, 0.0)
    image = torch.from_numpy(view.image).permute(2, 0, 1)[None].float()
    depth = torch.from_numpy(np.where(np.isfinite(view.depth), view.depth, 50.0)).float()[None]
    views = shifted(image, depth, torch.ones(1, 4, 4, dtype=torch.bool), [camera], 2)
    for index, aside in enumerate(views.cameras):
        seen = torch.from_numpy(room.render(aside, 0.0).image).permute(2, 0, 1).float()
        inner = (slice(None), slice(4, 28), slice(4, 28))
        assert (views.images[index][inner] - seen[inner]).abs().mean() < 1.0


def test_a_shifted_view_keeps_no_cell_beyond_the_border_or_on_one_that_was_not_kept():
    image, depth, keep = wall_view()
    keep[0, 1, 1] = False
    views = shifted(image, depth, keep, [CAMERA], 2)
    assert views.keep[0].sum() == 15
    for index, (down, right) in enumerate(shifts(2, 8)):
        wide = F.pad(keep[0].float(), (1, 1, 1, 1))
        rows, columns = [1, 1 + bool(down)], [1, 1 + bool(right)]
        lies_on = torch.stack([wide[r : r + 4, c : c + 4] for r in rows for c in columns]).amin(0) > 0
        assert torch.equal(views.keep[index], lies_on), (down, right)


def test_the_view_itself_reads_back_exactly():
    memory = written(MODEL.config, 2)
    readout = memory.read([CAMERA], now=0)
    latents = MODEL.codec.encode(wall_view()[0])
    assert readout.observed.all()
    assert readout.offset.abs().max() < 1e-3
    assert (readout.latent - latents).abs().max() < 0.02 * latents.abs().max()  # 8 bits


def test_denser_tokens_lie_closer_to_what_is_asked_for():
    moved = CAMERA.at(np.array([[1, 0, 0, 0.11], [0, 1, 0, 0.07], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    offsets = [
        float(written(MODEL.config, n).read([moved], now=0).offset[..., 1:3, 1:3].abs().max()) for n in (1, 2, 4)
    ]
    assert offsets[0] <= 0.5
    assert offsets[1] <= 0.25
    assert offsets[2] <= 0.13
    assert offsets == sorted(offsets, reverse=True)


def test_a_true_view_that_is_seen_again_from_the_same_place_adds_nothing():
    once = written(MODEL.config, 1)
    assert written(MODEL.config, 1, once).points == once.points


def test_all_shifts_of_a_view_are_one_frame():
    memory = written(MODEL.config, 2)
    assert memory.frames == 1
    assert set(memory.blocks[0].frames.row.tolist()) == {0}
    assert len(memory.blocks[0].frames.row) == 4
    assert memory.blocks[0].frames.true.all()


@pytest.mark.parametrize(("per_side", "true"), [(0, []), (1, [0]), (2, [0])])
def test_only_what_is_written_with_shifts_counts_as_truly_seen(per_side, true):
    for memory in (LatentMemory.empty(MODEL.config), RgbMemory.factory(MODEL.codec)(MODEL.config)):
        assert true_rows(written(MODEL.config, per_side, memory)) == true


def test_true_views_are_written_though_the_memory_knows_the_place():
    image, depth, keep = wall_view()
    nearer = CAMERA.at(np.array([[1, 0, 0, 0], [0, 1, 0, 0.05], [0, 0, 1, 0.2], [0, 0, 0, 1.0]]))
    latents = MODEL.codec.encode(image)
    before = written(MODEL.config, 1)
    gated = before.write(latents, image, depth - 0.2, keep, [nearer], born=1)
    whole = before.write(latents, image, depth - 0.2, keep, [nearer], born=1, shifts=1)
    assert gated.points == before.points
    assert whole.points > before.points + 8
    assert (true_rows(gated), true_rows(whole)) == ([0], [0, 1])


def test_colours_need_no_shifts():
    memory = RgbMemory.factory(MODEL.codec)(MODEL.config)
    assert written(MODEL.config, 2, memory).points == written(MODEL.config, 0, memory).points


def test_a_world_begins_with_a_dense_view_and_takes_true_views_whole():
    room = Room.generate(3, "train")
    camera = room.start_camera(np.random.default_rng(0), 32, 32)
    view = room.render(camera, 0.0)
    dense, plain = replace(MODEL, config=DENSE), MODEL
    (_, many), (_, few) = (m.start(view.image, camera) for m in (dense, plain))
    assert many.memory.points > 2 * few.memory.points
    _, after = dense.observe(many, view.image[None], [camera])
    assert after.memory.points == many.memory.points
    assert after.memory.frames == 2


def test_shifted_tokens_never_hide_a_cell_of_the_view_itself():
    """At silhouettes too: every cell that is kept reads back at its own place."""
    room = Room.generate(5, "train")
    camera = room.start_camera(np.random.default_rng(1), 64, 64)
    view = room.render(camera, 0.0)
    depth = torch.from_numpy(np.where(np.isfinite(view.depth), view.depth, 50.0)).float()[None]
    image = torch.from_numpy(view.image).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    views = (MODEL.codec.encode(image), image, depth, torch.ones(1, 8, 8, dtype=torch.bool), [camera])
    memory = written_start(LatentMemory.empty(DENSE.at((64, 64))), MODEL.codec, views, 2)[0]
    assert memory.points > 64 * 2
    assert memory.read([camera], now=0).offset.abs().max() < 1e-3
