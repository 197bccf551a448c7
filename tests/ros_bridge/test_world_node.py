"""The world as ROS topics: a node in its own process, and this one as its peer. What needs no ROS comes first."""

import itertools
import math
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from generated_types import needs_generated_types
from hypothesis import given
from hypothesis import strategies as st
from ros_process import PATIENCE, Peer, free_domain, needs_ros, node_arguments, ros_process
from stand_ins import NearFloor
from world_nodes import RATE, START_SECONDS, kind, latched, saved_world, world_parameters
from worlds import open_minded_model

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidOptionError
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import Room
from mirage_env.store import open_cache
from ros_bridge import messages
from ros_bridge.inputs.rejected_inputs import WARN_EVERY, RejectedInputs, TransitionErrors
from ros_bridge.inputs.start_views import camera_view, room_view, start_view
from ros_bridge.nodes.run_node import spin_once
from ros_bridge.parameters.world_parameters import WorldParameters, local_path
from ros_bridge.player.played_chunk import open_world
from ros_bridge.sensing.camera_mount import CameraMount, map_from_world
from ros_bridge.sensing.transform_buffer import TransformBuffer

FRAMES = 4
"""New frames per chunk of the tiny model."""
SIZE = (32, 32)
THREADS = "import threading; print('threads', [t.name for t in threading.enumerate() if not t.daemon])"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rate": -1.0}, "rate is -1.0.*from 0 to 240"),
        ({"rate": math.nan}, "rate is nan"),
        ({"seed": 1.5}, "seed is 1.5.*int"),
        ({"resume": 1}, "resume is 1.*bool"),
        ({"base_frame": "map"}, "different names"),
        ({"camera_height": 0.01}, "camera_height is 0.01.*metres above the floor"),
        ({"camera_height": 11.0}, "camera_height is 11.0.*from 0 to 10"),
        ({"publish_width": 640}, "give both, or neither"),
    ],
)
def test_wrong_parameter_says_what_is_allowed(wrong, says):
    with pytest.raises(InvalidOptionError, match=says):
        WorldParameters(**wrong)


def test_store_is_a_path_or_a_file_url():
    assert local_path("store", "") is None
    assert str(local_path("store", "file:///path/my%20walk.zarr")) == "/path/my walk.zarr"
    assert str(local_path("store", "/data/walk.zarr")) == "/data/walk.zarr"
    with pytest.raises(InvalidOptionError, match="s3"):
        local_path("store", "s3://bucket/walk.zarr")


def test_refusals_are_all_counted_and_seldom_told():
    told, now = [], [0.0]
    refusals = RejectedInputs(told.append, lambda: now[0])
    for _ in range(50):
        with refusals.watching("cmd_vel"):
            raise InvalidOptionError("it is NaN")
    with refusals.watching("save"):
        raise PermissionError("not allowed")
    assert refusals.counts == {"cmd_vel": 50, "save": 1}
    assert told == ["cmd_vel refused: it is NaN", "save refused: not allowed"]
    now[0] = WARN_EVERY
    refusals.refuse("cmd_vel", "again")
    assert told[2:] == ["cmd_vel refused: again"]


def test_whatever_ends_a_transition_is_logged_with_advice():
    """Ours by its text; a library's with its kind, where it was raised, and what to do."""
    said = []
    with TransitionErrors("configured", said.append) as errors:
        raise InvalidOptionError("rate is nan; give a number")
    assert errors.text == "not configured: rate is nan; give a number"
    for error, advice in (
        (RuntimeError("No CUDA GPUs are available"), "set device"),
        (ZeroDivisionError("x"), "report"),
    ):
        with TransitionErrors("configured", said.append):
            raise error
        assert type(error).__name__ in said[-1]
        assert advice in said[-1]
        assert "Traceback" in said[-1]
    with pytest.raises(KeyboardInterrupt), TransitionErrors("configured", said.append):
        raise KeyboardInterrupt
    with TransitionErrors("configured", said.append) as errors:
        pass
    assert errors.text is None


