"""Coloured points to `sensor_msgs/PointCloud2` and back. No node. Points are in the axes of the message's frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidPointsError
from ros_bridge.messages.message_types import ROS, Messages, header_message

FLOAT32 = 7
"""`PointField.FLOAT32`."""
TYPES = {5: "i4", 6: "u4", FLOAT32: "f4", 8: "f8"}
"""Types of `PointField` that coordinates or colours may have."""
PLACES, PACKED = ("f4", "f8"), ("f4", "u4", "i4")
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])


def cloud_message(
    points: NDArray[np.floating],  # [N, 3] metres
    colour: NDArray[np.uint8],  # [N, 3] RGB
    stamp: int,
    frame_id: str,
    messages: Messages = ROS,
) -> Any:
    """`PointCloud2` with fields x, y, z, rgb, all float32; the bits of rgb are 0x00RRGGBB, as PCL and RViz want them.

    A point of a world goes into a REP-103 map as `points @ R_BODY_OPTICAL.T`.

    Raises:
        InvalidPointsError: not points [N, 3], or not as many RGB uint8.
        InvalidOptionError: a stamp that no message can hold.
    """
    points, colour = np.asarray(points), np.asarray(colour)
    if points.ndim != 2 or points.shape[1] != 3 or colour.shape != points.shape or colour.dtype != np.uint8:
        raise InvalidPointsError(
            f"points have shape {points.shape}, their colours {colour.shape} and type {colour.dtype}; give [N, 3] "
            "metres and [N, 3] uint8"
        )
    cloud = np.empty(len(points), POINT)
    cloud["x"], cloud["y"], cloud["z"] = points.T
    red, green, blue = colour.T.astype(np.uint32)
    cloud["rgb"] = red << 16 | green << 8 | blue
    fields = [
        messages.make("sensor_msgs/msg/PointField", name=name, offset=4 * i, datatype=FLOAT32, count=1)
        for i, name in enumerate(("x", "y", "z", "rgb"))
    ]
    return messages.make(
        "sensor_msgs/msg/PointCloud2",
        header=header_message(stamp, frame_id, messages),
        height=1,
        width=len(cloud),
        fields=fields,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=cloud.nbytes,
        data=messages.octets(cloud.view(np.uint8).data),
        is_dense=bool(np.isfinite(points).all()),
    )


def cloud_from_message(message: Any) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:  # [N, 3], [N, 3]
    """Points and RGB of a `PointCloud2` in the order of the message; None where it has no field rgb or rgba.

    Raises:
        InvalidPointsError: no x, y, z, fields of other types or beyond the point, or data that disagrees with the size.
    """
    height, width, step, row = message.height, message.width, message.point_step, message.row_step
    if len(message.data) != height * row or row < width * step:
        raise InvalidPointsError(
            f"a cloud of {width} x {height} points of {step} bytes has rows of {row} bytes and {len(message.data)} "
            "bytes in all; a row must hold its points, and the data all rows"
        )
    rows = np.frombuffer(memoryview(message.data), np.uint8).reshape(height, row)[:, : width * step]
    octets = np.ascontiguousarray(rows).reshape(height * width, step)
    axes = [_field(message, octets, name, PLACES) for name in ("x", "y", "z")]
    if any(axis is None for axis in axes):
        raise InvalidPointsError(f"a cloud has the fields {[f.name for f in message.fields]}; it needs x, y and z")
    packed = _field(message, octets, "rgb", PACKED)
    packed = _field(message, octets, "rgba", PACKED) if packed is None else packed
    points = np.stack([np.asarray(axis, np.float32) for axis in axes], axis=1)
    if packed is None:
        return points, None
    bits = packed.astype(packed.dtype.newbyteorder("="), copy=False).view(np.uint32)
    return points, np.stack([bits >> 16, bits >> 8, bits], axis=1).astype(np.uint8)


def _field(message: Any, octets: NDArray[np.uint8], name: str, allowed: tuple[str, ...]) -> NDArray | None:  # [N]
    """The values of a field, None where there is no such field."""
    field = next((f for f in message.fields if f.name == name), None)
    if field is None:
        return None
    kind = TYPES.get(field.datatype, "")
    if kind not in allowed:
        raise InvalidPointsError(f"the field {name} of a cloud has type {field.datatype}; send FLOAT32 (7)")
    values = np.dtype((">" if message.is_bigendian else "<") + kind)
    end = field.offset + values.itemsize
    if end > message.point_step:
        raise InvalidPointsError(f"the field {name} of a cloud ends at byte {end} of a point of {message.point_step}")
    return np.ascontiguousarray(octets[:, field.offset : end]).view(values).reshape(-1)
