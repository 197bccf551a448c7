"""ROS 2 lifecycle node of a policy that drives the learned world, or a robot, from the images it sends.

Ten times a second the node sends the velocity that its policy chose last; `rate` times a second the policy chooses
anew, if a new image has come. Where no image comes for `image_timeout` seconds, or the policy chooses what is no
action, it sends a zero velocity. It sends one when it is deactivated and when it ends, too.

Subscribes, best effort (remap these for a robot)
  mirage/image_raw             sensor_msgs/Image, or mirage/image_raw/compressed with `compressed`
  mirage/pose                  geometry_msgs/PoseStamped of the body in `map_frame`; not with `needs_pose` false
Publishes, one of the two
  cmd_vel                      geometry_msgs/Twist, or TwistStamped with `twist_stamped`
  mirage/goal_pose             geometry_msgs/PoseStamped in `map_frame`, with `command` goal_pose; needs the pose
Lifecycle: configure makes the policy, activate starts it anew with `seed`; with `autostart` both happen at the start.

The policy sees what `Mirage/World-v0` shows: `pixels`, cropped and resized to `width` x `height` where they are given,
and `agent_pos`, the camera in the map; the identity without `needs_pose`. Its actions mean the same as there: the next
camera, in shares of `max_translation` and `max_rotation`, reached after 1 / `rate` seconds.
"""

from __future__ import annotations

import importlib
import inspect
import math
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mirage_env.errors import InvalidOptionError
from mirage_env.files import parse_json
from policies.base import Policy
from policies.scripted import SCRIPTS
from ros_bridge import _ros, messages
from ros_bridge.inputs.rejected_inputs import RejectedInputs, TransitionErrors
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.motion.motion_commands import velocity_between
from ros_bridge.nodes.policy_actions import motion_of, observation_of
from ros_bridge.nodes.run_node import run_node
from ros_bridge.parameters.declaration import current, declare
from ros_bridge.parameters.policy_parameters import PolicyParameters
from ros_bridge.sensing.camera_mount import CameraMount

NODE_NAME = "mirage_policy"
SEND_SECONDS = 0.1
"""How often a velocity is repeated; receivers stop where it is not."""
ARRIVE_SECONDS = 1.0
"""How long the last velocity may take to arrive."""
STANDING = (np.zeros(3), np.zeros(3))


def make_policy(name: str, settings: str = "") -> Policy:
    """The policy of that name, made with those settings ("speed=0.5 ..."; values as in JSON, else text).

    Raises:
        InvalidOptionError: no such policy or function, or settings that it does not take.
    """
    maker = _maker(name)
    given: dict[str, Any] = {}
    for setting in shlex.split(settings):
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidOptionError(f"the setting {setting!r} has no value; write {key}=VALUE")
        given[key] = _json(text)
    known = inspect.signature(maker).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    if not free and (unknown := sorted(set(given) - set(known))):
        raise InvalidOptionError(f"the policy {name!r} has no settings {unknown}; it has {sorted(known) or 'none'}")
    policy: Policy = maker(**given)
    return policy


def _maker(name: str) -> Callable[..., Any]:
    if ":" not in name:
        if name not in SCRIPTS:
            raise InvalidOptionError(
                f"there is no policy {name!r}; there are {', '.join(SCRIPTS)}, or give module:function"
            )
        return SCRIPTS[name]
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidOptionError(f"the policy {name!r} names nothing that can be imported: {error}") from error
    return found


def _json(text: str) -> Any:
    try:
        return parse_json(text, "a parameter")
    except InvalidOptionError:
        return text


