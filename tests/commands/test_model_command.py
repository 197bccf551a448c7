"""`mirage model`: reports that need no weights, and conversions."""

import json
import math
import struct
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from hub_server import hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_checkpoints import change_weights, save_control, save_lora, save_pipeline
from tiny_geometry import save_depth_anything
from transformers import UMT5Config, UMT5EncoderModel

from mirage_env.cli import main
from mirage_env.errors import InvalidOptionError
from mirage_env.models.io.published_checkpoints import published_branch, published_lora
from mirage_env.models.io.state_dicts import WEIGHTS, empty, empty_module
from mirage_env.models.quantisation import stored_bytes
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import load_world_model

LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    save_pipeline(folder / "wan", shards=True)
    save_control(folder / "control")
    save_lora(folder / "lora" / LORA)
    save_depth_anything(folder / "depth")
    return folder


def check(capsys, *arguments, **options) -> tuple[int, dict]:
    """Exit code and report of `mirage model check`."""
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    code = main(["model", "check", *map(str, arguments), *given, "--json"])
    return code, json.loads(capsys.readouterr().out)


def problems(report) -> str:
    return "; ".join([*report["problems"], *(p for part in report["parts"] for p in part["problems"])])


def test_whole_model_can_be_loaded_and_its_sizes_are_true(saved, capsys):
    names = ("control", "lora", "depth")
    code, report = check(capsys, saved / "wan", **{name: saved / name for name in names}, dtype="float32")
    assert (code, report["ok"], problems(report)) == (0, True, "")
    parts = {part["name"]: part for part in report["parts"]}
    assert set(parts) == {"vae", "transformer", "text_encoder", "control", "lora", "depth", "segmentation"}
    model = load_world_model(saved / "wan", dtype=torch.float32, **{name: saved / name for name in names})
    generator = model.generator
    networks = {"vae": model.codec.module, "transformer": generator.transformer, "control": generator.branch}
    for name, network in networks.items():
        count = sum(p.numel() for p in network.parameters())
        assert (parts[name]["parameters"], parts[name]["run_bytes"]) == (count, 4 * count), name
        files = [*(saved / "wan" / name).glob("*.safetensors"), *(saved / name).glob("*.safetensors")]
        assert 0 < sum(f.stat().st_size for f in files) - parts[name]["file_bytes"] < 30_000 * len(files), name


def test_text_report_says_what_is_what(saved, capsys):
    assert main(["model", "check", str(saved / "wan"), "--depth", str(saved / "depth")]) == 0
    out = capsys.readouterr().out
    for words in ("ControlledTransformer", "64 x 96", "placed as known tokens", "offload='model'", "can be loaded"):
        assert words in out


def test_quantised_size_is_about_the_true_one(saved, capsys):
    _, report = check(capsys, saved / "wan", depth=saved / "depth", quantise="int8wo")
    (transformer,) = (part for part in report["parts"] if part["name"] == "transformer")
    model = load_world_model(saved / "wan", dtype=torch.bfloat16, depth=saved / "depth", quantise="int8wo")
    assert transformer["run_bytes"] == pytest.approx(stored_bytes(model.generator.transformer), rel=0.1)


def test_shipped_model_is_checked_too(capsys):
    code, report = check(capsys, "rooms")
    assert code == 0
    assert {part["name"] for part in report["parts"]} >= {"codec", "depth", "refiner", "transformer", "control"}


def broken_shard(folder):
    file = sorted((folder / "transformer").glob("*.safetensors"))[0]
    return change_weights(file, lambda weights, name: weights.update({name: torch.zeros(3, 3)}))


def no_vae(folder):
    (folder / "vae" / WEIGHTS).unlink()
    return WEIGHTS


def pickled(folder):
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "model.bin")
    return "pickled"


def truncated(folder):
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    return "model.safetensors"


def no_tokenizer(folder):
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    return "no tokenizer"


def other_class(folder):
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "AutoencoderKL"}))
    return "AutoencoderKL"


def wrong_settings(folder):
    (folder / "mirage.json").write_text(json.dumps({"image_size": [100, 100]}))
    return "image_size"


@pytest.mark.parametrize(
    "damage", [broken_shard, no_vae, pickled, truncated, no_tokenizer, other_class, wrong_settings]
)
def test_what_could_not_be_loaded_is_said(damage, saved, tmp_path, capsys):
    save_pipeline(tmp_path / "wan")
    culprit = damage(tmp_path / "wan")
    code, report = check(capsys, tmp_path / "wan", depth=saved / "depth")
    assert (code, report["ok"]) == (2, False)
    assert culprit in problems(report)


def test_parts_that_do_not_fit_are_said(saved, tmp_path, capsys):
    save_lora(tmp_path / LORA)
    change_weights(tmp_path / LORA, lambda weights, name: weights.update({name: torch.zeros(2, 7)}))
    code, report = check(capsys, saved / "wan", depth=saved / "nothing", lora=tmp_path)
    assert code == 2
    assert "(2, 7)" in problems(report)
    assert "nothing" in problems(report)


def test_unknown_model_and_unknown_word_are_refused(capsys):
    assert main(["model", "check", "castle"]) == 2
    assert main(["model", "forge"]) == 2
    assert "castle" in (err := capsys.readouterr().err)
    assert "forge" in err
    assert main(["model"]) == 2


