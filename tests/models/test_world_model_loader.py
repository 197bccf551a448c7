"""World models on disk: what was saved comes back, and what does not fit is refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins import path, picture
from tiny import tiny_world_model
from torch import nn

from mirage_env.camera import Camera
from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import FORMAT_VERSION, ReadoutConfig
from mirage_env.errors import InvalidOptionError, MirageError, ModelNotFoundError, WeightsError
from mirage_env.models.io.state_dicts import load_module, load_strictly
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.refiner import BareReadout
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import (
    WEIGHTS,
    fingerprint,
    fuse_lora,
    load_world_model,
    save_module,
    save_world_model,
    shipped_models,
)
from mirage_env.training.lora import TARGETS, add_lora, lora_state

PARTS = ("codec", "depth", "segmentation", "refiner", "transformer", "control")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The tiny world model on disk; copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_world_model(tiny_world_model(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def change_weights(folder: Path, part: str, change) -> str:
    """Apply `change` to the weights of a part; returns the name of its first one."""
    file = folder / part / WEIGHTS
    weights = load_file(file)
    name = next(k for k, v in weights.items() if v.is_floating_point())
    change(weights, name)
    save_file(weights, file, metadata={"format": "pt"})
    return name


def change_config(folder: Path, **values) -> None:
    file = folder / "mirage.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def walk(model, dtype=None):
    start, state = model.start(picture(), seed=3)
    chunk, _ = model.step(state, path(state.camera))
    return start, chunk


def rounded(module: nn.Module) -> None:
    """Round weights to the half precision that they are stored in."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())


# Round trips


def test_loaded_model_walks_as_the_saved_one(saved):
    original, loaded = tiny_world_model(), load_world_model(saved, dtype=torch.float32)
    for part in (original.codec, original.depth, original.segmenter, original.refiner, original.generator):
        rounded(part)
    assert loaded.config == original.config
    for ours, theirs in zip(walk(loaded), walk(original), strict=True):
        for name in ("frames", "depth", "latents", "known"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=1e-3, msg=name)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.keep, theirs.keep)


