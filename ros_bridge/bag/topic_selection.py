"""Choice of the topics of a bag that hold images, depth, intrinsics and poses."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_env.errors import BagContentError
from mirage_env.files import printable
from ros_bridge.bag.rosbag_files import BagReader
from ros_bridge.messages.pixel_encodings import DEPTHS, IMAGES
from ros_bridge.sensing.transform_buffer import frame_name

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
POSE = "geometry_msgs/msg/PoseStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
PATH = "nav_msgs/msg/Path"
TF = "tf2_msgs/msg/TFMessage"
TRANSPORTS = ("/compressed", "/compressedDepth")
"""What image_transport puts behind the name of an image topic."""


@dataclass(frozen=True)
class Topics:
    """The topics to read; None where there is none."""

    image: str | None
    camera_info: str
    depth: str | None
    pose: str | None
    """A topic that was named; without one the transforms are used, or a topic of poses that is found."""
    frame: str
    """Frame of the images, or of the CameraInfo where there are none."""
    depth_frame: str = ""
    depth_info: str | None = None
    """CameraInfo of a depth camera in a frame of its own; None where depth is in the pixels of the image."""


def find_topics(
    bag: BagReader, image: str | None, camera_info: str | None, depth: str | None, pose: str | None
) -> Topics:
    """The topics that are named, and for None those that are meant (`read_bag`); an empty name is none.

    Raises:
        BagContentError: a topic that the bag has not, or of another type; several that could be meant; images in
            encodings that are not read; no CameraInfo; depth of another camera than the image.
    """
    seen = _Pictures(bag)
    found_image = _named(bag, "image", image, (IMAGE, COMPRESSED)) if image is not None else _image(bag, seen)
    found_info = _named(bag, "camera_info", camera_info, (INFO,)) if camera_info else _info(bag, found_image)
    if found_info is None:
        raise BagContentError(f"there is no CameraInfo, without which images and poses mean nothing; {bag}")
    frame = seen.frames.get(found_image or "") or first_frame(bag, found_info)
    named = depth is not None
    found_depth = _named(bag, "depth", depth or "", (IMAGE, COMPRESSED)) if named else _depth(bag, seen, frame)
    found_pose = _named(bag, "pose", pose, (POSE, ODOMETRY, PATH)) if pose else None
    for topic in (found_image, found_info, found_depth, found_pose):
        if topic is not None:
            bag.check_definition(topic)
    apart = seen.frames[found_depth] if found_depth is not None and not named else frame
    if apart == frame:
        return Topics(found_image, found_info, found_depth, found_pose, frame)
    depth_info = _beside(bag, found_depth or "")
    if depth_info is not None:
        bag.check_definition(depth_info)
    return Topics(found_image, found_info, found_depth, found_pose, frame, apart, depth_info)


def find_pose(bag: BagReader) -> str | None:
    """The one topic of PoseStamped or Odometry, else of Path.

    Raises:
        BagContentError: several could be meant.
    """
    poses = [*topics_of(bag, POSE), *topics_of(bag, ODOMETRY)]
    found = _one(bag, "pose", poses or topics_of(bag, PATH))
    if found is not None:
        bag.check_definition(found)
    return found


def first_frame(bag: BagReader, topic: str) -> str:
    """`frame_id` of the first message of a topic."""
    _, data = next(bag.raw(topic), (0, b""))
    return frame_name(bag.decode(topic, data).header.frame_id) if data else ""


def topics_of(bag: BagReader, kind: str) -> list[str]:
    """Topics of a type that have messages."""
    return [topic for topic, found in bag.topics.items() if found == kind and bag.count(topic)]


def is_depth_format(text: str) -> bool:
    """Test the format of a `CompressedImage` for depth."""
    return "compressedDepth" in text or text.lstrip().startswith(tuple(f"{name};" for name in DEPTHS))


class _Pictures:
    """Topics of images by the encoding of their first message."""

    def __init__(self, bag: BagReader) -> None:
        self.colours: list[str] = []
        self.grey: list[str] = []
        self.depths: list[str] = []
        self.unknown: list[str] = []
        self.frames: dict[str, str] = {}
        for topic in (*topics_of(bag, IMAGE), *topics_of(bag, COMPRESSED)):
            bag.check_definition(topic)
            _, data = next(bag.raw(topic), (0, b""))
            if data:
                message = bag.decode(topic, data)
                self.frames[topic] = frame_name(message.header.frame_id)
                kind = message.encoding if bag.topics[topic] == IMAGE else _kind(message.format)
                self._list(topic, kind).append(topic if kind in IMAGES or kind in DEPTHS else f"{topic} ({kind})")

    def _list(self, topic: str, kind: str) -> list[str]:
        if kind in DEPTHS and (kind not in IMAGES or "depth" in topic.lower()):
            return self.depths
        if kind in ("mono8", "mono16", "8UC1"):
            return self.grey
        return self.colours if kind in IMAGES else self.unknown


def _kind(text: str) -> str:
    """An encoding with the same use as the format of a CompressedImage."""
    if is_depth_format(text):
        return "16UC1"
    return "rgb8" if any(codec in text.lower() for codec in ("jpeg", "jpg", "png")) else printable(text)


def _image(bag: BagReader, seen: _Pictures) -> str | None:
    # image_transport puts the same pictures on T and on T/compressed.
    colours = [topic for topic in seen.colours if topic == _base(topic) or _base(topic) not in seen.colours]
    # Grey images may be masks, such as our ~/observed: only where there is nothing else.
    found = _one(bag, "image", colours or seen.grey)
    if found is None and seen.unknown:
        raise BagContentError(
            f"the images have encodings that are not read: {', '.join(seen.unknown)}; record one of "
            f"{', '.join(sorted(IMAGES))}, or leave images out with an empty name"
        )
    return found


def _depth(bag: BagReader, seen: _Pictures, frame: str) -> str | None:
    """The depth in the pixels of the image, as its frame tells, or that of the one depth camera with a CameraInfo."""
    same = [topic for topic in seen.depths if seen.frames[topic] == frame]
    own = [topic for topic in same if topic == _base(topic) or _base(topic) not in same]
    raw = [topic for topic in seen.depths if topic == _base(topic) or _base(topic) not in seen.depths]
    if not own and len(raw) == 1 and _beside(bag, raw[0]) is not None:
        return raw[0]
    if seen.depths and not own:
        others = ", ".join(f"{topic} in {printable(seen.frames[topic])!r}" for topic in seen.depths)
        raise BagContentError(
            f"depth is given in another frame than the image's {printable(frame)!r}: {others}; record its CameraInfo "
            "and /tf_static, or depth that is aligned to the image, name a topic with depth=..., or leave it out with "
            "an empty name"
        )
    return _one(bag, "depth", own)


def _info(bag: BagReader, image: str | None) -> str | None:
    """The CameraInfo beside an image, as image_transport has it, or the only one."""
    infos = topics_of(bag, INFO)
    if image is not None and (beside := _beside(bag, image)) is not None:
        return beside
    of_images = [topic for topic in infos if "depth" not in topic.lower()]
    return _one(bag, "camera_info", of_images or infos)


def _beside(bag: BagReader, topic: str) -> str | None:
    """The CameraInfo that image_transport puts beside a topic of images."""
    found = _base(topic).rpartition("/")[0] + "/camera_info"
    return found if found in topics_of(bag, INFO) else None


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


def _base(topic: str) -> str:
    for ending in TRANSPORTS:
        topic = topic.removesuffix(ending)
    return topic
