"""Services of simulation_interfaces, the standard by which simulators are driven, where that package is installed.

GetSimulatorFeatures, ResetSimulation, StepSimulation, Get- and SetSimulationState, Get- and SetEntityState (the base)
and LoadWorld, beside the services of `world_services.py`: fork and rollback, which a simulator lacks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mirage_env.errors import InvalidOptionError
from ros_bridge import messages
from ros_bridge.nodes.rejected_inputs import REFUSED, RejectedInputs
from ros_bridge.nodes.world_services import WorldControls
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer

OK, NOT_FOUND, INCORRECT_STATE, OPERATION_FAILED = 1, 2, 3, 4
"""Values of simulation_interfaces/Result."""
STOPPED, PLAYING, PAUSED = 0, 1, 2
"""Values of simulation_interfaces/SimulationState."""
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
)
"""Constants of simulation_interfaces/SimulatorFeatures; those that the installed version has are answered."""


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
        controls: of the world.
        options: the parameters as they are now.
        rejected: counts what is refused.
        group: callback group; a service takes as long as the chunk that is being generated.
    """

    def __init__(
        self,
        node: Any,
        player: WorldPlayer,
        controls: WorldControls,
        options: Callable[[], WorldParameters],
        rejected: RejectedInputs,
        group: Any,
    ) -> None:
        self._node, self._player, self._controls, self._options = node, player, controls, options
        self._rejected, self._types = rejected, simulation_types()
        handlers = {
            "GetSimulatorFeatures": self._features,
            "ResetSimulation": self._reset,
            "StepSimulation": self._step,
            "GetSimulationState": self._get_state,
            "SetSimulationState": self._set_state,
            "GetEntityState": self._get_entity,
            "SetEntityState": self._set_entity,
            "LoadWorld": self._load,
        }
        there = {name: act for name, act in handlers.items() if hasattr(self._types, name)}
        self._made = [
            node.create_service(
                getattr(self._types, name), f"~/{_topic(name)}", self._guarded(act), callback_group=group
            )
            for name, act in there.items()
        ]

    def destroy(self) -> None:
        """Offer the services no more."""
        for service in self._made:
            self._node.destroy_service(service)
        self._made.clear()

    def _guarded(self, act: Callable[[Any, Any], int]) -> Callable[[Any, Any], Any]:
        def called(request: Any, response: Any) -> Any:
            code, text = OPERATION_FAILED, ""
            try:
                code = act(request, response)
            except REFUSED as error:
                self._rejected.refuse("simulation", str(error))
                text = str(error)
            if hasattr(response, "result"):
                response.result.result, response.result.error_message = code, text
            return response

        return called

    def _features(self, _: Any, response: Any) -> int:
        offered = (getattr(type(response.features), name, None) for name in FEATURES)
        response.features.features = [value for value in offered if value is not None]
        response.features.custom_info = "Mirage: ~/fork, ~/rollback, ~/save and ~/load keep and undo whole worlds"
        return OK

    def _reset(self, _: Any, response: Any) -> int:
        self._controls.reset(None)
        return OK

    def _step(self, request: Any, response: Any) -> int:
        if not self._player.paused:
            raise InvalidOptionError("steps were asked for while the world plays; set the state to paused first")
        for _ in range(int(request.steps)):
            self._player.step()
        return OK

    def _get_state(self, _: Any, response: Any) -> int:
        response.state.state = PAUSED if self._player.paused else PLAYING
        return OK

    def _set_state(self, request: Any, response: Any) -> int:
        asked = int(request.state.state)
        if asked not in (STOPPED, PLAYING, PAUSED):
            raise InvalidOptionError(f"state {asked} was asked for; set stopped (0), playing (1) or paused (2)")
        self._player.pause(asked != PLAYING)
        if asked == STOPPED:  # paused at the start
            self._controls.reset(None)
        return OK

    def _get_entity(self, request: Any, response: Any) -> int:
        self._check_entity(request.entity)
        base = self._player.mount.base(self._player.state.camera.T_world_cam)
        frames = self._options().frames
        response.state.header = messages.header_message(self._node.time.stamp(), frames.map)
        response.state.pose = messages.pose_message(base)
        return OK

    def _set_entity(self, request: Any, response: Any) -> int:
        self._check_entity(request.entity)
        frame = request.state.header.frame_id
        messages.check_frame(frame or self._options().frames.map, self._options().frames.map)
        self._player.teleport(self._player.mount.camera(messages.pose_from_message(request.state.pose)))
        return OK

    def _load(self, request: Any, response: Any) -> int:
        uri = request.uri if hasattr(request, "uri") else request.world_resource.uri
        if not uri:
            raise InvalidOptionError("LoadWorld came without a uri; give the path of a saved world, or a fork's number")
        self._controls.load(uri)
        return OK

    def _check_entity(self, name: str) -> None:
        base = self._options().frames.base
        if name not in ("", base):
            raise InvalidOptionError(f"there is no entity {name!r}; the world has one, {base!r}")


def _topic(name: str) -> str:
    """get_simulator_features for GetSimulatorFeatures."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
