"""The conformance suite sees every broken promise, and names it."""

import copy
from functools import cache, partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from mirage_env.envs.conformance import PROMISES, check_world_env, check_world_vector_env
from mirage_env.envs.vector import ChunkVectorEnv
from mirage_env.envs.wrappers import RepeatResetFrame
from mirage_env.errors import ConformanceError, InvalidActionError, InvalidOptionError, MirageError
from mirage_env.rooms import Room
from mirage_env.rooms.env import RoomsEnv
from mirage_env.spaces.actions import DiscreteControl
from mirage_env.tasks import PointNav

BROKEN = []


@pytest.fixture(autouse=True, scope="module")
def rooms_made_once():
    """Every check resets to the same few seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "generate", staticmethod(cache(Room.generate)))
        yield


def breaks(promise, **arguments):
    """Registers an environment that keeps all promises up to this one."""

    def register(cls):
        BROKEN.append(pytest.param(cls, arguments, promise, id=cls.__name__))
        return cls

    return register


class Small(RoomsEnv):
    """The smallest environment that keeps every promise; the subclasses change what it returns."""

    def __init__(self, **arguments):
        super().__init__((16, 16), chunk_frames=2, samples=1, **arguments)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return self.changed_observation(observation), self.changed_info(info)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return self.changed_observation(observation), reward, terminated, truncated, self.changed_info(info)

    def changed_observation(self, observation):
        return observation

    def changed_info(self, info):
        return info


@breaks("spaces_hold_pixels_and_pose")
class ObservesAnArray(Small):
    def __init__(self):
        super().__init__()
        self.observation_space = self.observation_space["pixels"]


@breaks("spaces_hold_pixels_and_pose")
class NamesPixelsImage(Small):
    def __init__(self):
        super().__init__()
        self.observation_space = Dict({"image": Box(0, 255, (16, 16, 3), np.uint8)})


@breaks("observations_lie_in_their_space")
class ObservesFloats(Small):
    def changed_observation(self, observation):
        return observation | {"pixels": observation["pixels"] / 255.0}


@breaks("observations_lie_in_their_space")
class ObservesMoreThanItSays(Small):
    def changed_observation(self, observation):
        return observation | {"secret": np.zeros(1)}


@breaks("info_always_has_the_same_keys")
class ForgetsPosesAtReset(Small):
    def changed_info(self, info):
        return {key: value for key, value in info.items() if info["chunk"] or key != "coverage"}


@breaks("info_always_has_the_same_keys")
class AddsKeysWhenStepping(Small):
    def changed_info(self, info):
        return info | ({"distance": 0.0} if info["chunk"] == 2 else {})


@breaks("rewards_and_flags_are_plain")
class RewardsWithNumPy(Small):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.float32(reward), *rest


@breaks("rewards_and_flags_are_plain")
class EndsWithNumPy(Small):
    def step(self, action):
        observation, reward, terminated, *rest = super().step(action)
        return observation, reward, np.bool_(terminated), *rest


@breaks("rewards_and_flags_are_plain")
class RewardsMoreThanItsFrames(Small):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest


@breaks("a_step_shows_one_chunk")
class TellsTheLastPoseOnly(Small):
    def changed_info(self, info):
        return (
            info
            | {"poses": info["poses"][-1:].copy(), "frame_rewards": info["frame_rewards"][:1].copy()}
            | ({"chunk": 0} if info["chunk"] else {})
        )


@breaks("a_step_shows_one_chunk", info_frames=True)
class DropsAFrame(Small):
    def changed_info(self, info):
        return info | {"frames": info["frames"][1:]}


@breaks("agent_pos_is_the_last_pose")
class TellsTheFirstPose(Small):
    def changed_info(self, info):
        return info | {"poses": info["poses"][::-1].copy()}


@breaks("rendering_shows_what_was_seen", render_mode="rgb_array_list")
class RendersOneFramePerStep(Small):
    def render(self):
        return super().render()[-1:]


@breaks("rendering_shows_what_was_seen", render_mode="rgb_array")
class RendersSomethingElse(Small):
    def render(self):
        return 255 - super().render()


@breaks("results_share_nothing")
class ReusesItsBuffer(Small):
    def __init__(self):
        super().__init__()
        self.buffer = np.zeros((16, 16, 3), np.uint8)

    def changed_observation(self, observation):
        self.buffer[...] = observation["pixels"]
        return observation | {"pixels": self.buffer}


@breaks("results_share_nothing", info_frames=True)
class ObservesAViewOfItsInfo(Small):
    def step(self, action):
        observation, *rest, info = super().step(action)
        return observation | {"pixels": info["frames"][-1]}, *rest, info


@breaks("results_are_copies_of_the_inside")
class GivesItsLightAway(Small):
    light = np.ones(1)

    def reset(self, *, seed=None, options=None):
        self.light = np.ones(1)
        return super().reset(seed=seed, options=options)

    def changed_observation(self, observation):
        return observation | {"pixels": (observation["pixels"] * self.light).astype(np.uint8)}

    def changed_info(self, info):
        self.light = self.light.copy()
        return info | {"light": self.light}


@breaks("seeds_determine_everything")
class IgnoresItsSeed(Small):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)


@breaks("seeds_determine_everything")
class DrawsFromElsewhere(Small):
    generator = np.random.default_rng(0)

    def changed_info(self, info):
        return info | {"coverage": float(self.generator.uniform())}


@breaks("a_failed_step_changes_nothing")
class ClipsActions(Small):
    def step(self, action):
        low, high = self.action_space.low[: len(action)], self.action_space.high[: len(action)]
        return super().step(np.resize(np.clip(np.nan_to_num(action), low, high), 6))


@breaks("a_failed_step_changes_nothing")
class MovesBeforeItChecks(Small):
    def step(self, action):
        try:
            return super().step(action)
        except InvalidActionError:
            super().step(np.ones(6))
            raise


@breaks("a_failed_step_changes_nothing")
class RaisesSomethingElse(Small):
    def step(self, action):
        try:
            return super().step(action)
        except InvalidActionError as error:
            raise ValueError("bad action") from error


@breaks("a_failed_reset_changes_nothing")
class TakesAnyOption(Small):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


@breaks("a_failed_reset_changes_nothing")
class SeedsBeforeItChecks(Small):
    def reset(self, *, seed=None, options=None):
        try:
            return super().reset(seed=seed, options=options)
        except InvalidOptionError:
            self._np_random = np.random.default_rng(seed)
            raise


@breaks("a_failed_reset_changes_nothing")
class OpensTheNextWorldBeforeItChecks(Small):
    def reset(self, *, seed=None, options=None):
        try:
            return super().reset(seed=seed, options=options)
        except InvalidOptionError:
            rng = copy.deepcopy(self.np_random)
            super().reset()
            self._np_random = rng
            raise


@breaks("forks_are_independent")
class ForksItself(Small):
    def fork(self):
        return self


@breaks("forks_are_independent")
class ForksAreReset(Small):
    def fork(self):
        twin = super().fork()
        twin.reset(seed=0)
        return twin


@breaks("forks_are_independent")
class ForksDrawOtherWorlds(Small):
    def fork(self):
        twin = super().fork()
        twin._np_random = np.random.default_rng(5)
        return twin


@breaks("deep_copies_are_independent")
class CopiesShareTheirClock(Small):
    clock = np.zeros(1)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        self.clock = np.zeros(1)
        return observation, info | {"clock": 0.0}

    def step(self, action):
        *result, info = super().step(action)
        self.clock += 1.0
        return *result, info | {"clock": float(self.clock[0])}

    def fork(self):
        twin = super().fork()
        twin.clock = self.clock.copy()
        return twin

    def __deepcopy__(self, memo):
        return super().fork()


@breaks("a_failed_reset_changes_nothing")
class DrawsBeforeItChecks(Small):
    def reset(self, *, seed=None, options=None):
        if seed is None:
            self.np_random.random(1)
        return super().reset(seed=seed, options=options)


@breaks("states_bring_a_world_back")
class ForgetsTheTime(Small):
    def set_state(self, state):
        return super().set_state(type(state)(state.room, state.camera))


def test_small_environment_keeps_every_promise():
    for render_mode in ("rgb_array", "rgb_array_list"):
        check_world_env(Small(render_mode=render_mode, info_frames=True))


@pytest.mark.parametrize(("cls", "arguments", "promise"), BROKEN)
def test_broken_promise_is_seen_and_named(cls, arguments, promise):
    with pytest.raises(ConformanceError, match=f"^{promise}: ") as caught:
        check_world_env(cls(**arguments))
    assert isinstance(caught.value, MirageError)


def test_every_promise_is_broken_by_some_environment():
    assert {param.values[2] for param in BROKEN} == {promise.__name__ for promise in PROMISES}


def test_environment_without_fork_and_state_can_pass():
    class Bare(gym.Wrapper):
        @property
        def unwrapped(self):
            return self

    check_world_env(Bare(Small()))


def test_discrete_actions_can_pass():
    check_world_env(DiscreteControl(Small(), translation=0.3))


def test_wrapped_environment_can_pass():
    check_world_env(gym.make("Rooms/World-v0", image_size=(16, 16), chunk_frames=2, max_episode_steps=10))


# Vector environments


LIMIT = 3
MODES = list(AutoresetMode)


def small_alone():
    return TimeLimit(Small(task=PointNav(radius=0.01)), LIMIT)


class SmallVector(ChunkVectorEnv):
    env_class = partial(RoomsEnv, (16, 16), chunk_frames=2, samples=1, task=PointNav(radius=0.01))


def vector(cls=SmallVector, mode=AutoresetMode.NEXT_STEP):
    return cls(3, max_episode_steps=LIMIT, autoreset_mode=mode, threads=1)


class RestartsAllWorlds(SmallVector):
    def step(self, actions):
        if self._ended.any():
            self._ended[:] = True
        return super().step(actions)


class ReusesItsBatch(SmallVector):
    def _batched(self):
        batch = super()._batched()
        self.buffer = getattr(self, "buffer", batch)
        for name, values in batch.items():
            self.buffer[name][...] = values
        return self.buffer


class HandsOutTheFirstView(SmallVector):
    def step(self, actions):
        *results, infos = super().step(actions)
        if "final_obs" in infos:
            for i in np.flatnonzero(infos["_final_obs"]):
                infos["final_obs"][i] = {name: values[i] for name, values in results[0].items()}
        return *results, infos


class SeedsAllAlike(SmallVector):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else [7] * 3, options=options)


@pytest.mark.parametrize("mode", MODES)
def test_native_vector_environment_keeps_every_promise(mode):
    check_world_vector_env(vector(mode=mode), small_alone, steps=8)


def test_gymnasiums_own_vector_environments_keep_every_promise():
    check_world_vector_env(SyncVectorEnv([lambda: RepeatResetFrame(small_alone())] * 2), small_alone, steps=8)


@pytest.mark.parametrize(
    ("cls", "mode", "promise"),
    [
        (RestartsAllWorlds, AutoresetMode.NEXT_STEP, "ended_worlds_restart_alone"),
        (ReusesItsBatch, AutoresetMode.DISABLED, "results_share_nothing"),
        (HandsOutTheFirstView, AutoresetMode.SAME_STEP, "final_observations_are_handed_out"),
        (SeedsAllAlike, AutoresetMode.DISABLED, "worlds_are_as_if_alone"),
    ],
)
def test_broken_promise_of_a_vector_environment_is_seen_and_named(cls, mode, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_world_vector_env(vector(cls, mode), small_alone, steps=8)


def test_episodes_must_end_for_the_check():
    with pytest.raises(ConformanceError, match="no episode ended within 2 steps"):
        check_world_vector_env(vector(), small_alone, steps=2)
