"""ROS 2 lifecycle node of a learned world. It only wires; this page is its whole interface.

Frames: `map` (REP-103, z up, the floor at z = 0), `odom` (at its place), `base` (on the floor and level, x forward),
`optical` (OpenCV axes: images, depth and camera_info are in it); height and tilt of the camera are in base -> optical.
One stamp per frame, on everything that shows it: the node's clock when the frame is published. A frame that is not
ready is the last one again with a fresh stamp. Nothing is queued. Stamps go back only with the clock, which is logged.

Publishes, reliable, volatile, keep last 5; encoded only while somebody subscribes
  ~/image_raw               sensor_msgs/Image rgb8            every frame, at `rate`
  ~/image_raw/compressed    sensor_msgs/CompressedImage       the same as JPEG
  ~/camera_info             sensor_msgs/CameraInfo            of every frame
  ~/depth/image_raw         sensor_msgs/Image 32FC1           z in metres, in the pixels of the image
  ~/depth/camera_info       sensor_msgs/CameraInfo            beside it
  ~/observed                sensor_msgs/Image mono8           255 where the memory knew the view before, as the image
  ~/scan                    sensor_msgs/LaserScan             nearest obstacle by bearing around `base`, from the depth
  ~/points                  sensor_msgs/PointCloud2 xyz rgb   the memory in `map`, at `points_rate`; latched
  ~/map                     nav_msgs/OccupancyGrid            what can be driven, at `grid_rate`; latched
  ~/pose, ~/path            geometry_msgs/PoseStamped, nav_msgs/Path   of `base` in `map`; the path at 1 Hz
  ~/camera_pose             geometry_msgs/PoseStamped         of `optical` in `map`
  ~/odom                    nav_msgs/Odometry                 of `base` in `odom`, with its velocity
  ~/look/image_raw, ~/look/depth/image_raw, ~/look/camera_info   what the memory shows at ~/look_at
  ~/progress                std_msgs/Float32                  share of the asked path walked, 0 to 1; while there is one
  /tf, /tf_static           tf2_msgs/TFMessage                odom -> base; map -> odom, base -> optical; with tf2_msgs
  /clock                    rosgraph_msgs/Clock               with `publish_clock`: the time by which the world plays
  /diagnostics              diagnostic_msgs/DiagnosticArray   1 Hz: frames/s, latency, late and dropped frames, memory,
                                                              store lag, refused inputs, unmatched stamps
Subscribes
  cmd_vel                   geometry_msgs/Twist or TwistStamped, as its publisher has it; zero stops in a chunk
  ~/goal_pose               geometry_msgs/PoseStamped         of `base` in `map`: go there (x, y, heading)
  ~/path_cmd                nav_msgs/Path                     of `base` in `map`: follow it
  ~/look_at                 geometry_msgs/PoseStamped         of `base` in `map`: show what the memory knows from there
  ~/start/image, ~/start/camera_info, ~/start/depth (with `start_depth`)   a robot's camera, best effort: the first view
                            opens a world, later ones wait for ~/reset
  ~/observe/image, ~/observe/camera_info, ~/observe/depth     with `observe`: a robot's views, written into the world
  ~/observe/odom, ~/observe/pose   nav_msgs/Odometry, geometry_msgs/PoseStamped: where it was, if /tf does not say it
                            (images also as /compressed, depth as /compressedDepth below these names)
Services (std_srvs), and topics that do the same
  ~/reset     Trigger   ~/reset_cmd    std_msgs/Empty    open the start view again, in a new cache; the old is kept
  ~/pause     SetBool   ~/pause_cmd    std_msgs/Bool     hold the picture, or go on
  ~/step      Trigger   ~/step_cmd     std_msgs/Empty    one chunk, while paused
  ~/save      Trigger   ~/save_cmd     std_msgs/String   write the world to `save_path` (or to the path in the topic)
  ~/load      Trigger   ~/load_cmd     std_msgs/String   go on from the cache, or the fork of that number, `load_path`
  ~/fork      Trigger   ~/fork_cmd     std_msgs/String   keep a copy, in a new cache at `fork_path` or in memory
  ~/rollback  Trigger   ~/rollback_cmd std_msgs/UInt32   undo the last `rollback_chunks` chunks (or as many as given)
Services of simulation_interfaces, where it is installed: ~/get_simulator_features, ~/reset_simulation,
~/step_simulation, ~/get_simulation_state, ~/set_simulation_state, ~/get_entity_state, ~/set_entity_state, ~/load_world,
~/get_current_world
Actions of nav2_msgs, where it is installed: ~/follow_path, ~/navigate_to_pose; and a heartbeat on bond while active,
where bond is installed, for Nav2's lifecycle manager
Lifecycle: configure loads the model and opens or resumes the store, activate streams, deactivate pauses, cleanup and
shutdown close both. With `autostart` (default) the node goes to active by itself.
Parameters (ranges and meanings: `world_parameters.py`, or `ros2 param describe`)
  world       model device offload control lora steps prompt negative_prompt guidance_scale server token_file
              start_image fov seed store store_frames resume threads
  stream      rate publish_clock clock_factor publish_width publish_height jpeg_quality points_rate scan_bearings
              obstacle_low obstacle_high grid_rate grid_resolution
  motion      cmd_vel_type planar max_speed max_turn cmd_timeout
  frames      frame_prefix map_frame odom_frame base_frame optical_frame camera_height camera_tilt
  start       autostart start_on_image start_depth rectified sync_slop
  robot       observe observe_frame observe_body observe_mount observe_overlap observe_wait
  services    save_path load_path fork_path rollback_chunks
  QoS         qos_overrides./<topic>.<publisher|subscription>.{history,depth,reliability}
Those that act only on configure are refused while the node is configured.
Bad input (NaN, a zero quaternion, an unknown frame, an image that disagrees with its CameraInfo, a store that cannot be
reached) is refused with a warning that names it and a count in /diagnostics; the node lives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirage_env.errors import InvalidOptionError, MirageError
from ros_bridge import _ros
from ros_bridge.inputs.rejected_inputs import RejectedInputs, TransitionErrors
from ros_bridge.messages.message_types import NANO
from ros_bridge.motion.motion_commands import Stop
from ros_bridge.nodes.bond import Bond
from ros_bridge.nodes.run_node import run_node
from ros_bridge.nodes.world_connections import WorldConnections
from ros_bridge.nodes.world_opening import let_go, world_player
from ros_bridge.outputs.diagnostics import diagnostics_message
from ros_bridge.outputs.publishers import WorldPublishers
from ros_bridge.parameters.declaration import changed, current, declare, fixed
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import CLOSE_SECONDS, WorldPlayer
from ros_bridge.timing.node_time import NodeTime
from ros_bridge.timing.rate_timer import RateTimer

NODE_NAME = "mirage"
THREADS = 7
"""For callbacks: two groups and three of a robot's camera, the action that runs, and the one that it replaces."""
CLEANUP_SECONDS = 30.0
"""Time that a cleanup waits for the disk; a shutdown does not wait so long."""
SMOOTHING = 0.05
"""Weight of the newest frame in the mean time of publishing."""


