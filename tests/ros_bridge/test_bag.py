"""A world played into a rosbag2 comes back as it was, and a bag that cannot be used says why."""

import importlib
import json
import math
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_imports import fresh_imports
from generated_types import needs_generated_types, shared_types
from rgbd_folders import room_walk
from stand_ins import path as way
from stand_ins import picture, walled_world_model
from worlds import open_minded_model

from mirage_env import cli
from mirage_env.camera import Camera, between
from mirage_env.datasets import Clips
from mirage_env.datasets.learn import LearnConfig, learn_world
from mirage_env.errors import (
    BagContentError,
    BagError,
    BagExistsError,
    BagNotFoundError,
    CacheNotFoundError,
    InvalidCameraError,
    InvalidDepthError,
    InvalidImageError,
    InvalidOptionError,
    MirageError,
    MissingPackageError,
)
from mirage_env.poses import pose_from_rotation_vector, rotation_angle
from mirage_env.store import load_frames, open_cache, save_world

pytest.importorskip("rosbags", reason="no rosbags: pip install 'mirage-env[bag]'")

from rosbags import rosbag1
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from ros_bridge import messages
from ros_bridge.bag import rosbag_files
from ros_bridge.bag.recording import bag_recording
from ros_bridge.bag.rosbag_files import TYPES, BagMessages, BagReader, new_bag, open_bag
from ros_bridge.bag.world_to_bag import cache_to_bag, read_bag, write_bag
from ros_bridge.messages.message_types import NANO
from ros_bridge.sensing.camera_mount import AT_CAMERA, CameraMount, world_from_map

START = 1_700_000_000 * NANO
COUNT = 5
M = BagMessages()


