"""Arrays of `.npy` files: no pickles, no more bytes than the file has, plain numbers only."""

from __future__ import annotations

import io
import math
import os
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.files.regular import read_regular

MOST_BYTES = 2**28
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
    data = io.BytesIO(read_regular(path, most_bytes))
    try:
        return _array(data)
    except DAMAGES as error:
        raise ValueError(f"{path} is no array that can be read ({error})") from error


def _array(data: io.BytesIO) -> NDArray[Any]:
    version = np.lib.format.read_magic(data)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(data)
    if dtype.kind not in "bfiu" or any(n < 0 for n in shape):
        raise ValueError(f"it holds {dtype}{list(shape)}; give numbers")
    if math.prod(shape) * dtype.itemsize != len(data.getbuffer()) - data.tell():
        raise ValueError(f"its length is not that of {dtype}{list(shape)}")
    data.seek(0)
    return np.asarray(np.lib.format.read_array(data, allow_pickle=False))
