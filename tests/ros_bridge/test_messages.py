"""Images, cameras, points and poses survive the way through messages, and what is wrong with a message is said."""

import importlib
import io
import math
import struct
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fresh_imports import fresh_imports
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from ros_process import ros_is_installed

from mirage_env.camera import Camera
from mirage_env.errors import (
    InvalidActionError,
    InvalidCameraError,
    InvalidDepthError,
    InvalidImageError,
    InvalidOptionError,
    InvalidPointsError,
    InvalidPoseError,
    MirageError,
    MissingPackageError,
)
from ros_bridge import _ros, messages
from ros_bridge.messages.message_types import NANO, ROS, STAMP_RANGE, Messages
from ros_bridge.messages.optical_frames import matrix_from_ros_pose

STAMP = 1_700_000_000_123_456_789
FRAME = "camera_optical_frame"


@dataclass(frozen=True)
class Family:
    """Messages of rclpy or of rosbags, and their way through the serialised form."""

    messages: Messages
    sent: Any


def rclpy_family() -> Family:
    if not ros_is_installed():
        pytest.skip("no rclpy: source a ROS 2 install, or pip install 'mirage-env[ros]'")
    return Family(ROS, lambda m: _ros.deserialize_message(_ros.serialize_message(m), type(m)))


def rosbags_family() -> Family:
    pytest.importorskip("rosbags", reason="no rosbags: pip install 'mirage-env[bag]'")
    from ros_bridge.bag.rosbag_files import TYPES, BagMessages

    def sent(message: Any) -> Any:
        return TYPES.deserialize_cdr(TYPES.serialize_cdr(message, message.__msgtype__), message.__msgtype__)

    return Family(BagMessages(), sent)


@pytest.fixture(scope="module", params=[rclpy_family, rosbags_family], ids=["rclpy", "rosbags"])
def family(request) -> Family:
    return request.param()


def rgb(side: int = 12) -> st.SearchStrategy:
    return arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=side).map(lambda s: (*s, 3)))


maps = array_shapes(min_dims=2, max_dims=2, max_side=9)
metres = st.floats(0.125, 1e4, width=32) | st.just(np.inf)
depths = arrays(np.float32, maps, elements=metres)
positions = arrays(np.float64, 3, elements=st.floats(-1e3, 1e3))
quaternions = (
    arrays(np.float64, 4, elements=st.floats(-1.0, 1.0))
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: q / np.linalg.norm(q))
)
poses = st.builds(matrix_from_ros_pose, positions, quaternions)
stamps = st.integers(*STAMP_RANGE)
velocities = arrays(np.float64, 3, elements=st.floats(-1e6, 1e6))
lengths = st.floats(1.0, 5e3)
cameras = st.builds(
    lambda fx, fy, cx, cy, T, h, w: Camera(T, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), h, w),
    lengths, lengths, lengths, lengths, poses, st.integers(1, 2000), st.integers(1, 2000),
)  # fmt: skip


def raw(encoding: str, octets: bytes, width: int, height: int, step: int, big: int = 0) -> SimpleNamespace:
    """What a driver may send."""
    return SimpleNamespace(
        encoding=encoding, data=octets, width=width, height=height, step=step, is_bigendian=big, header=None
    )


# Round trips


@given(image=rgb(), stamp=stamps)
def test_image_round_trip(family, image, stamp):
    message = family.sent(messages.image_message(image, stamp, FRAME, family.messages))
    np.testing.assert_array_equal(messages.image_from_message(message), image)
    assert messages.nanoseconds(message.header.stamp) == stamp
    assert (message.header.frame_id, message.encoding) == (FRAME, "rgb8")
    assert (message.height, message.width, message.step) == (*image.shape[:2], 3 * image.shape[1])


@given(depth=depths)
def test_depth_round_trip(family, depth):
    message = family.sent(messages.depth_message(depth, STAMP, FRAME, family.messages))
    np.testing.assert_array_equal(messages.depth_from_message(message), depth)
    assert message.encoding == "32FC1"


@given(mask=arrays(np.bool_, maps))
def test_mask_round_trip(family, mask):
    message = family.sent(messages.mask_message(mask, STAMP, FRAME, family.messages))
    np.testing.assert_array_equal(messages.mask_from_message(message), mask)
    assert set(bytes(message.data)) <= {0, 255}