@given(st.integers(8, 60), st.integers(8, 60), st.floats(5.0, 80.0), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_start_view_of_a_camera_keeps_its_rays(height, width, focal, off_x, off_y):
    """What a ray of the middle of the new image hits lies at the same place of the old one."""
    config = open_minded_model().config
    K = np.array([[focal, 0, (0.5 + off_x) * width], [0, focal, (0.5 + off_y) * height], [0, 0, 1.0]])
    x = np.tile(np.linspace(0.0, 1.0, width, dtype=np.float32), (height, 1))
    depth = 1.0 + x + np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    view = camera_view(config, np.zeros((height, width, 3), np.uint8), K, depth)
    assert view.image.shape == (*SIZE, 3)
    for row, column in ((3, 5), (16, 16), (30, 2)):
        ray = np.linalg.solve(view.camera.K_image, [column + 0.5, row + 0.5, 1.0])
        u, v = (K @ ray)[:2]
        cells = {
            float(depth[j, i])
            for i in (math.floor(u - 1e-6), math.floor(u + 1e-6))
            for j in (math.floor(v - 1e-6), math.floor(v + 1e-6))
        }
        assert float(view.depth[row, column]) in cells


def test_start_view_of_a_camera_is_checked():
    config, image = open_minded_model().config, np.zeros((20, 30, 3), np.uint8)
    K = np.array([[20.0, 0, 15], [0, 20, 10], [0, 0, 1]])
    with pytest.raises(InvalidDepthError, match=r"\(10, 10\).*\(20, 30\)"):
        camera_view(config, image, K, np.ones((10, 10), np.float32))
    with pytest.raises(InvalidCameraError, match="principal point"):
        camera_view(config, image, K + np.array([[0, 0, 30], [0, 0, 0], [0, 0, 0.0]]))


def test_map_of_a_room_is_the_room():
    view = room_view(open_minded_model().config, 3)
    room = Room.generate(3, "test")
    T_map_optical = map_from_world(view.camera.T_world_cam)
    assert room.is_free(T_map_optical[:3, 3]), "the camera is in the room, z up"
    mount = CameraMount.above_floor(view.camera.T_world_cam)
    T_map_base = mount.base(view.camera.T_world_cam)
    np.testing.assert_allclose(T_map_base[2], [0.0, 0.0, 1.0, 0.0], atol=1e-9, err_msg="level, on the floor")
    assert 0.5 < mount.height < 2.5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and a picture to start with."""
    return saved_world(tmp_path_factory.mktemp("world"))


class NearMapFloor:
    """The floor of the map, a tenth too near (`DepthEstimator`)."""

    def estimate(self, images, cameras, known=None):
        return NearFloor().estimate(images, [camera.at(map_from_world(camera.T_world_cam)) for camera in cameras])


@pytest.mark.parametrize(("height", "mounted"), [(1.5, 1.5), (0.0, 1.2)])
def test_estimated_depth_is_fitted_to_the_floor_of_the_map_where_the_camera_height_is_known(place, height, mounted):
    model = replace(open_minded_model(), depth=NearMapFloor())
    options = WorldParameters(start_image=str(place / "start.png"), camera_height=height, camera_tilt=26.0)
    found = open_world(model, start_view(model.config, options), 0, time.monotonic)
    camera = found.state.camera.at(map_from_world(found.state.camera.T_world_cam))
    assert camera.position[2] == pytest.approx(mounted)
    true = NearFloor.true(camera).numpy()
    missed = np.abs(found.frames[-1].depth / true - 1.0)[true < 20.0].max()
    assert missed < 0.01 if height else missed == pytest.approx(0.1, abs=1e-3)


def test_a_room_has_its_own_camera_height_and_is_asked_for_it_only_where_heights_are_known():
    config = open_minded_model().config
    view = start_view(config, WorldParameters(seed=3, camera_height=1.0))
    assert view.camera_height == pytest.approx(map_from_world(view.camera.T_world_cam)[2, 3])
    assert start_view(config, WorldParameters(seed=3)).camera_height is None


def parameters(place, **changes):
    return world_parameters(place, **{"max_speed": 2.0, "cmd_timeout": 0.0, **changes})


@pytest.fixture(scope="module")
def world(place):
    """A node that streams a world with a store, and a peer; both have tf2_msgs where it can be generated."""
    domain = free_domain()
    options = parameters(
        place, store=str(place / "walk.zarr"), points_rate=10.0, grid_rate=5.0, publish_width=48, publish_height=40
    )
    peer = Peer(domain, place / "logs")
    with ros_process(node_arguments("ros_bridge.nodes.world_node", options), domain, place) as node:
        try:
            with listening(peer, "Image", "image_raw") as frames:
                try:
                    peer.wait_for(lambda: frames, START_SECONDS)
                except TimeoutError:
                    pytest.fail(node.output)
            yield SimpleNamespace(node=node, peer=peer, place=place)
        finally:
            peer.close()


def listening(peer, name, topic):
    return peer.listening(kind(name), f"/mirage/{topic}")


def message(name, **fields):
    return kind(name)(**fields)


def twist(forward=0.0, left=0.0, turn=0.0):
    return messages.twist_message([forward, left, 0.0], [0.0, 0.0, turn])


def pose_of(peer):
    """`T_map_base` now."""
    with listening(peer, "PoseStamped", "pose") as poses:
        peer.wait_for(lambda: len(poses) > 1)
    return messages.pose_from_stamped(poses[-1], "map")


def values(peer):
    """The diagnostics of the next second."""
    with peer.listening(kind("DiagnosticArray"), "/diagnostics") as got:
        peer.wait_for(lambda: got)
    return {v.key: v.value for v in got[-1].status[0].values}


def stand(peer):
    """Stop, and wait until the camera stands; gives where.

    Poses repeat also where a chunk is late, so more of them have to than a chunk has.
    """
    peer.publish("/cmd_vel", twist())
    with listening(peer, "PoseStamped", "pose") as poses:
        peer.wait_for(lambda: len(poses) > 2 * FRAMES and poses[-1].pose == poses[-2 * FRAMES].pose)
    return messages.pose_from_stamped(poses[-1], "map")


@needs_ros
def test_frames_arrive_in_order_with_their_camera(world):
    peer = world.peer
    names = {
        "image_raw": "Image",
        "image_raw/compressed": "CompressedImage",
        "camera_info": "CameraInfo",
        "depth/image_raw": "Image",
        "observed": "Image",
        "pose": "PoseStamped",
    }
    with ExitStack() as stack:
        got = {topic: stack.enter_context(listening(peer, name, topic)) for topic, name in names.items()}

        def stamps():
            return {topic: [messages.nanoseconds(m.header.stamp) for m in g] for topic, g in got.items()}

        # One stamp for all that shows a frame.
        peer.wait_for(lambda: len(set.intersection(*map(set, stamps().values()))) > 15)
    for topic, times in stamps().items():
        assert (np.diff(times) > 0).all(), topic
        assert np.mean(np.diff(times)) * 1e-9 > 0.8 / RATE, topic
    info = got["camera_info"][-1]
    image = got["image_raw"][-1]
    assert (image.height, image.width, image.encoding) == (40, 48, "rgb8")
    assert (info.height, info.width) == (image.height, image.width)
    assert info.header.frame_id == image.header.frame_id == "camera_optical_frame"
    assert messages.camera_from_info(info).K_image[0, 2] == pytest.approx(24.0)
    depth = messages.depth_from_message(got["depth/image_raw"][-1])
    assert depth.shape == (40, 48)
    assert np.isfinite(depth).all()
    assert messages.mask_from_message(got["observed"][-1]).shape == (40, 48)
    assert messages.image_from_compressed(got["image_raw/compressed"][-1]).shape == (40, 48, 3)


@needs_ros
def test_depth_has_intrinsics_beside_it_and_another_aspect_is_cropped_not_stretched(world):
    names = {"depth/image_raw": "Image", "depth/camera_info": "CameraInfo", "observed": "Image"}
    with ExitStack() as stack:
        got = {topic: stack.enter_context(listening(world.peer, name, topic)) for topic, name in names.items()}
        world.peer.wait_for(lambda: all(len(g) > 5 for g in got.values()))
    info, depth, seen = got["depth/camera_info"][-1], got["depth/image_raw"][-1], got["observed"][-1]
    assert (info.height, info.width) == (depth.height, depth.width) == (seen.height, seen.width) == (40, 48)
    assert info.header.stamp in [m.header.stamp for m in got["depth/image_raw"]]
    assert info.k[0] == pytest.approx(info.k[4]), "pixels stay square"


@needs_generated_types
def test_transforms_lead_from_the_map_to_the_camera_that_is_seen_from(world):
    """A listener that composes /tf and /tf_static, as tf2 does, finds the camera where ~/camera_pose says it is."""
    from tf2_msgs.msg import TFMessage

    peer, buffer = world.peer, TransformBuffer()
    peer.publish("/cmd_vel", twist(forward=0.3, turn=0.4))
    with (
        peer.listening(TFMessage, "/tf") as moving,
        peer.listening(TFMessage, "/tf_static", latched()) as static,
        listening(peer, "PoseStamped", "camera_pose") as poses,
        listening(peer, "PoseStamped", "pose") as bases,
    ):

        def compared():
            stamps = {messages.nanoseconds(m.transforms[0].header.stamp) for m in moving}
            return [m for m in poses if messages.nanoseconds(m.header.stamp) in stamps]

        peer.wait_for(lambda: static and bases and len(compared()) > 20)
    peer.publish("/cmd_vel", twist())
    for found, fixed in ((static, True), (moving, False)):
        for m in found:
            buffer.add_message(m, fixed)
    assert buffer.chain("camera_optical_frame") == ["camera_optical_frame", "base_link", "odom", "map"]
    for m in compared():
        T = buffer.lookup("map", "camera_optical_frame", messages.nanoseconds(m.header.stamp))
        np.testing.assert_allclose(T, messages.pose_from_stamped(m, "map"), atol=1e-6)
        assert T[2, 3] == pytest.approx(1.2, abs=1e-3)
    for m in bases:
        np.testing.assert_allclose(
            messages.pose_from_stamped(m)[2], [0, 0, 1, 0], atol=1e-6, err_msg="level, on the floor"
        )


@needs_ros
@pytest.mark.parametrize("way", ["goal", "path", "forward"])
def test_camera_keeps_its_height_whatever_tools_send(world, way):
    """RViz and Nav2 send z = 0 and a heading; some send a pitch, and twists with an up that is not zero."""
    peer = world.peer
    here = stand(peer)
    tilted = here @ pose_from_rotation_vector([0.4, 0.1, -0.3], [0.2, 0.3, 0.1])
    with listening(peer, "PoseStamped", "camera_pose") as poses:
        if way == "forward":
            peer.publish("/cmd_vel", messages.twist_message([0.5, 0.0, 0.3], [0.2, 0.1, 0.0]))
        else:
            goals = [messages.pose_stamped_message(T, 0, "map") for T in (tilted, here)]
            topic = "goal_pose" if way == "goal" else "path_cmd"
            peer.publish(f"/mirage/{topic}", goals[0] if way == "goal" else messages.path_message(goals, 0, "map"))
        peer.wait_for(lambda: len({m.pose.position.x for m in poses}) > 3)
    stand(peer)
    heights = [m.pose.position.z for m in poses]
    assert max(heights) - min(heights) < 0.01
    assert heights[0] == pytest.approx(1.2, abs=0.01)


@needs_ros
def test_odometry_measures_what_was_commanded(world):
    peer = world.peer
    stand(peer)
    with listening(peer, "Odometry", "odom") as found:
        peer.publish("/cmd_vel", twist(forward=0.5, turn=0.3))
        peer.wait_for(lambda: len([m for m in found if m.twist.twist.linear.x > 0.4]) > 5)
    peer.publish("/cmd_vel", twist())
    moving = [m.twist.twist for m in found if m.twist.twist.linear.x > 0.4]
    assert (found[-1].header.frame_id, found[-1].child_frame_id) == ("odom", "base_link")
    for v in moving:
        assert v.linear.x == pytest.approx(0.5, rel=1e-3)
        assert v.angular.z == pytest.approx(0.3, rel=1e-3)
        assert abs(v.linear.y) + abs(v.linear.z) + abs(v.angular.x) < 1e-6


@needs_ros
def test_whoever_joins_a_standing_world_gets_its_points_and_its_map(world):
    peer = world.peer
    stand(peer)
    for name, topic in (("PointCloud2", "points"), ("OccupancyGrid", "map")):
        for _ in range(2):
            with peer.listening(kind(name), f"/mirage/{topic}", latched()) as got:
                peer.wait_for(lambda got=got: got)
    grid = got[-1]
    assert grid.info.width * grid.info.height == len(grid.data)
    assert set(grid.data) <= {-1, 0, 100}


@needs_ros
def test_scan_is_of_the_base_and_nowhere_beyond_what_depth_shows(world):
    with listening(world.peer, "LaserScan", "scan") as scans:
        world.peer.wait_for(lambda: scans)
    scan = scans[-1]
    assert scan.header.frame_id == "base_link"
    assert len(scan.ranges) == 180
    assert scan.angle_min < 0.0 < scan.angle_max
    assert np.isfinite(scan.ranges).any()


@needs_ros
def test_a_look_from_elsewhere_leaves_the_world_where_it_is(world):
    peer = world.peer
    here = stand(peer)
    there = here @ pose_from_rotation_vector([-0.5, 0.0, 0.0], [0.0, 0.0, 0.1])
    with (
        listening(peer, "Image", "look/image_raw") as images,
        listening(peer, "CameraInfo", "look/camera_info") as infos,
    ):
        peer.publish("/mirage/look_at", messages.pose_stamped_message(there, 7, "map"))
        peer.wait_for(lambda: images and infos)
    assert messages.image_from_message(images[-1]).any()
    assert messages.nanoseconds(images[-1].header.stamp) == messages.nanoseconds(infos[-1].header.stamp) == 7
    np.testing.assert_allclose(pose_of(peer), here, atol=1e-9)


@needs_ros
def test_stamped_twists_are_heard_as_soon_as_somebody_publishes_them(world):
    peer = world.peer
    before = stand(peer)
    peer.forget("/cmd_vel")
    stamped = messages.twist_stamped_message([0.4, 0.0, 0.0], [0.0, 0.0, 0.0], 0, "base_link")
    peer.publish("/cmd_vel", stamped)
    peer.wait_for(lambda: pose_of(peer)[0, 3] != before[0, 3])
    peer.forget("/cmd_vel")
    stand(peer)
    assert "cmd_vel is TwistStamped" in world.node.output


@needs_ros
def test_limits_act_at_once_and_the_rest_is_refused_while_configured(world):
    peer = world.peer
    assert set_parameter(peer, "max_speed", 0.1).successful
    refused = set_parameter(peer, "rate", 10.0)
    assert not refused.successful
    assert "take effect when the node is configured" in refused.reason
    stand(peer)
    with listening(peer, "Odometry", "odom") as found:
        peer.publish("/cmd_vel", twist(forward=0.5))
        peer.wait_for(lambda: len([m for m in found if m.twist.twist.linear.x > 0.05]) > 5)
    peer.publish("/cmd_vel", twist())
    assert max(m.twist.twist.linear.x for m in found) == pytest.approx(0.1, rel=1e-3)
    assert set_parameter(peer, "max_speed", 2.0).successful


@needs_ros
def test_forward_is_forward_and_zero_stops(world):
    peer = world.peer
    before = stand(peer)
    with listening(peer, "PoseStamped", "pose") as poses:
        peer.publish("/cmd_vel", twist(forward=0.5))
        peer.wait_for(lambda: (messages.pose_from_stamped(poses[-1]) if poses else before)[0, 3] > before[0, 3] + 0.2)
        stand(peer)
    moved = np.linalg.inv(before) @ messages.pose_from_stamped(poses[-1])
    assert moved[0, 3] > 0.2, "x of the body is forward"
    np.testing.assert_allclose(moved[1:3, 3], 0.0, atol=1e-6)
    steps = np.linalg.norm(np.diff([messages.pose_from_stamped(p)[:3, 3] for p in poses], axis=0), axis=1)
    np.testing.assert_allclose(steps[steps > 0].max(), 0.5 / RATE, rtol=1e-3, err_msg="metres per frame")


@needs_ros
def test_goal_and_path_are_reached_and_tell_how_far_they_are(world):
    peer = world.peer
    before = stand(peer)
    goal = before.copy()
    goal[:3, 3] += before[:3, :3] @ [0.3, 0.1, 0.0]
    with listening(peer, "Float32", "progress") as shares:
        peer.publish("/mirage/goal_pose", messages.pose_stamped_message(goal, 0, "map"))
        peer.wait_for(lambda: shares and shares[-1].data == 1.0)
        assert (np.diff([s.data for s in shares]) >= 0.0).all()
    np.testing.assert_allclose(pose_of(peer), goal, atol=1e-6)
    back = [messages.pose_stamped_message(T, 0, "map") for T in (goal, before)]
    peer.publish("/mirage/path_cmd", messages.path_message(back, 0, "map"))
    peer.wait_for(lambda: np.allclose(pose_of(peer), before, atol=1e-6))
    with listening(peer, "Path", "path") as paths:
        peer.wait_for(lambda: paths)
    assert len(paths[-1].poses) > 10


def ask(peer, service, data=None):
    """What a service answers."""
    from std_srvs.srv import SetBool, Trigger

    if data is None:
        return peer.call(Trigger, f"/mirage/{service}")
    return peer.call(SetBool, f"/mirage/{service}", SetBool.Request(data=data))


def tell(world, topic, name, **fields):
    """What the node logs when it has done what a topic asks for; warnings of before may still be on their way."""
    before = len(world.node.output)
    world.peer.publish(f"/mirage/{topic}_cmd", message(name, **fields))
    return world.peer.wait_for(lambda: [line for line in world.node.output[before:].splitlines() if "[INFO]" in line])[
        -1
    ]


@needs_ros
def test_every_service_does_what_its_topic_does(world, tmp_path):
    peer, saved, packed = world.peer, tmp_path / "saved.zarr", tmp_path / "saved.zip"
    before = stand(peer)
    peer.publish("/cmd_vel", twist(forward=0.4))
    peer.wait_for(lambda: pose_of(peer)[0, 3] != before[0, 3])
    stand(peer)
    assert "chunk 0" not in ask(peer, "fork").message
    assert "new world" in tell(world, "reset", "Empty")
    refused = ask(peer, "step")
    assert not refused.success
    assert "pause it first" in refused.message
    assert ask(peer, "pause", True).message == "paused"
    assert ask(peer, "step").message == "chunk 1 plays"
    peer.wait_for(lambda: "chunk 1" in ask(peer, "fork").message)
    assert "chunk 2 plays" in tell(world, "step", "Empty")
    peer.wait_for(lambda: "chunk 2" in ask(peer, "fork").message)
    refused = ask(peer, "save")
    assert not refused.success
    assert "save_path" in refused.message
    assert "chunk 2" in tell(world, "save", "String", data=str(saved))
    assert set_parameter(peer, "save_path", str(packed)).successful
    assert ask(peer, "save").success
    assert open_cache(saved).chunks == open_cache(packed).chunks == 2
    assert "chunk 1" in ask(peer, "rollback").message
    assert "chunk 0" in tell(world, "rollback", "UInt32", data=1)
    assert not ask(peer, "load").success
    assert "chunk 2" in tell(world, "load", "String", data=str(packed))
    copy = ask(peer, "fork").message
    assert "chunk 2" in copy
    assert "chunk 2" in tell(world, "fork", "String", data=str(tmp_path / "fork.zarr"))
    assert open_cache(tmp_path / "fork.zarr").chunks == 2
    assert "new world" in ask(peer, "reset").message
    assert set_parameter(peer, "load_path", copy.split()[1]).successful
    assert "chunk 2" in ask(peer, "load").message
    assert "goes on" in tell(world, "pause", "Bool", data=False)
    assert int(values(peer)["chunk"]) == 2
    assert len(list(world.place.glob("walk*.zarr"))) > 4, "every world that went back goes on in a cache of its own"


def set_parameter(peer, name, value):
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return peer.call(SetParameters, "/mirage/set_parameters", request).results[0]


@needs_ros
def test_bad_input_is_named_and_counted_and_the_node_lives(world):
    peer, node = world.peer, world.node
    stand(peer)
    before = values(peer)
    nan, unset = twist(), message("PoseStamped")
    nan.linear.x = math.nan
    unset.header.frame_id, unset.pose.orientation.w = "map", 0.0
    elsewhere = messages.pose_stamped_message(np.eye(4), 0, "odom")
    image = messages.image_message(np.zeros((20, 30, 3), np.uint8), 7, "camera")
    info = messages.camera_info_message(Camera.from_fov(1.0, 24, 30), 7, "camera")
    peer.publish("/cmd_vel", nan)
    peer.publish("/mirage/goal_pose", unset)
    peer.publish("/mirage/goal_pose", elsewhere)
    peer.publish("/mirage/path_cmd", messages.path_message([unset], 0, "map"))
    peer.publish("/mirage/load_cmd", message("String", data="/nowhere/walk.zarr"))
    peer.publish("/mirage/save_cmd", message("String", data="/proc/no/walk.zarr"))
    assert not set_parameter(peer, "jpeg_quality", 1000).successful
    assert not set_parameter(peer, "rate", "fast").successful

    def more(kind):
        return int(values_now.get(f"refused {kind}", 0)) - int(before.get(f"refused {kind}", 0))

    expected = {"cmd_vel": 1, "goal_pose": 2, "path_cmd": 1, "load": 1, "save": 1, "parameter": 1}
    end = time.monotonic() + PATIENCE
    while True:
        peer.publish("/mirage/start/image", image)  # best effort: one of them may be lost
        peer.publish("/mirage/start/camera_info", info)
        values_now = values(peer)
        late = not more("start") or any(more(kind) < count for kind, count in expected.items())
        if not late or time.monotonic() > end:
            break
    assert {kind: more(kind) for kind in expected} == expected, node.output
    assert more("start"), node.output
    for said in ("nan", "length 0", "30 x 20 pixels"):
        assert said in node.output
    assert float(values(peer)["frames per second"]) > 0.0


def caches(world):
    return len(list(world.place.glob("walk*.zarr")))


@needs_ros
def test_a_robots_camera_opens_a_world_once_and_then_on_reset(world):
    """Best effort, as cameras publish; a stream of images must not open a world per frame."""
    peer = world.peer
    stand(peer)
    before = caches(world)
    seen = np.zeros((60, 80, 3), np.uint8)
    seen[:, :, 0] = 200
    camera = Camera.from_fov(1.2, 60, 80)
    best_effort = kind("qos_profile_sensor_data")
    stamps = itertools.count(10)

    def show():
        stamp = next(stamps)
        info = messages.camera_info_message(camera, stamp, "camera")
        peer.publish("/mirage/start/camera_info", info, quality=best_effort)
        peer.publish("/mirage/start/image", messages.image_message(seen, stamp, "camera"), quality=best_effort)
        peer.spin(0.05)

    with listening(peer, "CameraInfo", "camera_info") as infos:
        # The middle 60 of 80 columns become 48 of the published image.
        peer.wait_for(lambda: show() or (infos and infos[-1].k[0] == pytest.approx(camera.K_image[0, 0] * 48 / 60)))
    for _ in range(6):
        show()
    np.testing.assert_allclose(pose_of(peer), np.eye(4), atol=1e-9)
    with listening(peer, "PointCloud2", "points") as clouds:
        peer.wait_for(lambda: clouds)
    xyz, colour = messages.cloud_from_message(clouds[-1])
    assert len(xyz) == len(colour) > 0
    assert (xyz[:, 0] > 0.0).all(), "all of the memory is ahead, and ahead is x of the map"
    assert caches(world) == before + 1, "one world, not one per frame"
    assert "new world" in ask(peer, "reset").message
    assert caches(world) == before + 2


@needs_ros
def test_a_killed_node_resumes_where_it_was_and_ends_quietly_on_sigint(place):
    domain, store = free_domain(), place / "kill.zarr"
    peer = Peer(domain, place / "logs")
    options = parameters(place, store=str(store))
    try:
        with ros_process(node_arguments("ros_bridge.nodes.world_node", options), domain, place) as node:
            peer.publish("/cmd_vel", twist(forward=0.4, turn=0.2), seconds=START_SECONDS)
            peer.wait_for(lambda: store.exists() and open_cache(store).chunks > 3)
            peer.publish("/cmd_vel", twist())
            here = stand(peer)
            peer.wait_for(lambda: values(peer)["store lag, chunks"] == "0")
            node.kill()
            node.wait(PATIENCE)
        after = node_arguments("ros_bridge.nodes.world_node", {**options, "resume": True}, THREADS)
        with ros_process(after, domain, place) as node:
            with listening(peer, "PoseStamped", "pose") as poses:
                peer.wait_for(lambda: poses, START_SECONDS)
            np.testing.assert_allclose(messages.pose_from_stamped(poses[0]), here, atol=1e-9)
            # A message alone may go to the killed node, which still counts as a listener for a while.
            peer.insist("/cmd_vel", twist(forward=0.4), lambda: pose_of(peer)[0, 3] > here[0, 3] + 0.05)
            node.interrupt()
            assert node.wait(PATIENCE) == 0, node.output
        assert "threads ['MainThread']" in node.output
        assert "Traceback" not in node.output
    finally:
        peer.close()


@needs_ros
def test_lifecycle_leads_the_node(place):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return peer.call(ChangeState, "/mirage/change_state", request, START_SECONDS).success

    domain = free_domain()
    peer = Peer(domain, place / "logs")
    options = parameters(place, autostart=False, store="/proc/nowhere/walk.zarr")
    with ros_process(node_arguments("ros_bridge.nodes.world_node", options, THREADS), domain, place) as node:
        try:
            assert change(Transition.TRANSITION_CONFIGURE), node.output
            with listening(peer, "PoseStamped", "pose") as poses:
                peer.spin(0.3)
                assert not poses
                assert change(Transition.TRANSITION_ACTIVATE)
                peer.wait_for(lambda: poses)
                assert "/proc/nowhere" in values(peer)["store failure"], (
                    "a store that cannot be written does not stop it"
                )
                assert change(Transition.TRANSITION_DEACTIVATE)
                peer.quiet(poses)
            assert change(Transition.TRANSITION_CLEANUP)
            own = place / "own.zarr"
            assert set_parameter(peer, "store", str(own)).successful
            for _ in range(2):  # the second time it goes on with its own cache, without `resume`
                assert change(Transition.TRANSITION_CONFIGURE), node.output
                assert change(Transition.TRANSITION_ACTIVATE)
                peer.insist("/cmd_vel", twist(forward=0.4), lambda: int(values(peer)["chunk"]) > 2)
                here = stand(peer)
                assert change(Transition.TRANSITION_DEACTIVATE)
                assert change(Transition.TRANSITION_CLEANUP)
            assert change(Transition.TRANSITION_CONFIGURE), node.output
            assert change(Transition.TRANSITION_ACTIVATE)
            np.testing.assert_allclose(pose_of(peer), here, atol=1e-6)
            assert [path.name for path in place.glob("own*.zarr")] == ["own.zarr"]
            node.interrupt()
            assert node.wait(PATIENCE) == 0
        finally:
            peer.close()
    assert "threads ['MainThread']" in node.output


@needs_ros
def test_what_a_callback_destroys_while_another_thread_collects_what_to_wait_for_ends_no_node(tmp_path, capfd):
    domain = free_domain()
    peer = Peer(domain, tmp_path)
    executor = kind("MultiThreadedExecutor")(2, context=peer.context)
    node, called = kind("Node")("destroys", context=peer.context), threading.Event()
    try:
        executor.add_node(node)
        for _ in range(2):
            subscription = node.create_subscription(kind("Twist"), "cmd_vel", lambda message: None, 5)
            for event in subscription.event_handlers:
                event.destroy()  # where another thread is in the middle of destroy_subscription
            spin_once(executor, 0.1)
            node.destroy_subscription(subscription)
        assert capfd.readouterr().err.count("the node goes on") == 1, "the first time is logged"
        node.create_timer(0.01, called.set)
        peer.wait_for(lambda: spin_once(executor, 0.1) or called.is_set())
    finally:
        executor.shutdown()
        node.destroy_node()
        peer.close()


@needs_ros
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"store": "s3://bucket/walk.zarr"}, "s3://bucket/walk.zarr"),
        ({"device": "cuda"}, "device 'cuda' is not available here"),
    ],
)
def test_what_cannot_be_configured_ends_with_the_reason(place, wrong, says):
    """Also where the error is a library's: rclpy swallows it."""
    if "device" in wrong and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    options = parameters(place, **wrong)
    code = "import sys; from ros_bridge.nodes.world_node import main; sys.exit(main())"
    arguments = ["-c", code, *node_arguments("", options)[2:]]
    with ros_process(arguments, free_domain(), place) as node:
        assert node.wait(START_SECONDS) == 2
    assert "not configured" in node.output
    assert says in node.output
