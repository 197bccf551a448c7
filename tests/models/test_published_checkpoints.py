"""Published weights in our layout: nothing lost, nothing changed, and what cannot be converted refused by name."""

import json
import re
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm, scaled_dot_product_attention

from mirage_env.config.parsing import from_dict
from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import ReadoutConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.models.io.key_names import layer_to_diffusers, layer_to_original
from mirage_env.models.io.published_checkpoints import (
    branch_from_published,
    convert,
    lora_from_published,
    published_branch,
    published_lora,
)
from mirage_env.models.io.published_layouts import LAYOUTS, branch_config, hint_layers
from mirage_env.models.io.state_dicts import load_module
from mirage_env.models.wan.lora import fuse_lora
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.transformer import ControlledTransformer

DIM, HEADS, FFN, C, RANK = 24, 2, 48, 8, 4
SIZES = {"latent_channels": C, "head_width": DIM // HEADS}
BLOCKS = {"spatia": 8, "released": 15}
LINEAR = {
    **{f"{attention}.{layer}": (DIM, DIM) for attention in ("self_attn", "cross_attn") for layer in "qkvo"},
    "ffn.0": (FFN, DIM),
    "ffn.2": (DIM, FFN),
}
"""Linear layers of a block by their original names, shapes (out, in)."""


def draw(*shape: int, dtype=torch.bfloat16) -> Tensor:
    return torch.randn(shape).to(dtype)


def linear(out: int, width: int) -> dict[str, Tensor]:
    return {"weight": draw(out, width), "bias": draw(out)}


def a_block() -> dict[str, Tensor]:
    """A transformer block as the original code names it."""
    modules = {name: linear(*shape) for name, shape in LINEAR.items()}
    modules |= {f"{a}.norm_{x}": {"weight": draw(DIM)} for a in ("self_attn", "cross_attn") for x in "qk"}
    modules |= {"norm3": {"weight": draw(DIM), "bias": draw(DIM)}}
    return {f"{m}.{k}": v for m, values in modules.items() for k, v in values.items()} | {"modulation": draw(1, 6, DIM)}


def a_published_branch(blocks: int = 2, prefix: str = "", channels: int = 2 * C) -> dict[str, Tensor]:
    keys = {
        "vace_patch_embedding.weight": draw(DIM, channels, 1, 2, 2),
        "vace_patch_embedding.bias": draw(DIM),
    }
    for i in range(blocks):
        keys |= {f"vace_blocks.{i}.{name}": value for name, value in a_block().items()}
        for projection in ("before_proj", "after_proj") if i == 0 else ("after_proj",):
            keys |= {f"vace_blocks.{i}.{projection}.{k}": v for k, v in linear(DIM, DIM).items()}
    return {prefix + key: value for key, value in keys.items()}


def a_published_lora(end: str = "", dtype=torch.bfloat16, layers=tuple(LINEAR)) -> dict[str, Tensor]:
    keys = {}
    for block in range(2):
        for layer in layers:
            out, width = LINEAR[layer]
            name = f"pipe.dit.blocks.{block}.{layer}"
            keys[f"{name}.lora_A{end}.weight"] = draw(RANK, width, dtype=dtype)
            keys[f"{name}.lora_B{end}.weight"] = draw(out, RANK, dtype=dtype)
    return keys


def a_transformer() -> ControlledTransformer:
    sizes = {"num_attention_heads": HEADS, "attention_head_dim": DIM // HEADS, "ffn_dim": FFN, "num_layers": 2}
    return ControlledTransformer(**sizes, in_channels=C, out_channels=C, text_dim=8, freq_dim=16)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# The side branch


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "pipe.vace.", "vace.", "module.pipe.vace."])
@pytest.mark.parametrize(("layout", "blocks"), BLOCKS.items())
def test_published_branch_loads_as_ours_and_goes_back_bit_for_bit(tmp_path, layout, blocks, prefix):
    theirs = a_published_branch(blocks, prefix)
    save_file(theirs, tmp_path / "weights.safetensors")
    assert convert(tmp_path / "weights.safetensors", tmp_path / "out", layout, **SIZES) == [
        tmp_path / "out" / "control"
    ]
    branch = load_module(ControlBranch, tmp_path / "out" / "control")
    assert branch.layers == tuple(range(0, 30, 4 if blocks == 8 else 2))
    assert branch.config.published
    assert tuple(branch.config.parts) == LAYOUTS[layout].parts[0]
    files = (tmp_path / "out" / "control").glob("*.safetensors")
    assert same(published_branch(load_file(next(files)), prefix), theirs)


