"""Images, depth maps and masks to `sensor_msgs/Image` and `CompressedImage`, and back. No node.

Stamps are nanoseconds. What is decoded is a copy. Depth is z in metres and inf where there is no surface; REP 118 says
the same, with 0 for "nothing measured" in millimetres.
"""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from mirage_env.errors import InvalidDepthError, InvalidImageError, InvalidOptionError, MirageError
from mirage_env.files import open_picture, printable
from ros_bridge.messages.message_types import ROS, Messages, header_message

COLOURS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
"""Encodings that `image_from_message` reads: where red, green and blue are."""
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
DEPTHS = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 1e-3)}
"""Encodings that `depth_from_message` reads: type, and metres per unit."""
MASKS = ("mono8", "8UC1")
CODECS = ("jpeg", "png")


def image_message(
    image: NDArray[np.uint8],  # [H, W, 3]
    stamp: int,
    frame_id: str,
    messages: Messages = ROS,
) -> Any:
    """`Image` rgb8.

    Raises:
        InvalidImageError: not RGB uint8.
        InvalidOptionError: a stamp that no message can hold.
    """
    return _message(_rgb(image), "rgb8", stamp, frame_id, messages)


def depth_message(
    depth: NDArray[np.floating],  # [H, W] metres, inf where there is no surface
    stamp: int,
    frame_id: str,
    messages: Messages = ROS,
) -> Any:
    """`Image` 32FC1.

    Raises:
        InvalidDepthError: not [H, W] floating point.
        InvalidOptionError: a stamp that no message can hold.
    """
    depth = np.asarray(depth)
    if depth.ndim != 2 or not depth.size or not np.issubdtype(depth.dtype, np.floating):
        raise InvalidDepthError(
            f"a depth map has shape {depth.shape} and type {depth.dtype}; give [H, W] metres, float"
        )
    return _message(depth.astype("<f4", copy=False), "32FC1", stamp, frame_id, messages)


