"""Weights of the paper's released trainer and of Spatia: converted, they sample as their descriptions say.

The checkpoints are written, and the samplers written down again, from those descriptions (`described_sampler.py`).
"""

import json

import numpy as np
import pytest
import torch
from described_sampler import (
    C,
    Described,
    a_branch,
    a_lora,
    embedded,
    listening_model,
    noise_of,
    save_published,
    walked,
)
from diffusers import UniPCMultistepScheduler

from mirage_env.models.io.published_layouts import LAYOUTS

SUFFIX = ", 4K, realistic, high quality, HDR."


@pytest.mark.parametrize("channels", [2 * C, C + 1], ids=["all-ones video", "hole mask"])
@torch.inference_mode()
def test_converted_weights_walk_as_the_released_sampler_does(tmp_path, channels):
    torch.manual_seed(0)
    beside = range(0, 30, 2)
    branch, lora = a_branch(channels, len(beside)), a_lora()
    save_published(tmp_path, branch, lora, "released")
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(sigmas=np.linspace(0.999, 0.0, 21)[:-1].copy())
    assert scheduler.timesteps.tolist()[-2:] == [356, 208]
    assert LAYOUTS["released"].settings["sampler"]["steps"] == 20
    model, told = listening_model(tmp_path, steps=4)
    assert (model.config.references, model.config.preceding_latents) == (4, 2)
    assert model.config.readout.winner == "nearest"
    chunks = walked(model, "a red chair")

    first, second = told
    assert len(first["preceding"][0]) == len(first["preceding_readout"][0]) == 0
    assert len(second["preceding"][0]) == len(second["preceding_readout"][0]) == 2
    assert torch.equal(second["preceding_readout"][0], chunks[0].readout.latent[-2:])
    assert second["readout"][0].observed.any()
    assert len(second["references"][0]) >= 1

    described = Described(branch, lora, beside, steps=4)
    text = embedded(tmp_path / "wan", "a red chair")
    for given, chunk in zip(told, chunks, strict=True):
        seen = torch.cat([given["readout"][0].latent, given["preceding_readout"][0]]).transpose(0, 1)
        video = channels == 2 * C
        mask = described.plain(1.0, seen.shape[1]) if video else (seen == 0).all(0, keepdim=True).float()
        expected = described.sample(given, torch.cat([seen, mask]), text, noise_of(given))[1:]
        assert (chunk.latents - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_layout_of_spatia_has_its_rounds():
    said = LAYOUTS["spatia"].settings
    frames = [1 + 4 * (said[key] - 1) for key in ("first_chunk_latents", "chunk_latents")]
    assert frames == [121, 81]
    assert 1 + 4 * (said["clean_latents"] - 1) == 9
    assert (said["sampler"]["guidance_scale"], said["sampler"]["prompt_suffix"]) == (3.5, SUFFIX)
    assert not said["sampler"]["lora_in_first_chunk"]


@torch.inference_mode()
def test_converted_weights_walk_as_spatia_does(tmp_path):
    """Rounds of two lengths, the last frames as clean latents in front, an update that rests in the first round."""
    torch.manual_seed(0)
    beside = range(0, 30, 4)
    branch, lora = a_branch(2 * C, len(beside)), a_lora()
    save_published(tmp_path, branch, lora, "spatia")
    settings = tmp_path / "ours" / "control" / "mirage.json"
    short = {**json.loads(settings.read_text()), "first_chunk_latents": 5, "chunk_latents": 6}
    settings.write_text(json.dumps(short))
    model, told = listening_model(tmp_path, steps=3, negative_prompt="grey")
    assert (model.config.references, model.config.preceding_latents) == (7, 0)
    chunks = walked(model, "a red chair")
    assert [len(chunk.frames) for chunk in chunks] == [16, 12]
    assert [given["known"].shape[1] for given in told] == [5, 6]
    assert told[1]["readout"][0].observed.any()

    text, negative = (embedded(tmp_path / "wan", prompt) for prompt in ("a red chair" + SUFFIX, "grey"))
    for given, chunk, update, clean in zip(told, chunks, ({}, lora), (1, 3), strict=True):
        described = Described(branch, update, beside, steps=3)
        seen, known = given["readout"][0].observed > 0, given["readout"][0].latent.transpose(0, 1)
        black, there, hole = (described.plain(value, len(seen)) for value in (-1.0, 0.0, 1.0))
        condition = torch.cat([torch.where(seen, known, black), torch.where(seen, there, hole)])
        expected = described.sample(given, condition, text, noise_of(given), clean, negative, 3.5)[clean:]
        assert (chunk.latents - expected).abs().max() < 1e-5 * expected.abs().max()
    history = torch.as_tensor(chunks[0].frames[-9:]).transpose(0, 1)[None]
    front = (described.vae.encode(history).latent_dist.mode()[0].transpose(0, 1) - 0.1) / 0.5
    torch.testing.assert_close(told[1]["known"][0, :3], front, rtol=1e-4, atol=1e-4)