def test_loaded_model_saves_to_the_same_bytes(saved, tmp_path):
    save_world_model(load_world_model(saved, dtype=torch.float32), tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(saved)


def test_bfloat16_model_walks_and_answers_in_float32(saved):
    model = load_world_model(saved, dtype=torch.bfloat16)
    for chunk in walk(model):
        for name in ("frames", "depth", "latents", "known"):
            assert getattr(chunk, name).dtype == torch.float32, name
            assert getattr(chunk, name).isfinite().all(), name
    exact, _ = walk(load_world_model(saved, dtype=torch.float32))
    coarse, _ = walk(model)
    torch.testing.assert_close(coarse.latents, exact.latents, rtol=0.1, atol=0.1)


def test_only_the_rotary_angles_of_a_bfloat16_model_are_float32(saved):
    model = load_world_model(saved, dtype=torch.bfloat16)
    floats = [v for v in model.generator.state_dict().values() if v.is_floating_point()]
    assert {v.dtype for v in floats} == {torch.bfloat16}
    exact = load_world_model(saved, dtype=torch.float32).generator.transformer.rope
    for kept, true in zip(model.generator.transformer.rope.buffers(), exact.buffers(), strict=True):
        assert torch.equal(kept, true)


def test_networks_are_loaded_for_use_not_for_training(saved):
    model = load_world_model(saved)
    networks = [model.codec.module, model.depth.module, model.segmenter.module, model.refiner, model.generator]
    assert not any(m.training for network in networks for m in network.modules())


def test_loading_draws_no_numbers_that_the_weights_replace_and_leaves_the_file_alone(folder):
    file, state = folder / "codec" / WEIGHTS, torch.random.get_rng_state()
    before = file.read_bytes()
    codec = load_module(ConvCodec, folder / "codec")
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.zero_()
    assert file.read_bytes() == before


def test_model_without_refiner_or_branch_uses_the_readout_as_it_is(folder):
    for part in ("refiner", "control"):
        shutil.rmtree(folder / part)
    model = load_world_model(folder)
    assert isinstance(model.refiner, BareReadout)
    assert model.generator.branch is None
    walk(model)


@pytest.fixture
def twin(folder) -> Path:
    """The paper's variant beside the tiny model: its own branch and rules, everything else shared."""
    model = tiny_world_model()
    config = dataclasses.replace(
        model.config,
        name="tiny-paper",
        readout=ReadoutConfig(winner="nearest", footprint=0.0),
        sampler=SamplerConfig(couple=False),
        shares=f"../{folder.name}",
    )
    twin = folder.parent / "tiny-paper"
    twin.mkdir()
    config.save(twin)
    branch = ControlBranch.from_transformer(model.generator.transformer, ("readout", "observed"), (0,))
    save_module(branch, twin / "control")
    return twin


def test_variant_shares_the_parts_it_does_not_hold(folder, twin):
    model, base = load_world_model(twin, dtype=torch.float32), load_world_model(folder, dtype=torch.float32)
    assert model.config.readout.winner == "nearest"
    assert isinstance(model.refiner, BareReadout)
    assert tuple(model.generator.branch.config.parts) == ("readout", "observed")
    for key, value in base.generator.transformer.state_dict().items():
        assert torch.equal(value, model.generator.transformer.state_dict()[key])
    walk(model)


def test_variant_whose_base_is_missing_says_where_it_looked(folder, twin):
    shutil.rmtree(folder)
    with pytest.raises(ModelNotFoundError, match="tiny"):
        load_world_model(twin)


# Identity


def test_identity_begins_with_the_name_and_is_that_of_the_folder(saved):
    assert fingerprint(saved).startswith("tiny-")
    assert load_world_model(saved).identity == fingerprint(saved)


def test_identity_does_not_depend_on_where_the_model_lies(saved, folder):
    assert fingerprint(folder) == fingerprint(saved)


@pytest.mark.parametrize("part", PARTS)
def test_any_changed_byte_changes_the_identity(folder, part):
    before = fingerprint(folder)
    file = folder / part / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert fingerprint(folder) != before


def test_any_changed_setting_changes_the_identity(folder):
    before = fingerprint(folder)
    change_config(folder, fov=1.0)
    changed = fingerprint(folder)
    assert changed != before
    config = folder / "depth" / "config.json"
    config.write_text(config.read_text().replace("50.0", "60.0"))
    assert fingerprint(folder) not in (before, changed)


def test_change_of_what_it_shares_changes_the_identity_of_a_variant(folder, twin):
    before = fingerprint(twin)
    change_weights(folder, "codec", lambda weights, name: weights[name].mul_(0.5))
    assert fingerprint(twin) != before


# Parts from elsewhere


def test_given_branch_and_update_stand_in_for_those_of_the_folder(saved, folder, tmp_path):
    _, adapted = with_adapters()
    (folder / "lora").mkdir()
    save_file(lora_state(adapted), folder / "lora" / "pytorch_lora_weights.safetensors")
    change_weights(folder, "control", lambda weights, name: weights["after_proj.0.weight"].mul_(2.0))
    given = load_world_model(saved, dtype=torch.float32, control=folder / "control", lora=folder / "lora")
    own = load_world_model(folder, dtype=torch.float32)
    for key, value in own.generator.state_dict().items():
        assert torch.equal(value, given.generator.state_dict()[key]), key
    assert len({given.identity, own.identity, fingerprint(saved)}) == 3
    assert given.identity.startswith("tiny-")


def test_part_that_is_not_there_is_named(saved, tmp_path):
    for part in ("control", "lora", "depth"):
        with pytest.raises(ModelNotFoundError, match="nothing"):
            load_world_model(saved, **{part: tmp_path / "nothing"})


# What is refused


def test_unknown_name_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(ModelNotFoundError, match="'castles'") as caught:
        load_world_model("castles")
    assert str(shipped_models()) in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"mirage\.json"):
        load_world_model(tmp_path)