@given(image=rgb())
def test_png_round_trip(family, image):
    message = family.sent(messages.compressed_message(image, STAMP, FRAME, "png", messages=family.messages))
    np.testing.assert_array_equal(messages.image_from_compressed(message), image)
    assert "png" in message.format


def test_jpeg_comes_near_and_nearer_with_quality(family):
    rows, columns = np.mgrid[0:48, 0:64]
    image = np.stack([4 * columns, 5 * rows, 2 * (rows + columns)], axis=2).astype(np.uint8)
    sizes, errors = [], []
    for quality in (30, 95):
        message = family.sent(
            messages.compressed_message(image, STAMP, FRAME, "jpeg", quality, messages=family.messages)
        )
        sizes.append(len(message.data))
        errors.append(np.abs(messages.image_from_compressed(message).astype(int) - image).mean())
    assert sizes[0] < sizes[1]
    assert errors[1] < errors[0] < 12.0
    assert "jpeg" in message.format


@given(camera=cameras, stamp=stamps)
def test_camera_info_round_trip(family, camera, stamp):
    message = family.sent(messages.camera_info_message(camera, stamp, FRAME, family.messages))
    for rectified in (False, True):
        back = messages.camera_from_info(message, camera.T_world_cam, (camera.height, camera.width), rectified)
        np.testing.assert_array_equal(back.K_image, camera.K_image)
        np.testing.assert_allclose(back.T_world_cam, camera.T_world_cam, atol=1e-12)
        assert (back.height, back.width) == (camera.height, camera.width)
    np.testing.assert_array_equal(np.reshape(message.r, (3, 3)), np.eye(3))
    assert not np.any(message.d)


@given(data=st.data(), count=st.integers(0, 20))
def test_cloud_round_trip(family, data, count):
    points = data.draw(arrays(np.float32, (count, 3), elements=st.floats(-1e4, 1e4, width=32)))
    colour = data.draw(arrays(np.uint8, (count, 3)))
    message = family.sent(messages.cloud_message(points, colour, STAMP, "map", family.messages))
    back_points, back_colour = messages.cloud_from_message(message)
    np.testing.assert_array_equal(back_points, points)
    np.testing.assert_array_equal(back_colour, colour)
    assert message.is_dense
    assert [field.name for field in message.fields] == ["x", "y", "z", "rgb"]


@given(T=poses, stamp=stamps)
def test_pose_round_trip(family, T, stamp):
    message = family.sent(messages.pose_stamped_message(T, stamp, "map", family.messages))
    np.testing.assert_allclose(messages.pose_from_stamped(message, "map"), T, atol=1e-12)
    np.testing.assert_array_equal(messages.pose_from_stamped(message)[:3, 3], T[:3, 3])
    assert messages.nanoseconds(message.header.stamp) == stamp


@given(bodies=st.lists(poses, max_size=4))
def test_path_round_trip(family, bodies):
    made = [messages.pose_stamped_message(T, i, "map", family.messages) for i, T in enumerate(bodies)]
    message = family.sent(messages.path_message(made, STAMP, "map", family.messages))
    back = messages.path_from_message(message, "map")
    assert len(back) == len(bodies)
    for T_back, T in zip(back, bodies, strict=True):
        np.testing.assert_allclose(T_back, T, atol=1e-12)


@given(T=poses)
def test_transform_round_trip(family, T):
    message = family.sent(messages.transform_message(T, STAMP, "map", "base_link", family.messages))
    np.testing.assert_allclose(messages.transform_from_message(message), T, atol=1e-12)
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")


@given(linear=velocities, angular=velocities)
def test_twist_round_trip(family, linear, angular):
    plain = family.sent(messages.twist_message(linear, angular, family.messages))
    stamped = family.sent(messages.twist_stamped_message(linear, angular, STAMP, "base_link", family.messages))
    for back in (
        messages.velocity_from_twist(plain),
        messages.velocity_from_twist_stamped(stamped, "base_link"),
    ):
        np.testing.assert_array_equal(back, (linear, angular))


# What things mean


def test_camera_info_counts_pixels_as_opencv_does(family):
    camera = Camera.from_fov(1.2, 4, 6)
    message = messages.camera_info_message(camera, 0, FRAME, family.messages)
    K = np.reshape(message.k, (3, 3))
    ray = np.array([-0.25, 0.5, 1.0])
    ours, theirs = camera.K_image @ ray, K @ ray
    # Index (row, column) of the pixel that a ray meets: centres at +1/2 here, at whole numbers there.
    np.testing.assert_allclose(ours[:2] - 0.5, theirs[:2])
    np.testing.assert_allclose((K[0, 2], K[1, 2]), (2.5, 1.5))  # the middle of pixels 0 ... 5 and 0 ... 3


