"""Messages: conversions between Mirage and ROS 2 messages. Pure functions, no node.

Making a message needs ROS, or another family of messages (`messages.Messages`); reading one needs neither. Stamps are
int nanoseconds, poses `T_a_b` [4, 4] in the axes of the message (`optical_frames.py` turns cameras into bodies).
"""

from ros_bridge.messages.camera_info import camera_from_info, camera_info_message
from ros_bridge.messages.geometry import (
    check_frame,
    path_from_message,
    path_message,
    pose_from_message,
    pose_from_stamped,
    pose_message,
    pose_stamped_message,
    transform_from_message,
    transform_message,
    transforms_message,
    twist_message,
    twist_stamped_message,
    velocity_from_twist,
    velocity_from_twist_stamped,
)
from ros_bridge.messages.image import (
    compressed_message,
    depth_from_compressed,
    depth_from_message,
    depth_message,
    image_from_compressed,
    image_from_message,
    image_message,
    mask_from_message,
    mask_message,
)
from ros_bridge.messages.message_types import header_message, nanoseconds, time_message
from ros_bridge.messages.navigation import grid_message, odometry_message, scan_message
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL, body_from_optical, optical_from_body, xyzw_from_wxyz
from ros_bridge.messages.point_cloud import cloud_from_message, cloud_message

__all__ = [
    "R_BODY_OPTICAL",
    "body_from_optical",
    "camera_from_info",
    "camera_info_message",
    "check_frame",
    "cloud_from_message",
    "cloud_message",
    "compressed_message",
    "depth_from_compressed",
    "depth_from_message",
    "depth_message",
    "grid_message",
    "header_message",
    "image_from_compressed",
    "image_from_message",
    "image_message",
    "mask_from_message",
    "mask_message",
    "nanoseconds",
    "odometry_message",
    "optical_from_body",
    "path_from_message",
    "path_message",
    "pose_from_message",
    "pose_from_stamped",
    "pose_message",
    "pose_stamped_message",
    "scan_message",
    "time_message",
    "transform_from_message",
    "transform_message",
    "transforms_message",
    "twist_message",
    "twist_stamped_message",
    "velocity_from_twist",
    "velocity_from_twist_stamped",
    "xyzw_from_wxyz",
]
