"""The cycle: what goes through it in which order, and states that are values."""

import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from stand_ins import Labels, Recorder, Written, path, picture, walled_world_model
from tiny import tiny_world_model

from mirage_env.camera import Camera, pluecker_rays
from mirage_env.errors import (
    InvalidCameraError,
    InvalidDepthError,
    InvalidImageError,
    InvalidPoseError,
    MirageError,
)
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import MOVER, SKY, STATIC, Readout
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.world_state import Chunk, WorldState

T, F, C = 5, 4, 8


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


def snapshot(state: WorldState) -> list[bytes]:
    """Everything in a state, as bytes."""
    arrays = [a for b in state.memory.blocks for a in (b.anchor, b.low, b.step, b.born, b.xyz, b.feature, b.gain)]
    arrays += [a for b in state.memory.blocks for a in (b.footprint, b.confidence)]
    arrays += [state.camera.T_world_cam, state.camera.K_image, state.latents.numpy(), state.noise.numpy()]
    return [a.tobytes() for a in (*arrays, np.array(state.chunk))]


def assert_same_chunk(a: Chunk, b: Chunk, atol: float = 0.0) -> None:
    for name in ("frames", "depth", "labels", "keep", "known", "latents"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0.0, atol=atol, msg=name)
    for field in fields(Readout):
        mine, other = getattr(a.readout, field.name), getattr(b.readout, field.name)
        torch.testing.assert_close(mine, other, rtol=0.0, atol=atol, msg=field.name)


@pytest.mark.parametrize("make", [walled_world_model, tiny_world_model])
def test_start_and_step_have_the_documented_shapes(make):
    model = make()
    chunk, state = model.start(picture())
    for count in (1, F, F):
        assert chunk.frames.shape == (count, 3, 32, 32)
        assert chunk.depth.shape == chunk.labels.shape == (count, 32, 32)
        assert chunk.keep.shape == chunk.readout.observed.shape == (count, 4, 4)
        assert chunk.known.shape == chunk.latents.shape == (count, C, 4, 4)
        assert len(chunk.cameras) == count
        assert state.latents.shape == (2, C, 4, 4)
        assert chunk.keep.dtype == torch.bool
        assert 0.0 <= chunk.coverage <= 1.0
        assert chunk.frames.abs().max() <= 1.0
        assert torch.isfinite(chunk.frames).all()
        assert state.camera is chunk.cameras[-1]
        chunk, state = model.step(state, path(state.camera))


def test_start_view_is_remembered_and_covers_itself(model):
    chunk, state = model.start(picture())
    assert chunk.coverage == 1.0
    assert torch.allclose(chunk.readout.latent, chunk.latents, atol=float(chunk.latents.abs().max()) / 250)
    assert torch.equal(chunk.frames, torch.from_numpy(picture()).permute(2, 0, 1)[None] / 127.5 - 1.0)
    assert (state.chunk, state.memory.points) == (0, 16)


def test_start_without_a_camera_is_the_origin_with_the_models_field_of_view(model):
    camera = model.start(picture())[1].camera
    np.testing.assert_array_equal(camera.T_world_cam, np.eye(4))
    np.testing.assert_array_equal(camera.K_image, Camera.from_fov(model.config.fov, 32, 32).K_image)


def test_given_depth_is_used_instead_of_an_estimate():
    depth = Recorder(walled_world_model().depth)
    chunk, state = walled_world_model(depth=depth).start(picture(), depth=np.full((32, 32), 7.0))
    assert not depth.calls
    assert (chunk.depth == 7.0).all()
    assert (state.memory.read([state.camera], now=0).depth == 7.0).all()


def test_infinite_depth_is_sky_and_is_not_remembered(model):
    depth = np.full((32, 32), 7.0)
    depth[:16] = np.inf
    chunk, state = model.start(picture(), depth=depth)
    np.testing.assert_array_equal(chunk.keep[0], np.arange(4)[:, None].repeat(4, 1) > 2)  # the horizon is an edge
    assert state.memory.points == 4


