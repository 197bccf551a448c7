"""Messages of a world server: what is packed comes back, and nothing else is believed."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mirage_env.errors import ServingError
from mirage_env.serving.wire import DTYPES, MAGIC, pack, unpack

MESSAGE = pack({"verb": "step", "n": 3}, {"depth": np.arange(6, dtype=np.float32).reshape(2, 3)})


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(DTYPES))
def test_arrays_come_back_bit_for_bit(data, dtype):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
    array = data.draw(arrays(np.dtype(dtype), tuple(shape)))
    header, back = unpack(pack({"a": [1, "b", None]}, {"x": array, "y": np.zeros(3)}))
    assert header == {"a": [1, "b", None]}
    assert back["x"].dtype == array.dtype
    assert back["x"].tobytes() == array.tobytes()
    assert back["x"].shape == array.shape


def pictures():
    y, x = np.mgrid[0:24, 0:32]
    frame = np.stack([8 * x, 10 * y, 255 - 4 * x], -1).astype(np.uint8)
    return np.stack([frame, frame[::-1]])


@pytest.mark.parametrize(("encoding", "most"), [("raw", 0), ("png", 0), ("jpeg", 24)])
def test_pictures_come_back_in_every_encoding(encoding, most):
    _, back = unpack(pack({}, {"frames": pictures()}, {"frames": encoding}))
    difference = np.abs(back["frames"].astype(int) - pictures().astype(int))
    assert difference.max() <= most


def altered(**changes):
    header = {"arrays": [{"name": "x", "dtype": "uint8", "shape": [4], "encoding": "raw", "lengths": [4], **changes}]}
    text = json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + bytes(4)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "object"},
        {"dtype": "O8"},
        {"dtype": [["a", "u1"]]},
        {"shape": [2**40]},
        {"shape": [-1]},
        {"shape": [2**30, 2**30]},
        {"shape": [1] * 9 + [4]},
        {"shape": "4"},
        {"shape": [5]},
        {"lengths": [400]},
        {"lengths": [-4]},
        {"lengths": [2, 2]},
        {"lengths": 4},
        {"encoding": "tiff"},
        {"encoding": "png"},
        {"name": None, "lengths": []},
    ],
)
def test_headers_that_contradict_their_message_are_refused(changes):
    assert unpack(altered())[1]["x"].tolist() == [0, 0, 0, 0]
    with pytest.raises(ServingError):
        unpack(altered(**changes))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_messages_are_read_or_refused(data):
    message = bytearray(MESSAGE)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(message[: data.draw(st.integers(0, len(message)))])
    with contextlib.suppress(ServingError):
        unpack(message)


@pytest.mark.parametrize("text", ['{"a": NaN}', "[1]", "1", "{", '{"a":' * 100_000, ""])
def test_headers_are_json_objects_of_finite_numbers(text):
    with pytest.raises(ServingError, match="message"):
        unpack(MAGIC + struct.pack("<I", len(text)) + text.encode())