def by_the_original(block: dict[str, Tensor], x: Tensor, text: Tensor, time: Tensor) -> Tensor:
    """Compute a block as the original code does, without positions; x [B, L, D], time [B, L, 6, D]."""

    def apply(name: str, value: Tensor) -> Tensor:
        return nn.functional.linear(value, block[f"{name}.weight"], block[f"{name}.bias"])

    def attend(name: str, value: Tensor, context: Tensor) -> Tensor:
        q = rms_norm(apply(f"{name}.q", value), (DIM,), block[f"{name}.norm_q.weight"], 1e-6)
        k = rms_norm(apply(f"{name}.k", context), (DIM,), block[f"{name}.norm_k.weight"], 1e-6)
        heads = [t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in (q, k, apply(f"{name}.v", context))]
        return apply(f"{name}.o", scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    e = (block["modulation"][None] + time).unbind(2)
    moved = layer_norm(x, (DIM,), eps=1e-6) * (1 + e[1]) + e[0]
    x = x + attend("self_attn", moved, moved) * e[2]
    x = x + attend("cross_attn", layer_norm(x, (DIM,), block["norm3.weight"], block["norm3.bias"], 1e-6), text)
    moved = layer_norm(x, (DIM,), eps=1e-6) * (1 + e[4]) + e[3]
    return x + apply("ffn.2", gelu(apply("ffn.0", moved), approximate="tanh")) * e[5]


@torch.no_grad()
def test_converted_block_computes_what_the_original_does():
    theirs = {k: v.float() for k, v in a_published_branch(blocks=2).items()}
    ours = branch_from_published(theirs)
    branch = ControlBranch.from_config(branch_config(ours, "spatia", (0, 1), **SIZES))
    branch.load_state_dict(ours)
    block = {k.removeprefix("vace_blocks.1."): v for k, v in theirs.items() if k.startswith("vace_blocks.1.")}
    x, text, time = torch.randn(2, 5, DIM), torch.randn(2, 3, DIM), torch.randn(2, 5, 6, DIM)
    still = torch.ones(1, 5, 1, DIM // HEADS), torch.zeros(1, 5, 1, DIM // HEADS)
    out, hint = branch.side_block(1, x, text, time, still)
    expected = by_the_original(block, x, text, time)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    after = nn.functional.linear(expected, block["after_proj.weight"], block["after_proj.bias"])
    torch.testing.assert_close(hint, after, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_settings_beside_the_branch_are_settings(tmp_path, layout):
    save_file(a_published_branch(BLOCKS[layout]), tmp_path / "weights.safetensors")
    convert(tmp_path / "weights.safetensors", tmp_path / "out", layout, **SIZES)
    said = json.loads((tmp_path / "out" / "control" / "mirage.json").read_text())
    assert from_dict(ReadoutConfig, said["readout"], "readout").winner == "nearest"
    assert from_dict(SamplerConfig, said["sampler"], "sampler").schedule == "wan"
    assert {"frames_per_second", "preceding_latents", "references"} <= said.keys()


def test_released_branch_with_a_hole_mask_is_told_apart_by_its_channels(tmp_path):
    save_file(a_published_branch(15, channels=C + 1), tmp_path / "weights.safetensors")
    convert(tmp_path / "weights.safetensors", tmp_path / "out", "released", **SIZES)
    branch = load_module(ControlBranch, tmp_path / "out" / "control")
    assert tuple(branch.config.parts) == ("readout", "hole")


@pytest.mark.parametrize(("layout", "other"), [("spatia", "released"), ("released", "spatia")])
def test_branch_of_another_layout_is_refused_with_its_name(tmp_path, layout, other):
    save_file(a_published_branch(BLOCKS[other]), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=rf"{BLOCKS[other]} side blocks.*weights of the layout '{other}'"):
        convert(tmp_path / "weights.safetensors", tmp_path / "out", layout, **SIZES)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 8, 10, 15, 30])
def test_side_blocks_spread_evenly_from_the_first_main_block_on(count):
    layers = hint_layers(count)
    assert len(layers) == count
    assert layers[0] == 0
    assert len({b - a for a, b in pairwise(layers)}) <= 1


def test_blocks_that_do_not_spread_need_their_layers(tmp_path):
    save_file(a_published_branch(blocks=7), tmp_path / "weights.safetensors")
    with pytest.raises(InvalidOptionError, match="7 side blocks do not spread"):
        hint_layers(7)
    with pytest.raises(WeightsError, match=r"7 side blocks.*give their layers"):
        convert(tmp_path / "weights.safetensors", tmp_path / "out", "spatia", **SIZES)
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "weights.safetensors", tmp_path / "out", "spatia", layers=range(7), **SIZES)
    assert load_module(ControlBranch, tmp_path / "out" / "control").layers == tuple(range(7))


