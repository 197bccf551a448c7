"""A low-rank update that was trained to rest in a world's first chunk does so there, and there only."""

from dataclasses import replace

import numpy as np
import torch
from tiny_wan import SIZE, TRAINED, tiny_wan_world_model

from mirage_env.models.wan.lora import add_adapter
from mirage_env.world_model import WorldModel


def model(adapter: bool) -> WorldModel:
    """Spatia's kind: no preceding latents."""
    made = tiny_wan_world_model(replace(TRAINED, lora_in_first_chunk=False), control=False)
    if adapter:
        g = torch.Generator().manual_seed(3)
        names = [f"blocks.{i}.attn1.{layer}" for i in (0, 1) for layer in ("to_q", "to_v")]
        halves = {"lora_A": (2, 24), "lora_B": (24, 2)}
        update = {f"{n}.{h}.weight": torch.randn(s, generator=g) for n in names for h, s in halves.items()}
        add_adapter(made.generator.transformer, update)
    return replace(made, config=replace(made.config, preceding_latents=0))


def test_update_rests_in_the_first_chunk_of_each_world_and_in_no_other():
    plain, updated = model(adapter=False), model(adapter=True)
    _, start = plain.start(np.full((*SIZE, 3), 90, np.uint8))
    path = [start.camera] * plain.config.frames_per_chunk
    first, later = plain.step(start, path)
    second, _ = plain.step(later, path)
    (one, two), _ = updated.step_batch([start, later], [path, path])
    torch.testing.assert_close(one.latents, first.latents, rtol=1e-4, atol=1e-5)
    assert (two.latents - second.latents).abs().max() > 1e-3
    alone, _ = updated.step(later, path)
    torch.testing.assert_close(alone.latents, two.latents, rtol=1e-4, atol=1e-5)
