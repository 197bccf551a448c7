"""Actions of Nav2: ~/follow_path and ~/navigate_to_pose, with feedback and cancel, where nav2_msgs is installed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ros_bridge import _ros, messages
from ros_bridge.inputs.goal_topics import GoalTopics
from ros_bridge.inputs.rejected_inputs import REFUSED, RejectedInputs
from ros_bridge.messages.message_types import NANO
from ros_bridge.motion.motion_commands import Progress
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer

FEEDBACK_SECONDS = 0.1
"""Time between two messages of feedback."""
END_SECONDS = 2.0
"""Time that the node's end waits for a goal that is being followed."""


class PathActions:
    """The action servers; the newest goal wins, and whatever else commands the base ends it.

    Args:
        node: the node; goals are taken while it `streams`.
        player: the world.
        options: names of the frames.
        rejected: counts what is refused.
    """

    def __init__(self, node: Any, player: WorldPlayer, options: WorldParameters, rejected: RejectedInputs) -> None:
        self._node, self._player, self._rejected, self._map = node, player, rejected, options.frames.map
        goals = GoalTopics(player, options)
        self._closing, self._ended, self._running = threading.Event(), threading.Condition(), 0
        asked: dict[str, Callable[[Any], int]] = {
            "FollowPath": lambda request: goals.path(request.path),
            "NavigateToPose": lambda request: goals.goal(request.pose),
        }
        self._made = [
            _ros.ActionServer(
                node,
                kind,
                f"~/{topic}",
                self._executed(kind, asked[name]),
                callback_group=_ros.ReentrantCallbackGroup(),
                goal_callback=self._taken,
                cancel_callback=lambda _: _ros.CancelResponse.ACCEPT,
            )
            for name, topic in (("FollowPath", "follow_path"), ("NavigateToPose", "navigate_to_pose"))
            if (kind := _ros.optional_type(f"nav2_msgs/action/{name}")) is not None
        ]

    def destroy(self) -> None:
        """End the goal that is being followed, and offer the actions no more."""
        self._closing.set()
        with self._ended:
            self._ended.wait_for(lambda: not self._running, END_SECONDS)
        for server in self._made:
            server.destroy()
        self._made.clear()

    def _taken(self, _: Any) -> Any:
        return _ros.GoalResponse.ACCEPT if self._node.streams else _ros.GoalResponse.REJECT

    def _executed(self, kind: Any, command: Callable[[Any], int]) -> Callable[[Any], Any]:
        def execute(handle: Any) -> Any:
            with self._count_running():
                try:
                    number = command(handle.request)
                except REFUSED as error:
                    self._rejected.refuse("action", str(error))
                    handle.abort()
                    return _result(kind, ("INVALID_PATH", "UNKNOWN"), str(error))
                return self._follow(kind, handle, number)

        return execute

    @contextmanager
    def _count_running(self) -> Iterator[None]:
        with self._ended:
            self._running += 1
        try:
            yield
        finally:
            with self._ended:
                self._running -= 1
                self._ended.notify_all()

    def _follow(self, kind: Any, handle: Any, number: int) -> Any:
        """Give feedback until the command of that number has arrived, was cancelled, or was replaced."""
        began, speed = self._node.time.now(), Speed()
        while (progress := self._player.progress_of(number)) is not None and self._node.streams:
            if progress.fraction == 1.0:
                handle.succeed()
                return _result(kind)
            if handle.is_cancel_requested:
                self._player.stop(number)
                handle.canceled()
                return _result(kind)
            if math.isfinite(progress.metres):
                now = self._node.time.now()
                handle.publish_feedback(self._feedback(kind, progress, now - began, speed.of(progress, now)))
            if self._closing.wait(FEEDBACK_SECONDS):
                break
        self._player.stop(number)
        handle.abort()
        reason = "another command has replaced it, or the world is another one" if progress is None else "the node ends"
        return _result(kind, ("UNKNOWN",), reason)

    def _feedback(self, kind: Any, progress: Progress, elapsed: int, speed: float) -> Any:
        """Feedback of either action; the releases of Nav2 have different fields."""
        T_map_base = self._player.mount.base(self._player.shown_camera.T_world_cam)
        pose = messages.pose_stamped_message(T_map_base, self._node.time.stamp(), self._map)
        left = elapsed * (1.0 / progress.fraction - 1.0) if progress.fraction else 0.0
        fields = {
            "distance_to_goal": progress.metres,
            "distance_remaining": progress.metres,
            "remaining_path_length": progress.metres,
            "speed": speed,
            "current_pose": pose,
            "robot_pose": pose,
            "navigation_time": _ros.Duration(nanoseconds=elapsed).to_msg(),
            "estimated_time_remaining": _ros.Duration(nanoseconds=round(left)).to_msg(),
        }
        feedback = kind.Feedback()
        for message in (feedback, getattr(feedback, "tracking_feedback", None)):
            _fill(message, fields)
        return feedback


class Speed:
    """Speed along the way, from what is left of it."""

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None

    def of(self, progress: Progress, now: int) -> float:  # nanoseconds -> m/s
        """Speed since the last call; 0 at the first."""
        before, self._before = self._before, (progress.metres, now)
        if before is None or now <= before[1]:
            return 0.0
        return (before[0] - progress.metres) * NANO / (now - before[1])


def _fill(message: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if hasattr(message, name):
            setattr(message, name, value)


def _result(kind: Any, codes: tuple[str, ...] = ("NONE",), text: str = "") -> Any:
    """Result with the first of these error codes that it has; older releases have none, and no text."""
    result = kind.Result()
    code = next((getattr(kind.Result, name) for name in codes if hasattr(kind.Result, name)), 0)
    _fill(result, {"error_code": code, "error_msg": text})
    return result
