"""Images, depth maps and masks to `sensor_msgs/Image` and `CompressedImage`, and back. No node.

Stamps are nanoseconds. What is decoded is a copy. Depth is z in metres and inf where there is no surface; REP 118 says
the same, with 0 for "nothing measured" in millimetres.
"""

from __future__ import annotations

import io
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.errors import InvalidDepthError, InvalidImageError, InvalidOptionError
from mirage_env.files import open_picture, printable
from ros_bridge.messages.message_types import ROS, Messages, header_message
from ros_bridge.messages.pixel_encodings import DEPTHS, decode_image, raw_pixels

MASKS = ("mono8", "8UC1")
CODECS = ("jpeg", "png")
CONFIG = struct.Struct("<iff")
"""What compressed_depth_image_transport puts before the picture: its format, and two numbers of the quantisation."""


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
    """RGB of an `Image` in one of the encodings `pixel_encodings.IMAGES`.

    Raises:
        InvalidImageError: another encoding, an empty image, or data that disagrees with its size.
    """
    return decode_image(message)


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
    return _metres(raw_pixels(message, kind, 1, InvalidDepthError)[..., 0], unit)


def depth_from_compressed(message: Any) -> NDArray[np.float32]:  # [H, W] metres
    """Depth of a `CompressedImage`: a PNG of 16 bits, as compressed_depth_image_transport or image_transport sends it.

    The first puts 12 bytes before the picture; of 32FC1 it quantises the inverse depth: depth = a / (value - b).

    Raises:
        InvalidDepthError: another format (RVL is not read), damage, or a picture that is no depth map.
    """
    kind = printable(message.format)
    data, a, b = bytes(message.data), 0.0, 0.0
    if "compressedDepth" in message.format:
        if "rvl" in message.format.lower():
            raise InvalidDepthError(
                f"a compressed depth map has format {kind!r}; RVL is not read: send PNG, or an Image"
            )
        if len(data) < CONFIG.size:
            raise InvalidDepthError(f"a compressed depth map has {len(data)} bytes; send a whole message")
        _, a, b = CONFIG.unpack_from(data)
        data = data[CONFIG.size :]
    named = f"a compressed depth map (format {kind!r}, {len(message.data)} bytes)"
    try:
        values = np.asarray(open_picture(data, None, formats=["PNG"], upright=False, name=named))
    except InvalidImageError as error:
        raise InvalidDepthError(str(error)) from error
    if values.ndim != 2 or values.dtype == np.uint8 or not values.size:
        raise InvalidDepthError(
            f"{named} holds pixels {values.dtype} of shape {values.shape}; send 16 bits, one channel"
        )
    if not message.format.lstrip().startswith("32FC1"):
        return _metres(values, DEPTHS["16UC1"][1])
    if not (np.isfinite([a, b]).all() and a > 0.0):
        raise InvalidDepthError(f"{named} is quantised by {a} and {b}; send finite numbers, the first positive")
    with np.errstate(divide="ignore"):
        inverse = values.astype(np.float32) - np.float32(b)
        metres = np.where(values > 0, np.float32(a) / inverse, np.float32(np.inf))
    return _metres(np.where(metres > 0.0, metres, np.inf), 1.0)


def _metres(values: NDArray[Any], unit: float) -> NDArray[np.float32]:  # [H, W]
    """Metres of measured values; what was not measured (NaN, -inf, 0) becomes inf."""
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
    mask: NDArray[np.bool_] = raw_pixels(message, "u1", 1)[..., 0] != 0
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
