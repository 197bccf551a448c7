"""Arrays of `.npy` files: no pickles, no more bytes than the file has, plain numbers only."""

from __future__ import annotations

import io
import math
import os
import tokenize
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mirage_env.files.regular import open_regular, read_regular

MOST_BYTES = 2**28
MOST_MAPPED_BYTES = 2**44
DAMAGES = (
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    OverflowError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)
"""What NumPy raises at damaged headers, which it reads as a piece of Python."""


def read_npy(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> NDArray[Any]:
    """Read an array of numbers or truth values.

    Raises:
        UnsafeFileError: no regular file, or a larger one.
        ValueError: no such array, one that is larger than its file, or one of other values than numbers.
        OSError: it cannot be read.
    """
    return parse_npy(read_regular(path, most_bytes), os.fspath(path))


def parse_npy(data: bytes, name: str) -> NDArray[Any]:
    """Read an array of numbers or truth values from the content of a `.npy` file.

    Args:
        data: the content.
        name: of its source, for the message.

    Raises:
        ValueError: as `read_npy`.
    """
    file = io.BytesIO(data)
    try:
        _check_header(file, len(data))
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except DAMAGES as error:
        raise ValueError(f"{name} is no array that can be read ({error})") from error


def map_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Map a file with an array of numbers or truth values into memory, for reading; it may have any size.

    Raises:
        UnsafeFileError: no regular file.
        ValueError: as `read_npy`.
        OSError: it cannot be read.
    """
    with open_regular(path, MOST_MAPPED_BYTES) as file:
        try:
            _check_header(file, os.fstat(file.fileno()).st_size)
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except DAMAGES as error:
            raise ValueError(f"{path} is no array that can be read ({error})") from error


def _check_header(file: BinaryIO, length: int) -> None:
    """Compare the header of an array with the bytes of its file, and go back to its beginning."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if dtype.kind not in "bfiu" or any(n < 0 for n in shape):
        raise ValueError(f"it holds {dtype}{list(shape)}; give numbers")
    if math.prod(shape) * dtype.itemsize != length - file.tell():
        raise ValueError(f"its length is not that of {dtype}{list(shape)}")
    file.seek(0)
