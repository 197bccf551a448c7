"""A model folder made to do harm is refused before a network is built, quickly, and reads nothing outside."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_world_model
from torch import nn

from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError, MirageError, WeightsError
from mirage_env.models.device_placement import available
from mirage_env.models.io.bounded_build import built
from mirage_env.models.io.fingerprint import fingerprint
from mirage_env.models.io.safetensors_files import read_header
from mirage_env.models.world_model_loader import load_world_model, save_world_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_world_model(tiny_world_model(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "tiny")


def edited(folder, part, **changes):
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("transformer", {"num_layers": 10**9}),
        ("transformer", {"num_layers": 10**5}),
        ("transformer", {"num_layers": 4}),
        ("transformer", {"ffn_dim": 10**5}),
        ("transformer", {"num_attention_heads": 10**4}),
        ("transformer", {"rope_max_seq_len": 10**12}),
        ("transformer", {"num_layers": "many"}),
        ("transformer", {"patch_size": [3, 9, 9]}),
        ("codec", {"blocks": 10**5}),
        ("codec", {"width": 10**5}),
        ("codec", {"width": -8}),
        ("codec", {"width": None}),
        ("depth", {"widths": [10**5] * 4}),
        ("depth", {"widths": []}),
        ("depth", {"widths": {}}),
        ("refiner", {"blocks": 10**5}),
        ("control", {"parts": 7}),
    ],
)
def test_settings_that_describe_another_network_are_refused_before_it_is_built(folder, part, changes):
    edited(folder, part, **changes)
    began = time.process_time()
    with pytest.raises(MirageError):
        load_world_model(folder, dtype=torch.float32)
    assert time.process_time() - began < 5.0


def test_number_that_no_network_has_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(InvalidOptionError, match="has the number 1000000000000"):
        built(lambda: pytest.fail("it was built"), {"a": [{"length": 10**12}]}, {}, tmp_path)


def test_growing_network_is_stopped_at_the_first_tensor_too_many():
    made = []

    def endless():
        layers = nn.ModuleList()
        while True:
            layers.append(nn.Linear(2, 2))
            made.append(1)

    with pytest.raises(InvalidOptionError, match=r"more (tensors|weights)"):
        built(endless, {}, {"a": (2, 2), "b": (2,)}, Path("m"))
    assert len(made) <= 4
    nn.ModuleList([nn.Linear(2, 2) for _ in range(100)])  # the bound ends with the block


@pytest.mark.parametrize("shares", ["../../../..", "/", "/etc", "..", ".", "../..", "a/b", "../a/../..", "", "a\0b"])
def test_model_shares_only_what_lies_beside_it(folder, shares):
    values = json.loads((folder / "mirage.json").read_text()) | {"shares": shares}
    (folder / "mirage.json").write_text(json.dumps(values))
    for do in (WorldModelConfig.load, fingerprint, load_world_model):
        with pytest.raises(InvalidOptionError, match="shares"):
            do(folder)


def test_folder_that_is_no_model_is_not_hashed(folder):
    (folder.parent / "home").mkdir()
    (folder.parent / "link").symlink_to("/")
    for shares in ("../home", "../link"):
        values = json.loads((folder / "mirage.json").read_text()) | {"shares": shares}
        (folder / "mirage.json").write_text(json.dumps(values))
        with pytest.raises(MirageError, match="no model"):
            fingerprint(folder)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": 1e999}', "null", "[]", '"x"', "9" * 5000, "\xff", ""])
@pytest.mark.parametrize("name", ["mirage.json", "codec/config.json"])
def test_settings_that_are_no_object_are_refused(folder, name, text):
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(InvalidOptionError, match="json"):
        load_world_model(folder)


SOUND = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "odd",
    [
        {"data_offsets": [0, {}]},
        {"data_offsets": [0]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [-8, 8]},
        {"data_offsets": "08"},
        {"data_offsets": [0, 2**63]},
        {"shape": [{}]},
        {"shape": [-2]},
        {"shape": [2.0]},
        {"shape": None},
        {"dtype": []},
        {"dtype": None},
    ],
)
def test_weights_whose_header_describes_no_tensors_are_refused(tmp_path, odd):
    header = json.dumps({"a": {**SOUND, **odd}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(WeightsError, match="no complete safetensors file"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "xpu", "vulkan"])
def test_device_that_is_not_there_is_named_with_those_that_are(device):
    with pytest.raises(InvalidOptionError, match="give one of cpu"):
        available(device)
    assert available("cpu") == torch.device("cpu")
