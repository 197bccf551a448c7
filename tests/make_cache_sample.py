"""Writes the sample of the current cache version: `python tests/make_cache_sample.py`, once per version, at release."""

import json
from pathlib import Path

import numpy as np
from worlds import open_minded_model, walk

from mirage_env.cache_format import VERSION
from mirage_env.store import load_frames, open_cache, save_world

DATA = Path(__file__).parent / "data"


def main() -> None:
    model = open_minded_model()
    walked = walk(model, 2)
    state, path = walked[-1][1], DATA / f"cache_v{VERSION}.zip"
    save_world(path, state, model, [chunk for chunk, _ in walked], frames=True)
    info = open_cache(path)
    xyz = np.concatenate([block.xyz for block in state.memory.blocks])
    expected = {
        "chunks": info.chunks,
        "blocks": info.blocks,
        "points": info.points,
        "identity": info.identity,
        "mean_xyz": xyz.mean(0).tolist(),
        "mean_latent": state.latents.mean().item(),
        "camera": state.camera.as_vector().tolist(),
        "mean_frame": float(load_frames(path).mean()),
    }
    path.with_suffix(".json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
