"""Cameras to `sensor_msgs/CameraInfo` and back. No node.

The two count pixels differently: our pixel centres lie at +1/2, those of ROS (and OpenCV) at whole numbers. So the
principal point of a `CameraInfo` is ours less half a pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError
from mirage_env.files import printable
from ros_bridge.messages.message_types import ROS, Messages, header_message

HALF_PIXEL = 0.5
NEGLIGIBLE = 1e-6
"""Coefficients of distortion below it move no pixel."""


def camera_info_message(camera: Camera, stamp: int, frame_id: str, messages: Messages = ROS) -> Any:
    """`CameraInfo` of an ideal pinhole camera for images of its size (`camera.resized` gives that of another size).

    Its pose goes another way: `pose_stamped_message`, `transform_message`.

    Raises:
        InvalidOptionError: a stamp that no message can hold.
    """
    K = camera.K_image.copy()
    K[:2, 2] -= HALF_PIXEL
    whole = messages.make(
        "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    return messages.make(
        "sensor_msgs/msg/CameraInfo",
        header=header_message(stamp, frame_id, messages),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=whole,
    )


def camera_from_info(
    message: Any,
    T_world_cam: ArrayLike | None = None,  # [4, 4], the identity if not given
    size: tuple[int, int] | None = None,  # H, W of the image that it belongs to
    rectified: bool = False,
) -> Camera:
    """The pinhole camera of a `CameraInfo`.

    Args:
        message: the `CameraInfo`.
        T_world_cam: pose of the camera in our axes.
        size: checked against the message, where it is given.
        rectified: the images went through image_proc, which removes distortion and passes the CameraInfo on: take P
            and leave D and R alone.

    Raises:
        InvalidCameraError: not calibrated, distorted, rotated by R, binned or cut out; intrinsics that are not finite
            or of no pinhole camera; or of another size than the image.
        InvalidPoseError: the pose is not a rigid motion.
    """
    height, width = int(message.height), int(message.width)
    if size is not None and size != (height, width):
        raise InvalidCameraError(
            f"the image has {size[1]} x {size[0]} pixels and its CameraInfo says {width} x {height}; send that "
            "of the image"
        )
    check_whole(message, height, width)
    if rectified:
        K = finite("P", message.p, (3, 4))[:, :3]
    else:
        K = finite("K", message.k, (3, 3))
        _check_undistorted(message)
    if not K.any():
        raise InvalidCameraError("a CameraInfo holds zeros: the camera is not calibrated; calibrate it, or send K")
    K[:2, 2] += HALF_PIXEL
    return Camera(np.eye(4) if T_world_cam is None else np.asarray(T_world_cam), K, height, width)


def _check_undistorted(message: Any) -> None:
    """Distortion must be zero, and the image the one that the lens made."""
    distortion = finite("D", message.d, (len(message.d),))
    if np.abs(distortion).max(initial=0.0) > NEGLIGIBLE:
        raise InvalidCameraError(
            f"a CameraInfo has distortion {printable(message.distortion_model)} {distortion.tolist()}; rectify the "
            "image (`rectifier_from_info`), or set `rectified` where it is rectified already"
        )
    rotation = finite("R", message.r, (3, 3))
    if rotation.any() and not np.allclose(rotation, np.eye(3), atol=1e-6):
        raise InvalidCameraError(
            f"a CameraInfo has the rectifying rotation R {rotation.tolist()}; rectify the image "
            "(`rectifier_from_info`), or set `rectified` where it is rectified already"
        )


def check_whole(message: Any, height: int, width: int) -> None:
    """Check that a `CameraInfo` is of the whole image.

    Raises:
        InvalidCameraError: binned or cut out.
    """
    roi = message.roi
    if message.binning_x > 1 or message.binning_y > 1:
        raise InvalidCameraError(
            f"a CameraInfo has binning {message.binning_x} x {message.binning_y}; send one for the image as it is"
        )
    if (roi.x_offset, roi.y_offset) != (0, 0) or (roi.height, roi.width) not in ((0, 0), (height, width)):
        raise InvalidCameraError(
            f"a CameraInfo has a region of interest {roi.width} x {roi.height} at {roi.x_offset}, {roi.y_offset}; send "
            "one for the image as it is"
        )


def finite(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Field of a `CameraInfo` as an array of that shape.

    Raises:
        InvalidCameraError: NaN or infinite numbers.
    """
    array = np.array(values, np.float64).reshape(shape)
    if not np.isfinite(array).all():
        raise InvalidCameraError(f"{name} of a CameraInfo is {array.tolist()}; send finite numbers")
    return array
