"""Checkpoints of other kinds, and broken ones: refused by name, by the loader and by `mirage model check`."""

import json
import shutil

import pytest
import torch
from tiny_checkpoints import change_weights, save_control, save_pipeline
from tiny_geometry import save_depth_anything

from mirage_env.errors import MirageError
from mirage_env.models.io.check_model import Wanted, check_model
from mirage_env.models.io.state_dicts import WEIGHTS
from mirage_env.models.world_model_loader import load_world_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    save_pipeline(folder / "wan")
    save_control(folder / "control")
    save_depth_anything(folder / "wan" / "depth")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def index(**changes):
    def change(wan):
        values = json.loads((wan / "model_index.json").read_text())
        values = {k: v for k, v in (values | changes).items() if v is not None}
        (wan / "model_index.json").write_text(json.dumps(values))

    return change


def config(part: str, **changes):
    def change(wan):
        values = json.loads((wan / part / "config.json").read_text())
        (wan / part / "config.json").write_text(json.dumps(values | changes))

    return change


def original(wan):
    """Wan's own layout: one network at the top, pickles beside it."""
    for path in list(wan.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (wan / "config.json").write_text(json.dumps({"_class_name": "WanModel", "model_type": "ti2v"}))
    (wan / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"")


def one_network(wan):
    network = wan.parent / "network"
    shutil.copytree(wan / "transformer", network)
    shutil.rmtree(wan)
    network.rename(wan)


def cut(part: str):
    def change(wan):
        file = wan / part / WEIGHTS
        file.write_bytes(file.read_bytes()[:-100])

    return change


def pickled(wan):
    (wan / "transformer" / WEIGHTS).unlink()
    torch.save({}, wan / "transformer" / "diffusion_pytorch_model.bin")


FOREIGN = {
    "A14B by its transformers": (index(transformer_2=["diffusers", "WanTransformer3DModel"]), "two transformers"),
    "A14B by its boundary": (index(boundary_ratio=0.875), "boundary_ratio"),
    "Wan2.1": (index(expand_timesteps=None), "expand_timesteps.*Wan2.1"),
    "Wan2.1 by a false": (index(expand_timesteps=False), "expand_timesteps.*Wan2.1"),
    "original layout": (original, "original layout of Wan.*-Diffusers"),
    "one network": (one_network, "holds one network .WanTransformer3DModel"),
    "another transformer": (config("transformer", _class_name="FluxTransformer2DModel"), "FluxTransformer2DModel"),
    "another autoencoder": (config("vae", _class_name="AutoencoderKL"), "AutoencoderKL"),
    "image-conditioned channels": (config("transformer", in_channels=36), "36"),
    "cut transformer": (cut("transformer"), "transformer"),
    "cut autoencoder": (cut("vae"), "vae"),
    "pickled": (pickled, "safetensors"),
    "settings that are no JSON": (lambda wan: (wan / "mirage.json").write_text("{"), "mirage.json"),
    "unknown setting": (lambda wan: (wan / "mirage.json").write_text('{"speed": 3}'), "speed"),
    "no transformer": (lambda wan: shutil.rmtree(wan / "transformer"), "transformer"),
    "no autoencoder": (lambda wan: shutil.rmtree(wan / "vae"), "vae"),
    "lost weight": (
        lambda wan: change_weights(wan / "transformer" / WEIGHTS, lambda weights, name: weights.pop(name)),
        "missing",
    ),
}


@pytest.mark.parametrize(("change", "named"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_or_broken_model_is_refused_by_name(folder, change, named):
    change(folder / "wan")
    with pytest.raises(MirageError, match=named):
        load_world_model(folder / "wan", dtype=torch.float32, text_encoder=False)
    try:
        report = check_model(Wanted(str(folder / "wan")))
    except MirageError as error:
        said = [str(error)]
    else:
        assert not report.ok
        said = [*report.problems, *(problem for part in report.parts for problem in part.problems)]
    assert said


CONTROLS = {
    "empty folder": lambda place: place.mkdir(),
    "the transformer": lambda place: shutil.copytree(place.parent / "wan" / "transformer", place),
    "a whole model": lambda place: shutil.copytree(place.parent / "wan", place),
}


@pytest.mark.parametrize("make", CONTROLS.values(), ids=CONTROLS)
@pytest.mark.parametrize("model", ["wan", "rooms"])
def test_control_that_is_no_branch_is_refused_with_what_to_do(folder, make, model):
    make(folder / "no_branch")
    name = folder / "wan" if model == "wan" else model
    with pytest.raises(MirageError, match=r"side branch; convert a published weights file"):
        load_world_model(name, control=folder / "no_branch", text_encoder=False)


def test_unknown_attention_backend_is_refused_and_a_known_one_changes_nothing_else(folder):
    options = {"dtype": torch.float32, "text_encoder": False, "guidance_scale": 1.0}
    with pytest.raises(MirageError, match=r"attention is 'quick'; choose one of"):
        load_world_model(folder / "wan", attention="quick", **options)
    with pytest.raises(MirageError, match=r"'flash' cannot be used here"):
        load_world_model(folder / "wan", attention="flash", **options)
    model = load_world_model(folder / "wan", attention="_native_math", control=folder / "control", **options)
    for net in (model.generator.transformer, model.generator.branch):
        assert str(net.blocks[0].attn1.processor._attention_backend.value) == "_native_math"
    other = load_world_model(folder / "wan", **options).generator.transformer
    assert other.blocks[0].attn1.processor._attention_backend is None
