"""Full-size models end to end: checkpoints of every real class, tiny, saved as the hub has them, loaded and walked."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoints import IMAGE_SIZE, SETTINGS, change_weights, save_control, save_lora, save_pipeline
from tiny_geometry import save_depth_anything, save_sam3

import mirage_env  # noqa: F401 - registers the environments
from mirage_env.camera import between
from mirage_env.cli import main
from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.models.io.state_dicts import WEIGHTS
from mirage_env.models.world_model_loader import fingerprint, load_world_model, save_world_model
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.store import load_world, open_cache, save_world


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Everything of a full-size model; copy it before changing it."""
    folder = tmp_path_factory.mktemp("full_size")
    save_pipeline(folder / "wan", shards=True)
    save_control(folder / "control")
    save_lora(folder / "lora" / "pytorch_lora_weights.safetensors")
    save_depth_anything(folder / "depth")
    save_sam3(folder / "sam3")
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    """Embeddings of prompts are kept in the user's cache folder by default."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(saved: Path, **options):
    return load_world_model(saved / "wan", **{"dtype": torch.float32, "depth": saved / "depth", **options})


def image(seed: int = 0) -> np.ndarray:  # [64, 96, 3] uint8
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(IMAGE_SIZE[::-1], Image.Resampling.BICUBIC))


def steps(model, state, count: int):
    """So many chunks of a walk forward and round."""
    chunks = []
    for _ in range(count):
        end = state.camera.moved(pose_from_rotation_vector([0.1, 0.0, 0.2], [0.0, 0.1, 0.0]))
        chunk, state = model.step(state, between(state.camera, end, model.config.frames_per_chunk))
        chunks.append(chunk)
    return chunks, state


def latents_of(model) -> torch.Tensor:
    """Latents of one chunk, which every network that generates has a part in."""
    _, state = model.start(image(), seed=3, prompt="the quick brown fox")
    return steps(model, state, 1)[0][0].latents


@cache
def exact(saved: Path, *parts: str):
    """The model with those parts as it is without any option, and the latents of its chunk."""
    model = load(saved, **{part: saved / part for part in parts})
    return model, latents_of(model)


# Walks


@pytest.mark.parametrize("trained", [False, True], ids=["no branch", "branch, LoRA and SAM 3"])
def test_walk_goes_on_from_a_cache_as_it_would_have_gone_on(saved, tmp_path, trained):
    parts = {"control": saved / "control", "lora": saved / "lora", "segmentation": saved / "sam3"}
    options = parts if trained else {}
    model = load(saved, **options)
    assert (model.generator.branch is not None) == trained
    assert model.generator.sampler.placement.enabled != trained
    _, state = model.start(image(), seed=1, prompt="a red chair")
    chunks, state = steps(model, state, 3)
    for chunk in chunks:
        assert chunk.frames.shape == (8, 3, *IMAGE_SIZE)
        assert chunk.latents.shape == (2, 48, 4, 6)
        assert chunk.depth.shape == (2, *IMAGE_SIZE)
        assert all(t.isfinite().all() for t in (chunk.frames, chunk.latents, chunk.depth))
    assert chunks[-1].readout.observed.any()
    assert len(state.references) == (4 if trained else 0)
    save_world(tmp_path / "world.zarr", state, model)
    again = load(saved, **options)
    loaded = load_world(tmp_path / "world.zarr", again)
    assert loaded.prompt == "a red chair"
    (expected,), _ = steps(model, state, 1)
    (found,), _ = steps(again, loaded, 1)
    torch.testing.assert_close(found.latents, expected.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.frames, expected.frames, rtol=1e-3, atol=1e-3)


def test_checkpoint_is_a_gymnasium_environment(saved, folder):
    shutil.copytree(saved / "depth", folder / "wan" / "depth")
    env = gym.make("Mirage/World-v0", model=folder / "wan", info_frames=True)
    _, info = env.reset(seed=5, options={"image": image(), "prompt": "a courtyard in the rain"})
    observation, _, _, _, info = env.step(env.action_space.sample())
    assert observation["pixels"].shape == (*IMAGE_SIZE, 3)
    assert info["frames"].shape == (8, *IMAGE_SIZE, 3)
    assert env.unwrapped.get_state().prompt == "a courtyard in the rain"
    with pytest.raises(InvalidOptionError, match="text"):
        env.reset(options={"image": image(), "prompt": 3})
    env.close()


def test_mirage_walk_walks_in_a_checkpoint(saved, tmp_path, capsys):
    Image.fromarray(image()).save(tmp_path / "start.png")
    out = tmp_path / "walk"
    model = ["--model", str(saved / "wan"), "--depth-model", str(saved / "depth")]
    options = ["--image", str(tmp_path / "start.png"), "--path", "forward", "--chunks", "2", "--out", str(out)]
    assert main(["walk", *model, *options, "--prompt", "a red chair"]) == 0
    assert (out / "walk.mp4").is_file()
    assert main(["look", str(out / "cache.zarr")]) == 0
    assert "wan" in capsys.readouterr().out
    assert open_cache(out / "cache.zarr").chunks == 2


def test_full_size_model_is_not_written_as_a_small_one(saved, tmp_path):
    with pytest.raises(InvalidOptionError, match="save_module"):
        save_world_model(exact(saved)[0], tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# What is in the settings


def test_settings_follow_from_the_networks(folder):
    (folder / "wan" / "mirage.json").unlink()
    c = load(folder).config
    assert (c.image_size, c.latent_size, c.latent_channels) == ((704, 1280), (44, 80), 48)
    assert (c.temporal_stride, c.chunk_latents, c.frames_per_chunk) == (4, 9, 32)
    s = c.sampler
    assert (s.prediction, s.solver, s.steps, s.shift, s.couple) == ("flow", "unipc", 50, 5.0, False)
    assert (c.preceding_latents, c.references, s.placement.enabled) == (0, 0, True)
    trained = load(folder, control=folder / "control").config
    assert (trained.preceding_latents, trained.references, trained.sampler.placement.enabled) == (2, 4, False)


def test_settings_of_the_branch_come_before_those_of_the_folder_and_the_callers_before_both(folder):
    (folder / "control" / "mirage.json").write_text(json.dumps({"frames_per_second": 16, "sampler": {"steps": 5}}))
    c = load(folder, control=folder / "control", image_size=(96, 128)).config
    assert (c.frames_per_second, c.sampler.steps, c.sampler.shift, c.image_size) == (16.0, 5, 5.0, (96, 128))
    assert (c.latent_size, c.chunk_latents) == ((6, 8), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 16}, "16 latent_channels"),
        ({"image_size": [72, 96]}, "multiple"),
        ({"image_size": [80, 96]}, "multiples of 32 and 32"),
        ({"sampler": {"stepps": 3}}, "stepps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, change, message):
    file = folder / "wan" / "mirage.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InvalidOptionError, match=message):
        load(folder)


def test_transformer_that_takes_more_than_latents_is_refused(folder):
    file = folder / "wan" / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 100}))
    with pytest.raises(InvalidOptionError, match="takes 100 channels"):
        load(folder)


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"offload": "model"},
        {"offload": "group"},
        {"device_map": "auto"},
        {"device_map": {"vae": "cpu", "transformer": "cpu"}},
        {"compile": "aot_eager"},
        {"fuse_lora": False},
        {"vae_tiling": False},
    ],
    ids=str,
)
def test_option_changes_how_networks_run_and_not_what_comes_out(saved, options):
    parts = ("lora",) if options.get("device_map") == "auto" else ("lora", "control")
    found = latents_of(load(saved, **{part: saved / part for part in parts}, **options))
    torch.testing.assert_close(found, exact(saved, *parts)[1], rtol=1e-3, atol=1e-3)


def test_lora_and_branch_make_a_difference(saved):
    for part in ("lora", "control"):
        assert (exact(saved, part)[1] - exact(saved)[1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["int8wo", "int8dq", "float8wo", "float8_storage"])
def test_quantised_weights_are_smaller_and_change_little(saved, kind):
    from mirage_env.models.quantisation import stored_bytes

    large, latents = exact(saved, "control")
    small = load(saved, control=saved / "control", quantise=kind)
    for part in ("transformer", "branch"):
        whole = stored_bytes(getattr(large.generator, part).blocks)
        assert stored_bytes(getattr(small.generator, part).blocks) < 0.45 * whole
    torch.testing.assert_close(latents_of(small), latents, rtol=0.2, atol=0.2)


@pytest.fixture(scope="module")
def quantised(saved) -> torch.Tensor:
    """Latents of a chunk of the model with 8-bit weights and no other option."""
    return latents_of(load(saved, quantise="int8wo", prompt_cache=None))  # the user's would be used here


@pytest.mark.parametrize("options", [{"offload": "model"}, {"compile": "aot_eager"}], ids=str)
def test_quantised_weights_go_with_other_options(saved, quantised, options):
    found = latents_of(load(saved, quantise="int8wo", **options))
    torch.testing.assert_close(found, quantised, rtol=1e-3, atol=1e-3)


def test_bfloat16_keeps_in_float32_what_diffusers_keeps(saved):
    model = load(saved, dtype=torch.bfloat16, control=saved / "control", lora=saved / "lora")
    kept = ("norm1.", "norm2.", "norm3.", "time_embedder.", "scale_shift_table")
    for name, parameter in model.generator.named_parameters():
        expected = torch.float32 if any(part in name for part in kept) else torch.bfloat16
        assert parameter.dtype == expected, name
    large, latents = exact(saved, "lora", "control")
    pair = (m.generator.transformer.rope.buffers() for m in (model, large))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*pair, strict=True))
    torch.testing.assert_close(latents_of(model), latents, rtol=0.2, atol=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "disk"}, "offload is 'disk'"),
        ({"quantise": "int3"}, "quantise is 'int3'"),
        ({"compile": "no_such_backend"}, "no_such_backend"),
        ({"device_map": {"codec": "cpu"}}, "codec"),
        ({"device_map": "balanced"}, "balanced"),
        ({"device_map": "auto", "offload": "model"}, "both given"),
        ({"offload": "group", "quantise": "int8wo"}, "offload='model'"),
    ],
)
def test_impossible_options_are_refused(saved, options, message):
    with pytest.raises(InvalidOptionError, match=message):
        load(saved, **options)


def test_spread_transformer_has_no_branch(saved):
    with pytest.raises(InvalidOptionError, match="side branch"):
        load(saved, control=saved / "control", device_map="auto")


def test_small_models_take_no_option_of_full_size_ones():
    for options in ({"offload": "model"}, {"attention": "native"}, {"revision": "main"}):
        with pytest.raises(InvalidOptionError, match="small model"):
            load_world_model("rooms", **options)


# What is refused


def test_shards_are_read_as_one_file_is(saved, tmp_path):
    save_pipeline(tmp_path / "wan")
    assert len(list((saved / "wan" / "transformer").glob("*.safetensors"))) > 1
    assert len(list((tmp_path / "wan" / "transformer").glob("*.safetensors"))) == 1
    one, many = (load_world_model(f / "wan", dtype=torch.float32, depth=saved / "depth") for f in (tmp_path, saved))
    for (name, a), (_, b) in zip(one.generator.state_dict().items(), many.generator.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_weights_that_do_not_fit_are_listed(folder, part):
    file = sorted((folder / "wan" / part).glob("*.safetensors"))[0]
    name = change_weights(file, lambda weights, name: weights.update({name: torch.zeros(3, 3)}))
    with pytest.raises(WeightsError, match=rf"{name} has shape \(3, 3\) instead of"):
        load(folder)


def test_weights_that_are_not_finite_are_listed(folder):
    file = folder / "wan" / "vae" / WEIGHTS
    name = change_weights(file, lambda weights, name: weights[name].view(-1)[:1].fill_(float("nan")))
    with pytest.raises(WeightsError, match=f"{name} holds NaN"):
        load(folder)


def test_shard_that_is_not_what_its_index_says_is_refused(folder):
    shard = sorted((folder / "wan" / "transformer").glob("*.safetensors"))[0]
    name = change_weights(shard, lambda weights, name: weights.pop(name))
    with pytest.raises(WeightsError, match=f"{name} is not in {shard.name}"):
        load(folder)
    shard.unlink()
    with pytest.raises(ModelNotFoundError, match=shard.name):
        load(folder)


def test_index_that_points_outside_is_refused(folder):
    file = folder / "wan" / "transformer" / f"{WEIGHTS}.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../vae/x.safetensors")
    file.write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="beside it"):
        load(folder)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_pickled_weights_are_refused(folder, part):
    for file in (folder / "wan" / part).glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r"pickled.*\.bin"):
        latents_of(load(folder))


def test_text_encoder_with_a_missing_weight_is_refused(folder):
    file = folder / "wan" / "text_encoder" / "model.safetensors"
    name = change_weights(file, lambda weights, name: weights.pop(name))
    with pytest.raises(WeightsError, match=f"missing {name}"):
        latents_of(load(folder))


# Identity


def test_identity_does_not_depend_on_place_type_or_manner_of_running(saved, folder):
    identity = exact(saved)[0].identity
    other = load(folder, depth=saved / "depth", dtype=torch.bfloat16, offload="model", quantise="float8_storage")
    assert other.identity == identity
    assert fingerprint(saved / "wan") == fingerprint(folder / "wan")


def test_other_weights_and_settings_have_another_identity(saved, folder):
    seen = {exact(saved, *parts)[0].identity for parts in ((), ("control",), ("lora",))}
    seen.add(load(saved, image_size=(96, 128)).identity)
    file = folder / "wan" / "vae" / WEIGHTS
    change_weights(file, lambda weights, name: weights[name].mul_(1.001))
    seen.add(load(folder, depth=saved / "depth").identity)
    settings = folder / "wan" / "mirage.json"
    settings.write_text(json.dumps(SETTINGS | {"fov": 1.0}))
    seen.add(load(folder, depth=saved / "depth").identity)
    assert len(seen) == 6


def test_cache_of_another_checkpoint_is_refused(saved, tmp_path):
    from mirage_env.errors import CacheModelError

    model, _ = exact(saved)
    save_world(tmp_path / "world.zarr", model.start(image())[1], model)
    with pytest.raises(CacheModelError):
        load_world(tmp_path / "world.zarr", exact(saved, "lora")[0])
    with pytest.raises(CacheModelError):
        load_world(tmp_path / "world.zarr", replace(model, identity="wan-0"))
