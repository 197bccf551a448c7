"""A robot's bag as a recording that worlds and training clips are made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirage_env.datasets.recordings import PosedView, Recording
from mirage_env.errors import BagContentError
from ros_bridge.bag.read_bag import open_views
from ros_bridge.messages.message_types import NANO


def bag_recording(path: str | Path, **reading: Any) -> Recording:
    """Open a rosbag2 or a ROS 1 bag as a stream of posed views, anchored in the bag's fixed frame.

    Args:
        path: the bag.
        **reading: arguments of `read_bag`: topics, `T_base_camera`, ...

    Raises:
        BagNotFoundError, BagContentError: as `read_bag`, and a bag without images or poses.
        InvalidCameraError, InvalidPoseError: as `read_bag`.
    """
    with open_views(path, **reading) as bag:
        if bag.fixed is None or not bag.count:
            raise BagContentError(
                f"the bag {path} has no images with poses that lead to their camera; record an image topic, and /tf "
                "and /tf_static, or odometry"
            )
        kind, count, has_depth = f"bag {Path(path).name} in {bag.fixed!r}", bag.count, bag.depth is not None

    def views() -> Iterator[PosedView]:
        with open_views(path, **reading) as bag:
            for stamp, view in bag.views:
                yield PosedView(view.image, view.camera, view.depth, f"{stamp} ns", stamp / NANO)

    return Recording(kind, count, views, has_depth, metric=True)