def test_a_state_is_a_value(model):
    _, state = model.start(picture(), seed=3)
    for _ in range(2):
        before = snapshot(state)
        first, after = model.step(state, path(state.camera))
        assert snapshot(state) == before
        model.step(after, path(after.camera))  # the world walks on
        second, again = model.step(state, path(state.camera))
        assert_same_chunk(first, second)
        assert snapshot(after) == snapshot(again)
        assert snapshot(after) != before
        state = after


def test_forks_walk_alike_until_their_cameras_differ(model):
    _, state = model.start(picture())
    _, state = model.step(state, path(state.camera))
    fork = replace(state)
    (a, left), (b, right) = model.step(state, path(state.camera)), model.step(fork, path(state.camera))
    assert_same_chunk(a, b)
    assert snapshot(left) == snapshot(right)
    other, _ = model.step(fork, path(state.camera, turn=-0.3))
    assert not torch.equal(a.frames, other.frames)


def test_forked_worlds_share_their_past(model):
    _, state = model.start(picture())
    _, state = model.step(state, path(state.camera))
    ends = [model.step(state, path(state.camera, turn))[1] for turn in (-1.0, 1.0)]
    for end in ends:
        assert end.memory.points > state.memory.points
        for array in ("feature", "xyz", "low"):  # new evidence does not copy the tokens
            assert getattr(end.memory.blocks[0], array) is getattr(state.memory.blocks[0], array)


def test_the_seed_decides_the_noise_and_nothing_but_it(model):
    (_, one), (_, same), (_, other) = (model.start(picture(), seed=s) for s in (1, 1, 2))
    assert snapshot(one) == snapshot(same)
    away = path(one.camera, turn=2.5)
    torch.manual_seed(0)
    a, after = model.step(one, away)
    torch.manual_seed(5)
    b, _ = model.step(same, away)
    c, _ = model.step(other, away)
    assert_same_chunk(a, b)
    assert not torch.equal(a.frames, c.frames)
    assert not torch.equal(after.noise, one.noise)


def test_a_step_leaves_the_global_random_state_alone(model):
    _, state = model.start(picture())
    before = torch.get_rng_state()
    model.step(state, path(state.camera))
    assert torch.equal(torch.get_rng_state(), before)


def _worlds(model, count=3):
    states = [model.start(picture(i), seed=i)[1] for i in range(count)]
    states[1] = model.step(states[1], path(states[1].camera))[1]  # worlds of different age and extent
    return states, [path(s.camera, turn=0.5 * i, forward=0.2 * i) for i, s in enumerate(states)]


def test_a_batch_equals_its_worlds_one_by_one(model):
    states, paths = _worlds(model)
    chunks, after = model.step_batch(states, paths)
    for state, cameras, chunk, end in zip(states, paths, chunks, after, strict=True):
        alone, alone_end = model.step(state, cameras)
        assert_same_chunk(chunk, alone, atol=1e-4)
        assert end.chunk == alone_end.chunk
        assert end.memory.points == alone_end.memory.points
        torch.testing.assert_close(end.latents, alone_end.latents, rtol=0.0, atol=1e-4)
        assert torch.equal(end.noise, alone_end.noise)


def test_no_world_leaks_into_another_of_its_batch(model):
    states, paths = _worlds(model)
    expected, _ = model.step_batch(states, paths)
    others, _ = model.step_batch([states[2], states[1], states[2]], [paths[2], paths[1], paths[2]])
    assert_same_chunk(expected[1], others[1])
    swapped, _ = model.step_batch(states[::-1], paths[::-1])
    for a, b in zip(expected, swapped[::-1], strict=True):
        assert_same_chunk(a, b, atol=1e-4)


