"""Weights with the names and the topology of published ones, from their files to a walk."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import IMAGE_SIZE, save_lora, save_pipeline, transformer
from tiny_geometry import save_depth_anything
from torch import nn

from mirage_env.camera import between
from mirage_env.models.io.published_checkpoints import LAYOUTS, convert, published_branch, published_lora
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.poses import pose_from_rotation_vector

HEAD_WIDTH, LAYERS = 24, (0, 2)
"""Of the tiny transformer."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base model, a depth model, and what somebody published for them: a branch of every layout, and an update."""
    folder = tmp_path_factory.mktemp("published")
    save_pipeline(folder / "wan")
    save_depth_anything(folder / "depth")
    for layout, trained in LAYOUTS.items():
        branch = ControlBranch.from_transformer(transformer(), trained.parts[0], LAYERS)
        for layer in (branch.before_proj, *branch.after_proj):
            nn.init.normal_(layer.weight, std=0.1)
        save_file(published_branch(branch.state_dict(), "module."), folder / f"{layout}.safetensors")
    update = published_lora(load_file(save_lora(folder / "ours" / "pytorch_lora_weights.safetensors")))
    save_file(update, folder / "lora.safetensors")
    return folder


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_converted_weights_walk(saved, tmp_path, monkeypatch, layout):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in (f"{layout}.safetensors", "lora.safetensors"):
        convert(saved / file, tmp_path / "out", layout, LAYERS, head_width=HEAD_WIDTH)
    control, lora = tmp_path / "out" / "control", tmp_path / "out" / "lora"
    model = load_world_model(saved / "wan", control=control, lora=lora, depth=saved / "depth", dtype=torch.float32)
    assert model.config.references == LAYOUTS[layout].settings["references"]
    assert model.config.preceding_latents == LAYOUTS[layout].settings["preceding_latents"]
    assert model.config.readout.winner == "nearest"

    calls = []
    run = model.generator.branch.run
    monkeypatch.setattr(
        model.generator.branch, "run", lambda *args, **kw: calls.append((args[4], kw)) or run(*args, **kw)
    )
    picture = np.random.default_rng(0).integers(0, 255, (*IMAGE_SIZE, 3)).astype(np.uint8)
    _, state = model.start(picture)
    for _ in range(3):
        end = state.camera.moved(pose_from_rotation_vector([0.0, 0.0, 0.05], [0.0, 0.05, 0.0]))
        chunk, state = model.step(state, between(state.camera, end, model.config.frames_per_chunk))
        assert chunk.latents.isfinite().all()
    assert {c.shape[1] for c, _ in calls} == {model.generator.branch.patch_embedding.in_channels}
    assert calls[-1][1]["references"] > 0
