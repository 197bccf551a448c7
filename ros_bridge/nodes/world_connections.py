"""Connections of the world node: its subscriptions, services, actions and the timers of the memory's topics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ros_bridge import _ros
from ros_bridge.inputs.cmd_vel import CmdVel
from ros_bridge.inputs.goal_topics import GoalTopics
from ros_bridge.inputs.observe_topics import ObserveTopics
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.start_topics import StartTopics
from ros_bridge.inputs.subscriptions import subscribe
from ros_bridge.outputs.look_at import LookAt
from ros_bridge.outputs.memory_cloud import MemoryCloud, MemoryGrid
from ros_bridge.outputs.publishers import WorldPublishers
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.services.path_actions import PathActions
from ros_bridge.services.simulation_services import SimulationServices, simulation_types
from ros_bridge.services.trigger_services import offer
from ros_bridge.services.world_services import WorldControls


class WorldConnections:
    """Everything that connects a world to topics, services and actions, and the publishers of its frames.

    Args:
        node: the node.
        player: the world.
        outputs: its publishers.
        options: the parameters as they are now.
        rejected: counts what is refused.
    """

    def __init__(
        self,
        node: Any,
        player: WorldPlayer,
        outputs: WorldPublishers,
        options: Callable[[], WorldParameters],
        rejected: RejectedInputs,
    ) -> None:
        self._node, self._player, self._outputs = node, player, outputs
        self._options, self._rejected = options, rejected
        self._slow = _ros.MutuallyExclusiveCallbackGroup()  # for what may wait for a chunk or for the disk
        self._controls = WorldControls(player, options, outputs.forget_path)
        self._parts: list[tuple[Callable[[Any], Any], Any]] = []  # how each is destroyed, and what it is
        self._start: StartTopics | None = None
        self._observing: ObserveTopics | None = None
        self._own(outputs)

    def connect(self) -> None:
        """Subscribe, and offer everything; what was made before an error is removed by `destroy`.

        Raises:
            InvalidOptionError: a QoS override that is none.
        """
        self._offer_services()
        self._subscribe_commands()
        self._subscribe_cameras()
        self._show_memory()

    def destroy(self) -> None:
        """Disconnect everything; a second call does nothing."""
        for destroy, part in self._parts:
            destroy(part)
        self._parts.clear()
        self._start = self._observing = None

    @property
    def counts(self) -> dict[str, int]:
        """Views of a robot that were written, known already, left out or lost on the way."""
        return {} if self._observing is None else self._observing.counts

    def missing(self) -> str | None:
        """Say which camera's topics do not match or do not arrive; None where all is well."""
        start = None if self._start is None else self._start.topics
        cameras = {"start": start, "observe": self._observing}
        found = {name: part.missing() for name, part in cameras.items() if part is not None}
        return next((f"~/{name}: {text}" for name, text in found.items() if text), None)

    def _offer_services(self) -> None:
        for control in self._controls.all():
            service, topic = offer(self._node, control, self._rejected, self._slow)
            self._parts += [(self._node.destroy_service, service), (self._node.destroy_subscription, topic)]
        if simulation_types() is not None:
            shared = (self._controls, self._options, self._rejected, self._slow)
            self._own(SimulationServices(self._node, self._player, self._outputs, *shared))
        self._own(PathActions(self._node, self._player, self._options(), self._rejected))

    def _subscribe_commands(self) -> None:
        player, o = self._player, self._options()
        goals, look = GoalTopics(player, o), LookAt(self._node, player, o)
        self._own(CmdVel(self._node, player, o, self._rejected), look)
        for kind, topic, callback, group in (
            (_ros.PoseStamped, "~/goal_pose", goals.goal, None),
            (_ros.Path, "~/path_cmd", goals.path, None),
            (_ros.PoseStamped, "~/look_at", look.look, self._slow),
        ):
            made = subscribe(self._node, kind, topic, callback, self._rejected, group)
            self._parts.append((self._node.destroy_subscription, made))

    def _subscribe_cameras(self) -> None:
        node, player, controls = self._node, self._player, self._controls
        views = (controls.open_view, controls.keep_view)
        self._start = StartTopics(node, player.model.config, self._options, *views, self._rejected, self._slow)
        self._own(self._start.topics)
        if self._options().observe:
            resumed = player.state.chunk > 0
            self._observing = ObserveTopics(node, player, self._options, controls.open_view, self._rejected, resumed)
            self._own(self._observing)

    def _show_memory(self) -> None:
        o = self._options()
        for rate, memory in ((o.points_rate, MemoryCloud), (o.grid_rate, MemoryGrid)):
            if rate:
                show = partial(self._show, memory(self._player, self._outputs))
                timer = self._node.create_timer(1.0 / rate, show, callback_group=self._slow)
                self._parts.append((self._node.destroy_timer, timer))

    def _show(self, memory: MemoryCloud | MemoryGrid) -> None:
        with self._rejected.watching("points"):
            memory.show(self._node.time.stamp())

    def _own(self, *parts: Any) -> None:
        """Destroy these at the end, by their own `destroy`."""
        self._parts += [(type(part).destroy, part) for part in parts]