def without(key: str):
    return lambda weights: {k: v for k, v in weights.items() if k != key}


BROKEN = {
    "unknown": (lambda w: w | {"vace_blocks.0.gate.weight": draw(3)}, "vace_blocks.0.gate.weight"),
    "foreign": (lambda w: w | {"pipe.dit.blocks.0.ffn.0.weight": draw(3)}, "pipe.dit.blocks.0.ffn.0.weight"),
    "late entry": (lambda w: w | {"vace_blocks.1.before_proj.bias": draw(3)}, "vace_blocks.1.before_proj.bias"),
    "lost": (without("vace_blocks.1.self_attn.o.bias"), r"missing blocks\.1\.attn1\.to_out\.0\.bias"),
    "lost block": (lambda w: {k: v for k, v in w.items() if "blocks.0.ffn" not in k}, "embedding of its condition"),
    "twice": (
        lambda w: w | {"module.vace_patch_embedding.bias": draw(DIM)},
        "twice, as 'module.vace_patch_embedding.bias' and as",
    ),
    "misshapen": (lambda w: w | {"vace_blocks.1.modulation": draw(1, 5, DIM)}, r"scale_shift_table has shape \(1, 5"),
    "other layout": (lambda w: w | {"vace_patch_embedding.weight": draw(DIM, 9, 1, 2, 2)}, "9 channels, the layout"),
    "empty": (lambda w: {}, "no weights"),
}


@pytest.mark.parametrize(("change", "named"), BROKEN.values(), ids=BROKEN)
def test_branch_that_is_not_whole_is_refused_with_the_key(tmp_path, change, named):
    save_file(change(a_published_branch()), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=named):
        convert(tmp_path / "weights.safetensors", tmp_path / "out", "spatia", layers=(0, 4), **SIZES)
    assert not (tmp_path / "out").exists()


# The low-rank update


@pytest.mark.parametrize("adapter", ["", "default"])
def test_published_update_goes_back_bit_for_bit(adapter):
    theirs = a_published_lora(f".{adapter}" if adapter else "")
    ours = lora_from_published(theirs)
    assert all(key.startswith("transformer.blocks.") for key in ours)
    assert same(published_lora(ours, adapter=adapter), theirs)


