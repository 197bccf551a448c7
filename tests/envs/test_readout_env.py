from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stand_ins import start_view, walled_world_model

from mirage_env import store
from mirage_env.envs.conformance import check_world_env
from mirage_env.envs.readout import LATENT_LIMIT, ReadoutEnv, ReadoutVectorEnv
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidOptionError, ModelNotFoundError
from mirage_env.images import frames_to_uint8
from mirage_env.models.small.preview_decoder import PreviewDecoder, load_preview, save_preview

AHEAD = np.array([0.1, 0.0, 0.4, 0.0, 0.3, 0.0], np.float32)


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


@pytest.fixture(scope="module")
def world(model):
    """A world after three chunks."""
    env = MirageEnv(model, start_view)
    env.reset(seed=0)
    for _ in range(3):
        env.step(AHEAD)
    return env.get_world()


@pytest.fixture(scope="module")
def caches(model, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    store.save_world(folder / "a.zarr", world, model)
    store.save_world(folder / "b.zip", replace(world, camera=world.camera.at(np.eye(4))), model)
    return folder


@pytest.fixture(scope="module")
def preview(model, tmp_path_factory):
    """Folder of a preview network with random weights."""
    torch.manual_seed(0)
    network = PreviewDecoder(latent_channels=8, width=8, blocks=1, fine_width=8, fine_blocks=1)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    folder = tmp_path_factory.mktemp("previews") / "tiny"
    save_preview(network, folder, (model.identity,))
    return folder


@pytest.mark.parametrize("refine", [True, False])
def test_a_step_shows_what_the_memory_holds_and_leaves_it_as_it_is(model, world, caches, refine):
    env = ReadoutEnv(model, refine=refine)
    env.reset(options={"cache": caches / "a.zarr"})
    for _ in range(3):
        observation, *_, info = env.step(-AHEAD)
        camera = env.get_world().camera
        readout = world.memory.read([camera], now=world.chunk + 1)
        with torch.inference_mode():
            latent = model.refiner.refine(readout) if refine else readout.latent
            assert np.array_equal(observation["pixels"], frames_to_uint8(model.codec.decode(latent))[0])
        assert info["coverage"] == pytest.approx(float(readout.observed.mean()))
        assert info["memory_points"] == world.memory.points
    assert info["coverage"] > 0.0


def test_with_a_preview_it_draws_every_picture(model, world, caches, preview):
    env = ReadoutEnv(model, preview=preview, observe="readout", render_mode="rgb_array")
    env.reset(options={"cache": caches / "a.zarr"})
    observation, *_ = env.step(-AHEAD)
    camera = env.get_world().camera
    drawn = load_preview(preview, model.identity).show(world.memory.read([camera], now=world.chunk + 1))[0]
    assert np.array_equal(observation["pixels"], drawn)
    assert np.array_equal(observation["readout"], drawn)
    assert np.array_equal(env.render(), drawn)
    assert np.array_equal(env.picture(env.get_world(), camera), drawn)
    without = ReadoutEnv(model, preview=False)
    without.reset(options={"cache": caches / "a.zarr"})
    assert not np.array_equal(without.step(-AHEAD)[0]["pixels"], drawn)


def test_a_preview_changes_pictures_and_nothing_else(model, caches, preview):
    arguments = {"observe": ("observed", "depth"), "info_frames": True}
    envs = [ReadoutEnv(model, preview=p, **arguments) for p in (preview, False)]
    for env in envs:
        env.reset(options={"cache": caches / "a.zarr"})
    (a, *_, info_a), (b, *_, info_b) = (env.step(AHEAD) for env in envs)
    assert all(np.array_equal(a[name], b[name]) for name in ("agent_pos", "observed", "depth"))
    assert all(np.array_equal(info_a[name], info_b[name]) for name in info_a if name != "frames")


def test_a_preview_of_another_model_is_refused(model, preview, tmp_path):
    with pytest.raises(InvalidOptionError, match="was made for"):
        ReadoutEnv(replace(model, identity="other"), preview=preview)
    with pytest.raises(ModelNotFoundError, match=r"preview\.json"):
        ReadoutEnv(model, preview=tmp_path)


def test_depth_is_that_of_the_points_and_nothing_where_there_are_none(model, world, caches):
    env = ReadoutEnv(model, observe=("depth", "observed"))
    observation, _ = env.reset(options={"cache": caches / "a.zarr"})
    seen = observation["observed"].repeat(8, 0).repeat(8, 1) > 0
    assert seen.any()
    assert (observation["depth"][seen] > model.config.near).all()
    assert (observation["depth"][~seen] == model.config.near).all()


def test_latents_take_the_place_of_pixels_and_nothing_is_decoded(model, caches):
    class Blind:
        encode = model.codec.encode

    env = ReadoutEnv(replace(model, codec=Blind()), pixels=False)
    options = {"cache": caches / "a.zarr"}
    observation, _ = env.reset(options=options)
    after, *_ = env.step(AHEAD)
    assert set(after) == {"latent", "agent_pos"}
    assert observation in env.observation_space
    assert np.abs(after["latent"]).max() <= LATENT_LIMIT
    whole = ReadoutEnv(model, pixels=False, observe="readout", info_frames=True, render_mode="rgb_array")
    whole.reset(options=options)
    same, *_, info = whole.step(AHEAD)
    assert np.array_equal(same["latent"], after["latent"])
    assert np.array_equal(info["frames"][-1], same["readout"])
    assert np.array_equal(whole.render(), same["readout"])


@pytest.mark.parametrize(
    "arguments",
    [{}, {"observe": ("readout", "observed", "depth"), "info_frames": True}, {"render_mode": "rgb_array_list"}],
)
def test_it_keeps_the_promises_of_a_world(model, arguments):
    check_world_env(ReadoutEnv(model, start_views=start_view, **arguments))


@pytest.mark.parametrize("pixels", [True, False])
def test_gymnasium_finds_nothing_wrong(model, caches, pixels):
    check_env(ReadoutEnv(model, caches=caches, pixels=pixels), skip_render_check=True)


@pytest.mark.parametrize("name", ["", "Explore", "PointNav", "ImageNav", "Revisit"])
def test_ids_have_the_spaces_of_the_learned_world(model, name):
    readout = gymnasium.make(f"Mirage/Readout{name}-v0", model=model, start_views=start_view)
    learned = gymnasium.make(f"Mirage/{name or 'World'}-v0", model=model, start_views=start_view)
    assert readout.observation_space == learned.observation_space
    assert readout.action_space == learned.action_space
    readout.reset(seed=0)
    readout.step(AHEAD)


def test_caches_of_a_folder_are_drawn_by_the_seed(model, caches):
    env = ReadoutEnv(model, caches=caches)
    starts = [env.reset(seed=seed)[0]["agent_pos"] for seed in range(8)]
    again = [env.reset(seed=seed)[0]["agent_pos"] for seed in range(8)]
    assert np.array_equal(starts, again)
    assert len({tuple(s) for s in starts}) == 2


def test_a_folder_without_caches_is_refused(model, tmp_path):
    with pytest.raises(InvalidOptionError, match="no name ends in"):
        ReadoutEnv(model, caches=tmp_path)


def test_a_state_of_another_world_is_refused(model, world):
    with pytest.raises(InvalidOptionError, match="give a Visit"):
        ReadoutEnv(model).set_state(world)


@pytest.mark.parametrize("drawn", ["preview", "decoded"])
def test_several_at_once_do_what_each_does_alone(model, caches, preview, drawn):
    make = partial(ReadoutEnv, model, caches=caches, preview=preview if drawn == "preview" else False)
    vector, singles = ReadoutVectorEnv(3, **make.keywords, model=model), [make() for _ in range(3)]
    vector.reset(seed=5)
    for i, env in enumerate(singles):
        env.reset(seed=5 + i)
    together, *_ = vector.step(np.stack([AHEAD, -AHEAD, AHEAD]))
    for i, env in enumerate(singles):
        alone, *_ = env.step((AHEAD, -AHEAD, AHEAD)[i])
        assert np.array_equal(together["agent_pos"][i], alone["agent_pos"])
        # Pictures are drawn together, and matrix products of another batch size round differently.
        assert np.abs(together["pixels"][i].astype(int) - alone["pixels"]).max() <= 1