@pytest.mark.parametrize("part", ["codec", "depth", "segmentation", "transformer"])
def test_missing_part_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(ModelNotFoundError, match=part):
        load_world_model(folder)


@pytest.mark.parametrize("part", PARTS)
def test_missing_weight_file_is_named(folder, part):
    (folder / part / WEIGHTS).unlink()
    with pytest.raises(ModelNotFoundError, match=f"{part}.{WEIGHTS}"):
        load_world_model(folder)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_truncated_weight_file_is_named(folder, part, left):
    file = folder / part / WEIGHTS
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(WeightsError, match=f"{part}.{WEIGHTS}"):
        load_world_model(folder)


@pytest.mark.parametrize("part", PARTS)
def test_missing_weight_is_named(folder, part):
    name = change_weights(folder, part, lambda weights, name: weights.pop(name))
    with pytest.raises(WeightsError, match=f"missing {name}") as caught:
        load_world_model(folder)
    assert part in str(caught.value)


def test_unexpected_weight_is_named(folder):
    change_weights(folder, "control", lambda weights, name: weights.update(extra=torch.zeros(2)))
    with pytest.raises(WeightsError, match="unexpected extra"):
        load_world_model(folder)


def test_weight_of_another_shape_is_named_with_both_shapes(folder):
    name = change_weights(folder, "depth", lambda weights, name: weights.update({name: torch.zeros(3, 2)}))
    with pytest.raises(WeightsError, match=rf"{name} has shape \(3, 2\) instead of \("):
        load_world_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(folder, value):
    name = change_weights(folder, "refiner", lambda weights, name: weights[name].view(-1)[:1].fill_(value))
    with pytest.raises(WeightsError, match=f"{name} holds NaN or inf"):
        load_world_model(folder)


def test_unknown_setting_is_named(folder):
    change_config(folder, chunk_length=9)
    with pytest.raises(InvalidOptionError, match="chunk_length"):
        load_world_model(folder)


def test_newer_version_is_refused_with_both_versions(folder):
    change_config(folder, version=FORMAT_VERSION + 1)
    with pytest.raises(InvalidOptionError, match=rf"version {FORMAT_VERSION + 1}.*{FORMAT_VERSION}"):
        load_world_model(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent_channels": 16}, r"16 latent_channels.*codec has 8 and 8"),
        ({"latent_size": [8, 8]}, "4 pixels per cell"),
    ],
)
def test_settings_that_do_not_fit_the_networks_are_refused_with_both_sizes(folder, values, message):
    change_config(folder, **values)
    with pytest.raises(InvalidOptionError, match=message):
        load_world_model(folder)


@pytest.mark.parametrize("file", ["mirage.json", "codec/config.json"])
def test_damaged_settings_are_named(folder, file):
    (folder / file).write_text('{"name": ')
    with pytest.raises(MirageError, match=file):
        load_world_model(folder)


# LoRA


def with_adapters(seed: int = 0):
    """A transformer with peft adapters that do something, and one without."""
    plain, adapted = (tiny_world_model().generator.transformer for _ in range(2))
    torch.manual_seed(seed)
    for parameter in add_lora(adapted, rank=3):
        nn.init.normal_(parameter, std=0.2)
    return plain, adapted.eval()


def transformer_input():
    torch.manual_seed(5)
    return torch.randn(1, 8, 3, 4, 4), torch.full((1, 12), 500.0), torch.zeros(1, 1, 8)


@torch.no_grad()
def test_fused_lora_computes_what_peft_computes():
    plain, adapted = with_adapters()
    before = plain(*transformer_input(), return_dict=False)[0]
    fuse_lora(plain, lora_state(adapted))
    after, theirs = (
        plain(*transformer_input(), return_dict=False)[0],
        adapted(*transformer_input(), return_dict=False)[0],
    )
    torch.testing.assert_close(after, theirs, rtol=1e-4, atol=1e-5)
    assert (after - before).abs().max() > 1e-2


