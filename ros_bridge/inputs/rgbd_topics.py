"""Subscriptions of an RGB-D camera: image, depth and CameraInfo, raw or compressed, matched by time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidCameraError, InvalidDepthError
from mirage_env.files import printable
from mirage_env.fit_view import fit_depth
from mirage_env.interfaces import StartView
from ros_bridge import _ros, messages
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.start_views import camera_view
from ros_bridge.inputs.subscriptions import subscribe
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.sensing.rectification import Rectifier, lens_content, rectifier_from_info
from ros_bridge.sensing.synchronizer import ApproximateTimeSynchronizer
from ros_bridge.sensing.transform_buffer import frame_name

DEPTH = 20
"""Messages of a camera's topic that may wait while the node is busy: most of a second at 30 Hz."""


@dataclass(frozen=True, eq=False)
class RgbdMessages:
    """Messages of one moment."""

    image: Any
    """Image or CompressedImage."""
    depth: Any | None
    """Image or CompressedImage; None without depth."""
    rectifier: Rectifier

    @property
    def stamp(self) -> int:
        """Nanoseconds."""
        return messages.nanoseconds(self.image.header.stamp)

    @property
    def frame(self) -> str:
        """Optical frame of the image."""
        return frame_name(self.image.header.frame_id)

    def view(self, config: WorldModelConfig, T_world_cam: NDArray[np.float64] | None = None) -> StartView:
        """Decode, rectify, crop and resize to what a model works at.

        Raises:
            InvalidImageError, InvalidDepthError, InvalidCameraError: messages that are wrong or do not go together.
        """
        is_raw = hasattr(self.image, "encoding")
        image = messages.image_from_message(self.image) if is_raw else messages.image_from_compressed(self.image)
        camera = self.rectifier.camera
        if image.shape[:2] != (camera.height, camera.width):
            raise InvalidCameraError(
                f"the image has {image.shape[1]} x {image.shape[0]} pixels and its CameraInfo says {camera.width} x "
                f"{camera.height}; send that of the image"
            )
        depth = None if self.depth is None else self._depth(self.depth, image.shape[:2])
        return camera_view(config, self.rectifier.image(image), camera.K_image, depth, T_world_cam)

    def geometry(
        self, config: WorldModelConfig, T_world_cam: NDArray[np.float64]
    ) -> tuple[Camera, NDArray[np.float32] | None]:  # and [H, W] metres
        """Camera and depth of `view`, without decoding the image.

        Raises:
            InvalidDepthError, InvalidCameraError: messages that are wrong or do not go together.
        """
        camera = self.rectifier.camera
        whole = (camera.height, camera.width)
        depth = None if self.depth is None else self._depth(self.depth, whole)
        return fit_depth(depth, config.image_size, camera.at(T_world_cam))

    def _depth(self, message: Any, size: tuple[int, ...]) -> NDArray[np.float32]:
        if (other := frame_name(message.header.frame_id)) not in (self.frame, ""):
            raise InvalidDepthError(
                f"depth comes in the frame {printable(other)!r}, the image in {printable(self.frame)!r}; send depth "
                "that is aligned to the image"
            )
        decode = messages.depth_from_message if hasattr(message, "encoding") else messages.depth_from_compressed
        depth = decode(message)
        if depth.shape != size:
            raise InvalidDepthError(
                f"depth has shape {depth.shape}, the image {size}; send depth in the pixels of the image"
            )
        return self.rectifier.depth(depth)


class RgbdTopics:
    """Subscriptions below a prefix; complete sets are handed on.

    Topics: PREFIX/image, PREFIX/image/compressed, PREFIX/depth, PREFIX/depth/compressedDepth and PREFIX/camera_info,
    best effort. Of CameraInfo the latest counts: an image waits for the first.

    Args:
        node: the node.
        prefix: such as ~/start.
        options: slop, and whether images are rectified.
        needs_depth: a set is complete only with depth.
        taken: takes a set.
        rejected: counts what is refused, by the prefix.
        group: callback group.
    """

    def __init__(
        self,
        node: Any,
        prefix: str,
        options: WorldParameters,
        needs_depth: bool,
        taken: Callable[[RgbdMessages], None],
        rejected: RejectedInputs,
        group: Any,
    ) -> None:
        self._node, self._taken, self._rectified = node, taken, options.rectified
        topics = ("image", "depth") if needs_depth else ("image",)
        self._sync = ApproximateTimeSynchronizer(topics, options.sync_slop, self._matched)
        self._lens: bytes | None = None
        self._rectifier: Rectifier | None = None
        self._waiting: dict[str, Any] | None = None
        kinds = [(_ros.Image, "image"), (_ros.CompressedImage, "image/compressed"), (_ros.CameraInfo, "camera_info")]
        if needs_depth:
            kinds += [(_ros.Image, "depth"), (_ros.CompressedImage, "depth/compressedDepth")]
        quality = _ros.QoSProfile(depth=DEPTH, reliability=_ros.ReliabilityPolicy.BEST_EFFORT)
        self._made = [
            subscribe(node, kind, f"{prefix}/{name}", self._callback(name), rejected, group, quality)
            for kind, name in kinds
        ]

    def missing(self) -> str | None:
        """Say what does not match or does not arrive; None where all is well."""
        if self._waiting is not None:
            return "images arrive and no camera_info; send that of the images"
        return self._sync.missing()

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
        self._made.clear()

    def _callback(self, name: str) -> Callable[[Any], None]:
        topic = name.partition("/")[0]
        if topic == "camera_info":
            return self._camera_info

        def add(message: Any) -> None:
            self._sync.add(topic, messages.nanoseconds(message.header.stamp), message)

        return add

    def _camera_info(self, message: Any) -> None:
        if (content := lens_content(message)) != self._lens:
            self._lens, self._rectifier = content, None
            self._rectifier = rectifier_from_info(message, self._rectified)
        if self._waiting is not None:
            parts, self._waiting = self._waiting, None
            self._matched(parts)

    def _matched(self, parts: dict[str, Any]) -> None:
        if self._lens is None:
            self._waiting = parts
        elif self._rectifier is not None:  # else the CameraInfo was refused
            self._taken(RgbdMessages(parts["image"], parts.get("depth"), self._rectifier))
