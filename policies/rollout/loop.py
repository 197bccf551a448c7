"""Rolling a policy out: the loop, and one rollout after the other as a recipe says.

Recording is a wrapper's business (`mirage_env.episodes.RecordEpisodes`); the loop knows nothing of it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.envs.time_step import TaskState
from mirage_env.episodes import Episode, RecordEpisodes, differences
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions
from mirage_env.store import open_cache
from mirage_env.world_state import WorldState
from policies.base import Policy
from policies.rollout.policy_names import make_policy


def roll_out(
    env: gymnasium.Env[Any, Any], policy: Policy, seed: int | None = None, options: dict[str, Any] | None = None
) -> None:
    """One episode, until it ends; give `env` a `max_episode_steps`, for without a task it does not end by itself."""
    observation, _ = env.reset(seed=seed, options=options)
    policy.reset(seed)
    done = False
    while not done:
        observation, _, terminated, truncated, _ = env.step(policy.act(observation))
        done = terminated or truncated


@dataclass(frozen=True)
class Recipe:
    """Recipe that all rollouts of a run share; plain JSON values.

    Attributes:
        env: id of the environment.
        task: what there is to do (`mirage_env.tasks.TASKS`); None: what the environment says.
        steps: of an episode, at most.
        model: a shipped world model, or a folder.
        loading: options of loading it that are not as they are by default (`ModelOptions.given`).
        policy, policy_options: for `make_policy`.
        all_frames: keep the image of every frame.
        same_noise: imagine with the noise that a cache was saved with. Without it the seed of the rollout decides, so
            that rollouts of one cache and the same actions differ where the memory knows nothing.
        threads: of torch; matrix products may round differently with another number.

    Raises:
        InvalidOptionError: an environment that is not registered, or a number that cannot be.
    """

    env: str = "Mirage/World-v0"
    task: str | None = None
    steps: int = 16
    model: str = "rooms"
    policy: str = "random"
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    all_frames: bool = False
    same_noise: bool = False
    threads: int = 1
    loading: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.threads < 1:
            raise InvalidOptionError(f"steps is {self.steps} and threads {self.threads}; both must be at least 1")
        try:
            gymnasium.spec(self.env)
        except gymnasium.error.Error as error:
            raise InvalidOptionError(f"env is {self.env!r}, which Gymnasium does not know: {error}") from error

    @property
    def learned(self) -> bool:
        """True for a learned world, which may begin with a cache."""
        return not self.env.startswith("Rooms/")

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """The environment, without recording."""
        arguments: dict[str, Any] = {}
        if self.learned:
            arguments["model"] = ModelOptions.of(self.loading).load(self.model) if self.loading else self.model
        if self.task is not None:
            arguments["task"] = self.task
        env = gymnasium.make(self.env, max_episode_steps=self.steps, disable_env_checker=True, **arguments)
        return env if self.same_noise or not self.learned else SeededNoise(env)


@dataclass(frozen=True)
class Job:
    """One rollout: its number, its seed, and the saved world that it begins with."""

    number: int
    seed: int
    cache: str | None = None


class SeededNoise(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Lets the seed of a reset decide what is imagined, also where the world is a saved one with noise of its own."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and put the seed's noise in the place of the saved."""
        result = super().reset(seed=seed, options=options)
        inner: Any = self.unwrapped
        state = inner.get_state()
        world = state.world if isinstance(state, TaskState) else state
        if seed is not None and isinstance(world, WorldState):
            fresh = replace(world, noise=torch.Generator().manual_seed(seed).get_state())
            inner.set_state(replace(state, world=fresh) if isinstance(state, TaskState) else fresh)
        return result


class Stage:
    """An environment that records rollouts, one after the other; none depends on those before it.

    Args:
        recipe: what they have in common.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._taken: list[Episode] = []
        self._env = RecordEpisodes(recipe.make_env(), self._taken.append, recipe.all_frames)
        self._policy: Policy | None = None

    def record(self, job: Job, policy: Policy | None = None) -> Episode:
        """One rollout.

        Args:
            job: which.
            policy: acts in the place of the recipe's.

        Raises:
            StoreError: the cache cannot be used, for example one that another model wrote.
            InvalidActionError: the policy's actions are not those of the environment.
        """
        if policy is None:
            if self._policy is None:
                self._policy = make_policy(self.recipe.policy, self._env, self.recipe.policy_options)
            policy = self._policy
        self._env.provenance = self._provenance(job)
        options = None if job.cache is None else {"cache": job.cache}
        with threads(self.recipe.threads):
            roll_out(self._env, policy, job.seed, options)
        return self._taken.pop()

    def close(self) -> None:
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _provenance(self, job: Job) -> dict[str, Any]:
        model = getattr(self._env.unwrapped, "model", None)
        return {
            **asdict(self.recipe),
            "number": job.number,
            "seed": job.seed,
            "model_identity": None if model is None else model.identity,
            "cache": None if job.cache is None else about_cache(job.cache),
            "versions": versions(),
            "machine": f"{platform.system()} {platform.machine()}",
        }


class Replayed:
    """Acts as it was recorded (`Policy`)."""

    def __init__(self, actions: NDArray[np.float32]) -> None:  # [T, ...]
        self._actions = actions
        self._step = 0

    def reset(self, seed: int | None = None) -> None:
        """Begin again."""
        self._step = 0

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """The next action.

        Raises:
            InvalidOptionError: the episode was over here.
        """
        if self._step == len(self._actions):
            raise InvalidOptionError(f"the recorded episode has {self._step} steps and the world goes on")
        self._step += 1
        action: NDArray[np.float32] = self._actions[self._step - 1]
        return action


def replay(episode: Episode) -> tuple[Episode, list[str]]:
    """Carry the actions of a rollout out again; the new episode, and where it differs (nowhere on the same machine).

    What differs in the circumstances (versions, machine, model, cache) comes after what differs in the arrays.

    Raises:
        InvalidOptionError: the episode does not come from a rollout.
        StoreError: its cache cannot be used.
    """
    about = episode.provenance
    if missing := [name for name in (*Recipe.__dataclass_fields__, "number", "seed", "cache") if name not in about]:
        raise InvalidOptionError(
            f"the episode does not tell its {missing[0]}; only episodes of rollouts can be replayed"
        )
    recipe = Recipe(**{name: about[name] for name in Recipe.__dataclass_fields__})
    job = Job(about["number"], about["seed"], about["cache"] and about["cache"]["path"])
    with Stage(recipe) as stage:
        again = stage.record(job, Replayed(episode.actions))
    lines = differences(episode, again)
    if lines:
        now = again.provenance
        lines += [f"{name} was {about[name]}, is {now[name]}" for name in now if about.get(name) != now[name]]
    return again, lines


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def about_cache(path: str) -> dict[str, Any]:
    """Fingerprint of a cache at one moment."""
    info = open_cache(path)
    return {"path": path, "chunk": info.chunks, "points": info.points, "created": info.created}


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("mirage-env", "torch", "numpy", "gymnasium")
    }