@torch.no_grad()
def test_converted_update_changes_the_layer_it_was_made_for(tmp_path):
    theirs = a_published_lora(layers=("self_attn.q", "cross_attn.k", "ffn.2"))
    save_file(theirs, tmp_path / "lora.safetensors")
    assert convert(tmp_path / "lora.safetensors", tmp_path / "out", "spatia") == [tmp_path / "out" / "lora"]
    transformer = a_transformer()
    before = {k: v.clone() for k, v in transformer.state_dict().items()}
    fuse_lora(transformer, load_file(tmp_path / "out" / "lora" / "pytorch_lora_weights.safetensors"))
    changes = {k: v - before[k] for k, v in transformer.state_dict().items() if not torch.equal(v, before[k])}
    layers = {"self_attn.q": "attn1.to_q", "cross_attn.k": "attn2.to_k", "ffn.2": "ffn.net.2"}
    assert changes.keys() == {f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers.values()}
    for i in range(2):
        for original, layer in layers.items():
            down, up = (theirs[f"pipe.dit.blocks.{i}.{original}.lora_{half}.weight"].float() for half in "AB")
            torch.testing.assert_close(changes[f"blocks.{i}.{layer}.weight"], up @ down)


def test_every_linear_layer_of_the_transformer_has_an_original_name_and_comes_back():
    layers = [name for name, module in a_transformer().named_modules() if isinstance(module, nn.Linear)]
    originals = [layer_to_original(name) for name in layers]
    assert None not in originals
    assert len(set(originals)) == len(layers)
    assert [layer_to_diffusers(name) for name in originals] == layers


@pytest.mark.parametrize(("alpha", "dtype"), [(4.0, torch.float32), (2.0, torch.bfloat16), (3.0, torch.bfloat16)])
def test_alpha_is_folded_in_exactly(alpha, dtype):
    theirs = a_published_lora(dtype=dtype, layers=("ffn.0",))
    ours = lora_from_published(theirs | {"pipe.dit.blocks.0.ffn.0.alpha": torch.tensor(alpha)})
    plain = lora_from_published(theirs)
    key = "transformer.blocks.0.ffn.net.0.proj.lora_B.weight"
    assert torch.equal(ours[key].double(), plain[key].double() * alpha / RANK)
    assert same({k: v for k, v in ours.items() if k != key}, {k: v for k, v in plain.items() if k != key})


