"""Steps with contact: what a world shows when the camera goes as far as its body gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_env.camera import Camera
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.chunk_world import ChunkWorld, StateT
from mirage_env.envs.contact import reachable_path, touched
from mirage_env.spaces.observations import Shown


def walk_with_contact(
    world: ChunkWorld[StateT],
    arguments: EnvArguments,
    states: Sequence[StateT],
    paths: Sequence[Sequence[Camera]],
    frame_seconds: float,
) -> list[tuple[StateT, Shown]]:
    """Walk in several worlds as far as the body gets.

    A learned world knows some obstacles only when it has generated what a path leads into: where the body cannot be,
    the path is cut and walked again.
    """

    def reachable(start: Any, knows: StateT, path: Sequence[Camera]) -> list[Camera]:
        if (obstacles := world.obstacles(knows, arguments.body_height)) is None:
            return list(path)
        return reachable_path(arguments.contact, arguments.body_radius, obstacles, start.camera, path, frame_seconds)

    known = [reachable(state, state, path) for state, path in zip(states, paths, strict=True)]
    walked = world.walk(states, known)
    if world.learns_obstacles:
        found = [reachable(s, w[0], path) for s, w, path in zip(states, walked, known, strict=True)]
        late = [i for i, (a, b) in enumerate(zip(known, found, strict=True)) if touched(a, b)]
        again = world.walk([states[i] for i in late], [found[i] for i in late]) if late else []
        for i, result in zip(late, again, strict=True):
            walked[i] = result
    return walked
