"""Environments that are forked by the hundred: a fork is used for its world, seldom for its spaces and generator.

So these are copied when they are asked for. Copying a space or a generator takes about 0.1 ms, noting where its
randomness stands a few microseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from mirage_env.spaces.observations import Observation


@dataclass(frozen=True, eq=False)
class LazySpace:
    """A space as it was when this was made, whatever is sampled from the original afterwards."""

    original: Space[Any]
    states: tuple[Any, ...]  # of the generators of the space and those within, None where there was none yet

    @staticmethod
    def of(space: Space[Any] | LazySpace) -> LazySpace:
        """The space as it is now."""
        return space if isinstance(space, LazySpace) else LazySpace(space, tuple(map(_state, _within(space))))

    def made(self) -> Space[Any]:
        """A copy of its own."""
        made = copy.deepcopy(self.original)
        for space, state in zip(_within(made), self.states, strict=True):
            if state is None:
                space._np_random = None  # type: ignore[assignment]  # Gymnasium makes one when it is asked for
            else:
                space.np_random.bit_generator.state = state
        return made


@dataclass(frozen=True, eq=False)
class LazyGenerator:
    """A random generator as it was when this was made, whatever is drawn from the original afterwards."""

    original: np.random.Generator
    state: Any

    @staticmethod
    def of(generator: np.random.Generator | LazyGenerator) -> LazyGenerator:
        """The generator as it is now."""
        if isinstance(generator, LazyGenerator):
            return generator
        return LazyGenerator(generator, generator.bit_generator.state)

    def made(self) -> np.random.Generator:
        """A copy of its own."""
        made = copy.deepcopy(self.original)
        made.bit_generator.state = self.state
        return made


class ForkableEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """An environment whose `twin` is cheap; spaces and generator behave as if `twin` had copied them.

    Args:
        action_space, observation_space: as Gymnasium has them.
    """

    def __init__(self, action_space: Space[Any], observation_space: Space[Any]) -> None:
        self._spaces: dict[str, Space[Any] | LazySpace] = {"action": action_space, "observation": observation_space}
        self._generator: LazyGenerator | None = None  # in the place of `_np_random`, until that is asked for

    @property
    def action_space(self) -> Space[Any]:
        """What an action may be."""
        return self._space("action")

    @action_space.setter
    def action_space(self, space: Space[Any]) -> None:
        self._spaces["action"] = space

    @property
    def observation_space(self) -> Space[Any]:
        """What an observation may be."""
        return self._space("observation")

    @observation_space.setter
    def observation_space(self, space: Space[Any]) -> None:
        self._spaces["observation"] = space

    @property
    def np_random(self) -> np.random.Generator:
        """The randomness of the resets ahead."""
        if self._generator is not None:
            self.set_generator(self._generator.made(), self._np_random_seed)
        return super().np_random

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self.set_generator(value, -1)

    def set_generator(self, generator: np.random.Generator, seed: int | None) -> None:
        """Take another generator, and the seed that it came from."""
        self._generator, self._np_random, self._np_random_seed = None, generator, seed

    def twin(self) -> Self:
        """A shallow copy with spaces and a generator of its own."""
        twin = copy.copy(self)
        twin._spaces = {name: LazySpace.of(space) for name, space in self._spaces.items()}
        generator = self._generator or self._np_random
        twin._generator, twin._np_random = None if generator is None else LazyGenerator.of(generator), None
        return twin

    def _space(self, name: str) -> Space[Any]:
        space = self._spaces[name]
        if isinstance(space, LazySpace):
            space = self._spaces[name] = space.made()
        return space


def _within(space: Space[Any]) -> Iterator[Space[Any]]:
    """A space and all that it is made of."""
    yield space
    parts = getattr(space, "spaces", ())
    for part in parts.values() if isinstance(parts, dict) else parts:
        yield from _within(part)


def _state(space: Space[Any]) -> Any:
    return None if space._np_random is None else space._np_random.bit_generator.state