def test_colour_of_a_cloud_is_packed_as_pcl_does(family):
    message = messages.cloud_message(np.zeros((1, 3)), np.array([[1, 2, 3]], np.uint8), 0, "map", family.messages)
    assert bytes(message.data)[12:16] == bytes([3, 2, 1, 0])  # 0x00RRGGBB, little endian


@pytest.mark.parametrize(
    ("encoding", "octets", "colour"),
    [
        ("rgb8", [1, 2, 3], [1, 2, 3]),
        ("bgr8", [1, 2, 3], [3, 2, 1]),
        ("rgba8", [1, 2, 3, 9], [1, 2, 3]),
        ("bgra8", [1, 2, 3, 9], [3, 2, 1]),
        ("mono8", [7], [7, 7, 7]),
    ],
)
@given(shape=array_shapes(min_dims=2, max_dims=2, max_side=5), padding=st.integers(0, 5))
def test_encodings_and_padded_rows(encoding, octets, colour, shape, padding):
    height, width = shape
    row = bytes(octets) * width + b"\xff" * padding
    message = raw(encoding, row * height, width, height, len(row))
    image = messages.image_from_message(message)
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8(colour), (height, width, 3)))
    assert image.flags.c_contiguous
    assert image.flags.writeable


@given(millimetres=arrays(np.uint16, maps), big=st.booleans(), padding=st.integers(0, 3))
def test_depth_in_millimetres_of_either_byte_order(millimetres, big, padding):
    height, width = millimetres.shape
    values = millimetres.astype(">u2" if big else "<u2")
    octets = b"".join(row.tobytes() + b"\1" * padding for row in values)
    depth = messages.depth_from_message(raw("16UC1", octets, width, height, 2 * width + padding, int(big)))
    measured = millimetres > 0
    np.testing.assert_allclose(depth[measured], millimetres[measured] / 1000.0, rtol=1e-6)
    assert np.isinf(depth[~measured]).all()


@given(depth=depths)
def test_big_endian_metres(depth):
    height, width = depth.shape
    message = raw("32FC1", depth.astype(">f4").tobytes(), width, height, 4 * width, 1)
    np.testing.assert_array_equal(messages.depth_from_message(message), depth)


def test_depth_that_was_not_measured_is_no_surface():
    values = np.array([[np.nan, np.inf, -np.inf, 0.0, 1.5]], "<f4")
    depth = messages.depth_from_message(raw("32FC1", values.tobytes(), 5, 1, 20))
    np.testing.assert_array_equal(depth, [[np.inf, np.inf, np.inf, np.inf, 1.5]])


def test_decoded_image_is_a_copy(family):
    image = np.full((2, 2, 3), 5, np.uint8)
    message = messages.image_message(image, 0, FRAME, family.messages)
    back = messages.image_from_message(message)
    back[:] = 9
    np.testing.assert_array_equal(messages.image_from_message(message), image)


def test_image_data_is_what_rclpy_takes_without_a_walk():
    octets = ROS.octets(memoryview(b"\1\2\3"))
    assert type(octets).__name__ == "array"
    assert octets.typecode == "B"
    assert octets.tobytes() == b"\1\2\3"


def test_image_of_any_memory_layout_is_sent_as_it_looks(family, rng):
    image = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    for view in (image[::-1], image[:, ::2], np.asfortranarray(image), image[..., ::-1]):
        message = messages.image_message(view, 0, FRAME, family.messages)
        np.testing.assert_array_equal(messages.image_from_message(message), view)


@given(stamp=stamps)
def test_stamp_round_trip(family, stamp):
    time = messages.time_message(stamp, family.messages)
    assert messages.nanoseconds(time) == stamp
    assert 0 <= time.nanosec < NANO


def test_picture_in_a_palette_or_grey_is_read(rng):
    grey = rng.integers(0, 256, (4, 5), dtype=np.uint8)
    for mode in ("L", "P", "RGBA"):
        file = io.BytesIO()
        Image.fromarray(grey).convert(mode).save(file, "png")
        message = SimpleNamespace(data=file.getvalue(), format="png")
        np.testing.assert_array_equal(messages.image_from_compressed(message), grey[..., None].repeat(3, axis=2))