WRITERS = {
    "peft": lambda layer: (f"base_model.model.{layer}.lora_A.weight", f"base_model.model.{layer}.lora_B.weight", ""),
    "kohya": lambda layer: tuple(
        f"lora_unet_{layer.replace('.', '_')}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
    "ComfyUI": lambda layer: tuple(
        f"diffusion_model.{layer}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
    "diffusers": lambda layer: (
        f"transformer.{layer_to_diffusers(layer)}.lora_A.default.weight",
        f"transformer.{layer_to_diffusers(layer)}.lora_B.default.weight",
        "",
    ),
    "kohya on diffusers": lambda layer: tuple(
        f"lora_unet_{layer_to_diffusers(layer).replace('.', '_')}.{end}"
        for end in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
}


@pytest.mark.parametrize("name", WRITERS.values(), ids=WRITERS)
def test_update_is_the_same_whoever_wrote_it(name):
    layers = [f"blocks.{i}.{layer}" for i in range(2) for layer in LINEAR] + ["text_embedding.0", "head.head"]
    expected, given = {}, {}
    for layer in layers:
        down, up = draw(RANK, 6, dtype=torch.float32), draw(5, RANK, dtype=torch.float32)
        keys = name(layer)
        given |= {keys[0]: down, keys[1]: up} | ({keys[2]: torch.tensor(3.0)} if keys[2] else {})
        ours = f"transformer.{layer_to_diffusers(layer)}"
        expected |= {f"{ours}.lora_A.weight": down, f"{ours}.lora_B.weight": up * (0.75 if keys[2] else 1.0)}
    found = lora_from_published(given)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


NAME = "pipe.dit.blocks.0.ffn.0"
BROKEN_LORA = {
    "no number": (lambda w: w | {f"{NAME}.alpha": torch.tensor(torch.inf)}, r"alpha is inf for rank 4"),
    "not one number": (lambda w: w | {f"{NAME}.alpha": torch.ones(2)}, "finite number"),
    "alpha of nothing": (lambda w: w | {"pipe.dit.blocks.9.ffn.0.alpha": torch.ones(())}, r"blocks\.9\.ffn"),
    "unknown layer": (lambda w: w | {"pipe.dit.blocks.0.gate.lora_A.weight": draw(4, 4)}, r"blocks\.0\.gate\.lora_A"),
    "other kind": (lambda w: w | {f"{NAME}.lora_magnitude_vector": draw(4)}, "lora_magnitude_vector"),
    "half": (without(f"{NAME}.lora_A.weight"), r"blocks\.0\.ffn\.net\.0\.proj.*None"),
    "two ranks": (lambda w: w | {f"{NAME}.lora_A.weight": draw(3, DIM)}, r"\(3, 24\).*one rank"),
    "twice": (lambda w: w | {"blocks.0.ffn.0.lora_A.default.weight": draw(4, DIM)}, "twice"),
}


@pytest.mark.parametrize(("change", "named"), BROKEN_LORA.values(), ids=BROKEN_LORA)
def test_update_that_cannot_be_converted_is_refused_by_name(tmp_path, change, named):
    save_file(change(a_published_lora(dtype=torch.float32, layers=("ffn.0",))), tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match=named):
        convert(tmp_path / "lora.safetensors", tmp_path / "out", "spatia")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("convert_back", [published_branch, published_lora])
def test_key_that_is_not_ours_is_not_published(convert_back):
    with pytest.raises(WeightsError, match=r"blocks\.0\.gate"):
        convert_back({"blocks.0.gate.weight": draw(3)})


# Files


def test_branch_and_update_of_one_file_come_apart(tmp_path):
    theirs = a_published_branch(blocks=8, prefix="pipe.vace."), a_published_lora()
    save_file(theirs[0] | theirs[1], tmp_path / "weights.safetensors")
    folders = convert(tmp_path / "weights.safetensors", tmp_path / "out", "spatia", **SIZES)
    assert [folder.name for folder in folders] == ["control", "lora"]
    ours = [load_file(next(folder.glob("*.safetensors"))) for folder in folders]
    assert same(published_branch(ours[0], "pipe.vace."), theirs[0])
    assert same(published_lora(ours[1]), theirs[1])


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights.ckpt"])
def test_pickle_is_not_opened(tmp_path, name):
    torch.save(a_published_branch(), tmp_path / name)
    with pytest.raises(WeightsError, match=r"weights_only=True.*safetensors\.torch\.save_file"):
        convert(tmp_path / name, tmp_path / "out", "spatia", **SIZES)


def test_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=re.escape(str(tmp_path / "no"))):
        convert(tmp_path / "no", tmp_path / "out", "spatia")
    (tmp_path / "weights.safetensors").write_bytes(b"no header")
    with pytest.raises(WeightsError, match="no complete safetensors file"):
        convert(tmp_path / "weights.safetensors", tmp_path / "out", "spatia")


def test_nothing_is_overwritten_and_unknown_layouts_are_refused(tmp_path):
    save_file(a_published_branch(blocks=8), tmp_path / "weights.safetensors")
    with pytest.raises(InvalidOptionError, match=r"'vace'.*'released', 'spatia'"):
        convert(tmp_path / "weights.safetensors", tmp_path, "vace", **SIZES)
    (tmp_path / "control").mkdir()
    with pytest.raises(InvalidOptionError, match=r"control.*overwritten"):
        convert(tmp_path / "weights.safetensors", tmp_path, "spatia", **SIZES)
    assert not list((tmp_path / "control").iterdir())
