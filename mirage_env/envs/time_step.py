"""Values of an episode: a time step, a reset that is ready to take place, and the state that `get_state` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from mirage_env.envs.chunk_world import StateT
from mirage_env.spaces.observations import Shown
from mirage_env.tasks import Task, Verdict


@dataclass(frozen=True, eq=False)
class TimeStep(Generic[StateT]):
    """A world after a reset or step: its state, what it showed, and the task's verdict."""

    state: StateT
    shown: Shown
    verdict: Verdict
    rewards: NDArray[np.float32]  # [F]
    guard_acted: bool = False
    contact: bool = False


@dataclass(frozen=True, eq=False)
class PreparedReset(Generic[StateT]):
    """A reset whose world is open but which has not taken place."""

    time_step: TimeStep[StateT]
    rng: np.random.Generator
    rng_seed: int


@dataclass(frozen=True, eq=False)
class TaskState(Generic[StateT]):
    """A world with a task in progress: what `get_state` returns where there is a task."""

    world: StateT
    task: Task
    verdict: Verdict
    """The last one; its `progress` is the task's state."""
