"""Pixel encodings of `sensor_msgs/Image` to RGB: colour orders, 16 bits, Bayer patterns, YUV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidImageError, MirageError
from mirage_env.files import printable

Pixels = NDArray[Any]
ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2), "bgra": (2, 1, 0), "mono": (0, 0, 0)}
"""Places of red, green and blue among the channels; each with 8 or 16 bits."""
CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
OPENCV = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC3": "bgr16", "16UC4": "bgra16"}
"""Encodings by OpenCV's types; it keeps colours in the order blue, green, red."""
BAYER = {"rggb": (0, 0), "grbg": (0, 1), "gbrg": (1, 0), "bggr": (1, 1)}
"""Row and column of the first red pixel, by the pattern's name in bayer_NAME8 and bayer_NAME16."""
PACKED_YUV = {"uyvy": (1, 0, 2), "yuv422": (1, 0, 2), "yuyv": (0, 1, 3), "yuv422_yuy2": (0, 1, 3)}
"""Places of the first Y, of U and of V in the four bytes of two pixels."""
PLANAR_YUV = ("nv21", "nv12")
"""A plane of Y, then one of V and U (or U and V) in half the size, interleaved."""
DEPTHS = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 1e-3), "mono16": ("u2", 1e-3)}
"""Encodings of depth: type, and metres per unit."""


def decode_image(message: Any) -> NDArray[np.uint8]:  # [H, W, 3]
    """Decode the pixels of an `Image` to RGB; 16 bits keep their upper 8.

    Raises:
        InvalidImageError: an encoding that is not read, an empty image, or data that disagrees with its size.
    """
    encoding = OPENCV.get(message.encoding, message.encoding)
    for family, decode in _FAMILIES.items():
        if encoding in family:
            return decode(message, encoding)
    hint = "; this one is depth: send it on the depth topic" if encoding in DEPTHS else ""
    raise InvalidImageError(
        f"an image has encoding {printable(message.encoding)!r}; send one of {', '.join(sorted(IMAGES))}{hint}"
    )


def raw_pixels(message: Any, kind: str, channels: int, error: type[MirageError] = InvalidImageError) -> Pixels:
    """Pixels [H, W, channels] of an `Image`, a view of the data where that is possible; rows may be padded.

    Args:
        message: the `Image`.
        kind: NumPy type of a channel without its byte order, such as "u2".
        channels: per pixel.
        error: class of what is raised.

    Raises:
        `error`: an empty image, or data that disagrees with its size.
    """
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    rows = _rows(message, int(message.width) * channels * dtype.itemsize, int(message.height), error)
    return rows.view(dtype).reshape(message.height, message.width, channels)


def _rows(message: Any, row: int, count: int, error: type[MirageError] = InvalidImageError) -> NDArray[np.uint8]:
    """Rows [count, row] of bytes without their padding."""
    height, width, step, found = int(message.height), int(message.width), int(message.step), len(message.data)
    if height < 1 or width < 1 or step < row or found != count * step:
        raise error(
            f"an image of {width} x {height} pixels {printable(message.encoding)} has step {step} and {found} bytes; "
            f"its size must be at least 1 x 1, its step at least {row} bytes, its data {count} times step"
        )
    octets = np.frombuffer(memoryview(message.data), np.uint8)
    return np.ascontiguousarray(octets.reshape(count, step)[:, :row])


def _colours(message: Any, encoding: str) -> NDArray[np.uint8]:
    name, bits = encoding.removesuffix("16").removesuffix("8"), 16 if encoding.endswith("16") else 8
    pixels = raw_pixels(message, "u2" if bits == 16 else "u1", CHANNELS[name])
    return _eight_bits(pixels[..., list(ORDERS[name])])


def _bayer(message: Any, encoding: str) -> NDArray[np.uint8]:
    """Bilinear: each missing colour is the mean of its neighbours that have it."""
    bits = 16 if encoding.endswith("16") else 8
    values = raw_pixels(message, "u2" if bits == 16 else "u1", 1)[..., 0].astype(np.float32)
    row, column = BAYER[encoding.removeprefix("bayer_").removesuffix(str(bits))]
    i, j = np.indices(values.shape)
    red = ((i - row) % 2 == 0) & ((j - column) % 2 == 0)
    blue = ((i - row) % 2 == 1) & ((j - column) % 2 == 1)
    kernel = np.array([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]], np.float32)
    planes = []
    for mask in (red, ~red & ~blue, blue):
        weight = _filtered(mask.astype(np.float32), kernel)
        filled = _filtered(np.where(mask, values, 0.0), kernel) / np.maximum(weight, 1e-6)
        planes.append(np.where(mask, values, filled))
    scale = 257.0 if bits == 16 else 1.0
    return np.clip(np.rint(np.stack(planes, -1) / scale), 0, 255).astype(np.uint8)


def _filtered(values: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:  # [H, W], [3, 3]
    height, width = values.shape
    padded = np.pad(values, 1)
    shifted = [kernel[i, j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.sum(shifted, axis=0, dtype=np.float32)


def _packed_yuv(message: Any, encoding: str) -> NDArray[np.uint8]:
    if message.width % 2:
        raise InvalidImageError(
            f"an image {encoding} is {message.width} pixels wide; two share their colour: send even"
        )
    pairs = _rows(message, 2 * message.width, message.height).reshape(message.height, -1, 4)
    first, u, v = PACKED_YUV[encoding]
    luma = pairs[..., [first, first + 2]].reshape(message.height, message.width)
    return _rgb_of_yuv(luma, *(np.repeat(pairs[..., k], 2, axis=1) for k in (u, v)))


def _planar_yuv(message: Any, encoding: str) -> NDArray[np.uint8]:
    if message.width % 2 or message.height % 2:
        raise InvalidImageError(f"an image {encoding} has {message.width} x {message.height} pixels; send even sizes")
    rows = _rows(message, message.width, message.height * 3 // 2)
    luma, chroma = rows[: message.height], rows[message.height :].reshape(message.height // 2, -1, 2)
    wide = chroma.repeat(2, axis=0).repeat(2, axis=1)
    u, v = (1, 0) if encoding == "nv21" else (0, 1)
    return _rgb_of_yuv(luma, wide[..., u], wide[..., v])


def _rgb_of_yuv(y: Pixels, u: Pixels, v: Pixels) -> NDArray[np.uint8]:
    """ITU-R BT.601 with the full range of 8 bits, as cameras and OpenCV's JPEG have it."""
    luma, cb, cr = y.astype(np.float32), u.astype(np.float32) - 128.0, v.astype(np.float32) - 128.0
    rgb = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _eight_bits(pixels: Pixels) -> NDArray[np.uint8]:
    if pixels.dtype.itemsize == 2:
        pixels = pixels >> 8
    return np.ascontiguousarray(pixels, np.uint8)


_FAMILIES: dict[tuple[str, ...], Callable[[Any, str], NDArray[np.uint8]]] = {
    tuple(f"{name}{bits}" for name in ORDERS for bits in (8, 16)): _colours,
    tuple(f"bayer_{name}{bits}" for name in BAYER for bits in (8, 16)): _bayer,
    tuple(PACKED_YUV): _packed_yuv,
    PLANAR_YUV: _planar_yuv,
}
IMAGES = frozenset({name for family in _FAMILIES for name in family} | set(OPENCV))
"""Encodings that `decode_image` reads."""
