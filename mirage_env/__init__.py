"""Mirage: a learned world that robots can practise in.

`gymnasium.make("Mirage/World-v0")` walks through the learned world, `gymnasium.make("Rooms/World-v0")` through the true
simulator with the same spaces. In place of `World` stands a task: `Explore`, `PointNav`, `ImageNav`, `Revisit` (module
`mirage_env.tasks`). `load_world_model("rooms")` gives the world model itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from mirage_env.actions import DiscreteControl
    from mirage_env.camera import Camera
    from mirage_env.conformance import check_world_env
    from mirage_env.env import MirageEnv
    from mirage_env.models.loading import load_world_model
    from mirage_env.vector_env import MirageVectorEnv
    from mirage_env.world_model import Chunk, WorldModel, WorldState
    from mirage_env.wrappers import RecordChunks

__all__ = [
    "Camera",
    "Chunk",
    "DiscreteControl",
    "MirageEnv",
    "MirageVectorEnv",
    "RecordChunks",
    "WorldModel",
    "WorldState",
    "check_world_env",
    "load_world_model",
]

# Names are resolved on first use: torch alone takes longer to import than this whole package may.
_HOME = {
    "Camera": "mirage_env.camera",
    "Chunk": "mirage_env.world_model",
    "DiscreteControl": "mirage_env.actions",
    "MirageEnv": "mirage_env.env",
    "MirageVectorEnv": "mirage_env.vector_env",
    "RecordChunks": "mirage_env.wrappers",
    "WorldModel": "mirage_env.world_model",
    "WorldState": "mirage_env.world_model",
    "check_world_env": "mirage_env.conformance",
    "load_world_model": "mirage_env.models.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Task (by name, so that nothing is imported here) and the longest episode of every id.
_TASKS: dict[str, tuple[str | None, int | None]] = {
    "World": (None, None),
    "Explore": ("explore", 50),
    "PointNav": ("point_nav", 50),
    "ImageNav": ("image_nav", 50),
    "Revisit": ("revisit", 50),
}
for _name, (_task, _steps) in _TASKS.items():
    gymnasium.register(
        f"Mirage/{_name}-v0",
        entry_point="mirage_env.env:MirageEnv",
        vector_entry_point="mirage_env.vector_env:MirageVectorEnv",
        max_episode_steps=_steps,
        kwargs={"start_views": "mirage_env.rooms:start_view", "task": _task},
    )
    gymnasium.register(
        f"Rooms/{_name}-v0",
        entry_point="mirage_env.rooms.env:RoomsEnv",
        vector_entry_point="mirage_env.rooms.env:RoomsVectorEnv",
        max_episode_steps=_steps,
        kwargs={"task": _task},
    )
    gymnasium.register(
        f"Mirage/Readout{'' if _name == 'World' else _name}-v0",
        entry_point="mirage_env.readout_env:ReadoutEnv",
        vector_entry_point="mirage_env.readout_env:ReadoutVectorEnv",
        max_episode_steps=_steps,
        kwargs={"start_views": "mirage_env.rooms:start_view", "task": _task},
    )
