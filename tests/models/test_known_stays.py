"""What is known exactly is left alone, noise stays with the world, detail begins as nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_world_model

from mirage_env.camera import Camera, pluecker_rays
from mirage_env.config.world import MemoryConfig
from mirage_env.interfaces import Readout
from mirage_env.memory.standing import held, standing
from mirage_env.models.small.detail_head import DetailHead, carried_on, without_seams
from mirage_env.models.small.refiner import ConvRefiner, misplaced
from mirage_env.models.wan.anchored_noise import anchored, panorama_size
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.rooms import Room

CAMERA = Camera.from_fov(1.3, 32, 32)


def readout(offset: float, observed: float = 1.0) -> Readout:
    shape = (2, 4, 4)
    return Readout(
        latent=torch.randn(2, 8, 4, 4) * observed,
        observed=torch.full(shape, observed),
        depth=torch.full(shape, 2.0 * observed),
        offset=torch.full((2, 2, 4, 4), offset * observed),
        scale=torch.zeros(shape),
        age=torch.zeros(shape),
    )


def restless_refiner(exact: float) -> ConvRefiner:
    refiner = ConvRefiner(latent_channels=8, width=8, blocks=1, exact=exact).eval()
    torch.nn.init.normal_(refiner.head.weight)
    torch.nn.init.normal_(refiner.head.bias)
    return refiner


def test_misplaced_rises_from_nothing_to_all():
    shares = [float(misplaced(readout(offset), 0.1).mean()) for offset in (0.0, 0.03, 0.1, 0.5)]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] > 0.99
    assert (misplaced(readout(0.0, observed=0.0), 0.1) == 1.0).all()


@torch.no_grad()
def test_a_refiner_leaves_alone_what_lies_where_it_was_written():
    refiner, there, aside = restless_refiner(0.1), readout(0.0), readout(0.4)
    assert torch.equal(refiner.refine(there), there.latent)
    assert not torch.allclose(refiner.refine(aside), aside.latent, atol=0.1)


@pytest.mark.parametrize("size", [(32, 32), (64, 64)])
def test_a_camera_that_stands_still_keeps_what_it_knows(size):
    model = standing_model()
    model = replace(model, config=replace(model.config.at(size), memory=MemoryConfig(shifts=2)))
    room = Room.generate(3, "train")
    camera = room.start_camera(np.random.default_rng(0), *size)
    view = room.render(camera, 0.0)
    start, state = model.start(view.image, camera)
    known = (start.readout.observed[0] > 0) & (start.readout.offset[0].abs().amax(0) < 1e-3)
    assert known.float().mean() > 0.5
    for _ in range(4):
        chunk, state = model.step(state, [camera] * 4)
        error = (chunk.latents - start.readout.latent)[:, :, known].abs().max()
        assert error < 1e-2 * start.readout.latent.abs().max()


def standing_model():
    """A tiny model with an exact refiner and generator, whose networks would change everything if they could."""
    model = tiny_world_model()
    sampler = replace(model.config.sampler, exact=0.05, anchored=True)
    detail = DetailHead(latent_channels=8, width=8, blocks=1).eval()
    torch.nn.init.normal_(detail.head.weight)
    old = model.generator
    generator = ChunkDenoiser(old.transformer, old.branch, sampler, detail=detail).eval()
    config = replace(model.config, sampler=sampler)
    return replace(model, config=config, generator=generator, refiner=restless_refiner(0.1))


def rays(cameras: list[Camera]) -> torch.Tensor:
    return torch.from_numpy(pluecker_rays(cameras, 8, 8))


def turned(angle: float) -> Camera:
    T = np.eye(4)
    T[0, 0] = T[2, 2] = np.cos(angle)
    T[0, 2], T[2, 0] = np.sin(angle), -np.sin(angle)
    return CAMERA.at(T)


def test_noise_turns_with_the_world():
    """A direction has one noise, whichever camera looks there."""
    views = rays([turned(a) for a in (0.0, 0.0, 0.1, 1.0)])
    panorama = torch.randn(1, *panorama_size(views), generator=torch.Generator().manual_seed(0))
    noise = anchored(panorama, views)
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    by_direction: dict[tuple[int, ...], set[float]] = {}
    rows, columns = panorama.shape[1:]
    x, y, z = views[:, :3].unbind(1)
    column = ((torch.atan2(x, z) / (2 * np.pi) + 0.5) * columns).long() % columns
    row = ((torch.atan2(y, torch.hypot(x, z)) / np.pi + 0.5) * rows).long()
    for r, c, value in zip(row.flatten().tolist(), column.flatten().tolist(), noise.flatten().tolist(), strict=True):
        by_direction.setdefault((r, c), set()).add(value)
    assert max(map(len, by_direction.values())) == 1


def test_noise_is_as_strong_as_it_was_drawn():
    views = rays([turned(a) for a in np.linspace(0.0, 6.0, 24)])
    noise = anchored(torch.randn(16, *panorama_size(views), generator=torch.Generator().manual_seed(0)), views)
    assert noise.shape == (24, 16, 8, 8)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)


def test_another_seed_is_another_picture():
    model = standing_model()
    room = Room.generate(3, "train")
    camera = room.start_camera(np.random.default_rng(0), 32, 32)
    view = room.render(camera, 0.0)
    path = [camera.at(camera.T_world_cam @ turned(0.3 * i).T_world_cam) for i in range(1, 5)]
    frames = [model.step(model.start(view.image, camera, view.depth, seed=s)[1], path)[0].frames for s in (0, 0, 1)]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_detail_begins_as_nothing():
    head = DetailHead(latent_channels=8, width=8, blocks=1)
    x = torch.randn(2, 5, 8, 4, 4)
    assert not head(x, x, x, x[:, :, :1]).any()
    assert head(x, x, x, x[:, :, :1]).shape == x.shape


def test_detail_is_drawn_by_what_the_whole_frame_shows():
    head = DetailHead(latent_channels=4, width=8, blocks=1, levels=(8, 8, 8))
    torch.nn.init.normal_(head.head.weight)
    clean, everywhere = torch.randn(1, 4, 32, 24, requires_grad=True), torch.ones(1, 1, 32, 24)

    def reach() -> torch.Tensor:  # of the corner, in cells
        (gradient,) = torch.autograd.grad(head(clean, clean, clean, everywhere)[..., 0, 0].sum(), clean)
        return gradient.abs().sum((0, 1)).nonzero().amax(0)

    assert reach().max() < 8  # the U-Net says nothing before it is trained
    for weight in head.around.parameters():
        torch.nn.init.normal_(weight)
    assert reach().tolist() == [31, 23]


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_what_is_known_is_carried_on_along_rows_and_columns(seed, share):
    rng = np.random.default_rng(seed)
    observed = (rng.random((1, 1, *rng.integers(1, 9, 2))) < share * rng.random()).astype(np.float32)
    latents = np.arange(1.0, 1.0 + observed.size, dtype=np.float32).reshape(observed.shape) * observed
    filled, near = (t[0, 0].numpy() for t in carried_on(torch.from_numpy(latents), torch.from_numpy(observed)))
    cells = {(y, x): (0.0, {latents[0, 0, y, x]}) for y, x in zip(*observed[0, 0].nonzero(), strict=True)}
    for _ in range(2):  # slowly: step by step in four directions, then again from what was filled so
        before = dict(cells)
        for y, x in np.ndindex(*filled.shape):
            ways = []
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                steps = next((n for n in range(1, 9) if (y + n * dy, x + n * dx) in before), None)
                if steps is not None:
                    far, values = before[y + steps * dy, x + steps * dx]
                    ways.append((steps + far, values))
            if ways and (y, x) not in before:
                least = min(way for way, _ in ways)
                cells[y, x] = least, set().union(*(values for way, values in ways if way == least))
    for at in np.ndindex(*filled.shape):
        steps, values = cells.get(at, (np.inf, {0.0}))
        assert near[at] == pytest.approx(1.0 / (1.0 + steps))
        assert filled[at] in values


@pytest.mark.parametrize("patch", [2, 4])
def test_what_repeats_from_patch_to_patch_leaves_no_trace(patch):
    pattern = torch.randn(1, 2, 3, patch, patch).repeat(1, 1, 1, 6, 6)
    smooth = without_seams(pattern, patch)
    inner = smooth[..., patch:-patch, patch:-patch]
    assert smooth.shape == pattern.shape
    assert (inner - inner[..., :1, :1]).abs().max() < 1e-5
    plain = torch.full((2, 3, 8, 8), 0.7)
    torch.testing.assert_close(without_seams(plain, patch), plain)


def test_a_camera_that_stands_still_sees_one_picture_whatever_is_unknown():
    """Sky and movers, which no memory holds, stay too; another camera of the chunk sees what it would see anyway."""
    model = standing_model()
    room = Room.generate(3, "train")
    camera = room.start_camera(np.random.default_rng(0), 32, 32)
    view = room.render(camera, 0.0)
    everything_moves = np.ones((32, 32), np.int64)
    start, state = model.start(view.image, camera, labels=everything_moves)
    assert not start.readout.observed.any()
    first = model.codec.decode(start.latents)
    for _ in range(3):
        chunk, state = model.step(state, [camera] * 4)
        torch.testing.assert_close(chunk.frames, first.expand_as(chunk.frames))
    moved = [camera.at(camera.T_world_cam @ turned(0.1 * i).T_world_cam) for i in range(1, 5)]
    assert not torch.allclose(model.step(state, moved)[0].frames, first.expand(4, -1, -1, -1), atol=0.1)


def test_standing_is_a_matter_of_pose_and_lens():
    zoomed = Camera.from_fov(1.0, 32, 32)
    assert standing(CAMERA, [CAMERA, CAMERA.at(np.eye(4)), turned(0.01), zoomed]).tolist() == [True, True, False, False]


def test_only_standing_cameras_are_held():
    before = readout(0.4)
    after = held(before, torch.ones(8, 4, 4), torch.tensor([True, False]), far=50.0)
    assert (after.latent[0] == 1.0).all()
    assert not after.offset[0].any()
    assert torch.equal(after.latent[1], before.latent[1])
    assert torch.equal(after.offset[1], before.offset[1])