def test_frames_of_a_chunk_share_no_memory_with_the_state(model):
    _, state = model.start(picture())
    chunk, after = model.step(state, path(state.camera))
    before = snapshot(after)
    for name in ("frames", "depth", "keep", "known", "latents"):
        getattr(chunk, name).numpy()[:] = 0
    assert snapshot(after) == before


def test_the_generator_is_told_everything_in_the_documented_form():
    generator = Recorder(walled_world_model().generator)
    model = walled_world_model(generator=generator)
    _, state = model.start(picture())
    for _ in range(2):
        cameras = path(state.camera)
        readout = state.memory.read([state.camera, *cameras], now=state.chunk + 1)
        chunk, after = model.step(state, cameras)
        _, told, latents = generator.of("generate")[-1]
        assert told["known"].shape == (1, T, C, 4, 4)
        assert torch.equal(told["known"][0, 0], state.latents[-1])  # the clean latent shared with the chunk before
        torch.testing.assert_close(told["known"][0, 1:], model.refiner.refine(readout[1:]), rtol=0.0, atol=0.0)
        for field in fields(Readout):
            assert torch.equal(getattr(told["readout"][0], field.name), getattr(readout, field.name)), field.name
        rays = pluecker_rays([state.camera, *cameras], 4, 4)
        assert torch.equal(told["rays"][0], torch.from_numpy(rays))
        assert torch.equal(told["preceding"][0], state.latents[:-1])
        assert torch.equal(chunk.latents, latents[0, 1:])
        state = after


def test_the_latents_of_the_last_frames_precede_the_next_chunk():
    codec = Recorder(walled_world_model().codec)
    model = walled_world_model(codec=codec)
    _, state = model.start(picture())
    first = codec.of("encode")[0][2]
    assert torch.equal(state.latents, torch.cat([first, first]))
    _, state = model.step(state, path(state.camera))
    assert torch.equal(state.latents, codec.of("encode")[1][2][-2:])


def test_depth_estimation_knows_what_the_memory_shows():
    depth = Recorder(walled_world_model().depth)
    model = walled_world_model(depth=depth)
    _, state = model.start(picture())
    chunk, _ = model.step(state, path(state.camera))
    (frames, cameras), extra, _ = depth.of("estimate")[1]
    assert torch.equal(frames, chunk.frames)
    assert list(cameras) == list(chunk.cameras)
    assert torch.equal(extra["known"], chunk.readout.depth)
    assert extra["known"].any()


def test_the_chunk_clock_dates_what_is_written_and_read():
    written = Written()
    model = walled_world_model(memory_factory=written)
    _, state = model.start(picture())
    for n in (1, 2, 3):
        chunk, state = model.step(state, path(state.camera))
        assert state.chunk == n
        seen = chunk.readout.observed > 0
        assert set(chunk.readout.age[seen].unique().tolist()) <= set(range(1, n + 1))
    assert [w["born"] for w in written.writes] == [0, 1, 2, 3]


@pytest.mark.parametrize("label", [MOVER, SKY])
def test_what_moves_or_is_sky_is_never_remembered(label):
    labels = torch.full((32, 32), STATIC)
    labels[:, :16] = label
    model = walled_world_model(labels)
    _, state = model.start(picture())
    assert state.memory.points == 8
    chunk, state = model.step(state, path(state.camera, turn=1.5))
    assert not chunk.keep[:, :, :2].any()
    assert chunk.keep[:, :, 2:].all()


def test_a_world_far_from_the_origin_is_the_same_world(model):
    start = Camera.from_fov(model.config.fov, 32, 32)
    shift = pose_from_rotation_vector([500.0, -300.0, 20.0], [0.0, 0.0, 0.0])
    _, here = model.start(picture(), camera=start)
    _, there = model.start(picture(), camera=start.at(shift))
    a, _ = model.step(here, path(here.camera))
    b, _ = model.step(there, [c.at(shift @ c.T_world_cam) for c in path(here.camera)])
    assert torch.equal(a.readout.observed, b.readout.observed)
    torch.testing.assert_close(a.frames, b.frames, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((32, 32, 2), np.uint8), "channels"),
        (np.zeros((1, 1, 3), np.uint8), "1 x 1 pixels"),
        (np.full((32, 32, 3), np.nan), "NaN"),
        (np.full((32, 32, 3), 300), "300"),
        ("nowhere.png", "nowhere.png"),
        (None, "shape"),
    ],
)
def test_a_bad_image_is_refused(model, image, says):
    with pytest.raises(InvalidImageError, match=says) as caught:
        model.start(image)
    assert isinstance(caught.value, (MirageError, ValueError))


