"""Reader of rosbag2 files and ROS 1 bags, and writer of rosbag2 files, without ROS, by the library `rosbags`.

Message definitions are those of Kilted; they are the same from Humble on, and a hash in the bag tells where not.
"""

from __future__ import annotations

import functools
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mirage_env.errors import (
    BagContentError,
    BagExistsError,
    BagNotFoundError,
    InvalidOptionError,
    MirageError,
    MissingPackageError,
)
from mirage_env.files import new_folder, put_in_place
from ros_bridge.messages.message_types import NANO

try:
    from rosbags import rosbag1
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )
    from rosbags.rosbag2 import Reader, ReaderError, StoragePlugin, Writer
    from rosbags.serde import SerdeError
    from rosbags.typesys import Stores, get_typestore
    from rosbags.typesys.store import Typestore
except ImportError as error:
    raise MissingPackageError(
        f"bags need the package rosbags ({error}): pip install 'mirage-env[bag]'; it needs no ROS"
    ) from error

TYPES = get_typestore(Stores.ROS2_KILTED)
HEADER = "std_msgs/msg/Header"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"
SAME_TYPES = {"tf/msg/tfMessage": TF_MESSAGE}
"""Types of ROS 1 under their present names."""
BAG_VERSION: Literal[9] = 9
"""Of the metadata file; Jazzy and later write and read it."""
UNLIMITED = QosTime(9223372036, 854775807)
QUALITY = Qos(
    history=QosHistory.KEEP_LAST,
    depth=5,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=UNLIMITED,
    lifespan=UNLIMITED,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=UNLIMITED,
    avoid_ros_namespace_conventions=False,
)
"""Quality with which `ros2 bag play` publishes: the same as the world node."""
LATCHED = QUALITY._replace(depth=1, durability=QosDurability.TRANSIENT_LOCAL)
"""Quality of /tf_static."""


class BagMessages:
    """The message classes of rosbags (`messages.Messages`)."""

    def make(self, kind: str, **fields: Any) -> Any:
        return TYPES.types[kind](**fields)

    def octets(self, data: memoryview) -> Any:
        return np.frombuffer(data, np.uint8)


