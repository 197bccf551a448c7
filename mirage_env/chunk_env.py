"""The Gymnasium shell that the learned world and the true simulator share: one step shows one chunk of F frames.

A world supplies three functions of its state: `open_world`, `walk` and `look`. Everything a Gymnasium environment adds
(spaces, seeding, checking, observations, info, rendering, forking) is here, once, so the two cannot drift apart.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from numpy.typing import ArrayLike, NDArray

from mirage_env.actions import POSITION_LIMIT, make_control
from mirage_env.camera import Camera, pose_from_vector
from mirage_env.errors import InvalidActionError, InvalidOptionError, InvalidPoseError
from mirage_env.observations import (
    EXTRAS,
    Info,
    Observation,
    Shown,
    WorldFormat,
    info_of,
    observation_of,
    observation_space,
)

StateT = TypeVar("StateT")


@dataclass(frozen=True)
class Opening(Generic[StateT]):
    """A reset that is ready to take place."""

    state: StateT
    shown: Shown
    rng: np.random.Generator
    rng_seed: int


class ChunkEnv(gymnasium.Env[Observation, NDArray[np.float32]], Generic[StateT]):
    """Base of `MirageEnv` and `RoomsEnv`; their docstrings describe it from the user's side."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "rgb_array_list"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        world: WorldFormat,
        control: str,
        max_translation: float,
        max_rotation: float,
        observe: Sequence[str],
        info_frames: bool,
        render_mode: str | None,
    ) -> None:
        extras = (observe,) if isinstance(observe, str) else tuple(observe)
        if unknown := [name for name in extras if name not in EXTRAS]:
            raise InvalidOptionError(f"observe has unknown entries {unknown}; choose among {list(EXTRAS)}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise InvalidOptionError(
                f"render_mode is {render_mode!r}; choose None or one of {self.metadata['render_modes']}"
            )
        self.world = world
        self.control = make_control(control, world.frames, max_translation, max_rotation)
        self.extras = extras
        self.info_frames = info_frames
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": world.frames_per_second}
        self.action_space: gymnasium.Space[Any] = self.control.space
        self.observation_space: gymnasium.Space[Any] = observation_space(world, extras)
        self._current: tuple[StateT, Shown] | None = None
        self._unrendered: list[NDArray[np.uint8]] = []

    @abstractmethod
    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[StateT, Shown]:
        """A new world; everything random comes from `rng`. Leaves the environment as it is."""

    @abstractmethod
    def walk(self, states: Sequence[StateT], paths: Sequence[Sequence[Camera]]) -> list[tuple[StateT, Shown]]:
        """The next chunk of each of several worlds. Leaves the environment as it is."""

    @abstractmethod
    def look(self, state: StateT) -> Shown:
        """The last frame of a world, as far as its state tells."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Open a world. If this raises, the world before it is still there.

        Args:
            seed: fixes everything random from here on; without one the randomness of the last reset goes on.
            options: see the class.

        Raises:
            MirageError: an option is unknown or has a value that cannot be; the subclass and its message say which.
        """
        return self.enter(self.prepare(seed, options))

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, Info]:
        """Walk on by one chunk. If this raises, the world is as before.

        Raises:
            InvalidActionError: not finite, of the wrong shape, outside the action space, or out of the world.
            ResetNeeded: there is no world yet.
        """
        [(state, shown)] = self.walk([self.get_state()], [self.path(action)])
        return self.advance(state, shown)

    def render(self) -> Any:
        """The last frame (`rgb_array`), or all frames since the last call or reset (`rgb_array_list`).

        Raises:
            ResetNeeded: there is no world yet.
        """
        _, shown = self._now()
        if self.render_mode is None:
            return None
        if self.render_mode == "rgb_array":
            return shown.frames[-1].copy()
        frames = [frame.copy() for frame in self._unrendered]
        self._unrendered = []
        return frames

    def shown_frames(self) -> NDArray[np.uint8]:  # [F, H, W, 3]
        """Every frame that the last reset (one) or step (F) showed.

        Raises:
            ResetNeeded: there is no world yet.
        """
        return self._now()[1].frames.copy()

    def get_state(self) -> StateT:
        """The world as a value. Keep it, and `set_state` brings the world back as it is now.

        Raises:
            ResetNeeded: there is no world yet.
        """
        return self._now()[0]

    def set_state(self, state: StateT) -> tuple[Observation, Info]:
        """Go on from a state of this or another environment of the same world model.

        The next step is exactly the one that would have followed. The observation returned here is rebuilt from the
        state; a state of a learned world holds no pixels, so they come from its last latent.

        Raises:
            InvalidOptionError: not a state of this kind of world.
        """
        shown = self.look(state)
        self._show(state, shown, fresh=True)
        return self._returned(shown)

    def fork(self) -> Self:
        """An independent environment with the same world, the same last view and the same randomness ahead.

        The world model is shared, not copied. Wrappers are not part of the fork.
        """
        twin = copy.copy(self)
        twin.action_space = copy.deepcopy(self.action_space)
        twin.observation_space = copy.deepcopy(self.observation_space)
        twin._np_random = copy.deepcopy(self._np_random)
        twin._unrendered = list(self._unrendered)
        return twin

    def prepare(self, seed: int | None, options: dict[str, Any] | None) -> Opening[StateT]:
        """All of a reset that can fail."""
        if seed is None:
            rng, rng_seed = copy.deepcopy(self.np_random), self.np_random_seed
        else:
            rng, rng_seed = seeding.np_random(seed)
        state, shown = self.open_world(rng, dict(options or {}))
        if outside := _outside(shown.cameras[-1]):
            raise InvalidPoseError(f"the start camera is at {outside}; coordinates go to +-{POSITION_LIMIT:g} metres")
        return Opening(state, shown, rng, rng_seed)

    def enter(self, opening: Opening[StateT]) -> tuple[Observation, Info]:
        """Carry out a prepared reset."""
        self._np_random, self._np_random_seed = opening.rng, opening.rng_seed
        self._show(opening.state, opening.shown, fresh=True)
        return self._returned(opening.shown)

    def path(self, action: ArrayLike) -> list[Camera]:
        """The F cameras that an action asks for.

        Raises:
            InvalidActionError: not finite, of the wrong shape, outside the action space, or out of the world.
            ResetNeeded: there is no world yet.
        """
        _, shown = self._now()
        cameras = self.control.cameras(action, shown.cameras[-1])
        if outside := _outside(cameras[-1]):
            raise InvalidActionError(
                f"the action leads to {outside}; coordinates go to +-{POSITION_LIMIT:g} metres: turn back or reset"
            )
        return cameras

    def advance(self, state: StateT, shown: Shown) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out a step whose chunk is there."""
        self._show(state, shown, fresh=False)
        observation, info = self._returned(shown)
        return observation, 0.0, False, False, info

    def _returned(self, shown: Shown) -> tuple[Observation, Info]:
        return observation_of(shown, self.world, self.extras), info_of(shown, self.info_frames)

    def _now(self) -> tuple[StateT, Shown]:
        if self._current is None:
            raise ResetNeeded("there is no world yet; call reset or set_state first")
        return self._current

    def _show(self, state: StateT, shown: Shown, fresh: bool) -> None:
        self._current = (state, shown)
        if self.render_mode == "rgb_array_list":
            self._unrendered = [*([] if fresh else self._unrendered), *shown.frames]


def check_options(options: dict[str, Any], valid: Sequence[str]) -> None:
    """Refuse options of `reset` that an environment does not have.

    Raises:
        InvalidOptionError: the unknown names, and the valid ones.
    """
    if unknown := sorted(str(name) for name in options if name not in valid):
        raise InvalidOptionError(f"unknown reset options {unknown}; valid ones are {list(valid)}")


def as_camera(value: Camera | ArrayLike, default: Camera) -> Camera:
    """The option `camera`: a `Camera`, or a pose with the intrinsics of `default`.

    Args:
        value: a camera, a pose [4, 4], or a pose vector (x, y, z, qw, qx, qy, qz).
        default: gives the image size, and the intrinsics to a pose without any.

    Raises:
        InvalidPoseError: not a rigid motion.
    """
    if isinstance(value, Camera):
        return value
    try:
        pose = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidPoseError(f"the camera is {value!r}; give a Camera, a 4 x 4 pose or 7 numbers") from error
    return default.at(pose_from_vector(pose) if pose.shape == (7,) else pose)


def _outside(camera: Camera) -> list[float]:
    """The position of a camera that is beyond `POSITION_LIMIT`, else nothing."""
    beyond = bool((np.abs(camera.position) > POSITION_LIMIT).any())
    return camera.position.round(1).tolist() if beyond else []
