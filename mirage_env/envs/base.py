"""The Gymnasium shell that the learned world and the true simulator share: one step shows one chunk of F frames.

A world supplies four functions of its state: `open_world`, `walk`, `look` and `picture`. Everything a Gymnasium
environment adds (spaces, seeding, checking, observations, tasks, info, rendering, forking) is here, once, so the two
cannot drift apart.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.forking import ForkableEnv
from mirage_env.envs.snapshots import Here, Moment, Opening, StateT, TaskState
from mirage_env.errors import InvalidActionError, InvalidOptionError, InvalidPoseError
from mirage_env.spaces.actions import POSITION_LIMIT
from mirage_env.spaces.observations import (
    Info,
    Observation,
    Shown,
    WorldFormat,
    info_of,
    observation_of,
    observation_space,
)
from mirage_env.spaces.reset_options import check_options
from mirage_env.tasks import NoTask, Start, Step
from mirage_env.tasks.base import Distance, Point
from mirage_env.tasks.navigation import straight_to
from mirage_env.tasks.stop_action import StopControl
from mirage_env.tasks.verdicts import check_verdict, frame_rewards


class ChunkEnv(ForkableEnv, Generic[StateT]):
    """Base of `MirageEnv` and `RoomsEnv`; their docstrings describe it from the user's side."""

    world_options: ClassVar[tuple[str, ...]] = ()
    """Options of `reset` that the world takes; those of the task come on top."""
    metadata: dict[str, Any] = {"render_modes": list(EnvArguments.RENDER_MODES), "render_fps": 8}  # noqa: RUF012

    def __init__(self, world: WorldFormat, arguments: EnvArguments) -> None:
        self.world = world
        self.arguments = arguments
        self.task = arguments.what_to_do
        self.guard = arguments.guard
        self.control = arguments.control_for(world.frames)
        self.extras = arguments.extras
        self.info_frames = arguments.info_frames
        self.render_mode = arguments.render_mode
        self.metadata = {**self.metadata, "render_fps": world.frames_per_second}
        goal = self.task.goal_space(world)
        super().__init__(self.control.space, observation_space(world, self.extras, goal))
        self._current: Moment[StateT] | None = None
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

    @abstractmethod
    def picture(self, state: StateT, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """What a world shows from there, now. Leaves the environment as it is."""

    def distance_to(self, state: StateT, goal: Point) -> Distance:
        """Way to a point: straight, for a world whose obstacles are not known."""
        return straight_to(goal)

    def gap_to(self, state: StateT, point: Point) -> float:
        """Metres from a point to the nearest free one; 0 for a world whose obstacles are not known."""
        return 0.0

    def free_camera(self, state: StateT, rng: np.random.Generator, low: float, high: float) -> Camera | None:
        """A view from free space, `low` to `high` metres away; None for a world whose obstacles are not known."""
        return None

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
        [(state, shown)] = self.walk([self.get_world()], [self.path(action)])
        return self.advance(self.judge(state, shown, action))

    def render(self) -> Any:
        """The last frame (`rgb_array`), or all frames since the last call or reset (`rgb_array_list`).

        Raises:
            ResetNeeded: there is no world yet.
        """
        shown = self._now().shown
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
        return self._now().shown.frames.copy()

    def get_world(self) -> StateT:
        """The world as a value, without the task.

        Raises:
            ResetNeeded: there is no world yet.
        """
        return self._now().state

    def get_state(self) -> StateT | TaskState[StateT]:
        """The world as a value, and with it the task's progress where there is a task.

        Keep it, and `set_state` brings everything back as it is now.

        Raises:
            ResetNeeded: there is no world yet.
        """
        now = self._now()
        return now.state if isinstance(self.task, NoTask) else TaskState(now.state, self.task, now.verdict)

    def set_state(self, state: StateT | TaskState[StateT]) -> tuple[Observation, Info]:
        """Go on from a state of this or another environment of the same world model.

        The next step is exactly the one that would have followed. The observation returned here is rebuilt from the
        state; a state of a learned world holds no pixels, so they come from its last latent. Where there is a task, the
        state of a mere world begins an episode there.

        Raises:
            InvalidOptionError: not a state of this kind of world, or one of another task.
        """
        if not isinstance(state, TaskState):
            shown, rng = self.look(state), copy.deepcopy(self.np_random)
            moment = self._begin(state, shown, rng, {})
            self.set_generator(rng, self.np_random_seed)
        elif state.task == self.task:
            shown = self.look(state.world)
            moment = Moment(state.world, shown, state.verdict, np.zeros(len(shown.cameras), np.float32))
        else:
            raise InvalidOptionError(
                f"the state is of the task {state.task!r}, this environment has {self.task!r}; "
                "give `state.world` to begin anew in that world"
            )
        self._show(moment, fresh=True)
        return self._returned(moment)

    def fork(self) -> Self:
        """An independent environment with the same world, the same last view and the same randomness ahead.

        The world model is shared, not copied. Wrappers are not part of the fork.
        """
        twin = self.twin()
        twin._unrendered = list(self._unrendered)
        return twin

    def prepare(self, seed: int | None, options: dict[str, Any] | None) -> Opening[StateT]:
        """All of a reset that can fail."""
        if seed is None:
            rng, rng_seed = copy.deepcopy(self.np_random), self.np_random_seed
        else:
            rng, rng_seed = seeding.np_random(seed)
        given = dict(options or {})
        check_options(given, (*self.world_options, *self.task.options))
        wishes = {name: given.pop(name) for name in self.task.options if name in given}
        # Drawn first, so that a task does the same in worlds that draw differently. Without a task nothing is drawn.
        task_rng = rng if isinstance(self.task, NoTask) else np.random.default_rng(rng.integers(2**63))
        state, shown = self.open_world(rng, given)
        if outside := _outside(shown.cameras[-1]):
            raise InvalidPoseError(f"the start camera is at {outside}; coordinates go to +-{POSITION_LIMIT:g} metres")
        return Opening(self._begin(state, shown, task_rng, wishes), rng, rng_seed)

    def enter(self, opening: Opening[StateT]) -> tuple[Observation, Info]:
        """Carry out a prepared reset."""
        self.set_generator(opening.rng, opening.rng_seed)
        self._show(opening.moment, fresh=True)
        return self._returned(opening.moment)

    def path(self, action: ArrayLike) -> list[Camera]:
        """The F cameras that an action asks for.

        Raises:
            InvalidActionError: not finite, of the wrong shape, outside the action space, or out of the world.
            ResetNeeded: there is no world yet.
        """
        cameras = self.control.cameras(action, self._now().shown.cameras[-1])
        if outside := _outside(cameras[-1]):
            raise InvalidActionError(
                f"the action leads to {outside}; coordinates go to +-{POSITION_LIMIT:g} metres: turn back or reset"
            )
        return cameras

    def judge(self, state: StateT, shown: Shown, action: ArrayLike) -> Moment[StateT]:
        """What the task makes of the chunk that `walk` gave for an action. Leaves the environment as it is.

        Raises:
            InvalidOptionError: the task's reward is no number.
        """
        now, values = self._now(), np.array(action)
        stopped = isinstance(self.control, StopControl) and bool(values[-1] > 0.0)
        step = Step(now.shown.cameras[-1], shown, Here(self, state, shown), values, stopped)
        verdict = self.task.evaluate(now.verdict.progress, step)
        acted = self.guard is not None and self.guard.acts(shown.coverage)
        rewards = frame_rewards(self.task, verdict, len(shown.cameras))
        if self.guard is not None and acted:
            rewards[-1] -= self.guard.penalty
        return Moment(state, shown, verdict, rewards, acted)

    def advance(self, moment: Moment[StateT]) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out a step whose chunk was judged."""
        self._show(moment, fresh=False)
        observation, info = self._returned(moment)
        truncated = moment.guard_acted and self.guard is not None and self.guard.truncate
        return observation, float(moment.rewards.sum()), bool(moment.verdict.terminated), truncated, info

    def _begin(self, state: StateT, shown: Shown, rng: np.random.Generator, options: dict[str, Any]) -> Moment[StateT]:
        """The first moment of an episode."""
        verdict = self.task.start(Start(shown, Here(self, state, shown), rng, options))
        check_verdict(self.task, verdict, self.task.goal_space(self.world))
        return Moment(state, shown, verdict, np.zeros(len(shown.cameras), np.float32))

    def _returned(self, moment: Moment[StateT]) -> tuple[Observation, Info]:
        verdict = moment.verdict
        info = {**copy.deepcopy(dict(verdict.info)), **info_of(moment.shown, self.info_frames)}
        info["is_success"] = bool(verdict.success)
        info["frame_rewards"] = moment.rewards.copy()
        if self.guard is not None:
            info["guard_acted"] = moment.guard_acted
        return observation_of(moment.shown, self.world, self.extras, verdict.goal), info

    def _now(self) -> Moment[StateT]:
        if self._current is None:
            raise ResetNeeded("there is no world yet; call reset or set_state first")
        return self._current

    def _show(self, moment: Moment[StateT], fresh: bool) -> None:
        self._current = moment
        if self.render_mode == "rgb_array_list":
            self._unrendered = [*([] if fresh else self._unrendered), *moment.shown.frames]


def _outside(camera: Camera) -> list[float]:
    """The position of a camera that is beyond `POSITION_LIMIT`, else nothing."""
    beyond = bool((np.abs(camera.position) > POSITION_LIMIT).any())
    return camera.position.round(1).tolist() if beyond else []
