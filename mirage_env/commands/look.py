"""`mirage look`: the contents of a saved world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mirage_env.commands.checks import blaming, saved_world
from mirage_env.commands.text_tables import cache_table
from mirage_env.commands.walk import File, Text
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions, Networks


@dataclass(frozen=True)
class Look:
    """List the contents of a saved world, and draw it from above."""

    world: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORLD")]
    """The saved world: a folder, a .zip, or the folder of a walk."""
    out: File = None
    """Write the picture to this PNG file; without it there is none, and no model is loaded."""
    model: Text = None
    """The model that wrote the world, where it is neither shipped nor found under the name in the world."""
    networks: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""


def run_look(options: Look) -> list[str]:
    """Read the world, and draw it if asked; returns the lines to print.

    Raises:
        StoreError: there is no world, or it is damaged.
        InvalidOptionError: the model is not the one that wrote it.
    """
    from mirage_env.store import load_world, open_cache

    if options.out is not None and options.out.suffix.lower() != ".png":
        raise InvalidOptionError(f"--out: {options.out} is no .png, which the map is; give it that ending")
    place = saved_world(options.world)
    info = open_cache(place)
    lines = [cache_table(info)]
    if options.out is not None:
        from PIL import Image

        from mirage_env.memory.latent import LatentMemory
        from mirage_env.viz.pictures import memory_map

        with blaming("--model"):
            model = options.networks.load(options.model or info.model)
            memory = load_world(place, model).memory
        if isinstance(memory, LatentMemory):
            options.out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(memory_map(memory, model.codec, info.cameras)).save(options.out, "PNG")
            lines.append(f"seen from above: {options.out}")
    return lines