# What is refused


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (raw("yuv444", bytes(8), 2, 2, 4), "encoding 'yuv444'; send one of .*rgb8"),
        (raw("32FC1", bytes(16), 2, 2, 8), "this one is depth"),
        (raw("uyvy", bytes(12), 3, 2, 6), "send even"),
        (raw("rgb8", bytes(11), 2, 2, 6), "step 6 and 11 bytes"),
        (raw("rgb8", bytes(10), 2, 2, 5), "at least 6 bytes"),
        (raw("rgb8", b"", 0, 0, 0), "0 x 0 pixels"),
        (raw("bgra8", bytes(12), 2, 2, 6), "at least 8 bytes"),
    ],
)
def test_wrong_image_is_refused(message, says):
    with pytest.raises(InvalidImageError, match=says):
        messages.image_from_message(message)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (raw("rgb8", bytes(3), 1, 1, 3), "send 32FC1 in metres or 16UC1"),
        (raw("32FC1", np.float32([-1.0]).tobytes(), 1, 1, 4), "1 values of a depth image are negative"),
        (raw("32FC1", bytes(5), 1, 1, 4), "5 bytes"),
    ],
)
def test_wrong_depth_is_refused(message, says):
    with pytest.raises(InvalidDepthError, match=says):
        messages.depth_from_message(message)


def test_wrong_mask_is_refused():
    with pytest.raises(InvalidImageError, match="mask has encoding 'rgb8'"):
        messages.mask_from_message(raw("rgb8", bytes(3), 1, 1, 3))


@given(octets=st.binary(max_size=64), start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]))
def test_noise_is_no_compressed_image(octets, start):
    with pytest.raises(InvalidImageError, match="JPEG, PNG"):
        messages.image_from_compressed(SimpleNamespace(data=start + octets, format="jpeg"))


@given(data=st.data(), codec=st.sampled_from(["jpeg", "png"]))
def test_damaged_compressed_image_is_refused_or_decoded(data, codec):
    file = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint16).astype(np.uint8).reshape(10, 10, 3)).save(file, codec)
    octets = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = messages.image_from_compressed(SimpleNamespace(data=bytes(octets), format=codec))
    except InvalidImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_compressed_depth_is_no_image():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(file, "png")
    with pytest.raises(InvalidImageError, match="8 bits per channel"):
        messages.image_from_compressed(SimpleNamespace(data=file.getvalue(), format="16UC1; png compressed"))


def test_enormous_compressed_image_is_refused():
    file = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(file, "png")
    with pytest.raises(InvalidImageError, match="no image that can be read"):
        messages.image_from_compressed(SimpleNamespace(data=file.getvalue(), format="png"))


