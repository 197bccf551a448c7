"""Look into the memory: what the world knows, without generating anything.

    python examples/02_look_into_the_memory.py --seed 7

The memory holds points in space, each with a feature. Reading it at a camera gives a latent image, which the codec
decodes. Where nothing is known there is a hole: `observed` tells.
"""

from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from mirage_env import frames_to_uint8, load_world_model, pose_from_rotation_vector
from mirage_env.rooms import start_view
from mirage_env.viz import mark_unseen, memory_map


def main(seed: int = 7, views: int = 8, out: Path = Path("memory")) -> None:
    """Write one view to a memory, and read it from the side.

    Args:
        seed: of the start view.
        views: how many views to read, on a step to the right while turning left.
        out: folder for the pictures.
    """
    model = load_world_model("rooms")
    view = start_view(np.random.default_rng(seed))

    # One image with its depth becomes points. (Without depth it is estimated.)
    _, world = model.start(view.image, view.camera, view.depth, seed=seed)
    memory = world.memory
    print(f"{memory.points} points, {memory.nbytes} bytes, in {len(memory.blocks)} blocks")
    for block in memory.blocks:
        low, high = block.bounds
        print(f"  {len(block)} points between {low.round(2)} and {high.round(2)} m")

    # Cameras beside the first one. T_a_b maps points of frame b into frame a.
    cameras = []
    for share in np.linspace(0.0, 1.0, views):
        T_cam_side = pose_from_rotation_vector([0.6 * share, 0.0, 0.0], [0.0, -0.3 * share, 0.0])
        cameras.append(view.camera.moved(T_cam_side))

    # Reading gives latents and what is known of them; refining puts right that they were moved by parts of a cell.
    with torch.inference_mode():
        readout = memory.read(cameras, now=1)
        frames = frames_to_uint8(model.codec.decode(model.refiner.refine(readout)))
    out.mkdir(parents=True, exist_ok=True)
    for number, (frame, observed) in enumerate(zip(frames, readout.observed, strict=True)):
        print(f"view {number}: {float(observed.mean()):.0%} known")
        Image.fromarray(mark_unseen(frame, observed.numpy())).save(out / f"view_{number}.png")

    # The memory from above, with the cameras in it.
    Image.fromarray(memory_map(memory, model.codec, cameras)).save(out / "map.png")
    print(f"pictures are in {out}; what is not known is orange")


if __name__ == "__main__":
    tyro.cli(main)
