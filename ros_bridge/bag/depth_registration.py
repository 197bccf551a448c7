"""Depth of a camera of its own, moved into the pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.recordings import registered_depth
from mirage_env.errors import BagContentError
from mirage_env.files import printable
from mirage_env.poses import Matrix
from ros_bridge.bag.rosbag_files import BagReader
from ros_bridge.bag.topic_selection import TF, Topics, topics_of
from ros_bridge.sensing.rectification import Rectifier, rectifier_from_info
from ros_bridge.sensing.transform_buffer import TransformBuffer


@dataclass(frozen=True, eq=False)
class DepthRegistration:
    """The depth camera: its lens, and where it is on the camera of the images."""

    rectifier: Rectifier
    T_image_depth: Matrix

    def register(self, depth: NDArray[np.float32], image: Camera) -> NDArray[np.float32]:  # [H, W] metres
        """Depth in the pixels of a rectified image."""
        metres = np.where(np.isfinite(depth), self.rectifier.depth(depth), 0.0).astype(np.float32)
        of = self.rectifier.camera.at(self.T_image_depth)
        return registered_depth(metres, of, image.at(np.eye(4)))


def depth_registration(bag: BagReader, topics: Topics) -> DepthRegistration | None:
    """Registration of depth to the pixels of the image; None where it is in them already.

    Raises:
        BagContentError: no transform leads from the depth camera to the image's, or no CameraInfo of it has a message.
        InvalidCameraError: a CameraInfo of no lens.
    """
    if topics.depth_info is None:
        return None
    info = next(iter(bag.messages(topics.depth_info)), None)
    transforms = TransformBuffer()
    for topic in topics_of(bag, TF):
        bag.check_definition(topic)
        for message in bag.messages(topic):
            transforms.add_message(message, static=topic.endswith("tf_static"))
    if info is None or not transforms.connects(topics.frame, topics.depth_frame):
        raise BagContentError(
            f"{topics.depth} is in {printable(topics.depth_frame)!r}, another frame than the image's "
            f"{printable(topics.frame)!r}, and no transform leads from one to the other; record /tf_static, or depth "
            "that is aligned to the image, or leave it out with an empty name"
        )
    T_image_depth = transforms.lookup(topics.frame, topics.depth_frame, 0)
    return DepthRegistration(rectifier_from_info(info), T_image_depth)
