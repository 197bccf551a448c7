"""Chunks of a model with several frames per latent: key frames, stills, references, prompts, known tokens."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stand_ins import Recorder
from tiny_wan import CHANNELS, PLACED, SIZE, TRAINED, tiny_transformer, tiny_wan_world_model

from mirage_env.camera import Camera, between
from mirage_env.config.sampler import PlacementConfig, SamplerConfig
from mirage_env.envs.conformance import check_world_env
from mirage_env.envs.world import MirageVectorEnv
from mirage_env.interfaces import Readout, StartView
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.store import CacheWriter, load_world, save_world

F, K, S = 8, 2, 4


def picture(seed: int = 0) -> np.ndarray:
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")[0].permute(1, 2, 0)
    return (255 * image).to(torch.uint8).numpy()


def path(camera: Camera, turn: float = 0.2, forward: float = 0.2) -> list[Camera]:
    return between(camera, camera.moved(pose_from_rotation_vector([0.0, 0.0, forward], [0.0, turn, 0.0])), F)


def walked(model, chunks: int, prompt: str = "", turn: float = 0.2):
    """Start and chunks with the states after them."""
    steps = [model.start(picture(), seed=3, prompt=prompt)]
    for i in range(chunks):
        steps.append(model.step(steps[-1][1], path(steps[-1][1].camera, turn if i % 2 else -turn)))
    return steps


@pytest.fixture(scope="module")
def model():
    return tiny_wan_world_model()


def test_a_chunk_shows_every_frame_and_remembers_every_fourth(model):
    (start, state), (chunk, after) = walked(model, 1, turn=0.8)
    assert (len(start.frames), len(start.latents), start.key_cameras) == (1, 1, (state.camera,))
    assert chunk.frames.shape == (F, 3, *SIZE)
    assert chunk.depth.shape == chunk.labels.shape == (K, *SIZE)
    assert chunk.keep.shape == (K, 4, 4)
    assert chunk.latents.shape == chunk.known.shape == (K, CHANNELS, 4, 4)
    assert chunk.key_cameras == (chunk.cameras[3], chunk.cameras[7])
    assert [chunk.key_of(i) for i in range(F)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert model.config.frames_per_chunk == F
    frames = {tuple(T[:3, 3]) for block in after.memory.blocks for T in block.frames.T_world_cam}
    assert frames <= {tuple(c.position) for c in (state.camera, *chunk.key_cameras)}
    assert len(frames) > 1


def test_networks_see_the_key_frames_with_their_cameras():
    parts = tiny_wan_world_model()
    depth, segmenter, codec = Recorder(parts.depth), Recorder(parts.segmenter), Recorder(parts.codec)
    model = replace(parts, depth=depth, segmenter=segmenter, codec=codec)
    (_, state), (chunk, after) = walked(model, 1)
    (frames, cameras), extra, _ = depth.of("estimate")[-1]
    assert torch.equal(frames, chunk.frames[3::4])
    assert tuple(cameras) == chunk.key_cameras
    assert torch.equal(extra["known"], chunk.readout.depth)
    assert torch.equal(segmenter.of("segment")[-1][0][0], chunk.frames[3::4])
    (frames,), extra, encoded = codec.of("encode_chunk")[-1]
    assert torch.equal(frames, chunk.frames)
    assert torch.equal(extra["first"], state.latents[-1])
    (last,), _, still = codec.of("encode")[-1]
    assert torch.equal(last, chunk.frames[-1:])
    assert torch.equal(after.latents, torch.cat([encoded, still]))  # what precedes, then the shared first latent


def test_references_are_views_of_before_that_show_the_same_place():
    generator = Recorder(tiny_wan_world_model().generator)
    model = tiny_wan_world_model(generator=generator)
    steps = walked(model, 4)
    told = [call[1]["references"][0] for call in generator.of("generate")]
    assert [len(r) for r in told] == [0, 1, 2, 2]  # the view that a chunk begins with is in the chunk
    assert torch.equal(told[1][0], steps[0][1].latents[-1])
    assert len(steps[-1][1].references) == 5
    bare = tiny_wan_world_model(references=0)
    assert walked(bare, 2)[-1][1].references == ()


def test_references_change_what_is_generated_and_are_not_generated_themselves(model):
    state = walked(model, 2)[-1][1]
    chunk, _ = model.step(state, path(state.camera))
    without, _ = model.step(replace(state, references=()), path(state.camera))
    assert chunk.latents.shape == without.latents.shape
    assert not torch.allclose(chunk.latents, without.latents)


def test_references_that_come_first_are_at_negative_times():
    """Rotary attention knows differences only: the chunk with two references at times -2 and -1 is the same."""
    transformer, R = tiny_transformer(), 2
    denoiser = ChunkDenoiser(transformer, None, TRAINED).eval()
    draw = torch.Generator().manual_seed(0)
    x, preceding, references = (torch.randn(1, n, CHANNELS, 4, 4, generator=draw) for n in (3, 2, R))
    arguments = (x, torch.tensor([0.7]), torch.zeros_like(x), preceding, None, references)
    with torch.inference_mode():
        expected = denoiser.predict(*arguments)
        rope, times = transformer.rope, torch.arange(-R, 5)

        def at_negative_times(hidden):
            cos, sin = rope(hidden)
            axis = rope.t_dim
            angle = times[:, None].double() / 10000.0 ** (torch.arange(0, axis, 2).double() / axis)
            angle = angle.repeat_interleave(2, 1).repeat_interleave(4, 0).float()  # 4 tokens a frame
            cos, sin = cos.clone(), sin.clone()
            cos[0, :, 0, :axis], sin[0, :, 0, :axis] = angle.cos(), angle.sin()
            return cos, sin

        transformer.rope = Called(at_negative_times)
        found = denoiser.predict(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_worlds_with_different_references_and_prompts_share_a_call_without_sharing_anything(model):
    states = [walked(model, n, prompt)[-1][1] for n, prompt in ((0, ""), (2, "a red room"), (1, ""), (3, "fog"))]
    paths = [path(s.camera, 0.1) for s in states]
    chunks, after = model.step_batch(states, paths)
    for state, cameras, chunk, end in zip(states, paths, chunks, after, strict=True):
        alone, alone_end = model.step(state, cameras)
        torch.testing.assert_close(chunk.latents, alone.latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(end.latents, alone_end.latents, rtol=1e-4, atol=1e-4)
        assert torch.equal(end.noise, alone_end.noise)


def test_the_prompt_stays_with_the_world_and_reaches_the_network(model):
    (_, plain), (chunk, _) = walked(model, 1)
    (_, told), (other, after) = walked(model, 1, prompt="a red room")
    assert (plain.prompt, told.prompt, after.prompt) == ("", "a red room", "a red room")
    assert not torch.allclose(chunk.latents, other.latents)


def test_the_branch_at_the_start_of_training_changes_nothing():
    transformer = tiny_transformer()
    with_branch = tiny_wan_world_model(
        generator=ChunkDenoiser(
            transformer, ControlBranch.from_transformer(transformer, ("readout", "observed", "rays"), (0,)), TRAINED
        ).eval()
    )
    without = tiny_wan_world_model(generator=ChunkDenoiser(transformer, None, TRAINED).eval())
    for ours, plain in zip(walked(with_branch, 3), walked(without, 3), strict=True):
        assert torch.equal(ours[0].latents, plain[0].latents)


@pytest.mark.parametrize("frames", ["zarr", "zip"])
def test_a_saved_world_goes_on_with_its_references_and_prompt(model, tmp_path, frames):
    steps = walked(model, 3, prompt="a red room")
    place, state = tmp_path / f"world.{frames}", steps[-1][1]
    save_world(place, state, model, [chunk for chunk, _ in steps], frames=True)
    loaded = load_world(place, model)
    assert loaded.prompt == "a red room"
    assert len(loaded.references) == len(state.references) == 4
    expected, _ = model.step(state, path(state.camera))
    found, _ = model.step(loaded, path(loaded.camera))
    assert torch.equal(found.frames, expected.frames)


def test_a_cache_grows_with_its_references(model, tmp_path):
    steps = walked(model, 6)
    with CacheWriter.create(tmp_path / "world.zarr", steps[0][1], model, [steps[0][0]]) as writer:
        for chunk, state in steps[1:]:
            writer.append(state, chunk)
    loaded, state = load_world(tmp_path / "world.zarr", model), steps[-1][1]
    assert len(loaded.references) == len(state.references) == 7
    expected, _ = model.step(state, path(state.camera))
    found, _ = model.step(loaded, path(loaded.camera))
    assert torch.equal(found.latents, expected.latents)


def test_observed_views_are_stills(model):
    _, state = model.start(picture(), seed=1)
    images = np.stack([picture(1), picture(2), picture(3)])
    cameras = path(state.camera)[:3]
    chunk, after = model.observe(state, images, cameras)
    assert chunk.frames.shape[0] == len(chunk.latents) == len(chunk.keep) == 3
    with torch.inference_mode():
        torch.testing.assert_close(after.latents, model.codec.encode(chunk.frames))


# Without a trained branch


def test_tokens_known_exactly_come_out_as_they_were_read():
    exact = replace(PLACED, placement=PlacementConfig(enabled=True, base=0.0, per_chunk=0.0, per_scale=0.0))
    model = tiny_wan_world_model(exact, control=False, references=0)
    _, state = model.start(picture())
    chunk, _ = model.step(state, [state.camera] * F)
    whole = chunk.readout.observed.reshape(K, 2, 2, 2, 2).amin((2, 4), keepdim=True).expand(K, 2, 2, 2, 2)
    whole = whole.reshape(K, 1, 4, 4).bool().expand_as(chunk.latents)
    assert whole.any()
    torch.testing.assert_close(chunk.latents[whole], chunk.readout.latent[whole], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", ["euler", "unipc", "renoise"])
def test_what_was_read_matters_without_a_branch_only_where_it_is_placed(solver):
    sampler = SamplerConfig(4, prediction="flow", couple=False, solver=solver)
    placed = replace(sampler, placement=PlacementConfig(enabled=True))
    made = {}
    for name, config in (("ignored", sampler), ("placed", placed)):
        model = tiny_wan_world_model(config, control=False, references=0)
        _, state = model.start(picture())
        chunk, _ = model.step(state, path(state.camera))
        seen = chunk.readout.observed.reshape(K, 2, 2, 2, 2).amin((2, 4)).bool()
        error = (chunk.latents - chunk.readout.latent).pow(2).mean(1).reshape(K, 2, 2, 2, 2).mean((2, 4))
        made[name] = float(error[seen].mean())
    assert made["placed"] < 0.5 * made["ignored"]


def test_the_network_is_told_the_noise_level_of_every_token():
    transformer = tiny_transformer()
    denoiser = ChunkDenoiser(transformer, None, PLACED).eval()
    times = []
    transformer.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1].view(-1, 5, 2, 2)))
    observed, zero = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    observed[1, :2] = 1.0
    readout = Readout(torch.randn(3, CHANNELS, 4, 4), observed, zero, torch.zeros(3, 2, 4, 4), zero, zero)
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        denoiser.generate(
            known=readout.latent[None],
            readout=[readout],
            rays=torch.zeros(1, 3, 6, 4, 4),
            preceding=torch.randn(1, 2, CHANNELS, 4, 4),
            generators=[draw],
        )
    base = 1000.0 * PlacementConfig().base
    for time in times:
        assert (time[:, 0] == 0.0).all()  # the shared first latent
        assert (time[:, 3:] == 0.0).all()  # what precedes
        assert (time[0, 1, 0] == time[0, 1, 0, 0]).all()
        torch.testing.assert_close(time[0, 1, 0], time[0, 1, 1].clamp(max=base))
        assert (time[0, 2] == time[0, 1, 1, 0]).all()
    assert times[0][0, 2, 0, 0] > 990.0


def test_a_video_is_encoded_after_the_still_of_the_frame_before_it(model):
    *_, (_, state), (chunk, after) = walked(model, 2)
    assert not torch.equal(state.latents[0], state.latents[-1])
    torch.testing.assert_close(after.latents[:-1], model.codec.encode_chunk(chunk.frames, first=state.latents[-1]))
    torch.testing.assert_close(after.latents[-1:], model.codec.encode(chunk.frames[-1:]))


# As an environment


def test_the_environment_shows_all_frames_and_depth_when_asked(model):
    views = lambda rng: StartView(picture(int(rng.integers(100))), Camera.from_fov(1.3, *SIZE))  # noqa: E731
    env = gym.make("Mirage/World-v0", model=model, start_views=views, info_frames=True, observe=("depth", "readout"))
    env.reset(seed=0)
    observation, _, _, _, info = env.step(np.zeros(6, np.float32))
    assert observation["pixels"].shape == (*SIZE, 3)
    assert env.observation_space.contains(observation)
    assert {name: len(info[name]) for name in ("poses", "frames", "frame_depth", "frame_labels", "frame_poses")} == {
        name: F for name in ("poses", "frames", "frame_depth", "frame_labels", "frame_poses")
    }


def test_the_environment_keeps_every_promise():
    views = lambda rng: StartView(picture(int(rng.integers(100))), Camera.from_fov(1.3, *SIZE))  # noqa: E731
    quick = tiny_wan_world_model(replace(TRAINED, steps=1))
    check_world_env(gym.make("Mirage/World-v0", model=quick, start_views=views, info_frames=True))


def test_vector_environment_walks_as_single_ones(model):
    views = lambda rng: StartView(picture(int(rng.integers(100))), Camera.from_fov(1.3, *SIZE))  # noqa: E731
    worlds = MirageVectorEnv(2, model=model, start_views=views)
    worlds.reset(seed=[5, 6])
    actions = np.full((2, 6), 0.1, np.float32)
    for _ in range(2):
        together = worlds.step(actions)[0]["pixels"]
    for i, seed in enumerate((5, 6)):
        env = gym.make("Mirage/World-v0", model=model, start_views=views)
        env.reset(seed=seed)
        for _ in range(2):
            alone = env.step(actions[i])[0]["pixels"]
        assert np.abs(alone.astype(int) - together[i].astype(int)).max() <= 2