@pytest.fixture(scope="module")
def cameras() -> list[Camera]:
    first = Camera.from_fov(1.3, 24, 32).moved(pose_from_rotation_vector([0.3, -1.0, 2.0], [0.4, 1.2, -0.3]))
    end = first.moved(pose_from_rotation_vector([0.5, 0.0, 1.0], [0.0, 0.9, 0.2]))
    return [first, *between(first, end, COUNT - 1)]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:  # [F, H, W, 3]
    return np.random.default_rng(0).integers(0, 256, (COUNT, 24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def depth() -> np.ndarray:  # [F, H, W]
    values = np.random.default_rng(1).uniform(0.5, 9.0, (COUNT, 24, 32)).astype(np.float32)
    values[:, 0] = np.inf
    return values


@pytest.fixture(scope="module")
def bag(tmp_path_factory, cameras, frames, depth) -> Path:
    path = tmp_path_factory.mktemp("bags") / "walk"
    write_bag(path, cameras, frames, 8.0, depth=depth, start=START)
    return path


def same_cameras(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.K_image, b.K_image)
        np.testing.assert_allclose(a.position, b.position, rtol=0.0, atol=1e-12)
        # A quaternion in between.
        np.testing.assert_allclose(a.T_world_cam, b.T_world_cam, rtol=0.0, atol=1e-12)
        assert (a.height, a.width) == (b.height, b.width)


# Round trips


def test_walk_comes_back_bit_for_bit(bag, cameras, frames, depth):
    found = read_bag(bag)
    same_cameras(found.cameras, cameras)
    same_cameras([view.camera for view in found.views], cameras)
    np.testing.assert_array_equal([view.image for view in found.views], frames)
    np.testing.assert_array_equal([view.depth for view in found.views], depth)
    assert found.view_stamps == found.camera_stamps


@pytest.mark.parametrize("rate", [30.0, 7.3])
def test_stamps_keep_the_rate_and_do_not_drift(tmp_path, rate):
    many = [Camera.from_fov(1.0, 2, 2)] * 300
    write_bag(tmp_path / "bag", many, rate=rate, start=START)
    stamps = np.array(read_bag(tmp_path / "bag").camera_stamps) - START
    np.testing.assert_allclose(stamps, np.arange(300) / rate * NANO, rtol=0.0, atol=0.6)


def test_topics_are_those_of_the_node(bag):
    assert read_bag(bag).topics == {
        "/mirage/camera_info": "sensor_msgs/msg/CameraInfo",
        "/mirage/depth/camera_info": "sensor_msgs/msg/CameraInfo",
        "/mirage/depth/image_raw": "sensor_msgs/msg/Image",
        "/mirage/image_raw": "sensor_msgs/msg/Image",
        "/mirage/path": "nav_msgs/msg/Path",
        "/mirage/pose": "geometry_msgs/msg/PoseStamped",
        "/tf": "tf2_msgs/msg/TFMessage",
        "/tf_static": "tf2_msgs/msg/TFMessage",
    }


def test_every_message_of_a_frame_has_its_stamp(bag):
    with Reader(bag) as reader:
        for connection, time, data in reader.messages():
            message = TYPES.deserialize_cdr(data, connection.msgtype)
            for row in getattr(message, "transforms", [message]):
                assert messages.nanoseconds(row.header.stamp) == time
        once = ("/mirage/path", "/tf_static")
        assert {connection.msgcount for connection in reader.connections if connection.topic not in once} == {COUNT}


def test_camera_path_comes_from_the_path_topic_too(bag, cameras):
    found = read_bag(bag, pose="/mirage/path", pose_frame="base_link", image="", depth="")
    same_cameras(found.cameras, cameras)
    assert found.views == ()


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_compressed_frames(tmp_path, cameras, codec):
    rows, columns = np.mgrid[0:24, 0:32]
    frames = [np.stack([7 * columns, 9 * rows, 3 * (rows + columns)], 2).astype(np.uint8)] * COUNT
    write_bag(tmp_path / "bag", cameras, frames, codec=codec, quality=95, start=START)
    found = read_bag(tmp_path / "bag")
    assert "/mirage/image_raw/compressed" in found.topics
    error = np.abs(np.array([view.image for view in found.views], int) - frames)
    assert error.mean() <= (0.0 if codec == "png" else 4.0)


def test_frames_may_come_one_by_one(tmp_path, cameras, frames):
    write_bag(tmp_path / "bag", cameras, (frame for frame in frames), start=START)
    np.testing.assert_array_equal([view.image for view in read_bag(tmp_path / "bag").views], frames)


def test_saved_world_becomes_a_bag_that_opens_a_world_again(tmp_path):
    model = walled_world_model()
    first, state = model.start(picture())
    chunk, state = model.step(state, way(state.camera))
    save_world(tmp_path / "world", state, model, [first, chunk], frames=True)
    cache_to_bag(tmp_path / "world", tmp_path / "bag", rate=model.config.frames_per_second)
    found, stored = read_bag(tmp_path / "bag"), open_cache(tmp_path / "world")
    same_cameras(found.cameras, stored.cameras)
    np.testing.assert_array_equal([view.image for view in found.views], load_frames(tmp_path / "world"))
    np.testing.assert_allclose(np.diff(found.camera_stamps), NANO / model.config.frames_per_second)
    view = found.views[-1]
    again, _ = model.start(view.image, view.camera, view.depth)
    np.testing.assert_allclose(again.cameras[0].T_world_cam, view.camera.T_world_cam, atol=1e-12)


def test_saved_world_without_frames_becomes_a_bag_of_poses(tmp_path):
    model = walled_world_model()
    first, state = model.start(picture())
    save_world(tmp_path / "world.zip", state, model, [first])
    assert "no images (the cache has none" in cache_to_bag(tmp_path / "world.zip", tmp_path / "bag")
    said = cache_to_bag(tmp_path / "world.zip", tmp_path / "complete", model=model)
    assert "rendered from the memory, depth" in said
    (whole,) = read_bag(tmp_path / "complete").views
    assert whole.depth is not None
    assert np.isfinite(whole.depth).any()
    found = read_bag(tmp_path / "bag")
    assert len(found.cameras) == 1
    assert found.views == ()
    with pytest.raises(CacheNotFoundError):
        cache_to_bag(tmp_path / "nothing", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_single_file_of_a_bag_is_read(bag, cameras):
    same_cameras(read_bag(bag / "walk.mcap").cameras, cameras)


def test_bag_of_the_older_storage_is_read(tmp_path, bag, cameras):
    with (
        Reader(bag) as reader,
        Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        topics = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=TYPES) for c in reader.connections}
        for connection, time, data in reader.messages():
            writer.write(topics[connection.topic], time, data)
    same_cameras(read_bag(tmp_path / "bag").cameras, cameras)
    (file,) = (tmp_path / "bag").glob("*.db3")
    same_cameras(read_bag(file).cameras, cameras)


def test_every_and_limit_take_fewer_images_and_all_poses(bag, cameras, frames):
    found = read_bag(bag, every=2, limit=2)
    np.testing.assert_array_equal([view.image for view in found.views], frames[[0, 2]])
    assert len(found.cameras) == COUNT


# What ROS says of it


def definition_hashes() -> dict[str, str]:
    """Hash of each message type by its name, as the ROS install that is here has it."""
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    shares = [Path(prefix) / "share" for prefix in prefixes if prefix]
    hashes = {}
    for package in ("sensor_msgs", "geometry_msgs", "nav_msgs"):
        for file in (file for share in shares for file in (share / package / "msg").glob("*.json")):
            rows = json.loads(file.read_text())["type_hashes"]
            hashes.update({row["type_name"]: row["hash_string"] for row in rows})
    return hashes


def test_definitions_are_those_of_ros(bag):
    hashes = definition_hashes()
    if not hashes:
        pytest.skip("no message definitions of ROS here")
    with Reader(bag) as reader:
        digests = {connection.msgtype: connection.digest for connection in reader.connections}
    for kind in digests.keys() & hashes.keys():
        assert digests[kind] == hashes[kind]
    assert len(digests.keys() & hashes.keys()) >= 4


def test_definitions_in_the_bag_are_whole(bag):
    with Reader(bag) as reader:
        definitions = {connection.msgtype: connection.msgdef.data for connection in reader.connections}
    for kind, fields in (
        ("sensor_msgs/msg/Image", ["std_msgs/Header header", "uint8[] data", "MSG: builtin_interfaces/Time"]),
        ("sensor_msgs/msg/CameraInfo", ["float64[9] k", "MSG: sensor_msgs/RegionOfInterest"]),
        ("nav_msgs/msg/Path", ["geometry_msgs/PoseStamped[] poses", "MSG: geometry_msgs/Quaternion"]),
    ):
        for field in fields:
            assert re.search(
                re.escape(field).replace(r"std_msgs/", "std_msgs/(msg/)?"), definitions[kind].replace("/msg/", "/")
            )


@needs_generated_types
def test_rclpy_reads_every_message_and_writes_the_same_bytes(bag):
    from ros_bridge import _ros

    shared_types()
    with Reader(bag) as reader:
        for connection, _, data in reader.messages():
            message = _ros.deserialize_message(bytes(data), _ros.message_type(connection.msgtype))
            assert TYPES.serialize_cdr(
                TYPES.deserialize_cdr(_ros.serialize_message(message), connection.msgtype), connection.msgtype
            ) == bytes(data)


def test_metadata_says_how_the_node_publishes(bag):
    with Reader(bag) as reader:
        for connection in reader.connections:
            (quality,) = connection.ext.offered_qos_profiles
            expected = (1, "TRANSIENT_LOCAL") if connection.topic == "/tf_static" else (5, "VOLATILE")
            assert (quality.depth, quality.durability.name) == expected
            assert quality.reliability.name == "RELIABLE"


# A robot's bag


def pose_at(stamp: int, x: float = 0.0) -> Any:
    T = np.eye(4)
    T[0, 3] = x
    return messages.pose_stamped_message(T, stamp, "map", M)


def image_at(stamp: int, value: int = 0) -> Any:
    return messages.image_message(np.full((4, 6, 3), value, np.uint8), stamp, "cam", M)


def info_at(stamp: int, size: tuple[int, int] = (4, 6)) -> Any:
    return messages.camera_info_message(Camera.from_fov(1.0, *size), stamp, "cam", M)


def recorded(path: Path, *rows: tuple[str, Any]) -> Path:
    with new_bag(path) as writer:
        for topic, message in rows:
            first = getattr(message, "transforms", [message])[0]
            writer.write(topic, message, messages.nanoseconds(first.header.stamp))
    return path


BODY = {"T_base_camera": AT_CAMERA.T_base_optical}
"""The poses are those of a body at the camera's place."""


def transform_at(stamp: int, parent: str, child: str, T: np.ndarray) -> Any:
    return messages.transforms_message([messages.transform_message(T, stamp, parent, child, M)], M)


def odometry_at(stamp: int, T: np.ndarray, child: str = "base_link") -> Any:
    zeros = np.zeros(36)
    pose = M.make("geometry_msgs/msg/PoseWithCovariance", pose=messages.pose_message(T, M), covariance=zeros)
    still = messages.twist_message([0, 0, 0], [0, 0, 0], M)
    twist = M.make("geometry_msgs/msg/TwistWithCovariance", twist=still, covariance=zeros)
    header = messages.header_message(stamp, "odom", M)
    return M.make("nav_msgs/msg/Odometry", header=header, child_frame_id=child, pose=pose, twist=twist)


def base_at(seconds: float) -> np.ndarray:
    """A robot that drives a curve."""
    return pose_from_rotation_vector([2.0 + 0.3 * seconds, 1.0, 0.0], [0.0, 0.0, 0.4 * seconds])


MOUNT = CameraMount.looking(1.2, math.radians(10.0)).T_base_optical
STATIC = ("/tf_static", transform_at(0, "base_link", "cam", MOUNT))


def robot_rows(kind: str) -> list[tuple[str, Any]]:
    """Images at 10 Hz, poses at 4 Hz, 9 ms late."""
    rows: list[tuple[str, Any]] = [("/cam/camera_info", info_at(0))]
    rows += [("/cam/image_raw", image_at(t * NANO // 10, t)) for t in range(1, 10)]
    for i in range(6):
        seconds = 0.25 * i + 0.009
        stamp, T = round(seconds * NANO), base_at(seconds)
        rows += {
            "tf": [("/tf", transform_at(stamp, "odom", "base_link", T))],
            "odometry": [("/odom", odometry_at(stamp, T))],
            "optical": [("/pose", messages.pose_stamped_message(T @ MOUNT, stamp, "odom", M))],
            "odometry of an optical frame": [("/vo", odometry_at(stamp, T @ MOUNT, "cam"))],
            "unnamed odometry": [("/odom", odometry_at(stamp, T, ""))],
        }[kind]
    return rows


@pytest.mark.parametrize(
    ("kind", "static", "options"),
    [
        ("tf", True, {}),
        ("odometry", True, {}),
        ("odometry", False, {"T_base_camera": MOUNT}),
        ("odometry of an optical frame", False, {}),
        ("optical", False, {"T_base_camera": np.eye(4)}),
        ("optical", True, {"pose_frame": "cam"}),
        ("unnamed odometry", True, {"pose_frame": "base_link"}),
    ],
)
def test_poses_lead_to_the_camera_however_a_robot_tells_them(tmp_path, kind, static, options):
    """Between poses 250 ms apart on a curve: composed, and interpolated to the time of the image."""
    path = recorded(tmp_path / "bag", *([STATIC] if static else []), *robot_rows(kind))
    found = read_bag(path, **options)
    assert len(found.views) == 9
    for stamp, view in zip(found.view_stamps, found.views, strict=True):
        true = world_from_map(base_at(stamp / NANO) @ MOUNT)
        assert rotation_angle(np.linalg.inv(true) @ view.camera.T_world_cam) < 1e-6
        np.testing.assert_allclose(view.camera.T_world_cam[:3, 3], true[:3, 3], atol=3e-4)


@pytest.mark.parametrize(
    ("kind", "static"), [("tf", False), ("odometry", False), ("optical", False), ("unnamed odometry", True)]
)
def test_poses_that_do_not_lead_to_the_camera_are_refused_and_ask_for_it(tmp_path, kind, static):
    path = recorded(tmp_path / "bag", *([STATIC] if static else []), *robot_rows(kind))
    with pytest.raises(BagContentError, match=r"T_base_camera .*'cam'|'cam'.*T_base_camera"):
        read_bag(path)
    assert len(read_bag(path, pose="").views) == 9


def test_depth_of_another_camera_is_not_taken_for_the_images(tmp_path):
    depth = messages.depth_message(np.ones((4, 6), np.float32), 5, "depth_optical", M)
    rows = [("/cam/camera_info", info_at(0)), ("/cam/image_raw", image_at(5)), ("/depth/image_raw", depth)]
    path = recorded(tmp_path / "bag", *rows)
    with pytest.raises(BagContentError, match=r"another frame than the image's 'cam'.*depth_optical"):
        read_bag(path)
    assert read_bag(path, depth="/depth/image_raw").views[0].depth is not None


def test_depth_of_another_camera_is_registered_by_the_transforms_and_its_camera_info(tmp_path):
    """A slanted wall, seen by a depth camera a hand's breadth beside the image's, turned, and with a wider lens."""
    T_image_depth = pose_from_rotation_vector([0.1, 0.02, -0.01], [0.02, -0.05, 0.01])
    own, image = Camera.from_fov(1.4, 60, 80, T_image_depth), Camera.from_fov(1.0, 48, 64)

    def wall(camera: Camera) -> np.ndarray:  # z of the plane z + 0.3 x = 3
        v, u = np.mgrid[: camera.height, : camera.width] + 0.5
        rays = np.linalg.solve(camera.K_image, np.stack([u.ravel(), v.ravel(), np.ones(u.size)]))
        normal, R = np.array([0.3, 0.0, 1.0]), camera.T_world_cam[:3, :3]
        z = (3.0 - normal @ camera.position) / (normal @ R @ rays)
        return z.reshape(u.shape).astype(np.float32)

    rows = [
        ("/color/camera_info", messages.camera_info_message(image, 0, "cam", M)),
        ("/color/image_raw", messages.image_message(np.zeros((48, 64, 3), np.uint8), 5, "cam", M)),
        ("/depth/camera_info", messages.camera_info_message(own, 0, "infra", M)),
        ("/depth/image_raw", messages.depth_message(wall(own), 5, "infra", M)),
    ]
    static = ("/tf_static", transform_at(0, "cam", "infra", T_image_depth))
    view = read_bag(recorded(tmp_path / "bag", static, *rows)).views[0]
    assert view.depth.shape == (48, 64)
    inner = view.depth[4:-4, 4:-4]
    assert (inner > 0.0).mean() > 0.95
    np.testing.assert_allclose(inner[inner > 0.0], wall(image)[4:-4, 4:-4][inner > 0.0], rtol=0.02)
    with pytest.raises(BagContentError, match=r"'infra', another frame than the image's 'cam'.*tf_static"):
        read_bag(recorded(tmp_path / "alone", *rows))


def test_images_that_are_not_read_are_an_error_and_not_silence(tmp_path):
    strange = image_at(5)
    strange = replace(strange, encoding="yuv444")
    path = recorded(tmp_path / "bag", ("/cam/camera_info", info_at(0)), ("/cam/image_raw", strange))
    with pytest.raises(BagContentError, match=r"not read: /cam/image_raw \(yuv444\)"):
        read_bag(path)


def test_distorted_images_are_rectified(tmp_path):
    bent = replace(info_at(0, (24, 32)), d=np.array([-0.3, 0.1, 0.0, 0.0, 0.0]))
    rows = np.mgrid[0:24, 0:32][1].astype(np.uint8) * 8
    image = messages.image_message(np.repeat(rows[..., None], 3, 2), 5, "cam", M)
    path = recorded(tmp_path / "bag", ("/cam/camera_info", bent), ("/cam/image_raw", image))
    raw, straight = read_bag(path, rectified=True).views[0].image, read_bag(path).views[0].image
    assert (raw[..., 0] == rows).all()
    assert straight[12, 31, 0] < raw[12, 31, 0], "a barrel lens shows the edge nearer to the middle"


def test_image_without_a_pose_near_it_is_left_out(tmp_path):
    path = recorded(
        tmp_path / "bag",
        ("/cam/camera_info", info_at(0)),
        ("/cam/image_raw", image_at(0)),
        ("/cam/image_raw", image_at(2 * NANO, 7)),
        ("/pose", pose_at(2 * NANO)),
    )
    (view,) = read_bag(path, **BODY).views
    assert view.image[0, 0, 0] == 7
    with pytest.raises(BagContentError, match=r"no image with a pose within 0\.05 s"):
        read_bag(path, limit=1, every=3, **BODY)
    assert len(read_bag(path, tolerance=10.0, **BODY).views) == 2


def test_bag_without_poses_gives_views_at_the_origin(tmp_path):
    path = recorded(tmp_path / "bag", ("/cam/camera_info", info_at(0)), ("/cam/image_raw", image_at(5)))
    found = read_bag(path)
    assert found.cameras == ()
    np.testing.assert_array_equal(found.views[0].camera.T_world_cam, np.eye(4))


def test_masks_and_compressed_copies_are_not_taken_for_the_image(tmp_path):
    compressed = messages.compressed_message(np.zeros((4, 6, 3), np.uint8), 0, "cam", messages=M)
    mask = messages.mask_message(np.ones((2, 2), bool), 0, "cam", M)
    path = recorded(
        tmp_path / "bag",
        ("/mirage/camera_info", info_at(0)),
        ("/mirage/image_raw", image_at(0)),
        ("/mirage/image_raw/compressed", compressed),
        ("/mirage/observed", mask),
    )
    assert len(read_bag(path).views) == 1
    assert len(read_bag(path, image="/mirage/image_raw/compressed").views) == 1


# A world from a bag


def test_a_bag_becomes_a_world_that_shows_held_out_views(tmp_path):
    """A camera that turns and then stands: what shows nothing new is left out."""
    model = open_minded_model()
    size = model.config.image_size
    first = Camera.from_fov(1.2, *size)
    turns = [first.moved(pose_from_rotation_vector([0, 0, 0], [0.0, 0.05 * min(i, 8), 0.0])) for i in range(14)]
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    rays = np.linalg.solve(first.K_image, np.stack([u, v, np.ones_like(u)]).reshape(3, -1))
    bearings = [np.arctan2(*(turn.T_world_cam[[0, 2], :3] @ rays)).reshape(size) for turn in turns]
    frames = np.repeat((128 + 100 * np.sin(9.0 * np.stack(bearings)))[..., None], 3, 3).astype(np.uint8)
    from_middle = (2.0 / np.linalg.norm(rays, axis=0)).reshape(size)  # of a round room
    depth = np.repeat(from_middle[None], 14, 0).astype(np.float32)
    write_bag(tmp_path / "bag", turns, frames, 10.0, depth=depth, start=START)
    recording = bag_recording(tmp_path / "bag")
    assert (recording.count, recording.has_depth, recording.metric) == (14, True, True)
    assert "'map'" in recording.kind
    np.testing.assert_allclose(np.diff([view.time for view in recording.views()]), 0.1, atol=1e-6)
    state, report = learn_world(model, recording, LearnConfig(hold_out=4))
    assert report.views == 14
    assert report.key_frames <= 14 - 3 - 3
    assert report.coverage > 0.8
    assert np.isfinite(report.psnr)
    assert state.memory.points == report.points > 0
    with pytest.raises(BagContentError, match="images with poses that lead to their camera"):
        bag_recording(tmp_path / "bag", pose="")


def test_command_cuts_a_bag_of_either_ros_into_clips(tmp_path, capsys):
    room, cameras = room_walk(3, 6, (48, 64))
    views = [room.render(camera, samples=1) for camera in cameras]
    frames, depth = np.stack([v.image for v in views]), np.stack([v.depth for v in views])
    write_bag(tmp_path / "bag", cameras, frames, 10.0, depth=depth.astype(np.float32), start=START)
    with open_bag(tmp_path / "bag") as opened:
        topics = [t for t in opened.topics if opened.topics[t].split("/")[-1] in ("Image", "CameraInfo", "TFMessage")]
        rows = [(topic, message) for topic in topics for message in opened.messages(topic)]
    recorded_ros1(tmp_path / "old.bag", *rows)
    for name in ("bag", "old.bag"):
        command = ["import", str(tmp_path / name), "--out", str(tmp_path / "clips"), "--frames", "3", "--pixels", "32"]
        assert cli.main([*command, "--rate", "10"]) == 0, capsys.readouterr().err
    clips = Clips(tmp_path / "clips")
    assert len(clips) == 4
    np.testing.assert_allclose(clips.poses[1], [c.T_world_cam for c in cameras[3:]], atol=1e-6)
    np.testing.assert_array_equal(clips.images[:2], clips.images[2:])
    assert cli.main(["import", str(tmp_path / "bag"), "--out", str(tmp_path / "x"), "--image", "/left"]) == 2
    assert "'/left'" in capsys.readouterr().err


def test_views_of_a_bag_stream_by_one_at_a_time(tmp_path, monkeypatch):
    """However long a bag is: images that are decoded and alive, counted."""
    alive, most = set(), [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def counted(message: Any) -> np.ndarray:
        image = decode(message).view(Counted)
        alive.add(id(image))
        most[0] = max(most[0], len(alive))
        return image

    decode = messages.image_from_message
    write_bag(tmp_path / "bag", [Camera.from_fov(1.0, 4, 4)] * 60, np.zeros((60, 4, 4, 3), np.uint8), 10.0, start=START)
    monkeypatch.setattr(messages, "image_from_message", counted)
    assert sum(1 for _ in bag_recording(tmp_path / "bag").views()) == 60
    assert most[0] <= 2


# ROS 1


def ros1(message: Any, types: Any) -> Any:
    """The same message with the headers of ROS 1."""
    fields = {n: v for n, v in vars(message).items() if not n.startswith("__")}
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = [ros1(row, types) for row in value]
        elif hasattr(value, "__msgtype__"):
            fields[name] = ros1(value, types)
    if message.__msgtype__ == "std_msgs/msg/Header":
        fields["seq"] = 4
    return types.types[message.__msgtype__](**fields)


def recorded_ros1(path: Path, *rows: tuple[str, Any]) -> Path:
    types, connections = rosbag_files._ros1_types(), {}
    with rosbag1.Writer(path) as writer:
        for topic, message in rows:
            kind = message.__msgtype__
            if topic not in connections:
                # ROS 1 has tf/tfMessage, too, and its own hash of what a type is made of.
                name = "tf/msg/tfMessage" if topic == "/tf" else kind
                connections[topic] = writer.add_connection(
                    topic, name, msgdef=types.generate_msgdef(kind)[0], md5sum=rosbag_files._ros1_digest(kind)
                )
            first = getattr(message, "transforms", [message])[0]
            data = types.serialize_ros1(ros1(message, types), kind)
            writer.write(connections[topic], messages.nanoseconds(first.header.stamp), data)
    return path


@pytest.mark.parametrize(("kind", "static"), [("tf", True), ("odometry", True), ("optical", False)])
def test_bag_of_ros_1_is_read_as_the_same_bag_of_ros_2(tmp_path, kind, static):
    rows = [*robot_rows(kind), *[STATIC] * static]
    options = {} if static else {"T_base_camera": np.eye(4)}
    found = read_bag(recorded_ros1(tmp_path / "a.bag", *rows), **options)
    expected = read_bag(recorded(tmp_path / "b", *rows), **options)
    assert found.topics == expected.topics
    assert found.view_stamps == expected.view_stamps
    same_cameras([v.camera for v in found.views], [v.camera for v in expected.views])
    np.testing.assert_array_equal([v.image for v in found.views], [v.image for v in expected.views])


def test_bag_of_ros_1_with_depth_and_compressed_images(tmp_path):
    depth = np.random.default_rng(0).uniform(1.0, 5.0, (4, 6)).astype(np.float32)
    rows = [
        *robot_rows("tf"),
        STATIC,
        *(("/cam/depth", messages.depth_message(depth, t * NANO // 10, "cam", M)) for t in range(1, 10)),
    ]
    views = read_bag(recorded_ros1(tmp_path / "a.bag", *rows)).views
    np.testing.assert_array_equal(views[3].depth, depth)


def test_damaged_or_strange_bag_of_ros_1_is_refused(tmp_path, monkeypatch):
    whole = recorded_ros1(tmp_path / "a.bag", *robot_rows("tf"), STATIC).read_bytes()
    for i, data in enumerate((b"", whole[:40], whole[: len(whole) // 2])):
        broken = tmp_path / f"{i}.bag"
        broken.write_bytes(data)
        with pytest.raises(BagContentError, match="rosbag reindex"):
            read_bag(broken)
    with monkeypatch.context() as changed:
        changed.setattr(rosbag_files, "_ros1_digest", lambda kind: "0" * 32)
        other = recorded_ros1(tmp_path / "other.bag", *robot_rows("tf"))
    with pytest.raises(BagContentError, match=r"another definition of .* than ROS 1"):
        read_bag(other)


# What is refused


def test_missing_bag_is_said(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(BagNotFoundError, match="there is no bag at"):
            read_bag(path)
    assert issubclass(BagNotFoundError, FileNotFoundError)
    assert issubclass(BagError, MirageError)


def test_two_topics_of_a_kind_are_named(tmp_path):
    both = [
        ("/left/camera_info", info_at(0)),
        ("/right/camera_info", info_at(0)),
        ("/left/image_raw", image_at(0)),
        ("/right/image_raw", image_at(0)),
        ("/goal_pose", pose_at(0)),
        ("/pose", pose_at(0)),
    ]
    path = recorded(tmp_path / "bag", *both)
    with pytest.raises(BagContentError, match=r"image may be /left/image_raw or /right/image_raw.*image=\.\.\."):
        read_bag(path)
    with pytest.raises(BagContentError, match="pose may be /goal_pose or /pose"):
        read_bag(path, image="/left/image_raw")
    assert len(read_bag(path, image="/left/image_raw", pose="/pose", **BODY).views) == 1


def test_topic_that_is_not_there_or_of_another_type_is_said_with_what_there_is(bag):
    for name in ("/camera/image", "/mirage/pose"):
        with pytest.raises(BagContentError, match=rf"image is '{name}'.*/mirage/image_raw \(sensor_msgs/msg/Image\)"):
            read_bag(bag, image=name)


def test_bag_without_intrinsics_is_refused(tmp_path):
    path = recorded(tmp_path / "bag", ("/cam/image_raw", image_at(0)))
    with pytest.raises(BagContentError, match="there is no CameraInfo"):
        read_bag(path)


def test_another_definition_of_a_message_is_refused(tmp_path):
    message = pose_at(0)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        definition, _ = TYPES.generate_msgdef(message.__msgtype__, ros_version=2)
        connection = writer.add_connection("/pose", message.__msgtype__, msgdef=definition, rihs01="RIHS01_" + 64 * "0")
        writer.write(connection, 0, TYPES.serialize_cdr(message, message.__msgtype__))
        info = writer.add_connection("/camera_info", "sensor_msgs/msg/CameraInfo", typestore=TYPES)
        writer.write(info, 0, TYPES.serialize_cdr(info_at(0), "sensor_msgs/msg/CameraInfo"))
    with pytest.raises(BagContentError, match="another definition of geometry_msgs/msg/PoseStamped"):
        read_bag(tmp_path / "bag")


def test_sizes_that_disagree_are_refused(tmp_path):
    info, image = ("/cam/camera_info", info_at(0, (8, 6))), ("/cam/image_raw", image_at(0))
    with pytest.raises(InvalidCameraError, match="6 x 4 pixels, /cam/camera_info says 6 x 8"):
        read_bag(recorded(tmp_path / "a", info, image))
    far = messages.depth_message(np.ones((2, 3), np.float32), 0, "cam", M)
    path = recorded(tmp_path / "b", ("/cam/camera_info", info_at(0)), image, ("/depth", far))
    with pytest.raises(InvalidDepthError, match="depth maps of shape"):
        read_bag(path)
    assert read_bag(path, depth="").views[0].depth is None


def test_damaged_bag_is_refused_and_never_crashes(bag, tmp_path):
    whole, rng = (bag / "walk.mcap").read_bytes(), np.random.default_rng(0)
    refused = 0
    for i in range(60):
        octets = bytearray(whole)
        if i % 2:
            octets = octets[: int(rng.integers(0, len(octets)))]
        else:
            for place in rng.integers(0, len(octets), 8):
                octets[place] = rng.integers(0, 256)
        file = tmp_path / f"{i}.mcap"
        file.write_bytes(octets)
        try:
            read_bag(file)
        except MirageError:
            refused += 1
    assert refused >= 30
    shutil.copytree(bag, tmp_path / "walk")
    (tmp_path / "walk/metadata.yaml").write_text("nonsense: [")
    with pytest.raises(BagContentError, match="cannot be read"):
        read_bag(tmp_path / "walk")


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"limit": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}], ids=str
)
def test_options_of_reading_are_checked(bag, options):
    with pytest.raises(InvalidOptionError, match="give at least"):
        read_bag(bag, **options)


def test_bag_never_overwrites_and_says_so_before_the_first_frame(bag, cameras, frames):
    before, left = (bag / "walk.mcap").read_bytes(), iter(frames)
    with pytest.raises(BagExistsError, match="exists"):
        write_bag(bag, cameras, left)
    assert len(list(left)) == COUNT
    assert (bag / "walk.mcap").read_bytes() == before


def test_what_appears_while_a_bag_is_written_stays(tmp_path, cameras, frames):
    def meanwhile():
        yield from frames
        (tmp_path / "bag").mkdir()

    with pytest.raises(BagExistsError, match="exists"):
        write_bag(tmp_path / "bag", cameras, meanwhile())
    assert list(tmp_path.rglob("*")) == [tmp_path / "bag"]


def test_failed_writing_leaves_nothing(tmp_path, cameras, frames):
    wrong = [
        (InvalidOptionError, {"cameras": []}),
        (InvalidOptionError, {"rate": 0.0}),
        (InvalidOptionError, {"rate": float("nan")}),
        (InvalidOptionError, {"codec": "webp"}),
        (InvalidOptionError, {"codec": "jpeg", "quality": 101}),
        (InvalidOptionError, {"frames": frames[:3]}),
        (InvalidOptionError, {"frames": np.concatenate([frames, frames])}),
        (InvalidImageError, {"frames": frames[:, :4]}),
        (InvalidImageError, {"frames": frames.astype(float)}),
        (InvalidDepthError, {"depth": np.ones((COUNT, 3, 3))}),
        (InvalidOptionError, {"start": 2**70}),
    ]
    for error, change in wrong:
        with pytest.raises(error):
            write_bag(tmp_path / "bag", **{"cameras": cameras, "frames": frames, **change})
        assert list(tmp_path.iterdir()) == []


def test_reader_tells_what_the_bag_has(bag):
    with open_bag(bag) as reader:
        assert isinstance(reader, BagReader)
        assert reader.count("/mirage/pose") == COUNT
        assert "/mirage/path (nav_msgs/msg/Path)" in str(reader)


def test_without_rosbags_the_install_line_is_said():
    with (
        fresh_imports("ros_bridge", missing=("rosbags",)),
        pytest.raises(MissingPackageError, match=re.escape("pip install 'mirage-env[bag]'")),
    ):
        importlib.import_module("ros_bridge.bag.world_to_bag")
