"""ROS 2 lifecycle node of a learned world. It only wires; this page is its whole interface.

Frames: `map` (REP-103; the start view's world, z up), `base` (the camera's place, x forward), `optical` (the same
place, OpenCV axes: images, depth and camera_info are in it). One stamp per frame, on everything that shows it: the
node's clock when the frame is published, which is when it is shown; generated ahead of that or not. Nothing is queued.

Publishes, reliable, volatile, keep last 5; encoded only while somebody subscribes
  ~/image_raw               sensor_msgs/Image rgb8            every frame, at `rate`
  ~/image_raw/compressed    sensor_msgs/CompressedImage       the same as JPEG
  ~/camera_info             sensor_msgs/CameraInfo            of every frame
  ~/depth/image_raw         sensor_msgs/Image 32FC1           z in metres
  ~/observed                sensor_msgs/Image mono8           255 where the memory knew the view before
  ~/points                  sensor_msgs/PointCloud2 xyz rgb   the memory in `map`, at `points_rate`
  ~/pose, ~/path            geometry_msgs/PoseStamped, nav_msgs/Path   of `base` in `map`; the path at 1 Hz
  ~/progress                std_msgs/Float32                  share of the asked path walked, 0 to 1; while there is one
  /tf, /tf_static           tf2_msgs/TFMessage                map -> base, base -> optical; where tf2_msgs is installed
  /diagnostics              diagnostic_msgs/DiagnosticArray   1 Hz: frames/s, latency, late and dropped frames, memory,
                                                              store lag, refused inputs by kind
Subscribes
  cmd_vel                   geometry_msgs/Twist, or TwistStamped (`twist_stamped`), in `base`; zero stops in a chunk
  ~/goal_pose               geometry_msgs/PoseStamped         of `base` in `map`: go there
  ~/path_cmd                nav_msgs/Path                     of `base` in `map`: follow it
  ~/start/image, ~/start/camera_info, ~/start/depth (with `start_depth`)   of one stamp: a new start view, cropped and
                            resized; it opens a world at once, or with `start_on_image` false on reset
Services (std_srvs), and topics that do the same
  ~/reset     Trigger   ~/reset_cmd    std_msgs/Empty    open the start view again, in a new cache; the old is kept
  ~/pause     SetBool   ~/pause_cmd    std_msgs/Bool     hold the picture, or go on
  ~/step      Trigger   ~/step_cmd     std_msgs/Empty    one chunk, while paused
  ~/save      Trigger   ~/save_cmd     std_msgs/String   write the world to `save_path` (or to the path in the topic)
  ~/load      Trigger   ~/load_cmd     std_msgs/String   go on from the cache, or the fork of that number, `load_path`
  ~/fork      Trigger   ~/fork_cmd     std_msgs/String   keep a copy, in a new cache at `fork_path` or in memory
  ~/rollback  Trigger   ~/rollback_cmd std_msgs/UInt32   undo the last `rollback_chunks` chunks (or as many as given)
Lifecycle: configure loads the model and opens or resumes the store, activate streams, deactivate pauses, cleanup and
shutdown close both. With `autostart` (default) the node goes to active by itself.
Parameters (ranges and meanings: `world_parameters.py`, or `ros2 param describe`)
  world       model device offload control lora steps prompt negative_prompt guidance_scale start_image fov seed
              store store_frames resume threads
  stream      rate publish_width publish_height jpeg_quality points_rate
  motion      twist_stamped max_speed max_turn cmd_timeout
  frames      map_frame base_frame optical_frame
  start       autostart start_on_image start_depth
  services    save_path load_path fork_path rollback_chunks
  QoS         qos_overrides./<topic>.<publisher|subscription>.{history,depth,reliability}
Bad input (NaN, a zero quaternion, an unknown frame, an image that disagrees with its CameraInfo, a store that cannot be
reached) is refused with a warning that names it and a count in /diagnostics; the node lives.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mirage_env.errors import MirageError
from ros_bridge import _ros
from ros_bridge.messages.message_types import NANO
from ros_bridge.nodes.cmd_vel import CmdVel
from ros_bridge.nodes.diagnostics import diagnostics_message
from ros_bridge.nodes.goal_topics import GoalTopics
from ros_bridge.nodes.memory_cloud import MemoryCloud
from ros_bridge.nodes.publishers import WorldPublishers
from ros_bridge.nodes.rejected_inputs import REFUSED, RejectedInputs
from ros_bridge.nodes.start_topics import StartTopics
from ros_bridge.nodes.start_views import start_view
from ros_bridge.nodes.subscriptions import subscribe
from ros_bridge.nodes.trigger_services import offer
from ros_bridge.nodes.world_services import WorldControls
from ros_bridge.parameters.declaration import changed, current, declare
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.motion_commands import Limits
from ros_bridge.player.rate_timer import RateTimer
from ros_bridge.player.world_player import WorldPlayer

NODE_NAME = "mirage"
LOOK_SECONDS = 0.25
"""How often `main` looks whether it is to end."""
SMOOTHING = 0.05
"""Weight of the newest frame in the mean time of publishing."""


class WorldNode(_ros.LifecycleNode):
    """Lifecycle node of a learned world; the module's docstring is its interface.

    Frames are shown by a thread of their own. Callbacks are in two groups, for two threads: what may wait for a chunk
    or for the disk (controls, start views, clouds) is in one, so that commands and parameters never wait for it.

    Raises:
        InvalidOptionError: a parameter of the wrong type or out of its range.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(NODE_NAME, **arguments)
        self.refusals = RejectedInputs(self.get_logger().warning)
        self.options = declare(self, WorldParameters)
        self.player: WorldPlayer | None = None
        self._slow = _ros.MutuallyExclusiveCallbackGroup()
        self._parts: list[tuple[Callable[[Any], Any], Any]] = []  # how each is destroyed, and what it is
        self._frames: RateTimer | None = None
        self._publish_seconds = 0.0
        self._trouble: str | None = None
        self._refused_before = 0
        self._diagnostics = self.create_publisher(_ros.DiagnosticArray, "/diagnostics", 5)
        self.create_timer(1.0, self._on_second)
        self.add_on_set_parameters_callback(self._on_parameters)

    def start(self) -> bool:
        """Configure and activate; returns whether that was so."""
        done = _ros.TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def on_configure(self, state: Any) -> Any:
        """Load the model, open or resume the world, and connect it."""
        try:
            self.options = options = current(self, WorldParameters)
            self._open(options)
        except REFUSED as error:
            self._trouble = f"not configured: {error}"
            self.get_logger().error(self._trouble)
            self.close()
            return _ros.TransitionCallbackReturn.FAILURE
        self._trouble = None
        return _ros.TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> Any:
        """Stream."""
        if self.player is not None:
            self._frames = RateTimer(self._on_frame, self.player.rate, lambda: self._now() / NANO)
        return super().on_activate(state)

    def on_deactivate(self, state: Any) -> Any:
        """Stream no more; the world stays as it is, at most one chunk ahead."""
        self._stop_streaming()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        """Close the world and its store."""
        self.close()
        return _ros.TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> Any:
        """As `on_cleanup`."""
        return self.on_cleanup(state)

    def close(self) -> None:
        """Close the world and its store, and disconnect; a second call does nothing."""
        self._stop_streaming()
        for destroy, part in self._parts:
            destroy(part)
        self._parts.clear()
        player, self.player = self.player, None
        if player is not None:
            with self.refusals.watching("close"):
                player.close()

    def _open(self, o: WorldParameters) -> None:
        store = o.store_folder
        import torch

        from mirage_env.models.world_model_loader import load_world_model  # brings in diffusers and transformers

        if o.threads:
            torch.set_num_threads(o.threads)
        model = load_world_model(o.model, o.device, **o.full_size)
        limits = Limits(o.max_speed, o.max_turn, o.cmd_timeout)
        player = WorldPlayer(
            model,
            start_view(model.config, o),
            seed=o.seed,
            store=store,
            resume=o.resume,
            frames=o.store_frames,
            limits=limits,
            rate=o.rate or None,
        )
        self.get_logger().info(f"{o.model}: {player.start()}")
        self.player = player
        self.outputs = WorldPublishers(self, o, model.config.image_size)
        self._parts.append((WorldPublishers.destroy, self.outputs))
        self._connect(player, o)

    def _connect(self, player: WorldPlayer, o: WorldParameters) -> None:
        """Subscriptions, services and the slow timers."""
        controls = WorldControls(player, lambda: self.options, self.outputs.forget_path)
        for control in controls.all():
            service, topic = offer(self, control, self.refusals, self._slow)
            self._parts += [(self.destroy_service, service), (self.destroy_subscription, topic)]
        velocities, goals = CmdVel(player, o), GoalTopics(player, o)
        views = StartTopics(player.model.config, lambda: self.options.start_depth, controls.open_view)
        twist = (_ros.TwistStamped, velocities.twist_stamped) if o.twist_stamped else (_ros.Twist, velocities.twist)
        for kind, topic, callback, group in (
            (twist[0], "cmd_vel", twist[1], None),
            (_ros.PoseStamped, "~/goal_pose", goals.goal, None),
            (_ros.Path, "~/path_cmd", goals.path, None),
            (_ros.Image, "~/start/image", views.image, self._slow),
            (_ros.CameraInfo, "~/start/camera_info", views.camera_info, self._slow),
            (_ros.Image, "~/start/depth", views.depth, self._slow),
        ):
            made = subscribe(self, kind, topic, callback, self.refusals, group)
            self._parts.append((self.destroy_subscription, made))
        if o.points_rate:
            cloud = MemoryCloud(player, self.outputs)

            def show() -> None:
                with self.refusals.watching("points"):
                    cloud.show(self._now())

            timer = self.create_timer(1.0 / o.points_rate, show, callback_group=self._slow)
            self._parts.append((self.destroy_timer, timer))

    def _stop_streaming(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.stop()

    def _on_frame(self) -> None:
        """Show the next frame, if there is one; a frame that is late is left out."""
        if self.player is None:
            return
        with self.refusals.watching("frame"):
            frame = self.player.next_frame()
            if frame is None:
                return
            began = time.perf_counter()
            self.outputs.show(frame, self._now(), self.options.jpeg_quality)
            self._publish_seconds += SMOOTHING * (time.perf_counter() - began - self._publish_seconds)

    def _on_second(self) -> None:
        """Publish diagnostics and the path so far."""
        if self._frames is not None:
            self._frames.check()
        stats = None if self.player is None else self.player.stats()
        total = self.refusals.counts.total()
        trouble = self._trouble if total == self._refused_before else "inputs are being refused"
        self._refused_before = total
        if stats is not None:
            self.outputs.show_path(self._now())
        message = diagnostics_message(
            self.get_fully_qualified_name(), self._now(), stats, self.refusals.counts, self._publish_seconds, trouble
        )
        self._diagnostics.publish(message)

    def _on_parameters(self, parameters: Sequence[Any]) -> Any:
        """Apply the values of parameters that are set, or say what is wrong with them."""
        try:
            self.options = changed(self.options, parameters)
        except MirageError as error:
            self.refusals.refuse("parameter", str(error))
            return _ros.SetParametersResult(successful=False, reason=str(error))
        return _ros.SetParametersResult(successful=True)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code, 2 where it cannot be configured with `autostart`.

    Raises:
        MissingPackageError: ROS is not installed.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    ended, starting = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        ended.set()
        if starting.is_set():
            raise KeyboardInterrupt  # loading a model takes longer than anybody wants to wait

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    # rclpy's own handlers would close the context before the store is closed.
    _ros.rclpy.init(args=args, signal_handler_options=_ros.SignalHandlerOptions.NO)
    executor = _ros.MultiThreadedExecutor(num_threads=2)
    node = None
    try:
        starting.set()
        node = WorldNode()
        if node.options.autostart and not node.start():
            return 2
        starting.clear()
        executor.add_node(node)
        while not ended.is_set():
            executor.spin_once(timeout_sec=LOOK_SECONDS)
    except KeyboardInterrupt:
        starting.clear()
    except MirageError as error:
        _ros.rclpy.logging.get_logger(NODE_NAME).fatal(str(error))
        return 2
    finally:
        starting.clear()
        if node is not None:
            node.close()
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        _ros.rclpy.try_shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
        gc.freeze()  # at its end the interpreter would look through all objects of torch for seconds
    return 0
