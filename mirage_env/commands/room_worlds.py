"""Rooms of the simulator for commands that otherwise know nothing of it: a world with its truth, worlds to train in."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from mirage_env.commands.checks import blaming
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownWorld

if TYPE_CHECKING:
    import numpy as np
    from gymnasium.vector import VectorEnv

    from mirage_env.camera import Camera
    from mirage_env.world_model import WorldModel
    from policies.training.config import TrainPolicy


def open_room(model: WorldModel, seed: int) -> KnownWorld:
    """The test room of that number, and its truth."""
    import numpy as np

    from mirage_env.interfaces import StartView
    from mirage_env.rooms import Room
    from mirage_env.rooms.room import FRAME_SECONDS

    room = Room.generate(seed, "test")
    camera = room.start_camera(np.random.default_rng(seed), *model.config.image_size)
    view = room.render(camera)

    def truth(camera: Camera, frame: int) -> tuple[np.ndarray, np.ndarray]:
        true = room.render(camera, time=frame * FRAME_SECONDS)
        return true.image, ~true.mover

    return KnownWorld(StartView(view.image, camera, view.depth), truth, lambda c: room.is_free(c.position))


def training_worlds(options: TrainPolicy, env: str, count: int, split: str) -> VectorEnv[Any, Any, Any]:
    """Worlds for training a policy or testing it, with rooms of that split.

    Raises:
        InvalidOptionError: there is no such environment.
    """
    import gymnasium
    from gymnasium.vector import AutoresetMode

    from mirage_env.datasets.start_views import home_view
    from mirage_env.rooms import start_view, surroundings
    from mirage_env.tasks import TASKS

    try:
        spec = gymnasium.spec(env)
    except gymnasium.error.Error as error:
        known = ", ".join(name for name in gymnasium.registry if name.startswith(("Mirage/", "Rooms/")))
        raise InvalidOptionError(f"there is no environment {env!r} ({error}); choose one of {known}") from error
    arguments: dict[str, Any] = {}
    if (task := spec.kwargs.get("task")) in ("point_nav", "image_nav"):
        arguments["task"] = TASKS[task](goals=options.goals, stop=options.stop)  # type: ignore[call-arg]
    if options.contact != "none":
        arguments["contact"] = options.contact
    frames = {} if options.chunk_frames is None else {"chunk_frames": options.chunk_frames}
    size = None if options.size is None else (options.size, options.size)
    if spec.vector_entry_point == "mirage_env.envs.world:MirageVectorEnv":
        with blaming("--model"):
            model = _world_model(options.model, size)
        arguments |= {"model": model, **frames}
        if home_view(model, 0) is None:
            views = partial(surroundings, size=model.config.image_size[0]) if options.goals == "behind" else start_view
            arguments |= {"start_views": partial(views, split=split)}
    elif spec.vector_entry_point == "mirage_env.rooms.env:RoomsVectorEnv":
        arguments |= {"split": split, **frames, **({} if size is None else {"image_size": size})}
    together: dict[str, Any] = {}
    if spec.vector_entry_point is None:
        together = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.DISABLED}}
    if options.episode_steps is not None:
        arguments["max_episode_steps"] = options.episode_steps
    return gymnasium.make_vec(spec, num_envs=count, **together, **arguments)


@cache
def _world_model(name: str, size: tuple[int, int] | None) -> WorldModel:
    """Read once, for all worlds."""
    from mirage_env.models.world_model_loader import load_world_model

    return load_world_model(name, image_size=size)