class WorldNode(_ros.LifecycleNode):
    """Lifecycle node of a learned world; the module's docstring is its interface.

    Frames are shown by a thread of their own. Callbacks are in two groups: what may wait for a chunk or for the disk
    (controls, start views, clouds) is in one, so that commands and parameters never wait for it.

    Raises:
        InvalidOptionError: a parameter of the wrong type or out of its range.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(NODE_NAME, **arguments)
        self.refusals = RejectedInputs(self.get_logger().warning)
        self.options = declare(self, WorldParameters)
        self.player: WorldPlayer | None = None
        self._connections: WorldConnections | None = None
        self._frames: RateTimer | None = None
        self._own_store: Path | None = None  # the cache of a world that this node has written
        self.time = NodeTime(self, self._on_time_back)
        self._bond = Bond(self)
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
        with TransitionErrors("configured", self.get_logger().error) as errors:
            self.options = options = current(self, WorldParameters)
            self._open(options)
        self._trouble = errors.text
        if errors.text is not None:
            self.close()
            return _ros.TransitionCallbackReturn.FAILURE
        return _ros.TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> Any:
        """Stream."""
        with TransitionErrors("activated", self.get_logger().error) as errors:
            if self.player is not None:
                self._frames = RateTimer(self._on_frame, self.player.rate, lambda: self.time.now() / NANO)
            self._bond.start()
        return _ros.TransitionCallbackReturn.FAILURE if errors.text else super().on_activate(state)

    def on_deactivate(self, state: Any) -> Any:
        """Stream no more; the world stays as it is, at most one chunk ahead."""
        self._stop_streaming()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        """Close the world and its store, which the next configure may open again."""
        self.close(CLEANUP_SECONDS)
        return _ros.TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> Any:
        """Close the world and its store, and do not wait long for the disk."""
        self.close()
        return _ros.TransitionCallbackReturn.SUCCESS

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Close the world and its store within that time, and disconnect; a second call does nothing."""
        self._stop_streaming()
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.destroy()
        self.time.stop()
        player, self.player = self.player, None
        if player is not None:
            with self.refusals.watching("close"):
                player.close(seconds)
            let_go(player.model)

    def _open(self, o: WorldParameters) -> None:
        store = o.store_folder
        resume = o.resume or (store is not None and store == self._own_store)
        player = world_player(o, lambda: self.time.now() / NANO, resume)
        if o.publish_clock:
            self.time.publish(o.clock_factor, lambda: self.player is None or self.player.time_runs)
        self.get_logger().info(f"{o.server or o.model}: {player.start()}")
        self.player, self._own_store = player, store
        self.outputs = WorldPublishers(self, o, player.model.config.image_size, player.rate)
        self._connections = WorldConnections(self, player, self.outputs, lambda: self.options, self.refusals)
        self._connections.connect()

    @property
    def streams(self) -> bool:
        """Test for frames that are shown: the node is active."""
        return self._frames is not None

    def _stop_streaming(self) -> None:
        self._bond.stop()
        if self._frames is not None:
            self._frames.stop()
            self._frames = None

    def _on_frame(self) -> None:
        """Show the frame of now; where none is ready, the last one again with a fresh stamp."""
        if self.player is None:
            return
        with self.refusals.watching("frame"):
            frame = self.player.next_frame()
            began = time.perf_counter()
            self.outputs.show(frame, self.player.mount, self.time.stamp(), self.options.jpeg_quality)
            self._publish_seconds += SMOOTHING * (time.perf_counter() - began - self._publish_seconds)

    def _on_second(self) -> None:
        """Publish diagnostics and the path so far."""
        if self._frames is not None:
            self._frames.check()
        stats = None if self.player is None else self.player.stats()
        if stats is not None:
            self.outputs.show_path(self.time.stamp())
        counts = {} if self._connections is None else self._connections.counts
        message = diagnostics_message(
            self.get_fully_qualified_name(),
            self.time.stamp(),
            stats,
            self.refusals.counts,
            self._publish_seconds,
            self._newest_trouble(),
            {f"observed views {kind}": count for kind, count in counts.items()},
        )
        self._diagnostics.publish(message)

    def _newest_trouble(self) -> str | None:
        """Say what has gone wrong in the last second; None where all is well."""
        before, self._refused_before = self._refused_before, self.refusals.counts.total()
        if self.refusals.counts.total() != before:
            return "inputs are being refused"
        missing = None if self._connections is None else self._connections.missing()
        return missing or self._trouble

    def _on_parameters(self, parameters: Sequence[Any]) -> Any:
        """Apply the values of parameters that are set, or say what is wrong with them."""
        try:
            if self.player is not None and (names := fixed(self.options, parameters)):
                raise InvalidOptionError(
                    f"{', '.join(names)} take effect when the node is configured, and it is; deactivate and clean it "
                    "up first, set them, and configure it again"
                )
            self.options = changed(self.options, parameters)
        except MirageError as error:
            self.refusals.refuse("parameter", str(error))
            return _ros.SetParametersResult(successful=False, reason=str(error))
        if self.player is not None:
            self.player.limits = self.options.limits
        return _ros.SetParametersResult(successful=True)

    def _on_time_back(self) -> None:
        """Stand: a velocity that was to end at a time would go on until that time comes again."""
        if self.player is not None:
            self.player.command(Stop())


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code, 2 where it cannot be configured with `autostart`.

    Raises:
        MissingPackageError: ROS is not installed.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    return run_node(WorldNode, NODE_NAME, args, THREADS)
