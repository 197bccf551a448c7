from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import path, picture, true_rows, walled_world_model

from mirage_env.camera import Camera
from mirage_env.config.world import MemoryConfig, WorldModelConfig
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.reposing import Correction, repose, repose_world, rescaled
from mirage_env.memory.true_views import Shifted, shifted
from mirage_env.poses import pose_from_rotation_vector

GRID, CHANNELS, VIEWS = (6, 8), 5, 3
CONFIG = WorldModelConfig("reposing", (48, 64), GRID, CHANNELS)


def cameras(seed: int) -> list[Camera]:
    """Views so far apart that none sees what another has written."""
    rng = np.random.default_rng(seed)
    first = Camera.from_fov(1.2, 48, 64)
    return [first.at(pose_from_rotation_vector([100.0 * i, 0, 0], rng.uniform(-0.5, 0.5, 3))) for i in range(VIEWS)]


def written(seed: int, features: str = "int8") -> tuple[LatentMemory, list[Camera], torch.Tensor]:
    """One chunk of views, the latents of every view, and where they were seen from."""
    rng, views = torch.Generator().manual_seed(seed), cameras(seed)
    latents = torch.randn(VIEWS, CHANNELS, *GRID, generator=rng)
    depth = torch.rand(VIEWS, 1, 1, generator=rng).expand(VIEWS, 48, 64) * 3.0 + 1.0
    memory = LatentMemory.empty(replace(CONFIG, memory=MemoryConfig(features=features)))
    keep = torch.ones(VIEWS, *GRID, dtype=torch.bool)
    return memory.write(latents, torch.zeros(VIEWS, 3, 48, 64), depth, keep, views, 1), views, latents


def views_of(dense: Shifted) -> tuple:
    return dense.images, dense.depth, dense.keep, dense.cameras


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), turn=st.floats(-3, 3), shift=st.floats(-1e4, 1e4))
def test_a_corrected_frame_is_read_back_at_its_new_pose(seed, turn, shift):
    memory, views, _ = written(seed)
    moved = views[1].at(pose_from_rotation_vector([shift, 5.0, -shift], [0.0, turn, 0.1]))
    after = repose(memory, {1: Correction(moved.T_world_cam)})
    before, now = memory.read([views[1]], 2), after.read([moved], 2)
    assert now.observed.all()
    assert torch.equal(now.latent, before.latent)
    assert torch.allclose(now.depth, before.depth, rtol=1e-4)
    assert torch.allclose(now.offset, torch.zeros_like(now.offset), atol=1e-2)


