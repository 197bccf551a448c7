"""Odometry, occupancy grids and laser scans to messages. No node. Stamps are nanoseconds."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.export import OccupancyGrid
from ros_bridge.messages.geometry import pose_message, twist_message
from ros_bridge.messages.laser_scan import Scan
from ros_bridge.messages.message_types import ROS, Messages, header_message, time_message

SHORTEST, LONGEST = 0.01, 1000.0
"""Ranges of a scan, metres."""


def odometry_message(
    T_odom_base: ArrayLike,  # [4, 4]
    linear: ArrayLike,  # [3] m/s, in the base
    angular: ArrayLike,  # [3] rad/s, in the base
    stamp: int,
    odom: str,
    base: str,
    messages: Messages = ROS,
) -> Any:
    """`nav_msgs/Odometry`, with zero covariances: an imagined base does not drift.

    Raises:
        InvalidPoseError: not a rigid motion.
        InvalidActionError: not three finite numbers each.
        InvalidOptionError: a stamp that no message can hold.
    """
    exact = np.zeros(36)
    return messages.make(
        "nav_msgs/msg/Odometry",
        header=header_message(stamp, odom, messages),
        child_frame_id=base,
        pose=messages.make(
            "geometry_msgs/msg/PoseWithCovariance", pose=pose_message(T_odom_base, messages), covariance=exact
        ),
        twist=messages.make(
            "geometry_msgs/msg/TwistWithCovariance", twist=twist_message(linear, angular, messages), covariance=exact
        ),
    )


def grid_message(grid: OccupancyGrid, stamp: int, frame_id: str, messages: Messages = ROS) -> Any:
    """`nav_msgs/OccupancyGrid` on the floor of a frame.

    Raises:
        InvalidOptionError: a stamp that no message can hold.
    """
    T = np.eye(4)
    T[:2, 3] = grid.origin
    rows, columns = grid.cells.shape
    return messages.make(
        "nav_msgs/msg/OccupancyGrid",
        header=header_message(stamp, frame_id, messages),
        info=messages.make(
            "nav_msgs/msg/MapMetaData",
            map_load_time=time_message(stamp, messages),
            resolution=float(grid.resolution),
            width=columns,
            height=rows,
            origin=pose_message(T, messages),
        ),
        data=array.array("b", grid.cells.tobytes()),
    )


def scan_message(scan: Scan, stamp: int, frame_id: str, messages: Messages = ROS) -> Any:
    """`sensor_msgs/LaserScan`, all ranges of one moment.

    Raises:
        InvalidOptionError: a stamp that no message can hold.
    """
    return messages.make(
        "sensor_msgs/msg/LaserScan",
        header=header_message(stamp, frame_id, messages),
        angle_min=scan.first,
        angle_max=scan.first + scan.step * (len(scan.ranges) - 1),
        angle_increment=scan.step,
        time_increment=0.0,
        scan_time=0.0,
        range_min=SHORTEST,
        range_max=LONGEST,
        ranges=array.array("f", scan.ranges.tobytes()),
        intensities=array.array("f"),
    )
