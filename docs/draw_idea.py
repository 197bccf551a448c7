"""Draws the pictures of docs/index.md with the shipped model, in a test room whose truth is known.

python docs/draw_idea.py --out docs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

import mirage_env
from mirage_env import Camera, Chunk, WorldModel, WorldState, frames_to_uint8, pose_from_rotation_vector, preset_path
from mirage_env.evaluation import variant
from mirage_env.rooms import Room
from mirage_env.viz import BLANK, memory_map

Picture = NDArray[np.uint8]
KEPT, KNOWN, LEFT_OUT = (70, 160, 90), (120, 130, 150), (226, 140, 60)


@dataclass(frozen=True)
class Options:
    """Draw the pictures of the idea."""

    out: Path = Path("docs")
    """Folder for idea_step.webp, idea_fork.webp and idea_return.webp."""
    room: int = 7
    """Number of the test room."""
    model: str = "rooms"


def main(options: Options) -> None:
    """Draw all three."""
    model = mirage_env.load_world_model(options.model)
    height, width = model.config.image_size
    room = Room.generate(options.room, "test")
    camera = room.start_camera(np.random.default_rng(options.room), height, width)
    view = room.render(camera)
    begun = model.start(view.image, camera, view.depth, seed=options.room)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_step(options.out / "idea_step.webp", model, room, begun)
    draw_fork(options.out / "idea_fork.webp", model, room, begun[1])
    draw_return(options.out / "idea_return.webp", model, room, begun[1])


def draw_step(place: Path, model: WorldModel, room: Room, begun: tuple[Chunk, WorldState]) -> None:
    """One step of the method, a picture for each part."""
    first, world = begun
    path = turning(world.camera, model, chunks=2, turn=0.9)
    chunk, after = model.step(world, path[: model.config.frames_per_chunk])
    observed = chunk.readout.observed[-1].numpy()
    draw(
        place,
        [
            [
                ("1 an image", frames_to_uint8(first.frames)[0]),
                ("2 its depth", depth_picture(first.depth[0].numpy())),
                ("3 its latents in space,\nseen from above", from_above(model, world)),
                ("4 what they show\nat the next camera", decoded(model, chunk.known[-1:], observed)),
            ],
            [
                ("5 the network\nfills in the rest", frames_to_uint8(chunk.frames)[-1]),
                ("6 green is written; grey was\nknown, orange is sky or edge", written(chunk)),
                ("7 the memory then", from_above(model, after)),
                ("for comparison:\nthe true simulator", room.render(chunk.cameras[-1]).image),
            ],
        ],
    )


def draw_fork(place: Path, model: WorldModel, room: Room, world: WorldState) -> None:
    """A world and its fork, which part and know nothing of each other."""
    rows = []
    for name, turn in (("the world", -0.8), ("its fork", 0.8)):
        path = turning(world.camera, model, chunks=3, turn=turn)
        frames = walk(model, world, path)
        picked = np.linspace(0, len(frames) - 1, 5).round().astype(int)
        rows.append([(name if i == picked[0] else "", frames[i]) for i in picked])
    draw(place, rows)


def draw_return(place: Path, model: WorldModel, room: Room, world: WorldState) -> None:
    """Look away and back: the truth, with the memory, and the same network without."""
    path = preset_path("look_away_and_back", world.camera, 6 * model.config.frames_per_chunk)
    blank = variant("no_memory", model)
    forgetful = replace(world, memory=blank.memory_factory(model.config))
    rows = []
    for name, frames in (
        ("true simulator", [room.render(camera).image for camera in path]),
        ("imagined, with memory", walk(model, world, path)),
        ("the same network, no memory", walk(blank, forgetful, path)),
    ):
        picked = np.linspace(0, len(frames) - 1, 7).round().astype(int)
        rows.append([(name if i == picked[0] else "", frames[i]) for i in picked])
    draw(place, rows)


def walk(model: WorldModel, world: WorldState, path: Sequence[Camera]) -> list[Picture]:
    """Frames along a path."""
    frames: list[Picture] = []
    for first in range(0, len(path), model.config.frames_per_chunk):
        chunk, world = model.step(world, path[first : first + model.config.frames_per_chunk])
        frames += list(frames_to_uint8(chunk.frames))
    return frames


def turning(camera: Camera, model: WorldModel, chunks: int, turn: float) -> list[Camera]:
    """Turn on the spot by so many radians, to the right if positive."""
    steps = np.linspace(0.0, turn, chunks * model.config.frames_per_chunk + 1)[1:]
    turns = [pose_from_rotation_vector(np.zeros(3), np.array([0.0, step, 0.0])) for step in steps]
    return [camera.at(camera.T_world_cam @ T) for T in turns]


@torch.inference_mode()
def decoded(model: WorldModel, latent: torch.Tensor, observed: NDArray[np.float32]) -> Picture:
    """Decoded readout; grey where the memory knows nothing."""
    seen = np.kron(observed, np.ones((model.config.stride,) * 2))[..., None]
    return (frames_to_uint8(model.codec.decode(latent))[0] * seen + BLANK * (1.0 - seen)).astype(np.uint8)


def written(chunk: Chunk) -> Picture:
    """Draw the fate of each cell of the last frame."""
    colours = np.full((*chunk.keep.shape[1:], 3), KNOWN, np.uint8)
    colours[chunk.readout.observed[-1].numpy() == 0] = KEPT
    colours[~chunk.keep[-1].numpy().astype(bool)] = LEFT_OUT
    return np.asarray(Image.fromarray(colours).resize((128, 128), Image.Resampling.NEAREST))


def depth_picture(depth: NDArray[np.float32]) -> Picture:
    """Near is bright."""
    near = 1.0 / np.clip(depth, 0.5, 20.0)
    return (colormaps["viridis"](near / near.max())[..., :3] * 255).astype(np.uint8)


def from_above(model: WorldModel, world: WorldState) -> Picture:
    """The memory from above, on a square."""
    picture = Image.fromarray(memory_map(world.memory, model.codec, [world.camera], side=256))
    square = Image.new("RGB", (256, 256), (250, 250, 248))
    square.paste(picture, ((256 - picture.width) // 2, (256 - picture.height) // 2))
    return np.asarray(square)


def draw(place: Path, rows: Sequence[Sequence[tuple[str, Picture]]]) -> None:
    """Rows of pictures with what they are above them."""
    columns = max(map(len, rows))
    tall = 1.9 if any("\n" in name for row in rows for name, _ in row) else 1.65
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.6 * columns, tall * len(rows)), layout="constrained")
    for row, places in zip(rows, np.atleast_2d(axes), strict=True):
        for (name, picture), ax in zip(row, places, strict=True):
            ax.imshow(picture, interpolation="lanczos")
            ax.set_title(name, fontsize=7 if "\n" in name else 8, loc="left")
            ax.axis("off")
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    plt.close(figure)
    image.save(place, quality=90)


if __name__ == "__main__":
    plt.switch_backend("Agg")
    plt.rcParams["figure.dpi"] = 110
    main(tyro.cli(Options))