def test_model_on_the_hub_is_checked_from_its_headers(saved, tmp_path, monkeypatch, capsys):
    save_pipeline(tmp_path / "hub" / "some" / "wan", shards=True)
    save_depth_anything(tmp_path / "hub" / "some" / "depth")
    with hub(tmp_path / "hub") as (address, requests):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        code, report = check(capsys, "some/wan", depth="some/depth")
    assert (code, problems(report)) == (0, "")
    local = check(capsys, saved / "wan", depth=saved / "depth")[1]
    for there, here in zip(report["parts"], local["parts"], strict=True):
        for key in ("parameters", "file_bytes", "run_bytes"):
            assert there[key] == here[key]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not any(request.endswith("tokenizer.json") for request in requests)
    assert requests


# Full size: files with true headers and no contents, which take no place on the disk

TRANSFORMER = {
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 14336,
    "num_layers": 30,
}
VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
TEXT = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
BRANCH = {
    "latent_channels": 48,
    "parts": ["readout", "observed"],
    "layers": list(range(0, 30, 4)),
    "patch_size": [1, 2, 2],
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "ffn_dim": 14336,
}


def write_header(file: Path, shapes: dict) -> None:
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + end)


def write_hollow(folder: Path, module, config: dict, file: str = WEIGHTS, without: str = "") -> None:
    folder.mkdir(parents=True)
    shapes = {k: tuple(v.shape) for k, v in module.state_dict().items() if k != without}
    write_header(folder / file, shapes)
    (folder / "config.json").write_text(json.dumps(config))


def test_sizes_of_the_published_model_and_what_memory_they_need(saved, tmp_path, capsys):
    write_hollow(tmp_path / "transformer", empty_module(WanTransformer3DModel, TRANSFORMER, tmp_path), TRANSFORMER)
    write_hollow(tmp_path / "vae", empty_module(AutoencoderKLWan, VAE, tmp_path), VAE)
    gated = TEXT | {"feed_forward_proj": "gated-gelu"}
    encoder = empty(lambda: UMT5EncoderModel(UMT5Config(**gated)))
    write_hollow(tmp_path / "text_encoder", encoder, gated, "model.safetensors", "encoder.embed_tokens.weight")
    write_hollow(tmp_path / "branch", empty_module(ControlBranch, BRANCH, tmp_path), BRANCH)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text(json.dumps({"expand_timesteps": True}))
    code, report = check(capsys, tmp_path, depth=saved / "depth", control=tmp_path / "branch")
    assert (code, problems(report)) == (0, "")
    billions = {part["name"]: part["parameters"] / 1e9 for part in report["parts"]}
    assert billions["transformer"] == pytest.approx(5.000, abs=0.001)
    assert billions["vae"] == pytest.approx(0.705, abs=0.001)
    assert billions["text_encoder"] == pytest.approx(5.681, abs=0.001)
    assert billions["control"] == pytest.approx(1.395, abs=0.001)
    needs = {name: count / 2**30 for name, count in report["device_bytes"].items()}
    assert needs["model"] < 24
    assert needs["group"] < 24
    assert 24 < needs["none"] + 2 < 48


# Conversion


def test_published_weights_are_converted_and_nothing_is_overwritten(saved, tmp_path, capsys):
    torch.manual_seed(0)
    config = BRANCH | {"layers": [0, 15], "num_attention_heads": 1, "ffn_dim": 32}
    branch, update = ControlBranch(**config).state_dict(), load_file(saved / "lora" / LORA)
    file, out = tmp_path / "published.safetensors", tmp_path / "out"
    save_file({**published_branch(branch), **published_lora(update)}, file)
    layers = ["--layers", "0", "15"]
    assert main(["model", "convert", str(file), "--out", str(out), *layers]) == 0
    for ours, converted in ((branch, out / "control" / WEIGHTS), (update, out / "lora" / LORA)):
        found = load_file(converted)
        assert found.keys() == ours.keys()
        assert all(torch.equal(found[key], ours[key]) for key in ours)
    assert ControlBranch.load_config(out / "control")["layers"] == [0, 15]
    assert main(["model", "convert", str(file), "--out", str(out), *layers]) == 2
    assert main(["model", "convert", str(file), "--out", str(tmp_path / "new"), "--layout", "spatia", *layers]) == 2
    assert "49 channels" in capsys.readouterr().err
    with pytest.raises(InvalidOptionError, match="mirage model convert"):
        load_world_model(saved / "wan", depth=saved / "depth", control=file)


def test_published_update_is_read_without_conversion(saved, tmp_path):
    update = load_file(saved / "lora" / LORA)
    save_file(published_lora(update), tmp_path / "published.safetensors")
    own, published = (
        load_world_model(saved / "wan", dtype=torch.float32, depth=saved / "depth", lora=lora)
        for lora in (saved / "lora", tmp_path / "published.safetensors")
    )
    for key, value in own.generator.state_dict().items():
        assert torch.equal(value, published.generator.state_dict()[key]), key


def test_embeddings_serve_where_there_is_no_encoder(saved, tmp_path, capsys):
    prompts = ("a red chair", "the quick  brown fox")
    assert main(["model", "embed", str(saved / "wan"), "--out", str(tmp_path / "p"), "--prompts", *prompts]) == 0
    assert "4 embeddings" in capsys.readouterr().out
    options = {"depth": saved / "depth", "dtype": torch.float32, "prompt_cache": None}
    text = load_world_model(saved / "wan", prompts=tmp_path / "p", text_encoder=False, **options).generator.text
    encoder = load_world_model(saved / "wan", **options).generator.text
    for prompt in (*prompts, ""):
        torch.testing.assert_close(text([prompt]).float(), encoder([prompt]), rtol=0.1, atol=0.1)
    with pytest.raises(InvalidOptionError, match="the quick brown fox"):
        text(["a castle"])
    assert main(["model", "embed", "rooms", "--out", str(tmp_path / "q")]) == 2
