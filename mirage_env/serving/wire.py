"""Messages between a world server and its clients: a JSON header and arrays behind it (docs/serving.md).

    4 bytes   b"MRG1"
    4 bytes   length of the header, little-endian
    header    JSON object; its key "arrays" lists name, dtype, shape, encoding and lengths of what follows
    arrays    one after the other

Nothing in a message is executed: no pickle, no object arrays, sizes are compared with lengths before memory is taken.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env import errors
from mirage_env.errors import MirageError, ServingError
from mirage_env.files import open_picture

MAGIC = b"MRG1"
DTYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
LARGEST = 256 * 2**20
"""Bytes that the arrays of one message may have, decoded."""
JPEG_QUALITY = 90

Arrays = Mapping[str, NDArray[Any]]
Encoding = Literal["raw", "png", "jpeg"]


def pack(
    header: Mapping[str, Any], arrays: Arrays | None = None, encodings: Mapping[str, Encoding] | None = None
) -> bytes:
    """Write a message.

    Args:
        header: what JSON can say; without a key "arrays".
        arrays: by name.
        encodings: "png" or "jpeg" for pictures uint8 [F, H, W, 3] or [H, W, 3]; raw without.
    """
    entries: list[dict[str, Any]] = []
    bodies: list[bytes | memoryview] = []
    for name, array in (arrays or {}).items():
        encoding = (encodings or {}).get(name, "raw")
        pictures = array if array.ndim == 4 else [array]
        parts = [_raw(array)] if encoding == "raw" else [_encoded(picture, encoding) for picture in pictures]
        lengths = [len(part) for part in parts]
        entries.append(
            {"name": name, "dtype": str(array.dtype), "shape": array.shape, "encoding": encoding, "lengths": lengths}
        )
        bodies += parts
    text = json.dumps({**header, "arrays": entries}, separators=(",", ":"), allow_nan=False).encode()
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, *bodies])


def unpack(message: bytes, most_bytes: int = LARGEST) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read a message; the arrays are read-only views of it where they are raw.

    Args:
        message: as `pack` writes it.
        most_bytes: that its arrays may have, decoded.

    Raises:
        ServingError: no such message, or one whose lengths contradict each other; `message` says how.
    """
    if message[:4] != MAGIC or len(message) < 8:
        raise ServingError(f"the message does not begin with {MAGIC!r}; see docs/serving.md for the format")
    (length,) = struct.unpack("<I", message[4:8])
    header, at = json_object(message[8 : 8 + length]), 8 + length
    entries = header.pop("arrays", [])
    arrays: dict[str, NDArray[Any]] = {}
    try:
        total = sum(math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize for entry in map(_checked, entries))
        if total > most_bytes:
            raise ServingError(f"the arrays of a message have {total} bytes; at most {most_bytes} are taken")
        for entry in entries:
            parts = []
            for size in entry["lengths"]:
                parts.append(memoryview(message)[at : at + size])
                at += size
            arrays[str(entry["name"])] = _decoded(entry, parts)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise ServingError(f"the arrays of a message are not as its header says: {error!r}") from error
    if at != len(message):
        raise ServingError(f"the message has {len(message)} bytes, its header speaks of {at}")
    return header, arrays


def raised(name: str, message: str) -> MirageError:
    """The error of a server, by the name of its class; a `ServingError` where there is none of that name."""
    kind = getattr(errors, name, ServingError)
    return (kind if isinstance(kind, type) and issubclass(kind, MirageError) else ServingError)(message)


def json_object(text: bytes | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ServingError: it is no JSON, or no object, or nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ServingError(f"the message holds no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ServingError(f"the message is a {type(value).__name__}; give an object")
    return value


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number that JSON has")


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    shape, encoding = entry["shape"], entry["encoding"]
    if entry["dtype"] not in DTYPES or encoding not in ("raw", "png", "jpeg"):
        raise ValueError(f"{entry['dtype']} as {encoding} is none of {DTYPES} as raw, png or jpeg")
    if not all(isinstance(n, int) and 0 <= n < 2**31 for n in [*shape, *entry["lengths"]]) or len(shape) > 8:
        raise ValueError(f"shape {shape} and lengths {entry['lengths']}")
    return entry


def _raw(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, without a copy where they lie together."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encoded(frame: NDArray[np.uint8], encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": JPEG_QUALITY} if encoding == "jpeg" else {"compress_level": 1}
    Image.fromarray(frame).save(buffer, encoding.upper(), **options)
    return buffer.getvalue()


def _decoded(entry: dict[str, Any], parts: list[memoryview]) -> NDArray[Any]:
    shape = tuple(entry["shape"])
    if entry["encoding"] == "raw":
        [part] = parts
        return np.frombuffer(part, entry["dtype"]).reshape(shape)
    frames = []
    for part in parts:
        image = open_picture(bytes(part), formats=[entry["encoding"].upper()], upright=False)
        if (image.height, image.width) != shape[-3:-1]:
            raise ValueError(f"a picture of {image.height} x {image.width} in an array {shape}")
        frames.append(np.asarray(image))
    return np.stack(frames).reshape(shape)
