"""Losses by cause: both memories written with true images and true depth, read at the same new views.

With nothing imagined in the memory, the distance from the codec's ceiling splits into what the points lose by standing
beside their pixels or cells, what encoding loses, and what the networks win back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mirage_env.evaluation.metrics import dilate, mean, psnr
from mirage_env.evaluation.variant_rollout import MOVER_MARGIN, pixels_known
from mirage_env.images import frames_from_uint8
from mirage_env.interfaces import MOVER
from mirage_env.memory.filters import keep_cells
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.rgb import RgbMemory
from mirage_env.rooms import Room, random_walk
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

WRITTEN = (0, 3, 6, 9, 11)
"""Frames of a walk that are written; the chunk after the last of them is read."""
ROWS = {
    "codec": "codec reconstruction of the true view (ceiling)",
    "latent_bare": "latent memory, bare readout decoded",
    "latent_refined": "latent memory, refined readout decoded",
    "latent_network": "latent memory, generated chunk",
    "rgb_raster": "RGB memory, rasterised image before encoding",
    "rgb_encoded": "RGB memory, encoded and decoded",
    "rgb_refined": "RGB memory, encoded, refined and decoded",
    "rgb_network": "RGB memory, generated chunk",
}


@torch.inference_mode()
def oracle_record(model: WorldModel, world: int, seed: int) -> dict[str, Any]:
    """PSNR (dB) of every row of `ROWS` on the cells that both memories show, time standing still, movers masked."""
    config = model.config
    room = Room.generate(world, "test")
    rng = np.random.default_rng([seed, world])
    last, views_read = WRITTEN[-1], config.frames_per_chunk
    cameras = random_walk(room, rng, last + 1 + views_read, *config.image_size)
    time = rng.uniform(0.0, 20.0)
    views = [room.render(camera, time) for camera in cameras]
    true = frames_from_uint8(np.stack([v.image for v in views]))
    depth = torch.from_numpy(np.stack([v.depth for v in views]))
    labels = np.stack([v.labels for v in views])
    keep = keep_cells(depth, torch.from_numpy(labels), config.latent_size, config.filters, config.near, config.far)
    latents = model.codec.encode(true)

    written, read = list(WRITTEN), slice(last + 1, last + 1 + views_read)
    still = ~dilate(torch.from_numpy(labels[read] == MOVER), MOVER_MARGIN)
    first, codec = latents[last], model.codec
    images = {"codec": codec.decode_chunk(codec.encode_chunk(true[read], first), first)}
    recent = [max(0, last - config.temporal_stride * i) for i in range(config.preceding_latents, -1, -1)]
    seen = {}
    sizes = {}
    for name, factory in (("latent", LatentMemory.empty), ("rgb", RgbMemory.factory(model.codec))):
        memory = factory(config).write(
            latents[written], true[written], depth[written], keep[written], [cameras[i] for i in written], born=0
        )
        state = WorldState(
            memory=memory,
            camera=cameras[last],
            latents=latents[recent],
            chunk=0,
            noise=torch.Generator().manual_seed(seed * 1_000_003 + world).get_state(),
        )
        chunk, _ = model.step(state, cameras[read])
        seen[name] = pixels_known(chunk)
        sizes[f"{name}_points"], sizes[f"{name}_bytes"] = memory.points, memory.nbytes
        images[f"{name}_{'bare' if name == 'latent' else 'encoded'}"] = codec.decode_chunk(chunk.readout.latent, first)
        images[f"{name}_refined"] = codec.decode_chunk(chunk.known, first)
        images[f"{name}_network"] = chunk.frames
        if isinstance(memory, RgbMemory):
            images["rgb_raster"] = memory.rasterise(cameras[read], now=1).images
    mask = still & seen["latent"] & seen["rgb"]
    figures = {name: mean(psnr(images[name].float().cpu(), true[read], mask).tolist()) for name in ROWS}
    shares = {f"{name}_seen": float(s.float().mean()) for name, s in seen.items()}
    return {"figures": {**figures, **shares}, **sizes}
