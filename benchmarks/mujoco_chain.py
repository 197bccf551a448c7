"""Another simulator from end to end: record a MuJoCo scene, train on it, walk in what was trained, evaluate.

    MUJOCO_GL=egl python benchmarks/mujoco_chain.py --out chain --clips 60 --minutes 6
    MUJOCO_GL=egl python benchmarks/mujoco_chain.py --out tiny --clips 4 --held-out 2 --frames 9 --minutes .2 --size 64

The scene is a walled yard with boxes, a pillar and a ball that rolls. Depth and segmentation of the shipped model learn
it (`mirage train all --from rooms --only depth,segmentation`); `mirage eval clips` measures the shipped model and the
trained one on clips that neither has seen. Run again, it goes on where it was.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

from mirage_env import cli, load_world_model
from mirage_env.camera import Camera
from mirage_env.datasets import record_environment
from mirage_env.evaluation import own_clips
from mirage_env.evaluation.own_clips import ClipsEvalConfig
from mirage_env.poses import pose_from_rotation_vector

SCENE = """<mujoco><visual><headlight ambient=".4 .4 .4" diffuse=".5 .5 .5" specular="0 0 0"/></visual><asset>
<texture type="skybox" builtin="gradient" rgb1=".5 .7 .9" rgb2=".9 .9 .95" width="64" height="384"/>
<texture name="tiles" type="2d" builtin="checker" rgb1=".5 .45 .4" rgb2=".3 .3 .35" width="64" height="64"/>
<material name="tiles" texture="tiles" texrepeat="9 9"/></asset>
<worldbody><light pos="0 0 4" dir=".4 .3 -1" directional="true" diffuse=".4 .4 .4" castshadow="false"/>
<geom type="plane" size="4 4 .1" material="tiles"/>
<geom type="box" pos="4 0 1.2" size=".1 4 1.2" rgba=".7 .6 .4 1"/>
<geom type="box" pos="-4 0 1.2" size=".1 4 1.2" rgba=".4 .6 .7 1"/>
<geom type="box" pos="0 4 1.2" size="4 .1 1.2" rgba=".6 .7 .5 1"/>
<geom type="box" pos="0 -4 1.2" size="4 .1 1.2" rgba=".7 .5 .5 1"/>
<geom type="box" pos="2.5 1.8 .4" size=".5 .7 .4" rgba=".8 .2 .2 1"/>
<geom type="box" pos="-2.4 -2 .6" size=".4 .4 .6" rgba=".2 .3 .8 1"/>
<geom type="cylinder" pos="1.5 -2.3 .9" size=".25 .9" rgba=".9 .8 .3 1"/>
<body pos="-1.5 2.4 .3"><freejoint/><geom type="sphere" size=".3" rgba=".2 .8 .3 1"/></body>
</worldbody></mujoco>"""
REACH = 1.2
"""Cameras start so far from the middle at most, metres, where nothing stands."""


@dataclass(frozen=True)
class Options:
    """How much of everything."""

    out: Path = Path("mujoco-chain")
    clips: int = 60
    held_out: int = 8
    frames: int = 17
    size: int = 128
    """Side of the images in pixels, a multiple of 64."""
    minutes: float = 6.0
    """Of the training."""
    chunks: int = 4
    """Of the walk."""
    threads: int = 1


def start_camera(size: int) -> Any:
    """A function that draws a level camera inside the yard."""

    def draw(rng: np.random.Generator) -> Camera:
        x, y = rng.uniform(-REACH, REACH, 2)
        yaw = rng.uniform(-math.pi, math.pi)
        ahead, right = np.array([math.cos(yaw), math.sin(yaw), 0.0]), np.array([math.sin(yaw), -math.cos(yaw), 0.0])
        T = np.eye(4)
        T[:3, 0], T[:3, 1], T[:3, 2], T[:3, 3] = right, [0.0, 0.0, -1.0], ahead, [x, y, 1.0]
        down = pose_from_rotation_vector([0.0, 0.0, 0.0], [-0.15, 0.0, 0.0])
        return Camera.from_fov(math.radians(75.0), size, size, T @ down)

    return draw


def strolls(observation: Any, info: Any) -> np.ndarray:
    """Turn, with small steps, so that the camera stays in the yard."""
    rng = np.random.default_rng(int(1e6 * abs(observation["agent_pos"]).sum()))
    return np.array([*rng.uniform(-0.25, 0.25, 3) * (1, 0.1, 1), 0.0, rng.uniform(-0.8, 0.8), 0.0], np.float32)


def command(*words: object) -> None:
    """Run a `mirage` command.

    Raises:
        RuntimeError: it failed.
    """
    if code := cli.main([str(word) for word in words]):
        raise RuntimeError(f"mirage {' '.join(map(str, words))} ended with {code}")


def main(options: Options) -> dict[str, Any]:
    """Run the chain; figures go to chain.json."""
    torch.set_num_threads(options.threads)
    out, began = options.out, time.monotonic()
    minutes: dict[str, float] = {}

    def note(part: str) -> None:
        nonlocal began
        minutes[part], began = (time.monotonic() - began) / 60.0, time.monotonic()

    arguments = {"scene": SCENE, "start": start_camera(options.size), "image_size": (options.size, options.size)}
    env = gym.make("Mujoco/World-v0", info_frames=True, **arguments)
    record_environment(env, out / "clips", options.clips, options.frames, strolls, seed=0)
    record_environment(env, out / "held-out", options.held_out, options.frames, strolls, seed=10**6)
    env.close()
    note("record")
    train = ["--from", "rooms", "--only", "depth,segmentation", "--minutes", options.minutes, "--size", options.size]
    command("train", "all", "--out", out / "run", "--clips", out / "clips", "--threads", options.threads, *train)
    note("train")
    trained = out / "run" / "model"
    world = gym.make("Mirage/World-v0", model=load_world_model(trained))
    world.reset(seed=0)
    for chunk in range(options.chunks):
        way = 1.0 if chunk < options.chunks / 2 else -1.0
        _, _, _, _, info = world.step(np.array([0.0, 0.0, 0.2 * way, 0.0, 0.5 * way, 0.0], np.float32))
    world.unwrapped.save(out / "walk.zarr", overwrite=True)  # type: ignore[attr-defined]
    note("walk")
    sized = partial(load_world_model, image_size=(options.size, options.size))
    own_clips.run(ClipsEvalConfig(out / "held-out", "rooms", out / "before"), sized)
    command("eval", "clips", "--model", trained, "--clips", out / "held-out", "--out", out / "after")
    note("evaluate")
    found: dict[str, Any] = {"minutes": minutes, "walked": {"chunks": options.chunks, "coverage": info["coverage"]}}
    found |= {name: json.loads((out / name / "clips.json").read_text()) for name in ("before", "after")}
    (out / "chain.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