def camera_info(**changes: Any) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0)
    K = [20.0, 0.0, 7.5, 0.0, 20.0, 5.5, 0.0, 0.0, 1.0]
    P = [10.0, 0.0, 7.5, -3.0, 0.0, 10.0, 5.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    fields = {
        "height": 12, "width": 16, "k": K, "d": [], "r": np.eye(3).ravel(), "p": P, "binning_x": 0, "binning_y": 1,
        "roi": roi, "distortion_model": "plumb_bob",
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d": [0.1, 0.0, 0.0, 0.0, 0.0]}, r"distortion plumb_bob \[0.1"),
        ({"d": [np.nan]}, "D of a CameraInfo is .*finite"),
        ({"k": [np.inf, 0, 8, 0, 20, 6, 0, 0, 1]}, "K of a CameraInfo is .*finite"),
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": [20, 1, 8, 0, 20, 6, 0, 0, 1]}, "skew"),
        ({"r": [0, -1, 0, 1, 0, 0, 0, 0, 1]}, "rectifying rotation"),
        ({"binning_x": 2}, "binning 2 x 1"),
        ({"roi": SimpleNamespace(x_offset=4, y_offset=0, height=4, width=4)}, "region of interest 4 x 4 at 4, 0"),
        ({"width": 20}, "image has 16 x 12 pixels and its CameraInfo says 20 x 12"),
    ],
)
def test_camera_info_that_is_no_pinhole_of_the_image_is_refused(changes, says):
    with pytest.raises(InvalidCameraError, match=says):
        messages.camera_from_info(camera_info(**changes), size=(12, 16))


def test_rectified_camera_is_that_of_p():
    message = camera_info(d=[0.3, 0.1, 0.0, 0.0, 0.0])
    camera = messages.camera_from_info(message, rectified=True)
    np.testing.assert_array_equal(camera.K_image, [[10.0, 0.0, 8.0], [0.0, 10.0, 6.0], [0.0, 0.0, 1.0]])


def point_field(name: str, offset: int, datatype: int = 7) -> SimpleNamespace:
    return SimpleNamespace(name=name, offset=offset, datatype=datatype, count=1)


def cloud(octets: bytes, fields: list[SimpleNamespace], **changes: Any) -> SimpleNamespace:
    step = changes.get("point_step", 16)
    layout = {"height": 1, "width": 1, "point_step": step, "row_step": step, "is_bigendian": False, **changes}
    return SimpleNamespace(data=octets, fields=fields, **layout)


XYZ = [point_field("x", 0), point_field("y", 4), point_field("z", 8)]


def test_cloud_without_colour_with_gaps_and_big_endian_is_read():
    row = np.array([1.0, 2.0, 3.0, 0.0], ">f4").tobytes() * 2 + b"\xff"
    points, colour = messages.cloud_from_message(cloud(row * 3, XYZ, width=2, height=3, row_step=33, is_bigendian=True))
    np.testing.assert_array_equal(points, np.tile([1.0, 2.0, 3.0], (6, 1)))
    assert colour is None


def test_cloud_with_double_places_and_rgba_is_read():
    point = np.array([1.0, 2.0, 3.0], "<f8").tobytes() + bytes([3, 2, 1, 255])
    fields = [point_field(name, 8 * i, 8) for i, name in enumerate("xyz")]
    points, colour = messages.cloud_from_message(cloud(point, [*fields, point_field("rgba", 24, 6)], point_step=28))
    np.testing.assert_array_equal(points, [[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(colour, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (cloud(bytes(15), XYZ), "15 bytes in all"),
        (cloud(bytes(16), XYZ, width=2), "a row must hold its points"),
        (cloud(bytes(16), XYZ[:2]), "needs x, y and z"),
        (cloud(bytes(16), [*XYZ, point_field("rgb", 13)]), "ends at byte 17 of a point of 16"),
        (cloud(bytes(16), [point_field("x", 0, 2), *XYZ[1:]]), "field x of a cloud has type 2"),
    ],
)
def test_wrong_cloud_is_refused(message, says):
    with pytest.raises(InvalidPointsError, match=says):
        messages.cloud_from_message(message)


def vector(x: float, y: float, z: float, w: float | None = None) -> SimpleNamespace:
    return SimpleNamespace(x=x, y=y, z=z, **({} if w is None else {"w": w}))


def posed(orientation: SimpleNamespace, frame: str = "map") -> SimpleNamespace:
    header = SimpleNamespace(frame_id=frame, stamp=SimpleNamespace(sec=0, nanosec=0))
    return SimpleNamespace(header=header, pose=SimpleNamespace(position=vector(0, 0, 0), orientation=orientation))


@pytest.mark.parametrize("orientation", [vector(0, 0, 0, 0), vector(0, 0, 0, np.nan), vector(0, 0, 0, 2)])
def test_pose_without_a_unit_quaternion_is_refused(orientation):
    message = posed(orientation)
    for convert in (
        lambda: messages.pose_from_stamped(message, "map"),
        lambda: messages.path_from_message(SimpleNamespace(header=message.header, poses=[message])),
    ):
        with pytest.raises(InvalidPoseError, match="quaternion"):
            convert()


def test_pose_in_another_frame_is_refused():
    good = vector(0, 0, 0, 1)
    with pytest.raises(InvalidPoseError, match="the frame is 'odom'; give it in 'map'"):
        messages.pose_from_stamped(posed(good, "odom"), "map")
    path = SimpleNamespace(header=posed(good).header, poses=[posed(good), posed(good, "odom")])
    with pytest.raises(InvalidPoseError, match=r"pose 1 of 2 .*'odom'"):
        messages.path_from_message(path, "map")
    messages.pose_from_stamped(posed(good, "/map"), "map")
    path.poses[1] = posed(good, "")
    assert len(messages.path_from_message(path, "map")) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["linear", "angular"])
def test_twist_that_is_not_finite_is_refused(bad, part):
    message = SimpleNamespace(linear=vector(0, 0, 0), angular=vector(0, 0, 0))
    setattr(message, part, vector(0, bad, 0))
    with pytest.raises(InvalidActionError, match=f"the {part} velocity"):
        messages.velocity_from_twist(message)


def test_twist_of_another_body_is_refused_and_of_none_is_taken():
    twist = SimpleNamespace(linear=vector(1, 0, 0), angular=vector(0, 0, 0))
    message = SimpleNamespace(header=SimpleNamespace(frame_id="arm"), twist=twist)
    with pytest.raises(InvalidPoseError, match="'arm'"):
        messages.velocity_from_twist_stamped(message, "base_link")
    message.header.frame_id = ""
    np.testing.assert_array_equal(messages.velocity_from_twist_stamped(message, "base_link")[0], [1, 0, 0])


def test_what_cannot_be_sent_is_refused(family):
    image, made = np.zeros((2, 2, 3), np.uint8), family.messages
    with pytest.raises(InvalidImageError):
        messages.image_message(image[..., 0], 0, FRAME, made)
    with pytest.raises(InvalidImageError):
        messages.image_message(image.astype(np.float32), 0, FRAME, made)
    with pytest.raises(InvalidImageError):
        messages.mask_message(image[..., 0], 0, FRAME, made)
    with pytest.raises(InvalidDepthError):
        messages.depth_message(image[..., 0], 0, FRAME, made)
    with pytest.raises(InvalidOptionError, match="quality 0"):
        messages.compressed_message(image, 0, FRAME, "jpeg", 0, made)
    with pytest.raises(InvalidOptionError, match="codec 'webp'"):
        messages.compressed_message(image, 0, FRAME, "webp", messages=made)  # type: ignore[arg-type]
    with pytest.raises(InvalidPointsError):
        messages.cloud_message(np.zeros((2, 3)), np.zeros((1, 3), np.uint8), 0, "map", made)
    with pytest.raises(InvalidOptionError, match="stamp"):
        messages.image_message(image, STAMP_RANGE[1] + 1, FRAME, made)
    with pytest.raises(InvalidActionError):
        messages.twist_message([np.nan, 0, 0], [0, 0, 0], made)


# ROS itself


@pytest.mark.skipif(not ros_is_installed(), reason="no rclpy: source a ROS 2 install, or pip install 'mirage-env[ros]'")
def test_every_name_of_ros_is_there():
    _ros.require_ros()
    for name in _ros.NAMES:
        assert getattr(_ros, name) is not None


DUMMIES = {"nothing": "", "broken": "raise ImportError('libfastdds.so: cannot open')"}


@pytest.mark.parametrize("dummy", DUMMIES)
def test_package_that_only_has_the_name_is_not_ros(dummy, tmp_path, monkeypatch):
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy/__init__.py").write_text(DUMMIES[dummy])
    monkeypatch.syspath_prepend(tmp_path)
    with fresh_imports("ros_bridge", "rclpy"), pytest.raises(MissingPackageError) as refused:
        _ = importlib.import_module("ros_bridge._ros").Node
    assert "pip install 'mirage-env[ros]'" in str(refused.value)
    assert "source a ROS 2 install" in str(refused.value)


def test_missing_ros_is_one_of_our_errors_and_an_import_error():
    assert issubclass(MissingPackageError, MirageError)
    assert issubclass(MissingPackageError, ImportError)
    with pytest.raises(AttributeError):
        _ = _ros.NoSuchName
    with pytest.raises(MissingPackageError, match="no_such_msgs"):
        _ros.message_type("no_such_msgs/msg/Thing")


# Encodings of robots' cameras


def bayer(pattern: str, image: np.ndarray) -> np.ndarray:  # [H, W, 3] -> [H, W]
    """What a sensor with a colour filter sees."""
    places = {"r": 0, "g": 1, "b": 2}
    channel = np.array([places[c] for c in pattern]).reshape(2, 2)
    height, width = image.shape[:2]
    tiled = np.tile(channel, (height // 2, width // 2))
    return np.take_along_axis(image, tiled[..., None], axis=2)[..., 0]


SMOOTH = np.stack([4 * np.mgrid[0:8, 0:12][0] + 60, 5 * np.mgrid[0:8, 0:12][1] + 90, np.full((8, 12), 200)], -1).astype(
    np.uint8
)


@pytest.mark.parametrize("pattern", ["rggb", "grbg", "gbrg", "bggr"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns_give_back_a_smooth_image(pattern, bits):
    seen = bayer(pattern, SMOOTH)
    values = seen if bits == 8 else seen.astype(np.uint16) * 257
    message = raw(f"bayer_{pattern}{bits}", values.tobytes(), 12, 8, 12 * bits // 8)
    error = np.abs(messages.image_from_message(message).astype(int) - SMOOTH)
    assert error[1:-1, 1:-1].max() <= 1
    assert error.max() <= 5


def yuv(image: np.ndarray) -> np.ndarray:  # [H, W, 3] -> [H, W, 3]
    """BT.601, full range."""
    to_yuv = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.clip(np.rint(image @ to_yuv.T + [0, 128, 128]), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"])
def test_yuv_gives_back_colours(encoding):
    image = np.repeat(np.repeat(SMOOTH[::2, ::2], 2, 0), 2, 1)
    y, u, v = np.moveaxis(yuv(image), -1, 0)
    if encoding.startswith("nv"):
        pair = (u, v) if encoding == "nv12" else (v, u)
        octets = y.tobytes() + np.stack([c[::2, ::2] for c in pair], -1).tobytes()
        message = raw(encoding, octets, 12, 8, 12)
    else:
        first = [u[:, ::2], y[:, ::2], v[:, ::2], y[:, 1::2]]
        order = first if encoding in ("uyvy", "yuv422") else [first[1], first[0], first[3], first[2]]
        message = raw(encoding, np.stack(order, -1).tobytes(), 12, 8, 24)
    assert np.abs(messages.image_from_message(message).astype(int) - image).max() <= 2


@pytest.mark.parametrize(
    ("encoding", "make"),
    [
        ("mono16", lambda x: x[..., 0].astype(np.uint16) * 256 + 17),
        ("rgb16", lambda x: x.astype(np.uint16) * 256 + 17),
        ("bgr16", lambda x: x[..., ::-1].astype(np.uint16) * 256 + 17),
        ("8UC3", lambda x: x[..., ::-1]),
        ("8UC1", lambda x: x[..., 0]),
    ],
)
@pytest.mark.parametrize("big", [0, 1])
def test_wide_and_opencv_encodings_are_read(encoding, make, big):
    values = np.ascontiguousarray(make(SMOOTH))
    octets = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    found = messages.image_from_message(raw(encoding, octets, 12, 8, len(octets) // 8, big))
    expected = np.repeat(SMOOTH[..., :1], 3, 2) if values.ndim == 2 else SMOOTH
    np.testing.assert_array_equal(found, expected)


def compressed_depth(values: np.ndarray, text: str, config: tuple[float, float] | None) -> SimpleNamespace:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png")
    header = b"" if config is None else struct.pack("<iff", 1, *config)
    return SimpleNamespace(data=header + file.getvalue(), format=text)


@pytest.mark.parametrize("text", ["16UC1; compressedDepth", "16UC1; compressedDepth png", "16UC1; png compressed "])
def test_compressed_millimetres_come_back(text):
    values = np.array([[0, 1500], [65535, 1]], np.uint16)
    config = (0.0, 0.0) if "compressedDepth" in text else None
    depth = messages.depth_from_compressed(compressed_depth(values, text, config))
    np.testing.assert_allclose(depth, [[np.inf, 1.5], [65.535, 0.001]], rtol=1e-6)


def test_quantised_inverse_depth_comes_back():
    metres, a = np.array([[0.5, 2.0], [7.0, np.inf]]), 100.0 * 101.0
    b = 1.0 - a / 10.0
    values = np.where(np.isfinite(metres), np.rint(a / metres + b), 0).astype(np.uint16)
    depth = messages.depth_from_compressed(compressed_depth(values, "32FC1; compressedDepth png", (a, b)))
    np.testing.assert_allclose(depth, metres, rtol=0.01)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (SimpleNamespace(data=bytes(40), format="16UC1; compressedDepth rvl"), "RVL"),
        (SimpleNamespace(data=bytes(5), format="16UC1; compressedDepth png"), "5 bytes"),
        (SimpleNamespace(data=bytes(40), format="16UC1; compressedDepth png"), "no image"),
        (compressed_depth(np.zeros((2, 2), np.uint8), "16UC1; compressedDepth", (0, 0)), "16 bits"),
        (compressed_depth(np.ones((2, 2), np.uint16), "32FC1; compressedDepth", (math.nan, 0)), "quantised"),
    ],
)
def test_wrong_compressed_depth_is_refused(message, says):
    with pytest.raises(InvalidDepthError, match=says):
        messages.depth_from_compressed(message)
