"""Rewards from a function of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.tasks.base import Step, Task, Verdict

ImageFunction = Callable[[NDArray[np.uint8]], float]


@dataclass(frozen=True)
class ImageReward(Task):
    """Every frame is rewarded by a function of its pixels, uint8 [H, W, 3].

    Args:
        function: an image to a finite number.
        success_at: the episode ends in success with a last frame of so much reward; None: it does not.

    Raises:
        InvalidOptionError: not a function.
    """

    function: ImageFunction
    success_at: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidOptionError(f"function is {self.function!r}; give a function of an image [H, W, 3]")

    def evaluate(self, progress: None, step: Step) -> Verdict:
        """The rewards of all frames.

        Raises:
            InvalidOptionError: the function returns no finite number.
        """
        rewards = [self._reward(frame) for frame in step.shown.frames]
        done = self.success_at is not None and rewards[-1] >= self.success_at
        return Verdict(reward=rewards, terminated=done, success=done)

    def _reward(self, frame: NDArray[np.uint8]) -> float:
        value = self.function(frame.copy())
        try:
            reward = float(value)
        except (TypeError, ValueError) as error:
            raise InvalidOptionError(f"the reward of an image is {value!r}; return a number") from error
        if not math.isfinite(reward):
            raise InvalidOptionError(f"the reward of an image is {reward}; return a finite number")
        return reward