def test_labels_that_are_given_are_taken(model):
    labels = np.full((32, 32), STATIC)
    labels[:, :16] = MOVER
    chunk, _ = model.start(picture(), depth=np.full((32, 32), 3.0), labels=labels)
    assert torch.equal(chunk.labels[0], torch.from_numpy(labels))
    assert not chunk.keep[0, :, :2].any()
    assert chunk.keep[0, :, 2:].all()


@pytest.mark.parametrize(
    ("depth", "says"),
    [
        (np.ones((32, 31)), "shape"),
        (np.ones((32, 32, 1)), "shape"),
        (np.full((32, 32), np.nan), "no known pixel"),
        (np.zeros((32, 32)), "no known pixel"),
        (np.full((32, 32), -1.0), "1024 negative"),
        (np.full((32, 32), -np.inf), "1024 negative"),
    ],
)
def test_a_bad_depth_is_refused(model, depth, says):
    with pytest.raises(InvalidDepthError, match=says):
        model.start(picture(), depth=depth)


def test_a_camera_of_another_image_size_is_refused_at_the_start(model):
    with pytest.raises(InvalidCameraError, match="image size"):
        model.start(picture(), camera=Camera.from_fov(1.0, 64, 64))


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_wrong_number_of_cameras_is_refused_and_the_world_goes_on(model, count):
    _, state = model.start(picture())
    before = snapshot(state)
    with pytest.raises(InvalidCameraError, match=f"{count} cameras were given; a chunk needs 4"):
        model.step(state, path(state.camera, count=count))
    assert snapshot(state) == before
    model.step(state, path(state.camera))


def test_one_bad_camera_of_a_batch_leaves_all_its_worlds_as_they_were(model):
    states, paths = _worlds(model)
    before = [snapshot(s) for s in states]
    paths[2][3] = Camera.from_fov(1.0, 64, 64)
    with pytest.raises(InvalidCameraError, match="image size"):
        model.step_batch(states, paths)
    assert [snapshot(s) for s in states] == before


@pytest.mark.parametrize(("worlds", "paths"), [(0, 0), (2, 1), (1, 2), (0, 1)])
def test_a_batch_needs_one_path_per_world_and_a_world(model, worlds, paths):
    all_states, all_paths = _worlds(model)
    with pytest.raises(InvalidCameraError, match=f"{worlds} worlds and {paths} paths were given"):
        model.step_batch(all_states[:worlds], all_paths[:paths])


@pytest.mark.parametrize("broken", [np.diag([2.0, 2.0, 2.0, 1.0]), np.full((4, 4), np.nan), np.eye(3)])
def test_no_camera_has_a_pose_that_is_no_rigid_motion(model, broken):
    _, state = model.start(picture())
    with pytest.raises(InvalidPoseError):
        model.step(state, [state.camera.at(broken)] * F)


def test_a_part_that_fails_leaves_the_state_as_it_was(model):
    class Fails:
        def segment(self, images):
            raise RuntimeError("out of memory")

    _, state = model.start(picture())
    before = snapshot(state)
    with pytest.raises(RuntimeError, match="out of memory"):
        replace(model, segmenter=Fails()).step(state, path(state.camera))
    assert snapshot(state) == before
    model.step(state, path(state.camera))


