"""Handler of ~/look_at: show what the memory knows from a pose, without walking there."""

from __future__ import annotations

from typing import Any

from ros_bridge import _ros, messages
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.quality_of_service import latched_quality, stream_quality
from ros_bridge.sensing.camera_mount import map_from_world, world_from_map

FRAME = "look_at_optical_frame"


class LookAt:
    """Answers a pose of the base in the map with ~/look/image_raw, ~/look/depth/image_raw and ~/look/camera_info.

    Their stamp is that of the request; their frame hangs in the map by /tf.
    """

    def __init__(self, node: Any, player: WorldPlayer, options: WorldParameters) -> None:
        self._node, self._player, self._frames = node, player, options.frames
        self._frame = options.frame_prefix + FRAME
        kinds = {"image_raw": _ros.Image, "depth/image_raw": _ros.Image, "camera_info": _ros.CameraInfo}
        self._made = {n: node.create_publisher(kind, f"~/look/{n}", stream_quality()) for n, kind in kinds.items()}
        tf = _ros.tf_message()
        self._tf = None if tf is None else node.create_publisher(tf, "/tf", latched_quality(100, latched=False))

    def look(self, message: Any) -> None:
        """Render and publish."""
        T_map_base = messages.pose_from_stamped(message, self._frames.map)
        T_world_cam = world_from_map(T_map_base @ self._player.mount.T_base_optical)
        view, camera = self._player.look_at(T_world_cam)
        stamp = messages.nanoseconds(message.header.stamp) or self._node.time.stamp()
        if self._tf is not None:
            link = messages.transform_message(map_from_world(T_world_cam), stamp, self._frames.map, self._frame)
            self._tf.publish(self._tf.msg_type(transforms=[link]))
        self._made["camera_info"].publish(messages.camera_info_message(camera, stamp, self._frame))
        self._made["depth/image_raw"].publish(messages.depth_message(view.depth, stamp, self._frame))
        self._made["image_raw"].publish(messages.image_message(view.image, stamp, self._frame))

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in (*self._made.values(), *([self._tf] if self._tf is not None else [])):
            self._node.destroy_publisher(publisher)
        self._made.clear()
