"""Hello, world: open a world from one view and walk through it.

    python examples/01_hello_world.py --seed 7

The environment is a Gymnasium environment like any other. One step shows one chunk of 8 frames; an action says where
the camera goes: translation (right, down, forward) and rotation vector about the same axes, as shares of the largest
step.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro
from PIL import Image

import mirage_env  # noqa: F401  (registers the environments)

FORWARD = np.array([0.0, 0.0, 0.3, 0.0, 0.0, 0.0], np.float32)
TURN_RIGHT = np.array([0.0, 0.0, 0.0, 0.0, 0.5, 0.0], np.float32)


def main(seed: int = 7, steps: int = 6, out: Path = Path("hello")) -> None:
    """Walk and turn.

    Args:
        seed: of the start view and of all that is imagined.
        steps: how many.
        out: folder for the pictures.
    """
    env = gym.make("Mirage/World-v0")
    observation, info = env.reset(seed=seed)
    print(f"the world begins with {info['memory_points']} points, seen in one image")

    out.mkdir(parents=True, exist_ok=True)
    for step in range(steps):
        action = FORWARD if step % 2 == 0 else TURN_RIGHT
        observation, _, terminated, truncated, info = env.step(action)
        x, y, z = observation["agent_pos"][:3]
        print(
            f"step {step + 1}: at ({x:.2f}, {y:.2f}, {z:.2f}) m, {info['coverage']:.0%} of the view was known before, "
            f"{info['memory_points']} points now ({info['memory_bytes'] / 1024:.0f} KiB)"
        )
        # The observation has the last frame; the others are there too.
        Image.fromarray(observation["pixels"]).save(out / f"step_{step + 1}.png")
        if terminated or truncated:
            break

    # A world is a value: a fork costs nothing, and what happens in it does not change the original.
    fork = env.unwrapped.fork()
    fork.step(TURN_RIGHT)
    print(f"the fork has seen {fork.get_world().chunk} chunks, the original {env.unwrapped.get_world().chunk}")

    # And it can be kept: `reset(options={"cache": path})` goes on from here.
    env.unwrapped.save(out / "world.zarr", overwrite=True)
    print(f"pictures and the world are in {out}")
    env.close()


if __name__ == "__main__":
    tyro.cli(main)
