"""Write the sample of the current cache version: `python tests/helpers/make_cache_sample.py`, once per version."""

import json

import numpy as np
from repository import ROOT
from worlds import open_minded_model, walk

from mirage_env.store import CacheWriter, load_frames, open_cache
from mirage_env.store.format.root_attributes import VERSION

DATA = ROOT / "tests/data"


def main() -> None:
    model = open_minded_model(merge_tokens=60)
    walked = walk(model, 3)
    (first, begun), path = walked[0], DATA / f"cache_v{VERSION}.zip"
    writer = CacheWriter.create(path, begun, model, [first], frames=True)
    for chunk, state in walked[1:]:
        writer.append(state, chunk)
    writer.close(compact=False)  # with a log of evidence in it
    info, state = open_cache(path), writer.state
    xyz = np.concatenate([block.positions() for block in state.memory.blocks])
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
