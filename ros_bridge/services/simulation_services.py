"""Services of simulation_interfaces, the standard by which simulators are driven, where that package is installed.

GetSimulatorFeatures, ResetSimulation, StepSimulation, Get- and SetSimulationState, Get- and SetEntityState (the base),
LoadWorld and GetCurrentWorld, of versions 1 and 2, beside the services of `world_services.py`: fork and rollback, which
a simulator lacks.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.errors import CacheNotFoundError, InvalidOptionError, InvalidPoseError, StoreError
from ros_bridge import messages
from ros_bridge.inputs.rejected_inputs import REFUSED, RejectedInputs
from ros_bridge.motion.motion_commands import Stop, Velocity
from ros_bridge.outputs.publishers import WorldPublishers
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.services.world_services import WorldControls

FEATURE_UNSUPPORTED, RESULT_OK, NOT_FOUND, INCORRECT_STATE, OPERATION_FAILED = range(5)
"""Values of simulation_interfaces/Result; those above 100 belong to one service."""
OK = (RESULT_OK, "")
STOPPED, PLAYING, PAUSED, QUITTING, NO_WORLD, LOADING_WORLD = range(6)
"""Values of simulation_interfaces/SimulationState."""
SCOPE_DEFAULT, SCOPE_STATE = 0, 2
"""Values of ResetSimulation: bits, of which that of the state is known here."""
FEATURES = (
    "ENTITY_STATE_GETTING",
    "ENTITY_STATE_SETTING",
    "SIMULATION_RESET",
    "SIMULATION_RESET_STATE",
    "SIMULATION_STATE_GETTING",
    "SIMULATION_STATE_SETTING",
    "SIMULATION_STATE_PAUSE",
    "STEP_SIMULATION_SINGLE",
    "STEP_SIMULATION_MULTIPLE",
    "WORLD_LOADING",
    "WORLD_INFO_GETTING",
)
"""Constants of simulation_interfaces/SimulatorFeatures; those that the installed version has are answered."""
MOST_STEPS = 1000
"""Steps of one call, which answers when they are done."""
LOOK_SECONDS = 0.01

Outcome = tuple[int, str]
"""Result code and error message."""


def simulation_types() -> Any | None:
    """The module `simulation_interfaces.srv`; None where that package is not installed."""
    try:
        return importlib.import_module("simulation_interfaces.srv")
    except ImportError:
        return None


class SimulationServices:
    """The services, below the node's name.

    Args:
        node: the node.
        player: the world.
        outputs: its publishers, which know the velocity of the base.
        controls: of the world.
        options: the parameters as they are now.
        rejected: counts what is refused.
        group: callback group; a service takes as long as the chunk that is being generated.
    """

    def __init__(
        self,
        node: Any,
        player: WorldPlayer,
        outputs: WorldPublishers,
        controls: WorldControls,
        options: Callable[[], WorldParameters],
        rejected: RejectedInputs,
        group: Any,
    ) -> None:
        self._node, self._player, self._outputs, self._controls = node, player, outputs, controls
        self._options, self._rejected = options, rejected
        self._stopped = False  # paused at the start
        types = simulation_types()
        handlers = {
            "GetSimulatorFeatures": self._features,
            "ResetSimulation": self._reset,
            "StepSimulation": self._step,
            "GetSimulationState": self._get_state,
            "SetSimulationState": self._set_state,
            "GetEntityState": self._get_entity,
            "SetEntityState": self._set_entity,
            "LoadWorld": self._load,
            "GetCurrentWorld": self._current,
        }
        there = {name: act for name, act in handlers.items() if hasattr(types, name)}
        self._made = [
            node.create_service(getattr(types, name), f"~/{_topic(name)}", self._guarded(act), callback_group=group)
            for name, act in there.items()
        ]

    def destroy(self) -> None:
        """Offer the services no more."""
        for service in self._made:
            self._node.destroy_service(service)
        self._made.clear()

    def _guarded(self, act: Callable[[Any, Any], Outcome]) -> Callable[[Any, Any], Any]:
        def called(request: Any, response: Any) -> Any:
            try:
                code, text = act(request, response)
            except REFUSED as error:
                code, text = OPERATION_FAILED, str(error)
            if text:
                self._rejected.refuse("simulation", text)
            if hasattr(response, "result"):
                response.result.result, response.result.error_message = code, text
            return response

        return called

    def _features(self, _: Any, response: Any) -> Outcome:
        offered = (getattr(type(response.features), name, None) for name in FEATURES)
        response.features.features = [value for value in offered if value is not None]
        response.features.custom_info = "Mirage: ~/fork, ~/rollback, ~/save and ~/load keep and undo whole worlds"
        return OK

    def _reset(self, request: Any, _: Any) -> Outcome:
        scope = int(request.scope)
        if scope != SCOPE_DEFAULT and not scope & SCOPE_STATE:
            text = f"scope {scope} was asked for; time goes on and nothing is spawned: reset the state (2) or all (0)"
            return FEATURE_UNSUPPORTED, text
        self._controls.reset(None)
        return OK

    def _step(self, request: Any, _: Any) -> Outcome:
        steps = int(request.steps)
        if self._state() != PAUSED or not self._node.streams:
            raise InvalidOptionError("steps were asked for while the world is not paused; set its state to paused (2)")
        if steps > MOST_STEPS:
            raise InvalidOptionError(f"{steps} steps were asked for; ask for at most {MOST_STEPS} at a time")
        for _ in range(steps):
            self._player.step()
            while self._player.time_runs and self._player.paused and self._node.streams:
                time.sleep(LOOK_SECONDS)
        return OK

    def _state(self) -> int:
        if not self._player.paused:
            self._stopped = False
            return PLAYING
        return STOPPED if self._stopped else PAUSED

    def _get_state(self, _: Any, response: Any) -> Outcome:
        response.state.state = self._state()
        return OK

    def _set_state(self, request: Any, response: Any) -> Outcome:
        asked, now = int(request.state.state), self._state()
        if asked == now:
            return _code(response, "ALREADY_IN_TARGET_STATE"), f"the world is in state {asked} already"
        if asked == QUITTING:
            return FEATURE_UNSUPPORTED, "the node is not ended by this service; shut it down by its lifecycle"
        if asked in (NO_WORLD, LOADING_WORLD):
            return _code(response, "INCORRECT_TRANSITION"), f"state {asked} cannot be set; load another world"
        if asked not in (STOPPED, PLAYING, PAUSED):
            raise InvalidOptionError(f"state {asked} was asked for; set stopped (0), playing (1) or paused (2)")
        self._player.pause(asked != PLAYING)
        if asked == STOPPED:
            self._controls.reset(None)
        self._stopped = asked == STOPPED
        return OK

    def _get_entity(self, request: Any, response: Any) -> Outcome:
        if (missing := self._missing(request.entity)) is not None:
            return missing
        T_map_base = self._player.mount.base(self._player.shown_camera.T_world_cam)
        response.state.header = messages.header_message(self._node.time.stamp(), self._options().frames.map)
        response.state.pose = messages.pose_message(T_map_base)
        linear, angular = self._outputs.velocity
        R_map_base = T_map_base[:3, :3]
        response.state.twist = messages.twist_message(R_map_base @ linear, R_map_base @ angular)
        return OK

    def _set_entity(self, request: Any, response: Any) -> Outcome:
        """Set pose and velocity; before version 2.1 there are no flags, and both are meant."""
        if (missing := self._missing(request.entity)) is not None:
            return missing
        state, frames = request.state, self._options().frames
        linear, angular = messages.velocity_from_twist(state.twist)
        if getattr(request, "set_pose", True):
            try:
                messages.check_frame(state.header.frame_id or frames.map, frames.map)
                T_world_cam = self._player.mount.camera(messages.pose_from_message(state.pose))
            except InvalidPoseError as error:
                return _code(response, "INVALID_POSE"), str(error)
            self._player.teleport(T_world_cam)
        if getattr(request, "set_twist", True):
            R_base_map = self._player.mount.base(self._player.shown_camera.T_world_cam)[:3, :3].T
            moves = np.any(linear) or np.any(angular)
            self._player.command(Velocity(R_base_map @ linear, R_base_map @ angular) if moves else Stop())
        return OK

    def _load(self, request: Any, response: Any) -> Outcome:
        asked = next((r for name in RESOURCES if (r := getattr(request, name, None)) is not None), request)
        if not asked.uri:
            if getattr(asked, "resource_string", ""):
                return _code(response, "UNSUPPORTED_FORMAT"), "a world is no text; give the uri of a saved one"
            return _code(response, "NO_RESOURCE"), "there is no uri; give the path of a saved world, or a fork's number"
        try:
            done = self._controls.load(asked.uri)
        except CacheNotFoundError as error:
            return NOT_FOUND, str(error)
        except StoreError as error:
            return _code(response, "RESOURCE_PARSE_ERROR"), str(error)
        except InvalidOptionError as error:
            return _code(response, "UNSUPPORTED_FORMAT"), str(error)
        self._player.pause(True)
        self._stopped = True
        _describe(response.world, Path(asked.uri).stem, asked.uri, done)
        return OK

    def _current(self, _: Any, response: Any) -> Outcome:
        stats = self._player.stats()
        store = stats.store or ""
        text = f"imagined by {self._player.model.identity}; at chunk {stats.chunk}, with {stats.points} points"
        _describe(response.world, Path(store).stem or self._player.model.config.name, store, text)
        return OK

    def _missing(self, name: str) -> Outcome | None:
        base = self._options().frames.base
        return None if name == base else (NOT_FOUND, f"there is no entity {name!r}; the world has one, {base!r}")


RESOURCES = ("world_resource", "level_resource")
"""Fields of a Resource, in version 2.1 and in 2.0."""


def _describe(world: Any, name: str, uri: str, text: str) -> None:
    """Fill a WorldResource."""
    world.name, world.description = name, text
    resource = next((r for field in RESOURCES if (r := getattr(world, field, None)) is not None), None)
    if resource is not None:
        resource.uri = uri


def _code(response: Any, name: str) -> int:
    """Code of a service by its name; `OPERATION_FAILED` in versions without it."""
    return int(getattr(type(response), name, OPERATION_FAILED))


def _topic(name: str) -> str:
    """get_simulator_features for GetSimulatorFeatures."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