def test_read_only_and_flipped_arrays_are_as_good_as_others(model):
    depth = np.linspace(2.0, 3.0, 32, dtype=np.float32) * np.ones((32, 1), np.float32)
    image, metres = picture()[::-1], depth[::-1, ::-1]
    image.flags.writeable = metres.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunk, _ = model.start(image, depth=metres)
    np.testing.assert_array_equal(chunk.depth[0], metres)


def test_a_world_keeps_its_own_copy_of_image_and_depth(model):
    image, depth = picture(), np.full((32, 32), 3.0, np.float32)
    chunk, state = model.start(image, depth=depth)
    frames, before = chunk.frames.clone(), snapshot(state)
    image[:], depth[:] = 0, 9.0
    assert (chunk.depth == 3.0).all()
    assert torch.equal(chunk.frames, frames)
    assert snapshot(state) == before


def test_frames_become_images_and_come_back(model):
    assert (frames_to_uint8(model.start(picture())[0].frames)[0] == picture()).all()
    loud = frames_to_uint8(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 3, 2, 2))
    assert (loud[0] == 0).all()
    assert (loud[1] == 255).all()


def test_the_visibility_mask_changes_what_the_network_makes(model):
    """Beyond its place in the record: another mask, the same readout, another chunk."""
    _, state = model.start(picture())
    views = [state.camera, *path(state.camera)]
    readout = state.memory.read(views, now=1)
    known = torch.cat([state.latents[-1:], model.refiner.refine(readout[1:])])[None]
    rays = torch.from_numpy(pluecker_rays(views, 4, 4))[None]

    def chunk_with(observed):
        generator = torch.Generator()
        generator.set_state(state.noise)
        told = replace(readout, observed=observed)
        with torch.inference_mode():
            return model.generator.generate(known, [told], rays, state.latents[None, :-1], [generator])

    blind = readout.observed.clone()
    blind[2] = 0.0
    assert not torch.equal(chunk_with(readout.observed), chunk_with(blind))


def test_labels_stand_in_is_a_static_world():
    assert (Labels().segment(torch.zeros(2, 3, 32, 32)) == STATIC).all()


# Real views


def test_observing_what_a_step_showed_writes_what_the_step_wrote(model):
    model = walled_world_model()
    _, state = model.start(picture())
    chunk, stepped = model.step(state, path(state.camera))
    images = frames_to_uint8(chunk.frames)
    seen, observed = model.observe(state, images, chunk.cameras)
    assert torch.equal(seen.readout.observed, chunk.readout.observed)
    assert torch.equal(seen.keep, chunk.keep)
    assert observed.memory.points == stepped.memory.points
    assert observed.chunk == stepped.chunk
    assert np.array_equal(observed.camera.T_world_cam, stepped.camera.T_world_cam)
    assert torch.equal(observed.noise, state.noise)
    assert torch.allclose(observed.latents, stepped.latents, atol=0.1)  # images were rounded to 8 bits


def test_an_observed_view_is_read_back_and_given_depth_is_used():
    model = walled_world_model()
    _, state = model.start(picture())
    far = state.camera.moved(pose_from_rotation_vector([50.0, 0.0, 0.0], [0.0, 0.0, 0.0]))
    assert not model.observe(state, picture(1)[None], [far])[0].readout.observed.any()
    _, after = model.observe(state, picture(1)[None], [far], np.full((1, 32, 32), 3.0))
    readout = after.memory.read([far], now=2)
    assert readout.observed.all()
    assert torch.allclose(readout.depth, torch.full_like(readout.depth, 3.0), rtol=1e-4)
    chunk, _ = model.step(after, path(far))
    assert chunk.coverage > 0.5


@pytest.mark.parametrize(("images", "cameras"), [(0, 0), (2, 1), (1, 2)])
def test_views_to_observe_need_a_camera_each(images, cameras):
    model = walled_world_model()
    _, state = model.start(picture())
    with pytest.raises(InvalidCameraError, match="cameras were given"):
        model.observe(state, np.stack([picture()] * 2)[:images], [state.camera] * cameras)
