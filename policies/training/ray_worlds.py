"""Worlds that step together, divided between actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Worlds = VectorEnv[Any, Any, Any]


class Share:
    """Some of the worlds, in a process of the cluster; a Ray actor."""

    def __init__(self, make: Callable[[int], Worlds], count: int) -> None:
        self._worlds = make(count)

    def about(self) -> tuple[Any, ...]:
        """Spaces, metadata and render mode of the worlds."""
        worlds = self._worlds
        return worlds.single_observation_space, worlds.single_action_space, worlds.metadata, worlds.render_mode

    def reset(self, seeds: list[int] | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """As the vector environment's."""
        given: Any = seeds
        return self._worlds.reset(seed=given, options=options)

    def step(self, actions: NDArray[Any]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the vector environment's."""
        return self._worlds.step(actions)


class RayWorlds(VectorEnv[Any, Any, Any]):
    """A vector environment whose worlds are divided between Ray actors, which step at the same time.

    An actor that dies ends the training with an error; give the same command again, and it goes on from its last
    checkpoint.

    Args:
        ray: the module, connected to a cluster.
        make: makes so many worlds, in the process of an actor.
        num_envs: worlds in all.
        actors: at most so many shares, as even as they can be.
    """

    def __init__(self, ray: Any, make: Callable[[int], Worlds], num_envs: int, actors: int) -> None:
        self._ray = ray
        self.num_envs = num_envs
        self._parts = [part for part in np.array_split(np.arange(num_envs), actors) if len(part)]
        share = self._ray.remote(Share).options(num_cpus=1)
        self._seen: dict[int, tuple[Any, dict[str, Any]]] = {}
        """Newest observations and infos of each share."""
        self._shares = [share.remote(make, len(part)) for part in self._parts]
        about = self._ray.get(self._shares[0].about.remote())
        self.single_observation_space, self.single_action_space, self.metadata, self.render_mode = about
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin anew: all worlds, or those of the option `reset_mask`."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        mask = (options or {}).get("reset_mask")
        asked = {}
        for i, (share, part) in enumerate(zip(self._shares, self._parts, strict=True)):
            own = options if mask is None else {**(options or {}), "reset_mask": np.asarray(mask)[part]}
            if own is None or mask is None or own["reset_mask"].any():
                asked[i] = share.reset.remote(None if seeds is None else [seeds[n] for n in part], own)
        self._seen |= dict(zip(asked, self._ray.get(list(asked.values())), strict=True))
        observations, infos = zip(*(self._seen[i] for i in range(len(self._shares))), strict=True)
        return _joined(observations), _joined(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Walk on by one chunk in all worlds."""
        asked = [share.step.remote(actions[part]) for share, part in zip(self._shares, self._parts, strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*self._ray.get(asked), strict=True)
        self._seen = dict(enumerate(zip(observations, infos, strict=True)))
        ends = [np.concatenate(part) for part in (rewards, terminated, truncated)]
        return _joined(observations), ends[0], ends[1], ends[2], _joined(infos)

    def close_extras(self, **kwargs: Any) -> None:
        """End the actors."""
        for share in self._shares:
            self._ray.kill(share)


def divided(ray: Any, make_worlds: Callable[..., Worlds], actors: int, env: str, count: int, split: str) -> Worlds:
    """Make worlds that step together, divided between actors (`MakeWorlds`, when the first three are given)."""

    def make(some: int) -> Worlds:
        return make_worlds(env, some, split)

    return RayWorlds(ray, make, count, actors)


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The dictionaries of the shares as one, their arrays one after the other."""
    return {
        name: _joined([part[name] for part in parts])
        if isinstance(value, dict)
        else np.concatenate([np.asarray(part[name]) for part in parts])
        for name, value in parts[0].items()
    }