def test_lora_names_every_projection_of_the_self_attention():
    plain, adapted = with_adapters()
    expected = {
        f"transformer.blocks.{i}.{target}.lora_{half}.weight"
        for i in range(len(plain.blocks))
        for target in TARGETS
        for half in "AB"
    }
    assert lora_state(adapted).keys() == expected


def test_new_adapters_change_nothing():
    plain, adapted = (tiny_world_model().generator.transformer for _ in range(2))
    add_lora(adapted, rank=3)
    fuse_lora(plain, lora_state(adapted))
    for key, value in tiny_world_model().generator.transformer.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key])


@torch.no_grad()
def test_model_folder_with_a_lora_is_loaded_fused(folder):
    _, adapted = with_adapters()
    (folder / "lora").mkdir()
    save_file(lora_state(adapted), folder / "lora" / "pytorch_lora_weights.safetensors")
    loaded = load_world_model(folder, dtype=torch.float32).generator.transformer
    ours = loaded(*transformer_input(), return_dict=False)[0]
    theirs = adapted(*transformer_input(), return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)  # the folder holds half precision


BLOCK = "transformer.blocks.1"
NAME = f"{BLOCK}.attn1.to_q"
DOWN, UP = torch.ones(3, 24), torch.ones(24, 3)
MISFITS = {  # problem: (what the message names, what is changed; None takes a key away)
    "names no layer": ("blocks.9", {"transformer.blocks.9.attn1.to_q.lora_A.weight": DOWN}),
    "names a layer without weights": (f"{BLOCK}'", {f"{BLOCK}.lora_A.weight": DOWN, f"{BLOCK}.lora_B.weight": UP}),
    "lacks its partner": (NAME, {f"{NAME}.lora_B.weight": None}),
    "is of another rank than its partner": (NAME, {f"{NAME}.lora_B.weight": torch.ones(24, 2)}),
    "is of another width": (NAME, {f"{NAME}.lora_A.weight": torch.ones(3, 1)}),
    "is not finite": (NAME, {f"{NAME}.lora_A.weight": DOWN * float("nan")}),
    "is of another kind": ("magnitude", {f"{NAME}.lora_magnitude_vector": torch.ones(24)}),
    "is no LoRA": ("to_q.alpha", {f"{NAME}.alpha": torch.ones(())}),
}


@pytest.mark.parametrize("problem", MISFITS)
def test_misfitting_lora_is_refused_by_name_and_changes_nothing(problem):
    culprit, changes = MISFITS[problem]
    plain, adapted = with_adapters()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    with pytest.raises(WeightsError, match=culprit):
        fuse_lora(plain, {k: v for k, v in (lora_state(adapted) | changes).items() if v is not None})
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())


def test_a_small_model_works_at_other_image_sizes_and_says_so_in_its_identity():
    own, smaller = load_world_model("rooms"), load_world_model("rooms", image_size=(64, 96))
    assert smaller.config.image_size == (64, 96)
    assert smaller.config.latent_size == (8, 12)
    assert smaller.identity != own.identity
    assert load_world_model("rooms", image_size=own.config.image_size).identity == own.identity
    camera = Camera.from_fov(1.3, 64, 96)
    _, state = smaller.start(np.zeros((64, 96, 3), np.uint8), camera)
    chunk, _ = smaller.step(state, [camera] * 8)
    assert chunk.frames.shape == (8, 3, 64, 96)


@pytest.mark.parametrize(
    ("size", "allowed"), [((64, 100), "multiples of"), ((72, 64), "multiples of"), ((0, 64), "two whole numbers")]
)
def test_an_image_size_that_is_no_whole_number_of_patches_is_refused(size, allowed):
    with pytest.raises(InvalidOptionError, match=allowed):
        load_world_model("rooms", image_size=size)


def test_error_about_many_weights_names_a_few_and_counts_the_rest():
    layer = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(40)))
    with pytest.raises(WeightsError, match=r"missing 0\.weight") as error:
        load_strictly(layer, {}, "there")
    assert "and 72 more" in str(error.value)
    assert len(str(error.value)) < 500