class PolicyNode(_ros.LifecycleNode):
    """Lifecycle node of a policy; the module's docstring is its interface.

    Raises:
        InvalidOptionError: a parameter that cannot be.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self.refusals = RejectedInputs(self.get_logger().warning)
        self.options = declare(self, PolicyParameters)
        self._parts: list[tuple[Callable[[Any], Any], Any]] = []  # how each is destroyed, and what it is
        self._image: Any = None
        self._image_came = -np.inf  # seconds of the monotonic clock
        self._T_map_base: Matrix | None = None
        self._acting = self._image_is_new = False
        self._velocity = STANDING  # m/s, rad/s of the body

    def start(self) -> bool:
        """Configure and activate; returns whether that was so."""
        done = _ros.TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def on_configure(self, state: Any) -> Any:
        """Make the policy and everything it is connected by."""
        with TransitionErrors("configured", self.get_logger().error) as errors:
            self.options = options = current(self, PolicyParameters)
            self._policy = make_policy(options.policy, options.settings)
            self._connect(options)
        return self._outcome(errors)

    def on_activate(self, state: Any) -> Any:
        """Start the policy anew."""
        with TransitionErrors("activated", self.get_logger().error) as errors:
            self._policy.reset(self.options.seed)
            self._acting, self._image_is_new = True, False
        return self._outcome(errors) if errors.text else super().on_activate(state)

    def on_deactivate(self, state: Any) -> Any:
        """Stop what is driven."""
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        """Stop, and disconnect."""
        self.stop()
        for destroy, part in self._parts:
            destroy(part)
        self._parts.clear()
        return _ros.TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> Any:
        """As `on_cleanup`."""
        return self.on_cleanup(state)

    def stop(self) -> None:
        """Choose no more, and send a zero velocity where velocities are sent."""
        if self._acting:
            self._acting, self._velocity = False, STANDING
            self._publish_velocity()
            # A node that ends takes with it what has not arrived, and the robot would drive on.
            self._output.wait_for_all_acked(_ros.Duration(seconds=ARRIVE_SECONDS))

    def close(self) -> None:
        """Stop what is driven."""
        self.stop()

    def _outcome(self, errors: TransitionErrors) -> Any:
        kinds = _ros.TransitionCallbackReturn
        return kinds.FAILURE if errors.text else kinds.SUCCESS

    def _connect(self, o: PolicyParameters) -> None:
        kind, ending = (_ros.CompressedImage, "/compressed") if o.compressed else (_ros.Image, "")
        self._subscribe(kind, f"mirage/image_raw{ending}", self._on_image)
        if o.needs_pose:
            self._subscribe(_ros.PoseStamped, "mirage/pose", self._on_pose)
        if o.command == "goal_pose":
            self._output = self.create_publisher(_ros.PoseStamped, "mirage/goal_pose", 5)
        else:
            self._output = self.create_publisher(_ros.TwistStamped if o.twist_stamped else _ros.Twist, "cmd_vel", 5)
            self._parts.append((self.destroy_timer, self.create_timer(SEND_SECONDS, self._send_velocity)))
        self._parts.append((self.destroy_publisher, self._output))
        self._parts.append((self.destroy_timer, self.create_timer(1.0 / o.rate, self._act)))

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None]) -> None:
        newest = _ros.QoSProfile(
            depth=1, history=_ros.HistoryPolicy.KEEP_LAST, reliability=_ros.ReliabilityPolicy.BEST_EFFORT
        )
        self._parts.append((self.destroy_subscription, self.create_subscription(kind, topic, callback, newest)))

    def _on_image(self, message: Any) -> None:
        self._image, self._image_came, self._image_is_new = message, time.monotonic(), True

    def _on_pose(self, message: Any) -> None:
        with self.refusals.watching("pose"):
            self._T_map_base = messages.pose_from_stamped(message, self.options.map)

    def _act(self) -> None:
        """Let the policy choose, if there is something new to see."""
        if not self._acting:
            return
        if time.monotonic() - self._image_came > self.options.image_timeout:
            self._velocity = STANDING
        elif self._image_is_new and (self._T_map_base is not None or not self.options.needs_pose):
            self._image_is_new, self._velocity = False, STANDING  # which holds where something is refused
            with self.refusals.watching("action or image"):
                self._choose(np.eye(4) if self._T_map_base is None else self._T_map_base)

    def _choose(self, T_map_base: Matrix) -> None:
        o = self.options
        decode = messages.image_from_compressed if o.compressed else messages.image_from_message
        image = decode(self._image)
        mount = CameraMount.looking(o.camera_height, math.radians(o.camera_tilt))
        action = self._policy.act(observation_of(image, T_map_base @ mount.T_base_optical, o.size))
        T_base_next = mount.body_motion(motion_of(action, o.max_translation, o.max_rotation))
        if o.command == "goal_pose":
            T_map_goal = T_map_base @ T_base_next
            self._output.publish(messages.pose_stamped_message(T_map_goal, self._now(), o.map))
        else:
            self._velocity = velocity_between(T_base_next, 1.0 / o.rate)

    def _send_velocity(self) -> None:
        if self._acting:
            self._publish_velocity()

    def _publish_velocity(self) -> None:
        if self.options.command != "cmd_vel":
            return
        linear, angular = self._velocity
        if self.options.twist_stamped:
            self._output.publish(messages.twist_stamped_message(linear, angular, self._now(), ""))
        else:
            self._output.publish(messages.twist_message(linear, angular))

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code, 2 for a parameter or policy that cannot be.

    Raises:
        MissingPackageError: ROS is not installed.
    """
    return run_node(PolicyNode, NODE_NAME, args)
