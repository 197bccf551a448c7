"""Many worlds that step together: one network call for all of them, or one per core."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Generic

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.envs.base import ChunkEnv
from mirage_env.envs.snapshots import StateT, TaskState
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.spaces.observations import PER_FRAME, Info, Observation, Shown
from mirage_env.world_model import WorldState

Seeds = int | Sequence[int | None] | None
Flags = NDArray[np.bool_]


class ChunkVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]], Generic[StateT]):
    """Independent worlds that step together. Base of the vector environments; use one of its subclasses.

    Each world does what its single environment would do with the same seed and actions (up to rounding of batched
    matrix products). Worlds whose episode ended are reset by the next step, which ignores their action
    (`AutoresetMode.NEXT_STEP`). A reset or step that raises leaves all worlds as they were.

    `threads` shares of the worlds are walked at the same time, each on one core: small networks gain less from sharing
    an operation between cores than from having one of their own.

    In `infos` the keys of `PER_FRAME` are object arrays with one array per world, for a world that was just reset shows
    one frame where the others show F; all else is stacked.
    """

    def __init__(
        self, env: ChunkEnv[StateT], num_envs: int, max_episode_steps: int | None, threads: int | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise InvalidOptionError(f"threads is {threads}; give at least 1, or None for as many as torch uses")
        if num_envs < 1:
            raise InvalidOptionError(f"num_envs is {num_envs}; give at least 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise InvalidOptionError(f"max_episode_steps is {max_episode_steps}; give at least 1, or None")
        self.envs = [env, *(env.fork() for _ in range(num_envs - 1))]
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = env.render_mode
        self.single_action_space: gymnasium.Space[Any] = env.action_space
        self.single_observation_space: gymnasium.Space[Any] = env.observation_space
        self.action_space = batch_space(env.action_space, num_envs)
        self.observation_space = batch_space(env.observation_space, num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._last: list[Observation] = []

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Open all worlds.

        Args:
            seed: of each world; an integer gives world i the seed `seed + i`.
            options: as for the single environment, the same for every world; and `reset_mask`, bool [num_envs], to
                reset only some of them.

        Raises:
            MirageError: as the single environment.
            InvalidOptionError: as many seeds or flags as worlds are needed.
        """
        options = dict(options or {})
        chosen = self._chosen(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        openings = {i: self.envs[i].prepare(seeds[i], options) for i in chosen}
        results = {i: self.envs[i].enter(opening) for i, opening in openings.items()}
        observations = {i: observation for i, (observation, _) in results.items()}
        self._last = [observations[i] if i in observations else self._last[i] for i in range(self.num_envs)]
        self._steps[chosen] = 0
        self._ended[chosen] = False
        return self._batched(), self._gathered({i: info for i, (_, info) in results.items()})

    def step(self, actions: ArrayLike) -> tuple[Observation, NDArray[np.float64], Flags, Flags, Info]:
        """Walk on in all worlds, by one call of the networks for each share of them.

        Raises:
            InvalidActionError: not one action per world, or one that its world refuses; the message says which.
            ResetNeeded: a world was never reset.
        """
        rows = np.asarray(actions)
        if rows.shape != self.action_space.shape:
            raise InvalidActionError(
                f"the actions have shape {rows.shape}; give {self.action_space.shape}, one action per world"
            )
        walking = [i for i in range(self.num_envs) if not self._ended[i]]
        paths = []
        for i in walking:
            try:
                paths.append(self.envs[i].path(rows[i]))
            except InvalidActionError as error:
                raise InvalidActionError(f"world {i}: {error}") from error
        openings = {i: self.envs[i].prepare(None, None) for i in range(self.num_envs) if self._ended[i]}
        chunks = self._walk([self.envs[i].get_world() for i in walking], paths) if walking else []
        moments = [self.envs[i].judge(*chunk, rows[i]) for i, chunk in zip(walking, chunks, strict=True)]

        infos: dict[int, Info] = {}
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        for i, opening in openings.items():
            self._last[i], infos[i] = self.envs[i].enter(opening)
            self._steps[i] = 0
        for i, moment in zip(walking, moments, strict=True):
            self._last[i], rewards[i], terminations[i], truncations[i], infos[i] = self.envs[i].advance(moment)
            self._steps[i] += 1
            truncations[i] |= self._steps[i] == self.max_episode_steps
        self._ended = terminations | truncations
        return self._batched(), rewards, terminations, truncations, self._gathered(infos)

    def render(self) -> tuple[Any, ...]:
        """What every world renders."""
        return tuple(env.render() for env in self.envs)

    def get_state(self, world: int) -> StateT | TaskState[StateT]:
        """The state of one world (`ChunkEnv.get_state`)."""
        return self.envs[world].get_state()

    def set_state(self, world: int, state: StateT | TaskState[StateT]) -> tuple[Observation, Info]:
        """Let one world go on from a state (`ChunkEnv.set_state`); its `max_episode_steps` count anew."""
        observation, info = self.envs[world].set_state(state)
        if self._last:
            self._last[world] = observation
        self._steps[world] = 0
        self._ended[world] = False
        return observation, info

    def fork(self, world: int) -> ChunkEnv[StateT]:
        """One world as a single environment, independent of this one (`ChunkEnv.fork`)."""
        return self.envs[world].fork()

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _walk(self, states: list[StateT], paths: list[list[Camera]]) -> list[tuple[StateT, Shown]]:
        """The next chunk of each world, in shares that walk at the same time."""
        cores = torch.get_num_threads()
        shares = min(self.threads or cores, len(states))
        if shares == 1:
            return self.envs[0].walk(states, paths)
        self._pool = self._pool or ThreadPoolExecutor(self.threads or cores, "worlds")

        def walk_share(first: int, last: int) -> list[tuple[StateT, Shown]]:
            torch.set_num_threads(1)  # of this thread, and of those that will be started
            return self.envs[0].walk(states[first:last], paths[first:last])

        bounds = [len(states) * i // shares for i in range(shares + 1)]
        try:
            parts = list(self._pool.map(walk_share, *zip(*pairwise(bounds), strict=True)))
        finally:
            torch.set_num_threads(cores)
        return [chunk for part in parts for chunk in part]

    def _chosen(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        flags = np.asarray(mask)
        if flags.dtype != np.bool_ or flags.shape != (self.num_envs,) or not flags.any():
            raise InvalidOptionError(f"reset_mask is {mask!r}; give {self.num_envs} bools, at least one of them true")
        if not self._last and not flags.all():
            raise InvalidOptionError("reset_mask leaves out worlds that were never reset; reset all of them first")
        return [int(i) for i in np.flatnonzero(flags)]

    def _seeds(self, seed: Seeds) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise InvalidOptionError(f"{len(seed)} seeds were given; {self.num_envs} worlds need one each")
        return list(seed)

    def _batched(self) -> Observation:
        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        batch: Any = concatenate(space, self._last, empty)
        return batch

    def _gathered(self, infos: dict[int, Info]) -> Info:
        gathered: Info = {}
        for key in PER_FRAME:
            if any(key in info for info in infos.values()):
                gathered[key] = np.full(self.num_envs, None, object)
        for i, info in infos.items():
            gathered = self._add_info(gathered, info, i)
        return gathered


class MirageVectorEnv(ChunkVectorEnv[WorldState]):
    """Several learned worlds at once; they share the world model.

    Args:
        num_envs: number of worlds.
        max_episode_steps: truncate episodes after so many steps.
        threads: shares of the worlds that walk at the same time, each in a network call of its own; as many as torch
            has threads where the networks run on the CPU, one where they do not.
        **kwargs: of `MirageEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        env = MirageEnv(**kwargs)
        device = getattr(env.model.codec, "device", torch.device("cpu"))
        super().__init__(env, num_envs, max_episode_steps, 1 if threads is None and device.type != "cpu" else threads)
