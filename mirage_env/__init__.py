"""Mirage: a learned world that robots can practise in.

`gymnasium.make("Mirage/World-v0")` walks through the learned world, `gymnasium.make("Rooms/World-v0")` through the true
simulator with the same spaces. In place of `World` stands a task: `Explore`, `PointNav`, `ImageNav`, `Revisit` (package
`mirage_env.tasks`). `load_world_model("rooms")` gives the world model itself.
"""

import importlib.metadata

import lazy_loader

from mirage_env.envs.registration import register_environments

# Names are resolved on first use: torch alone takes longer to import than this whole package may.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = importlib.metadata.version("mirage-env")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


register_environments()