def mask_message(
    mask: NDArray[np.bool_],  # [h, w]
    stamp: int,
    frame_id: str,
    messages: Messages = ROS,
) -> Any:
    """`Image` mono8, 255 where the mask holds.

    Raises:
        InvalidImageError: not [h, w] bool.
        InvalidOptionError: a stamp that no message can hold.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size or mask.dtype != np.bool_:
        raise InvalidImageError(f"a mask has shape {mask.shape} and type {mask.dtype}; give [h, w] bool")
    return _message(np.uint8(255) * mask, "mono8", stamp, frame_id, messages)


def compressed_message(
    image: NDArray[np.uint8],  # [H, W, 3]
    stamp: int,
    frame_id: str,
    codec: Literal["jpeg", "png"] = "jpeg",
    quality: int = 85,  # of JPEG, 1 to 100
    messages: Messages = ROS,
) -> Any:
    """`CompressedImage`, with the format string of image_transport. PNG loses nothing and takes longer.

    Raises:
        InvalidImageError: not RGB uint8.
        InvalidOptionError: another codec, a quality out of range, or a stamp that no message can hold.
    """
    if codec not in CODECS or not 1 <= quality <= 100:
        raise InvalidOptionError(f"codec {codec!r} quality {quality} was asked for; give one of {CODECS} and 1 to 100")
    file = io.BytesIO()
    # PNG level 1: a stream has no time for more.
    options = {"quality": quality} if codec == "jpeg" else {"compress_level": 1}
    Image.fromarray(_rgb(image)).save(file, codec, **options)
    return messages.make(
        "sensor_msgs/msg/CompressedImage",
        header=header_message(stamp, frame_id, messages),
        format=f"rgb8; {codec} compressed bgr8",
        data=messages.octets(file.getbuffer()),
    )


def image_from_message(message: Any) -> NDArray[np.uint8]:  # [H, W, 3]
    """RGB of an `Image` in one of the encodings `COLOURS`.

    Raises:
        InvalidImageError: another encoding, an empty image, or data that disagrees with its size.
    """
    if message.encoding not in COLOURS:
        raise InvalidImageError(f"an image has encoding {message.encoding!r}; send one of {', '.join(COLOURS)}")
    pixels = _pixels(message, np.uint8, CHANNELS[message.encoding], InvalidImageError)
    order = COLOURS[message.encoding]
    if order == (0, 1, 2):
        return np.array(pixels[..., :3])
    return np.ascontiguousarray(pixels[..., 2::-1]) if order == (2, 1, 0) else np.repeat(pixels, 3, axis=2)


def depth_from_message(message: Any) -> NDArray[np.float32]:  # [H, W] metres
    """Depth of an `Image` 32FC1 (metres) or 16UC1 (millimetres); what was not measured (NaN, -inf, 0) becomes inf.

    Raises:
        InvalidDepthError: another encoding, an empty image, data that disagrees with its size, or negative depth.
    """
    if message.encoding not in DEPTHS:
        raise InvalidDepthError(
            f"a depth image has encoding {message.encoding!r}; send 32FC1 in metres or 16UC1 in millimetres"
        )
    kind, unit = DEPTHS[message.encoding]
    order = ">" if message.is_bigendian else "<"
    values = _pixels(message, order + kind, 1, InvalidDepthError)[..., 0]
    depth = values.astype(np.float32) * np.float32(unit) if unit != 1.0 else values.astype(np.float32)
    if (wrong := np.isfinite(depth) & (depth < 0.0)).any():
        raise InvalidDepthError(
            f"{int(wrong.sum())} values of a depth image are negative; send z in front of the camera"
        )
    depth[np.isnan(depth) | (depth <= 0.0)] = np.inf
    return depth


def mask_from_message(message: Any) -> NDArray[np.bool_]:  # [h, w]
    """Mask of an `Image` mono8: true where it is not 0.

    Raises:
        InvalidImageError: another encoding, an empty image, or data that disagrees with its size.
    """
    if message.encoding not in MASKS:
        raise InvalidImageError(f"a mask has encoding {message.encoding!r}; send one of {', '.join(MASKS)}")
    mask: NDArray[np.bool_] = _pixels(message, np.uint8, 1, InvalidImageError)[..., 0] != 0
    return mask


def image_from_compressed(message: Any) -> NDArray[np.uint8]:  # [H, W, 3]
    """RGB of a `CompressedImage`; the data itself tells whether it is JPEG or PNG.

    Raises:
        InvalidImageError: neither of them, damaged, of enormous size, or with more than 8 bits per channel.
    """
    named = f"a compressed image (format {printable(message.format)!r}, {len(message.data)} bytes)"
    formats = [codec.upper() for codec in CODECS]
    return np.array(open_picture(bytes(message.data), formats=formats, upright=False, name=named))


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise InvalidImageError(f"an image has shape {image.shape} and type {image.dtype}; give [H, W, 3] uint8")
    return np.ascontiguousarray(image)


def _message(values: NDArray, encoding: str, stamp: int, frame_id: str, messages: Messages) -> Any:
    values = np.ascontiguousarray(values)
    height, width = values.shape[:2]
    return messages.make(
        "sensor_msgs/msg/Image",
        header=header_message(stamp, frame_id, messages),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=values.nbytes // height,
        data=messages.octets(values.data.cast("B")),
    )


def _pixels(message: Any, kind: DTypeLike, channels: int, error: type[MirageError]) -> NDArray:  # [H, W, channels]
    """A view of the data where that is possible; rows may be padded."""
    height, width, step, found = message.height, message.width, message.step, len(message.data)
    row = width * channels * np.dtype(kind).itemsize
    if height < 1 or width < 1 or step < row or found != height * step:
        raise error(
            f"an image of {width} x {height} pixels {message.encoding} has step {step} and {found} bytes; its size "
            f"must be at least 1 x 1, its step at least {row} bytes, its data height times step"
        )
    rows = np.frombuffer(memoryview(message.data), np.uint8).reshape(height, step)[:, :row]
    return np.ascontiguousarray(rows).view(kind).reshape(height, width, channels)
