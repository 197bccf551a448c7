"""Vector environments: many worlds that step together, in one call of the generator or in one per core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar, Generic

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.envs.base import ChunkEnv
from mirage_env.envs.chunk_world import StateT
from mirage_env.envs.shares import walk_in_shares
from mirage_env.envs.time_step import TaskState
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.spaces.observations import PER_FRAME, Info, Observation, Shown

Seeds = int | Sequence[int | None] | None
Flags = NDArray[np.bool_]


class ChunkVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]], Generic[StateT]):
    """Independent worlds that step together. Base of the vector environments: a subclass names its `env_class`.

    Each world does what its single environment would do with the same seed and actions (up to rounding of batched
    matrix products). A reset or step that raises leaves all worlds as they were.

    In `infos` the keys of `PER_FRAME` are object arrays with one array per world, for a world that was just reset shows
    one frame where the others show F; all else is stacked.

    Args:
        num_envs: number of worlds; they share what does not change, as forks do.
        max_episode_steps: truncate episodes after so many steps.
        threads: shares of the worlds that walk at the same time, each on one core and with a generator call of its own:
            small networks gain less from sharing an operation between cores than from having one of their own. None:
            `default_threads`, or as many as torch has.
        autoreset_mode: what becomes of a world whose episode ended (`gymnasium.vector.AutoresetMode`). NEXT_STEP: the
            next step resets it and ignores its action. SAME_STEP: the step that ends it resets it, and `infos` has
            `final_obs` and `final_info`. DISABLED: `reset` with `reset_mask` does it; a step before that is refused.
        **kwargs: of `env_class`.

    Raises:
        InvalidOptionError: a value out of range.
    """

    env_class: ClassVar[type[ChunkEnv[Any]]]
    default_threads: ClassVar[int | None] = None
    most_threads: ClassVar[int | None] = None
    """Threads that the worlds can be in at the same time; None: any number."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        threads: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("threads", threads), ("max_episode_steps", max_episode_steps)):
            if value is not None and not (isinstance(value, int | np.integer) and value >= 1):
                raise InvalidOptionError(f"{name} is {value!r}; give a whole number from 1")
        if self.most_threads is not None and (threads or 1) > self.most_threads:
            raise InvalidOptionError(f"threads is {threads}; {type(self).__name__} takes at most {self.most_threads}")
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        env = self.env_class(**kwargs)
        self.envs = [env, *(env.fork() for _ in range(num_envs - 1))]
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.threads = threads or self.default_threads or self.most_threads
        self._pool: ThreadPoolExecutor | None = None
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = env.render_mode
        self.single_action_space: gymnasium.Space[Any] = env.action_space
        self.single_observation_space: gymnasium.Space[Any] = env.observation_space
        self.action_space = batch_space(env.action_space, num_envs)
        self.observation_space = batch_space(env.observation_space, num_envs)
        self._spec: EnvSpec | None = None
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._last: list[Observation] = []

    @property
    def spec(self) -> EnvSpec | None:
        """Specification, with the `max_episode_steps` of these episodes."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = None if spec is None else replace(spec, max_episode_steps=self.max_episode_steps)

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
        mask = options.get("reset_mask") if isinstance(options, dict) else None
        if mask is not None and options is not None:
            options = {name: value for name, value in options.items() if name != "reset_mask"}
        chosen = self._chosen(mask)
        seeds = self._seeds(seed)
        prepared = {i: self.envs[i].prepare(seeds[i], options) for i in chosen}
        results = {i: self.envs[i].enter(reset) for i, reset in prepared.items()}
        self._last = [results[i][0] if i in results else self._last[i] for i in range(self.num_envs)]
        self._steps[chosen] = 0
        self._ended[chosen] = False
        return self._batched(), self._gathered({i: info for i, (_, info) in results.items()})

    def step(self, actions: ArrayLike) -> tuple[Observation, NDArray[np.float64], Flags, Flags, Info]:
        """Walk on in all worlds, by one call of the generator for each share of them.

        Raises:
            InvalidActionError: not one action per world, or one that its world refuses; the message says which.
            ResetNeeded: a world was never reset, or its episode ended and nothing resets it.
        """
        rows = self._rows(actions)
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(f"the episodes of worlds {np.flatnonzero(self._ended).tolist()} ended; reset them first")
        resets = {int(i): self.envs[i].prepare(None, None) for i in np.flatnonzero(self._ended)}
        walking = [i for i in range(self.num_envs) if i not in resets]
        paths = [self._path(i, rows[i]) for i in walking]
        chunks = self._walk([self.envs[i].get_world() for i in walking], paths) if walking else []
        time_steps = {i: self.envs[i].judge(*chunk, rows[i]) for i, chunk in zip(walking, chunks, strict=True)}

        steps = self._steps + 1
        steps[list(resets)] = 0
        late = steps == (self.max_episode_steps or -1)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            over = [i for i, t in time_steps.items() if late[i] or self.envs[i].ends(t)]
            resets = {i: self.envs[i].prepare(None, None) for i in over}

        infos: dict[int, Info] = {}
        finals: dict[int, tuple[Observation, Info]] = {}
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        for i, time_step in time_steps.items():
            self._last[i], rewards[i], terminations[i], cut, infos[i] = self.envs[i].advance(time_step)
            truncations[i] = cut or late[i]
        for i, reset in resets.items():
            if i in time_steps:
                finals[i] = self._last[i], infos[i]
            self._last[i], infos[i] = self.envs[i].enter(reset)
            steps[i] = 0
        self._steps = steps
        self._ended = (terminations | truncations) & (self.autoreset_mode is not AutoresetMode.SAME_STEP)
        return self._batched(), rewards, terminations, truncations, self._gathered(infos) | self._final(finals)

    def render(self) -> tuple[Any, ...]:
        """Render every world."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every single environment, or read an attribute of each."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(value(*args, **kwargs) if callable(value) else value for value in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every single environment (`call`, as in Gymnasium)."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every single environment: a list or tuple has one value for each, else all get the same.

        Raises:
            InvalidOptionError: as many values as worlds are needed.
        """
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise InvalidOptionError(f"{len(each)} values were given; {self.num_envs} worlds need one each")
        for env, value in zip(self.envs, each, strict=True):
            env.set_wrapper_attr(name, value)

    def get_state(self, world: int) -> StateT | TaskState[StateT]:
        """Return the state of one world (`ChunkEnv.get_state`)."""
        return self.envs[world].get_state()

    def set_state(self, world: int, state: StateT | TaskState[StateT]) -> tuple[Observation, Info]:
        """Let one world go on from a state (`ChunkEnv.set_state`); its `max_episode_steps` count anew."""
        observation, info = self.envs[world].set_state(state)
        if self._last:
            self._last[world] = observation
        self._steps[world] = 0
        self._ended[world] = isinstance(state, TaskState) and state.verdict.terminated
        return observation, info

    def fork(self, world: int) -> ChunkEnv[StateT]:
        """Copy one world as a single environment, independent of this one (`ChunkEnv.fork`)."""
        return self.envs[world].fork()

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}  # threads can be neither copied nor sent

    def _walk(self, states: list[StateT], paths: list[list[Camera]]) -> list[tuple[StateT, Shown]]:
        """Generate the next chunk of each world, in shares that walk at the same time."""
        cores = torch.get_num_threads()
        shares = min(self.threads or cores, len(states))
        if shares == 1:
            return self.envs[0].move(states, paths)
        self._pool = self._pool or ThreadPoolExecutor(self.threads or cores, "worlds")
        return walk_in_shares(self.envs[0].move, self._pool, states, paths, shares)

    def _rows(self, actions: ArrayLike) -> NDArray[Any]:
        try:
            rows = np.asarray(actions)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InvalidActionError(
                f"the actions are no array ({error}); give numbers of shape {self.action_space.shape}"
            ) from error
        if rows.shape != self.action_space.shape:
            raise InvalidActionError(
                f"the actions have shape {rows.shape}; give {self.action_space.shape}, one action per world"
            )
        return rows

    def _path(self, world: int, action: NDArray[Any]) -> list[Camera]:
        try:
            return self.envs[world].path(action)
        except InvalidActionError as error:
            raise InvalidActionError(f"world {world}: {error}") from error

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
        if not isinstance(seed, Iterable) or len(list(seed)) != self.num_envs:
            raise InvalidOptionError(
                f"the seeds are {seed!r}; give one for each of {self.num_envs} worlds, or a number"
            )
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

    def _final(self, results: dict[int, tuple[Observation, Info]]) -> Info:
        """Gather what the last steps of episodes returned, in worlds that are reset already."""
        if not results:
            return {}
        observations, present = np.full(self.num_envs, None, object), np.zeros(self.num_envs, np.bool_)
        for i, (observation, _) in results.items():
            observations[i], present[i] = observation, True
        infos = self._gathered({i: info for i, (_, info) in results.items()})
        return {"final_obs": observations, "_final_obs": present, "final_info": infos, "_final_info": present.copy()}


def _autoreset_mode(value: AutoresetMode | str) -> AutoresetMode:
    """Return the mode of a name such as "NextStep".

    Raises:
        InvalidOptionError: there is no such mode.
    """
    try:
        return AutoresetMode(value)
    except ValueError as error:
        known = [mode.value for mode in AutoresetMode]
        raise InvalidOptionError(f"autoreset_mode is {value!r}; choose one of {known}") from error