class BagWriter:
    """Writes messages; a topic is as old as its first one."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._topics: dict[str, Any] = {}

    def write(self, topic: str, message: Any, stamp: int, latched: bool = False) -> None:
        """Add a message made by `BagMessages`; the stamp is in nanoseconds; late subscribers get a latched one."""
        kind = message.__msgtype__
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(
                topic, kind, typestore=TYPES, offered_qos_profiles=[LATCHED if latched else QUALITY]
            )
        self._writer.write(self._topics[topic], stamp, TYPES.serialize_cdr(message, kind))


@contextmanager
def new_bag(path: Path) -> Iterator[BagWriter]:
    """A bag (mcap) to fill; it appears at `path` when the block ends, and not at all when the block fails.

    Raises:
        BagExistsError: something is at `path`.
    """
    _check_free(path)
    with new_folder(path) as folder:
        # The files in a bag are named after its folder, so the folder has its name from the beginning.
        with Writer(folder / path.name, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            yield BagWriter(writer)
        _check_free(path)
        put_in_place(folder / path.name, path)


class BagReader:
    """Topics and messages of an open bag.

    Attributes:
        path: the bag.
        topics: name to message type.
    """

    def __init__(self, path: Path, reader: Reader | rosbag1.Reader) -> None:
        self.path = path
        self._reader: Any = reader
        self._ros1 = isinstance(reader, rosbag1.Reader)
        self._connections: dict[str, list[Any]] = {}
        for connection in self._reader.connections:
            self._connections.setdefault(connection.topic, []).append(connection)
        self.topics = {name: _kind(found[0]) for name, found in sorted(self._connections.items())}

    def __str__(self) -> str:
        topics = ", ".join(f"{name} ({kind})" for name, kind in self.topics.items())
        return f"the bag {self.path} has {topics or 'no topics'}"

    def count(self, topic: str) -> int:
        """Number of messages of a topic."""
        return sum(connection.msgcount for connection in self._connections[topic])

    def check_definition(self, topic: str) -> None:
        """Check that the messages of a topic have the fields we know.

        Raises:
            BagContentError: the bag has another definition of their type.
        """
        kind = self.topics[topic]
        for connection in self._connections[topic]:
            if _kind(connection) != kind:
                raise BagContentError(f"{topic} has messages of two types, {kind} and {connection.msgtype}")
            known = _ros1_digest(kind) if self._ros1 else TYPES.hash_rihs01(kind)
            if connection.digest and connection.digest != known:
                raise BagContentError(
                    f"{topic} has another definition of {kind} than ROS {1 if self._ros1 else 2} (hash "
                    f"{connection.digest}); record it with the standard messages"
                )

    def raw(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """Stamp in the header (nanoseconds) and bytes of every message of a topic whose messages have headers."""
        for _, _, data in self._reader.messages(self._connections[topic]):
            # The stamp is at byte 4: after the number of the message in ROS 1, after what tells the order in CDR.
            order = "<" if self._ros1 or data[1] else ">"
            sec, nanosec = struct.unpack_from(f"{order}iI", data, 4)
            yield sec * NANO + nanosec, data

    def messages(self, topic: str) -> Iterator[Any]:
        """Every message of a topic, in the order of recording."""
        for _, _, data in self._reader.messages(self._connections[topic]):
            yield self.decode(topic, data)

    def decode(self, topic: str, data: bytes) -> Any:
        """The message, with the fields that ROS 2 gives it."""
        if self._ros1:
            return _ros1_types().deserialize_ros1(data, self.topics[topic])
        return TYPES.deserialize_cdr(data, self.topics[topic])


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """A bag to read: a folder with metadata.yaml, a .mcap or .db3 file, or a .bag of ROS 1.

    What fails inside the block is a damaged bag.

    Raises:
        BagNotFoundError: there is none.
        BagContentError: it is damaged, or of a kind that is not read.
    """
    if not path.exists() or (path.is_dir() and not (path / "metadata.yaml").exists()):
        raise BagNotFoundError(
            f"there is no bag at {path}; give a folder with metadata.yaml, or a .mcap, .db3 or .bag file"
        )
    try:
        with rosbag1.Reader(path) if path.suffix == ".bag" else Reader(path) as reader:
            yield BagReader(path, reader)
    except MirageError:
        raise
    except DAMAGE as error:
        raise BagContentError(
            f"the bag {path} cannot be read: {str(error) or type(error).__name__}. "
            f"`{'rosbag' if path.suffix == '.bag' else 'ros2 bag'} reindex` repairs a bag that was not closed"
        ) from error


def _kind(connection: Any) -> str:
    return SAME_TYPES.get(connection.msgtype, connection.msgtype)


@functools.cache
def _ros1_types() -> Typestore:
    """ROS 2's message types with the header of ROS 1, which counts messages: their bytes are those of ROS 1."""
    store = Typestore()
    ours = {name: fields for name, fields in TYPES.fielddefs.items() if name != HEADER}
    store.register({**ours, HEADER: get_typestore(Stores.ROS1_NOETIC).fielddefs[HEADER]})
    return store


@functools.cache
def _ros1_digest(kind: str) -> str:
    """MD5 by which ROS 1 knows the definition of a type."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register({TF_MESSAGE: TYPES.fielddefs[TF_MESSAGE]})
    return store.generate_msgdef(kind)[1]


def _check_free(path: Path) -> None:
    if not path.name:
        raise InvalidOptionError(f"a bag needs a name; {path} has none")
    if path.exists() or path.is_symlink():
        raise BagExistsError(f"{path} exists; choose another place for the bag, or remove it")


DAMAGE = (
    ReaderError,
    rosbag1.ReaderError,
    SerdeError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    AssertionError,
    RuntimeError,
    OverflowError,
    MemoryError,  # a damaged length asks for more than there is
    struct.error,
    sqlite3.Error,
)
"""What rosbags raises when it reads a damaged file."""
