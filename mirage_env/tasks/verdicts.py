"""Verdicts as numbers that an environment may return."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.tasks.base import Task, Verdict


def check_verdict(task: Task, verdict: Verdict, goal_space: Space[Any] | None) -> None:
    """Refuse a task that returns something else than it promised.

    Raises:
        InvalidOptionError: no verdict, or a goal that is not in the task's `goal_space`.
    """
    if not isinstance(verdict, Verdict):
        raise InvalidOptionError(f"{type(task).__name__} returned a {type(verdict).__name__}; return a Verdict")
    goal = verdict.goal
    fits = goal is None if goal_space is None else goal is not None and goal_space.contains(goal)
    if not fits:
        raise InvalidOptionError(
            f"{type(task).__name__} has the goal {goal!r}; its goal_space is {goal_space}: give a goal of that"
        )


def frame_rewards(task: Task, verdict: Verdict, frames: int) -> NDArray[np.float32]:  # [F]
    """The rewards of a step's frames.

    Raises:
        InvalidOptionError: the task does not reward every frame, or with something that is no finite number.
    """
    given = np.asarray(verdict.reward)
    if given.dtype.kind not in "fiub" or given.shape not in ((), (frames,)) or not np.isfinite(given).all():
        raise InvalidOptionError(
            f"{type(task).__name__} rewards a step of {frames} frames with {verdict.reward!r}; give one finite number, "
            "or one for each frame"
        )
    rewards = np.zeros(frames, np.float32)
    rewards[-1 if given.shape == () else slice(None)] = given
    return rewards