def test_frames_that_are_not_corrected_stay_where_they_are():
    memory, views, _ = written(0)
    after = repose(memory, {1: Correction(views[1].moved(pose_from_rotation_vector([0, 0, 9], [0, 1, 0])).T_world_cam)})
    for view in (views[0], views[2]):
        before, now = memory.read([view], 2), after.read([view], 2)
        assert torch.equal(now.latent, before.latent)
        assert torch.allclose(now.depth, before.depth, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_another_depth_scale_moves_tokens_along_their_rays(scale):
    memory, views, _ = written(0)
    after = repose(memory, {0: Correction(views[0].T_world_cam, depth_scale=scale)})
    before, now = memory.read([views[0]], 2), after.read([views[0]], 2)
    assert torch.equal(now.latent, before.latent)
    assert torch.allclose(now.depth, before.depth * scale, rtol=1e-4)
    assert torch.allclose(now.scale, before.scale, atol=2e-3)


def test_factors_of_a_picture_move_each_token_along_its_ray():
    memory, views, _ = written(0)
    factor = np.where(np.arange(16) < 6, 1.25, 1.0)[None].repeat(6, 0)  # twice as many columns as cells
    after = rescaled(memory, {0: factor})
    before, now = memory.read(views, 2), after.read(views, 2)
    assert torch.equal(now.latent, before.latent)
    wanted = before.depth.clone()
    wanted[0, :, :3] *= 1.25
    assert torch.allclose(now.depth, wanted, rtol=1e-4)
    assert torch.allclose(now.offset, before.offset, atol=1e-2)
    assert torch.allclose(now.scale, before.scale, atol=2e-3)  # what is farther away is as wide in its cell


def test_cells_at_shifts_take_the_factor_of_the_pixel_that_they_show():
    config = replace(CONFIG, memory=MemoryConfig(shifts=2))
    camera = cameras(0)[0]
    views = (torch.zeros(1, 3, 48, 64), torch.full((1, 48, 64), 2.0), torch.ones(1, *GRID, dtype=torch.bool))
    dense = shifted(*views, [camera], 2)
    latents = torch.zeros(dense.count, CHANNELS, *GRID)
    memory = LatentMemory.empty(config).write(latents, *views_of(dense), 0, shifts=dense.count)
    factor = 1.0 + np.add.outer(np.arange(48), 2 * np.arange(64)) / 1000.0
    after = rescaled(memory, {0: factor})
    for block, moved in zip(memory.blocks, after.blocks, strict=True):
        place = moved.positions() @ camera.T_world_cam[:3, :3]  # the camera stands at the origin
        x, y = (place[:, k] / place[:, 2] * camera.K_image[k, k] + camera.K_image[k, 2] for k in (0, 1))
        away = factor[y.round(2).astype(int), x.round(2).astype(int)]
        assert np.allclose(np.sort(place[:, 2]), np.sort(2.0 * away), rtol=2e-3)
        assert len(moved) == len(block) > len(latents[0, 0].flatten())


def test_blocks_of_views_that_are_not_rescaled_are_shared():
    memory, _, _ = written(0)
    assert rescaled(memory, {7: np.full((6, 8), 2.0)}).blocks[0] is memory.blocks[0]
    assert rescaled(memory, {0: np.ones((6, 8))}).blocks[0] is memory.blocks[0]


@pytest.mark.parametrize("features", ["int8", "float16"])
def test_going_there_and_back_changes_no_feature_and_no_place(features):
    memory, views, _ = written(3, features)
    there = repose(
        memory,
        {
            i: Correction(v.moved(pose_from_rotation_vector([1, 2, 3], [1, 0, 0])).T_world_cam, 1.5)
            for i, v in enumerate(views)
        },
    )
    back = repose(there, {i: Correction(v.T_world_cam, 1 / 1.5) for i, v in enumerate(views)})
    before, now = memory.read(views, 2), back.read(views, 2)
    assert torch.equal(now.latent, before.latent)
    assert torch.allclose(now.depth, before.depth, rtol=1e-4)


def test_the_old_memory_stays_and_blocks_without_a_corrected_frame_are_shared():
    memory, views, latents = written(0)
    far = views[0].at(pose_from_rotation_vector([0, 900.0, 0], [0, 0, 0]))
    keep = torch.ones(1, *GRID, dtype=torch.bool)
    memory = memory.write(latents[:1], torch.zeros(1, 3, 48, 64), torch.full((1, 48, 64), 2.0), keep, [far], 2)
    shown = memory.read(views, 3)
    after = repose(memory, {VIEWS: Correction(views[0].T_world_cam)})
    assert len(memory.blocks) == len(after.blocks) == 2
    assert after.blocks[0] is memory.blocks[0]
    assert torch.equal(memory.read(views, 3).depth, shown.depth)


def test_births_and_evidence_travel_with_the_tokens():
    model = walled_world_model()
    _, state = model.start(picture())
    for _ in range(4):
        _, state = model.step(state, path(state.camera, turn=0.4))
    memory = state.memory
    pose = pose_from_rotation_vector([3, 1, 0], [0, 0.3, 0])
    everything = {i: Correction(pose) for i in range(memory.frames)}
    after = repose(memory, everything)

    def listed(m):
        columns = [(b.births(), b.confidence, b.frames.row[b.frame], b.cell) for b in m.blocks]
        return sorted(zip(*(np.concatenate(c).tolist() for c in zip(*columns, strict=True)), strict=True))

    assert listed(after) == listed(memory)


@pytest.mark.parametrize("features", ["int8", "float16"])
def test_what_a_camera_truly_saw_stays_true_wherever_it_is_moved(features):
    memory, views, latents = written(0, features)
    far = [v.moved(pose_from_rotation_vector([0, 50.0, 0], [0, 0, 0])) for v in views]
    keep, depth = torch.ones(VIEWS, *GRID, dtype=torch.bool), torch.full((VIEWS, 48, 64), 2.0)
    memory = memory.write(latents, torch.zeros(VIEWS, 3, 48, 64), depth, keep, far, 2, shifts=1)
    assert len(memory.blocks) == 1
    assert true_rows(memory) == [3, 4, 5]
    pose = pose_from_rotation_vector([3, 1, 0], [0, 0.3, 0])
    for moved in ([1], [4], [1, 4], range(6)):
        after = repose(memory, {i: Correction(pose, 1.5) for i in moved})
        (block,) = after.blocks
        np.testing.assert_array_equal(block.frames.true, block.frames.row >= 3)
        assert sorted(set(block.frames.row)) == list(range(6))


def test_a_world_moves_with_its_last_frame():
    model = walled_world_model()
    _, state = model.start(picture())
    _, state = model.step(state, path(state.camera))
    pose = pose_from_rotation_vector([0.0, 0.0, 7.0], [0.0, 0.1, 0.0])
    assert np.array_equal(repose_world(state, {4: Correction(pose)}).camera.T_world_cam, pose)
    assert repose_world(state, {3: Correction(pose)}).camera is state.camera
    chunk, _ = model.step(repose_world(state, {4: Correction(pose)}), path(state.camera.at(pose)))
    assert chunk.readout.observed.any()


def test_references_move_with_the_frames_that_they_were_seen_in():
    model = walled_world_model()
    model = replace(model, config=replace(model.config, references=2))
    _, state = model.start(picture())
    for _ in range(2):
        _, state = model.step(state, path(state.camera))
    assert [r.frame for r in state.references] == [0, 4, 8]
    pose = pose_from_rotation_vector([0.0, 0.0, 7.0], [0.0, 0.1, 0.0])
    first, second, last = repose_world(state, {4: Correction(pose), 5: Correction(pose)}).references
    assert (first, last) == (state.references[0], state.references[2])
    assert np.array_equal(second.camera.T_world_cam, pose)
    assert second.latent is state.references[1].latent


@pytest.mark.parametrize("frame", [-1, VIEWS, 99])
def test_unknown_frames_are_refused_by_number(frame):
    with pytest.raises(InvalidOptionError, match=str(frame)):
        repose(written(0)[0], {frame: Correction(np.eye(4))})


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_bad_scale_is_refused(scale):
    with pytest.raises(InvalidOptionError, match="depth_scale"):
        Correction(np.eye(4), scale)


def test_a_bad_pose_is_refused():
    with pytest.raises(InvalidPoseError):
        Correction(np.diag([2.0, 1.0, 1.0, 1.0]))
