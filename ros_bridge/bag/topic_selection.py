"""Choice of the topics of a bag that hold images, depth, intrinsics and poses."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_env.errors import BagContentError
from ros_bridge.bag.rosbag_files import BagReader
from ros_bridge.messages.image import COLOURS, DEPTHS

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
POSE = "geometry_msgs/msg/PoseStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
PATH = "nav_msgs/msg/Path"


@dataclass(frozen=True)
class Topics:
    """The topics to read; None where there is none."""

    image: str | None
    camera_info: str
    depth: str | None
    pose: str | None


def find_topics(
    bag: BagReader, image: str | None, camera_info: str | None, depth: str | None, pose: str | None
) -> Topics:
    """The topics that are named, and for None those that are meant (`read_bag`); an empty name is none.

    Raises:
        BagContentError: a topic that the bag has not, or of another type; several that could be meant; no CameraInfo.
    """
    seen = _Encodings(bag)
    found_image = _named(bag, "image", image, (IMAGE, COMPRESSED)) if image is not None else _image(bag, seen)
    found_depth = _named(bag, "depth", depth, (IMAGE,)) if depth is not None else _one(bag, "depth", seen.depths)
    found_pose = _named(bag, "pose", pose, (POSE, ODOMETRY, PATH)) if pose is not None else _pose(bag)
    found_info = _named(bag, "camera_info", camera_info, (INFO,)) if camera_info else _info(bag, found_image)
    if found_info is None:
        raise BagContentError(f"there is no CameraInfo, without which images and poses mean nothing; {bag}")
    for topic in (found_image, found_info, found_depth, found_pose):
        if topic is not None:
            bag.check_definition(topic)
    return Topics(found_image, found_info, found_depth, found_pose)


class _Encodings:
    """The topics of Image, by the encoding of their first message."""

    def __init__(self, bag: BagReader) -> None:
        self.colours: list[str] = []
        self.grey: list[str] = []
        self.depths: list[str] = []
        for topic in _of(bag, IMAGE):
            bag.check_definition(topic)
            _, data = next(bag.raw(topic), (0, b""))
            encoding = bag.decode(topic, data).encoding if data else ""
            if encoding in DEPTHS:
                self.depths.append(topic)
            elif encoding == "mono8":
                self.grey.append(topic)
            elif encoding in COLOURS:
                self.colours.append(topic)


def _image(bag: BagReader, seen: _Encodings) -> str | None:
    raw = seen.colours
    # image_transport puts the same pictures on T and on T/compressed.
    compressed = [t for t in _of(bag, COMPRESSED) if _base(t) not in raw and not t.endswith("/compressedDepth")]
    # Grey images may be masks, such as our ~/observed: only where there is nothing else.
    return _one(bag, "image", [*raw, *compressed] or seen.grey)


def _info(bag: BagReader, image: str | None) -> str | None:
    """The CameraInfo beside an image, as image_transport has it, or the only one."""
    infos = _of(bag, INFO)
    if image is not None and (beside := _base(image).rpartition("/")[0] + "/camera_info") in infos:
        return beside
    return _one(bag, "camera_info", infos)


def _pose(bag: BagReader) -> str | None:
    poses = [*_of(bag, POSE), *_of(bag, ODOMETRY)]
    return _one(bag, "pose", poses or _of(bag, PATH))


def _one(bag: BagReader, what: str, topics: list[str]) -> str | None:
    if len(topics) > 1:
        raise BagContentError(f"{what} may be {' or '.join(topics)}; give the name of one: {what}=...; {bag}")
    return topics[0] if topics else None


def _named(bag: BagReader, what: str, topic: str, kinds: tuple[str, ...]) -> str | None:
    if not topic:
        return None
    if bag.topics.get(topic) not in kinds:
        raise BagContentError(f"{what} is {topic!r}; give a topic of type {' or '.join(kinds)}; {bag}")
    return topic


def _of(bag: BagReader, kind: str) -> list[str]:
    """Topics of a type that have messages."""
    return [topic for topic, found in bag.topics.items() if found == kind and bag.count(topic)]


def _base(topic: str) -> str:
    return topic.removesuffix("/compressed")
