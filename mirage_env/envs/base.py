"""The Gymnasium environment that the learned world and the true simulator share: one step shows one chunk of F frames.

A world supplies the functions of `ChunkWorld`. Everything a Gymnasium environment adds (spaces, seeding, checking,
observations, tasks, info, rendering, forking) is here, once, so the two cannot drift apart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.chunk_world import ChunkWorld, StateT, WorldSnapshot
from mirage_env.envs.contact import touched
from mirage_env.envs.contact_steps import walk_with_contact
from mirage_env.envs.copies import copied_generator, copied_space
from mirage_env.envs.time_step import PreparedReset, TaskState, TimeStep
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
from mirage_env.spaces.reset_options import check_options, check_seed
from mirage_env.tasks import NoTask, Start, Step
from mirage_env.tasks.stop_action import StopControl, stands_still
from mirage_env.tasks.verdicts import check_verdict, frame_rewards


class ChunkEnv(ChunkWorld[StateT], gymnasium.Env[Observation, NDArray[np.float32]]):
    """Base of `MirageEnv` and `RoomsEnv`; their docstrings describe it from the user's side."""

    world_options: ClassVar[tuple[str, ...]] = ()
    """Options of `reset` that the world takes; those of the task come on top."""
    metadata: dict[str, Any] = {"render_modes": list(EnvArguments.RENDER_MODES), "render_fps": 8}  # noqa: RUF012

    def __init__(self, world: WorldFormat, arguments: EnvArguments) -> None:
        self.world = world
        self.arguments = arguments
        self.task = arguments.parsed_task
        self.guard = arguments.guard
        self.control = arguments.control_for(world.frames)
        self.extras = arguments.extras
        self.info_frames = arguments.info_frames
        self.render_mode = arguments.render_mode
        self.metadata = {**self.metadata, "render_fps": world.frames_per_second}
        self.action_space: gymnasium.Space[Any] = self.control.space
        goal = self.task.goal_space(world)
        self.observation_space: gymnasium.Space[Any] = observation_space(world, self.extras, goal)
        if arguments.contact != "none" and type(self).obstacles is ChunkWorld.obstacles:
            name = type(self).__name__
            raise InvalidOptionError(f"contact is {arguments.contact!r}; {name} knows no obstacles: use contact='none'")
        if arguments.control == "waypoints" and world.frames_of(0) != world.frames:
            raise InvalidOptionError(
                f"control is 'waypoints', and the first step of a world has {world.frames_of(0)} frames, later ones "
                f"{world.frames}; use another control, or give chunk_frames"
            )
        self._current: TimeStep[StateT] | None = None
        self._unrendered: list[NDArray[np.uint8]] = []

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
            ResetNeeded: there is no world yet, or the episode has terminated.
        """
        [(state, shown)] = self.move([self.get_world()], [self.path(action)])
        return self.advance(self.judge(state, shown, action))

    def render(self) -> Any:
        """Return the last frame (`rgb_array`), or all frames since the last call or reset (`rgb_array_list`).

        Raises:
            ResetNeeded: there is no world yet.
        """
        shown = self._time_step().shown
        if self.render_mode is None:
            return None
        if self.render_mode == "rgb_array":
            return shown.frames[-1].copy()
        frames = [frame.copy() for frame in self._unrendered]
        self._unrendered = []
        return frames

    def shown_frames(self) -> NDArray[np.uint8]:  # [F, H, W, 3]
        """Return every frame that the last reset (one) or step (F) showed.

        Raises:
            ResetNeeded: there is no world yet.
        """
        return self._time_step().shown.frames.copy()

    def get_world(self) -> StateT:
        """Return the world as a value, without the task.

        Raises:
            ResetNeeded: there is no world yet.
        """
        return self._time_step().state

    def get_state(self) -> StateT | TaskState[StateT]:
        """Return the world as a value, and with it the task's progress where there is a task.

        Keep it, and `set_state` brings everything back as it is now.

        Raises:
            ResetNeeded: there is no world yet.
        """
        now = self._time_step()
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
            shown, rng = self.look(state), copied_generator(self.np_random)
            time_step = self._first(state, shown, rng, {})
            self._np_random = rng
        elif state.task == self.task:
            shown = self.look(state.world)
            time_step = TimeStep(state.world, shown, state.verdict, np.zeros(len(shown.cameras), np.float32))
        else:
            raise InvalidOptionError(
                f"the state is of the task {state.task!r}, this environment has {self.task!r}; "
                "give `state.world` to begin anew in that world"
            )
        self._take(time_step, first=True)
        return self._results(time_step)

    def fork(self) -> Self:
        """Copy the environment: the same world, the same last view and the same randomness ahead, independent of it.

        The world model and the observation space are shared, not copied. Wrappers are not part of the fork; a deep copy
        of a wrapped environment forks what is inside.
        """
        twin = copy.copy(self)
        twin.action_space = copied_space(self.action_space)
        if self._np_random is not None:
            twin._np_random = copied_generator(self._np_random)
        twin._unrendered = list(self._unrendered)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = self.fork()
        return twin

    def prepare(self, seed: int | None, options: dict[str, Any] | None) -> PreparedReset[StateT]:
        """Do all of a reset that can fail, and leave the environment as it is.

        Raises:
            MirageError: see `reset`.
        """
        if (seed := check_seed(seed)) is None:
            rng, rng_seed = copied_generator(self.np_random), self.np_random_seed
        else:
            rng, rng_seed = seeding.np_random(seed)
        given = check_options(options, (*self.world_options, *self.task.options))
        of_task = {name: given.pop(name) for name in self.task.options if name in given}
        # Drawn first, so that a task does the same in worlds that draw differently. Without a task nothing is drawn.
        task_rng = rng if isinstance(self.task, NoTask) else np.random.default_rng(rng.integers(2**63))
        state, shown = self.open_world(rng, given)
        if outside := _outside(shown.cameras[-1]):
            raise InvalidPoseError(f"the start camera is at {outside}; coordinates go to +-{POSITION_LIMIT:g} metres")
        return PreparedReset(self._first(state, shown, task_rng, of_task), rng, rng_seed)

    def enter(self, reset: PreparedReset[StateT]) -> tuple[Observation, Info]:
        """Carry out a prepared reset."""
        self._np_random, self._np_random_seed = reset.rng, reset.rng_seed
        self._take(reset.time_step, first=True)
        return self._results(reset.time_step)

    def path(self, action: ArrayLike) -> list[Camera]:
        """Return the F cameras that an action asks for.

        Raises:
            InvalidActionError: not finite, of the wrong shape, outside the action space, or out of the world.
            ResetNeeded: there is no world yet, or the episode has terminated.
        """
        now = self._time_step()
        if now.verdict.terminated:
            raise ResetNeeded("the episode has terminated; call reset, or set_state with an earlier state")
        cameras = self.control.cameras(action, now.shown.cameras[-1], self.world.frames_of(now.shown.chunk))
        if outside := _outside(cameras[-1]):
            raise InvalidActionError(
                f"the action leads to {outside}; coordinates go to +-{POSITION_LIMIT:g} metres: turn back or reset"
            )
        return cameras

    def move(self, states: Sequence[StateT], paths: Sequence[Sequence[Camera]]) -> list[tuple[StateT, Shown]]:
        """Walk in several worlds: with contact, as far as the body gets."""
        if self.arguments.contact == "none":
            return self.walk(states, paths)
        return walk_with_contact(self, self.arguments, states, paths, 1.0 / self.world.frames_per_second)

    def judge(self, state: StateT, shown: Shown, action: ArrayLike) -> TimeStep[StateT]:
        """Evaluate the task on the chunk that `walk` generated for an action. Leaves the environment as it is.

        Raises:
            InvalidOptionError: the task's reward is no number.
        """
        now, values, wanted = self._time_step(), np.array(action), self.path(action)
        before, reach = now.shown.cameras[-1], (self.arguments.max_translation, self.arguments.max_rotation)
        stopped = isinstance(self.control, StopControl) and bool(values[-1] > 0.0)
        if self.task.stop == "still":  # what was asked for, not where a body got
            stopped = stands_still(before, wanted[-1], *reach)
        step = Step(before, shown, WorldSnapshot(self, state, shown), values, stopped)
        verdict = self.task.evaluate(now.verdict.progress, step)
        acted = self.guard is not None and self.guard.acts(shown.coverage)
        rewards = frame_rewards(self.task, verdict, len(shown.cameras))
        if self.guard is not None and acted:
            rewards[-1] -= self.guard.penalty
        contact = self.arguments.contact != "none" and touched(wanted, shown.cameras)
        rewards[-1] -= self.arguments.contact_cost * contact
        return TimeStep(state, shown, verdict, rewards, acted, contact)

    def advance(self, time_step: TimeStep[StateT]) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out a step that was judged."""
        self._take(time_step, first=False)
        observation, info = self._results(time_step)
        reward, terminated = float(time_step.rewards.sum()), bool(time_step.verdict.terminated)
        return observation, reward, terminated, self._truncates(time_step), info

    def ends(self, time_step: TimeStep[StateT]) -> bool:
        """Check whether an episode ends with a step that was judged."""
        return bool(time_step.verdict.terminated) or self._truncates(time_step)

    def _truncates(self, time_step: TimeStep[StateT]) -> bool:
        return time_step.guard_acted and self.guard is not None and self.guard.truncate

    def _first(
        self, state: StateT, shown: Shown, rng: np.random.Generator, options: dict[str, Any]
    ) -> TimeStep[StateT]:
        """Begin an episode."""
        verdict = self.task.start(Start(shown, WorldSnapshot(self, state, shown), rng, options))
        check_verdict(self.task, verdict, self.task.goal_space(self.world))
        # An episode has at least one step, even where its task is done from the start.
        verdict = replace(verdict, terminated=False)
        return TimeStep(state, shown, verdict, np.zeros(len(shown.cameras), np.float32))

    def _results(self, time_step: TimeStep[StateT]) -> tuple[Observation, Info]:
        verdict = time_step.verdict
        info = {**copy.deepcopy(dict(verdict.info)), **info_of(time_step.shown, self.info_frames)}
        info["is_success"] = bool(verdict.success)
        info["frame_rewards"] = time_step.rewards.copy()
        if self.guard is not None:
            info["guard_acted"] = time_step.guard_acted
        if self.arguments.contact != "none":
            info["contact"] = time_step.contact
        return observation_of(time_step.shown, self.world, self.extras, verdict.goal), info

    def _time_step(self) -> TimeStep[StateT]:
        if self._current is None:
            raise ResetNeeded("there is no world yet; call reset or set_state first")
        return self._current

    def _take(self, time_step: TimeStep[StateT], first: bool) -> None:
        self._current = time_step
        if self.render_mode == "rgb_array_list":
            self._unrendered = [*([] if first else self._unrendered), *time_step.shown.frames]


def _outside(camera: Camera) -> list[float]:
    """Return the position of a camera that is beyond `POSITION_LIMIT`, else nothing."""
    beyond = bool((np.abs(camera.position) > POSITION_LIMIT).any())
    return camera.position.round(1).tolist() if beyond else []
