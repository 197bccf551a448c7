"""Models whose first chunk is longer, and whose later ones begin with several latents of the chunk before."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stand_ins import Recorder
from tiny_wan import CHANNELS, SIZE, tiny_wan_world_model

from mirage_env.camera import Camera, between
from mirage_env.config.world import WorldModelConfig
from mirage_env.envs.conformance.results import a_step_shows_one_chunk
from mirage_env.envs.conformance.rollouts import rollout
from mirage_env.envs.world import MirageVectorEnv
from mirage_env.envs.wrappers import RepeatResetFrame
from mirage_env.errors import InvalidActionError, InvalidCameraError, InvalidOptionError
from mirage_env.interfaces import StartView
from mirage_env.memory.reposing import Correction, repose_world
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.serving.step_log import repeat_step, step_record
from mirage_env.store import load_world, save_world
from mirage_env.world_model import WorldModel

FIRST, LATER, CLEAN, S = 16, 12, 3, 4
"""New frames of the first chunk and of the others, latents that overlap, frames per latent."""
UNEVEN = {"first_chunk_latents": 5, "chunk_latents": 6, "clean_latents": CLEAN, "preceding_latents": 0}
MOVE = pose_from_rotation_vector([0.0, 0.0, 0.3], [0.0, 0.4, 0.0])


def uneven(**parts) -> WorldModel:
    model = tiny_wan_world_model(**parts)
    return replace(model, config=replace(model.config, **UNEVEN))


def picture(seed: int = 0) -> np.ndarray:
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")[0].permute(1, 2, 0)
    return (255 * image).to(torch.uint8).numpy()


def ahead(model, state) -> list[Camera]:
    return between(state.camera, state.camera.moved(MOVE), model.config.frames_of(state.chunk))


def walked(model, chunks: int):
    steps = [model.start(picture(), seed=3)]
    for _ in range(chunks):
        steps.append(model.step(steps[-1][1], ahead(model, steps[-1][1])))
    return steps


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return uneven()


@pytest.fixture(scope="module")
def steps(model):
    return walked(model, 2)


def views(rng) -> StartView:
    return StartView(picture(int(rng.integers(100))), Camera.from_fov(1.3, *SIZE))


def test_every_length_follows_from_one_place(model):
    config = model.config
    assert [config.frames_of(n) for n in range(3)] == [FIRST, LATER, LATER]
    assert [config.latents_of(n) for n in range(3)] == [5, 6, 6]
    assert config.frames_per_chunk == LATER
    assert config.frames_in(2) == FIRST + LATER
    assert config.frames_in(2, after=1) == 2 * LATER
    assert config.pieces(FIRST + 1) == [slice(0, FIRST), slice(FIRST, FIRST + LATER)]
    assert config.most_latents == 6
    assert config.with_chunk_frames(LATER).frames_of(0) == LATER
    plain = tiny_wan_world_model().config
    assert [plain.frames_of(n) for n in range(3)] == [plain.frames_per_chunk] * 3


def test_later_chunks_begin_with_the_last_frames_as_a_video(model, monkeypatch):
    generator, branch, times = Recorder(model.generator), model.generator.branch, []
    run = branch.run
    monkeypatch.setattr(branch, "run", lambda *args, **kw: times.append(args[2]) or run(*args, **kw))
    (_, _), (first, between_), (second, after) = walked(replace(model, generator=generator), 2)
    assert (len(first.frames), len(first.latents)) == (FIRST, 4)
    assert (len(second.frames), len(second.latents), len(second.depth)) == (LATER, 3, 3)
    told = [call[1] for call in generator.of("generate")]
    assert [(t["clean"], t["known"].shape[1]) for t in told] == [(1, 5), (CLEAN, 6)]
    with torch.inference_mode():
        front = model.codec.encode_video(first.frames[-1 - S * (CLEAN - 1) :])
        torch.testing.assert_close(told[1]["known"][0, :CLEAN], front)
        whole = torch.cat([front, second.latents])
        torch.testing.assert_close(second.frames, model.codec.decode_chunk(whole[1:], whole[0])[-LATER:])
        seen_from = [first.cameras[-1 - 2 * S], first.cameras[-1 - S], first.cameras[-1]]
        seen = between_.memory.read([*seen_from, *second.key_cameras], now=2)
    assert torch.equal(told[1]["readout"][0].latent, seen.latent)
    assert torch.equal(second.readout.latent, seen.latent[CLEAN:])
    late = times[-1].view(-1, 4)[-6:]  # of the chunk's latents, after those of references
    assert (late[:CLEAN] == 0.0).all()
    assert (late[CLEAN:] > 0.0).all()
    assert [tuple(r.camera.position) for r in after.front] == [tuple(second.cameras[i].position) for i in (3, 7, 11)]


def test_the_overlap_changes_what_follows(model, steps):
    state = steps[1][1]
    other = replace(state, front=tuple(replace(r, latent=r.latent + 0.5) for r in state.front))
    assert not torch.allclose(
        model.step(other, ahead(model, state))[0].latents, steps[2][0].latents, rtol=1e-2, atol=1e-2
    )


def test_worlds_in_their_first_chunk_and_later_ones_step_together(model, steps):
    states = [steps[0][1], steps[1][1], steps[0][1], steps[2][1]]
    paths = [ahead(model, state) for state in states]
    chunks, after = model.step_batch(states, paths)
    for state, path, chunk, end in zip(states, paths, chunks, after, strict=True):
        alone, alone_end = model.step(state, path)
        assert len(chunk.frames) == len(path)
        torch.testing.assert_close(chunk.latents, alone.latents, rtol=1e-4, atol=1e-4)
        assert torch.equal(end.noise, alone_end.noise)
    with pytest.raises(InvalidCameraError, match=f"{LATER} cameras were given; a chunk needs {FIRST}"):
        model.step_batch(states, [paths[1]] * 4)


@pytest.mark.parametrize("chunks", [0, 2])
def test_saved_and_logged_worlds_go_on_with_their_overlap(model, steps, tmp_path, chunks):
    state = steps[chunks][1]
    save_world(tmp_path / "world.zarr", state, model)
    logged = [] if chunks == 0 else [repeat_step(steps[chunks - 1][1], step_record(steps[chunks - 1][1], state))]
    expected, end = model.step(state, ahead(model, state))
    for loaded in (load_world(tmp_path / "world.zarr", model), *logged):
        assert len(loaded.front) == CLEAN
        assert len(loaded.references) == len(state.references)
        found, found_end = model.step(loaded, ahead(model, loaded))
        assert torch.equal(found.frames, expected.frames)
        assert torch.equal(found_end.front[0].latent, end.front[0].latent)


def test_what_is_observed_is_a_view_that_stood(model, steps):
    chunk, after = model.observe(steps[1][1], [picture(1), picture(2)], [steps[0][1].camera] * 2)
    with torch.inference_mode():
        stood = model.codec.encode_video(chunk.frames[-1:].repeat(1 + S * (CLEAN - 1), 1, 1, 1))
    torch.testing.assert_close(torch.stack([r.latent for r in after.front]), stood)
    for kept in after.front:
        np.testing.assert_array_equal(kept.camera.T_world_cam, steps[0][1].camera.T_world_cam)
    assert len(model.step(after, ahead(model, after))[0].frames) == LATER


def test_a_corrected_world_takes_its_overlap_along(steps):
    state = steps[1][1]
    moved = repose_world(state, {state.memory.frames - 1: Correction(MOVE @ state.camera.T_world_cam)})
    for before, now in zip(state.front, moved.front, strict=True):
        np.testing.assert_allclose(now.camera.T_world_cam, MOVE @ before.camera.T_world_cam, atol=1e-9)


def test_an_environment_steps_as_many_frames_as_the_chunk_has(model):
    env = gym.make("Mirage/World-v0", model=model, start_views=views, info_frames=True)
    _, info = env.reset(seed=0)
    counts = [len(info["poses"])]
    for _ in range(2):
        _, _, _, _, info = env.step(np.full(6, 0.1, np.float32))
        counts.append(len(info["poses"]))
        assert {len(info[key]) for key in ("frames", "frame_depth", "frame_rewards", "frame_poses")} == {counts[-1]}
    assert counts == [1, FIRST, LATER]
    whole = env.unwrapped
    far = whole.get_world().camera.moved(pose_from_rotation_vector([0.0, 0.0, 1.5], [0.0] * 3))
    assert whole.picture(whole.get_world(), far).shape == (*SIZE, 3)
    with pytest.raises(InvalidOptionError, match=f"first step of a world has {FIRST} frames, later ones {LATER}"):
        gym.make("Mirage/World-v0", model=model, start_views=views, control="waypoints")
    with pytest.raises(InvalidOptionError, match=f"{FIRST} frames, later ones {LATER}"):
        RepeatResetFrame(env)
    even = gym.make("Mirage/World-v0", model=model, start_views=views, control="waypoints", chunk_frames=LATER)
    even.reset(seed=0)
    assert len(even.step(np.zeros((LATER, 6), np.float32))[4]["poses"]) == LATER
    with pytest.raises(InvalidActionError):
        env.step(np.zeros((LATER, 6), np.float32))


def test_a_first_step_of_another_length_is_a_promise_where_it_is_said(model):
    env = gym.make("Mirage/World-v0", model=model, start_views=views)
    assert list(a_step_shows_one_chunk(env, rollout(env))) == []
    env.unwrapped.world = replace(env.unwrapped.world, first_frames=None)
    env.unwrapped.path = lambda action: ahead(env.unwrapped.model, env.unwrapped.get_world())
    assert any("as many for each step" in said for said in a_step_shows_one_chunk(env, rollout(env)))


def test_a_vector_environment_mixes_first_and_later_chunks(model):
    worlds = MirageVectorEnv(2, model=model, start_views=views)
    worlds.reset(seed=[5, 6])
    actions = np.full((2, 6), 0.1, np.float32)
    worlds.step(actions)
    worlds.reset(options={"reset_mask": np.array([True, False])})
    _, _, _, _, infos = worlds.step(actions)
    assert [len(poses) for poses in infos["poses"]] == [FIRST, LATER]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clean_latents": 0}, "clean_latents 0"),
        ({"chunk_latents": 5}, "chunk_latents is 5, clean_latents 3"),
        ({"first_chunk_latents": 3}, "first_chunk_latents 3"),
        ({"temporal_stride": 1}, "several frames per latent"),
        ({"preceding_latents": 2}, "preceding_latents 0"),
    ],
)
def test_lengths_that_do_not_go_together_are_refused(changes, said):
    values = {**UNEVEN, "temporal_stride": S, **changes}
    with pytest.raises(InvalidOptionError, match=said):
        WorldModelConfig("tiny", SIZE, (4, 4), CHANNELS, **values)
