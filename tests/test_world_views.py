"""Views of a world that are made without stepping it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stand_ins import Breathing, Recorder
from tiny_wan import SIZE, tiny_wan_world_model

from mirage_env.camera import Camera, between
from mirage_env.config.world import AlignmentConfig
from mirage_env.interfaces import MOVER, STATIC, StartView
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.world_views import current_view, with_every_frame

F = 8
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
FACTOR = 1.31


def aligned(depth):
    """A model whose estimated depth is fitted to its memory."""
    model = tiny_wan_world_model(depth=depth)
    return replace(model, config=replace(model.config, alignment=AlignmentConfig(enabled=True, min_cells=4)))


def path(camera: Camera) -> list[Camera]:
    return between(camera, camera.moved(pose_from_rotation_vector([0.01, 0.0, 0.0], [0.0, 0.02, 0.0])), F)


@pytest.fixture(scope="module")
def stepped():
    model = aligned(Recorder(Breathing(FACTOR)))
    first, before = model.start(IMAGE)
    chunk, after = model.step(before, path(before.camera))
    return model, first, before, chunk, after


def test_depth_of_every_frame_has_the_scale_of_the_memory(stepped):
    model, first, before, chunk, _ = stepped
    assert chunk.alignment.scale == pytest.approx(1.0 / FACTOR, rel=0.02)
    whole = with_every_frame(model, chunk, before)
    assert whole.depth.shape == whole.labels.shape == (F, *SIZE)
    assert torch.allclose(whole.depth, first.depth.expand_as(whole.depth), rtol=0.02)


def test_key_frames_keep_what_the_memory_was_given():
    """Estimates of other batches differ, and a second look at the labels may, too."""
    model = aligned(Breathing(FACTOR))
    _, before = model.start(IMAGE)
    chunk, _ = model.step(before, path(before.camera))
    chunk = replace(chunk, depth=chunk.depth + 0.01, labels=torch.full_like(chunk.labels, MOVER))
    whole = with_every_frame(model, chunk, before)
    assert torch.equal(whole.depth[chunk.key_frames], chunk.depth)
    assert torch.equal(whole.labels[chunk.key_frames], chunk.labels)
    assert (whole.labels[:3] == STATIC).all()
    assert torch.equal(whole.frames, chunk.frames)


def test_depth_is_fitted_to_the_memory_as_it_was_before_the_chunk(stepped):
    model, _, before, chunk, _ = stepped
    with_every_frame(model, chunk, before)
    _, given, _ = model.depth.of("estimate")[-1]
    assert torch.equal(given["known"], before.memory.read(chunk.cameras, now=1).depth)


def test_a_chunk_of_stills_is_its_own():
    model = aligned(Breathing(FACTOR))
    chunk, state = model.start(IMAGE)
    assert with_every_frame(model, chunk, state) is chunk


def test_an_environment_shows_the_depth_that_was_written():
    model = aligned(Breathing(FACTOR))
    views = lambda rng: StartView(IMAGE, Camera.from_fov(1.3, *SIZE))  # noqa: E731
    env = gym.make("Mirage/World-v0", model=model, start_views=views, info_frames=True)
    _, first = env.reset(seed=0)
    _, _, _, _, info = env.step(np.zeros(6, np.float32))
    np.testing.assert_allclose(info["frame_depth"], first["frame_depth"].repeat(F, 0), rtol=0.02)


def test_the_current_view_is_the_last_frame_and_changes_nothing(stepped):
    model, _, _, chunk, after = stepped
    points, latents = after.memory.points, after.latents.clone()
    view = current_view(model, after)
    assert view.cameras == (after.camera,) == (chunk.cameras[-1],)
    assert torch.equal(view.frames, model.codec.decode(after.latents[-1:]))
    assert view.depth.shape == view.labels.shape == (1, *SIZE)
    assert not view.keep.any()
    assert view.coverage > 0.9
    assert (after.memory.points, bool(torch.equal(after.latents, latents))) == (points, True)
