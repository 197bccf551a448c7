"""Registration of the environments with Gymnasium, by name, so that nothing heavy is imported."""

from __future__ import annotations

import gymnasium

TASKS: dict[str, tuple[str | None, int | None]] = {
    "World": (None, None),
    "Explore": ("explore", 50),
    "PointNav": ("point_nav", 50),
    "ImageNav": ("image_nav", 50),
    "Revisit": ("revisit", 50),
}
"""Task and longest episode, in steps, by the name in the id."""

FAMILIES: dict[str, tuple[str, str | None]] = {
    "Mirage/{}-v0": ("mirage_env.envs.world:MirageEnv", "mirage_env.envs.world:MirageVectorEnv"),
    "Mirage/Readout{}-v0": ("mirage_env.envs.readout:ReadoutEnv", "mirage_env.envs.readout:ReadoutVectorEnv"),
    "Rooms/{}-v0": ("mirage_env.rooms.env:RoomsEnv", "mirage_env.rooms.env:RoomsVectorEnv"),
    "Mirage/Remote{}-v0": ("mirage_env.serving:RemoteEnv", "mirage_env.serving:RemoteVectorEnv"),
    "Mujoco/{}-v0": (
        "mirage_env.adapters.mujoco_world:MujocoEnv",
        "mirage_env.adapters.mujoco_world:MujocoVectorEnv",
    ),
}
"""Entry points of the environment and of its vector environment, by id."""


def register_environments() -> None:
    """Register every task in every family of worlds."""
    for pattern, (entry_point, vector_entry_point) in FAMILIES.items():
        for name, (task, steps) in TASKS.items():
            here = pattern.startswith("Mirage/") and "Remote" not in pattern  # a model that needs a view to start from
            learned = {"rooms_views": "mirage_env.rooms:start_view"} if here else {}
            gymnasium.register(
                pattern.format("" if name == "World" and "/{}-" not in pattern else name),
                entry_point=entry_point,
                vector_entry_point=vector_entry_point,
                max_episode_steps=steps,
                # Gymnasium's checker breaks every later step of an environment whose first reset was refused.
                disable_env_checker=True,
                kwargs={"task": task, **learned},
            )
