"""A robot beside the world node: its RGB-D views go in, two worlds share a domain, time is the node's."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from generated_types import can_generate, needs_generated_types, shared_types
from PIL import Image as Picture
from ros_process import Peer, free_domain, needs_ros, node_arguments, ros_process
from stand_ins import picture
from worlds import open_minded_model

from mirage_env.camera import Camera
from mirage_env.models.world_model_loader import save_world_model
from mirage_env.poses import pose_from_rotation_vector
from ros_bridge import messages
from ros_bridge.messages.message_types import NANO, time_message
from ros_bridge.player.simulation_clock import SimulationClock
from ros_bridge.sensing.camera_mount import CameraMount

RATE = 25.0
LENS = Camera.from_fov(1.2, 60, 80)
MOUNT = CameraMount.looking(0.9, math.radians(8.0)).T_base_optical
LATE = 20_000_000
"""Nanoseconds that depth comes after the image."""


def test_simulation_clock_runs_at_its_factor_and_never_goes_back():
    real = [10.0]
    clock = SimulationClock(0.25, 5 * NANO, lambda: real[0])
    times = [clock.now()]
    for runs, seconds in ((True, 4.0), (False, 3.0), (True, 8.0)):
        clock.run(runs)
        real[0] += seconds
        times.append(clock.now())
    assert np.diff(times).tolist() == [NANO, 0, 2 * NANO]


def kind(name):
    from ros_bridge import _ros

    return getattr(_ros, name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    if can_generate():
        shared_types()
    folder = tmp_path_factory.mktemp("robot")
    save_world_model(open_minded_model(), folder / "model")
    Picture.fromarray(picture()).save(folder / "start.png")
    return folder


def arguments(place, namespace, parameters):
    given = {"model": str(place / "model"), "start_image": str(place / "start.png"), "rate": RATE, "threads": 1}
    return node_arguments(
        "ros_bridge.nodes.world_node", {**given, **parameters}, remap={"__ns": namespace} if namespace else {}
    )


@pytest.fixture(scope="module")
def robots(place):
    """Two nodes in one domain: one that observes a robot, and one that is driven."""
    domain = free_domain()
    peer = Peer(domain, place / "logs")
    first = {"observe": True, "frame_prefix": "imagined/", "map_frame": "/map", "observe_overlap": 0.8}
    second = {"frame_prefix": "robot2/", "cmd_timeout": 0.0}
    try:
        with (
            ros_process(arguments(place, "/robot1", first), domain, place) as one,
            ros_process(arguments(place, "/robot2", second), domain, place) as two,
        ):
            for name, node in (("robot1", one), ("robot2", two)):
                with peer.listening(kind("PoseStamped"), f"/{name}/mirage/pose") as poses:
                    try:
                        peer.wait_for(lambda poses=poses: poses, 180.0)
                    except TimeoutError:
                        pytest.fail(node.output)
            yield SimpleNamespace(peer=peer, one=one, two=two)
    finally:
        peer.close()


def diagnostics(peer, name):
    """The newest status of a node, and its values."""
    with peer.listening(kind("DiagnosticArray"), "/diagnostics") as got:
        peer.wait_for(lambda: [m for m in got if m.status[0].name == f"/{name}/mirage"])
    status = [m for m in got if m.status[0].name == f"/{name}/mirage"][-1].status[0]
    return status, {v.key: v.value for v in status.values}


@needs_generated_types
def test_two_worlds_share_a_domain_without_sharing_frames(robots):
    from tf2_msgs.msg import TFMessage

    peer = robots.peer
    with (
        peer.listening(TFMessage, "/tf") as moving,
        peer.listening(kind("PoseStamped"), "/robot1/mirage/pose") as poses,
    ):
        peer.publish("/robot2/cmd_vel", messages.twist_message([0.5, 0, 0], [0, 0, 0]))
        peer.wait_for(lambda: len(moving) > 60 and len(poses) > 20)
        peer.publish("/robot2/cmd_vel", messages.twist_message([0, 0, 0], [0, 0, 0]))
    links = {(t.header.frame_id, t.child_frame_id) for m in moving for t in m.transforms}
    assert links == {("imagined/odom", "imagined/base_link"), ("robot2/odom", "robot2/base_link")}
    assert {m.header.frame_id for m in poses} == {"map"}, "a name that begins with / has no prefix"
    assert len({m.pose.position.x for m in poses}) == 1, "a velocity of robot2 moves robot2 only"
    second = [t.transform.translation.x for m in moving for t in m.transforms if t.child_frame_id.startswith("robot2")]
    assert max(second) > min(second) + 0.1


def views(stamp, value):
    """Image, depth 20 ms later, and CameraInfo of a wall two metres ahead."""
    image = np.full((60, 80, 3), value, np.uint8)
    image[::7] = 255 - value
    depth = np.full((60, 80), 2.0, np.float32)
    return (
        ("image", messages.image_message(image, stamp, "cam")),
        ("depth", messages.depth_message(depth, stamp + LATE, "cam")),
        ("camera_info", messages.camera_info_message(LENS, stamp, "cam")),
    )


def drive(peer, poses, tf=True, gap=0.1):
    """A robot that shows what it sees at 10 Hz, best effort, and then where it was."""
    best_effort = kind("qos_profile_sensor_data")
    link = messages.transform_message(MOUNT, 0, "base_link", "cam")
    for i, T in enumerate(poses):
        stamp = peer.node.get_clock().now().nanoseconds
        for topic, message in views(stamp, 60 + 5 * (i % 8)):
            peer.publish(f"/robot1/mirage/observe/{topic}", message, quality=best_effort)
        for at in (stamp - 10_000_000, stamp + 30_000_000):
            moving = messages.transform_message(T, at, "map", "base_link")
            if tf:
                peer.publish("/tf_static", messages.transforms_message([link]), quality=latched())
                peer.publish("/tf", messages.transforms_message([moving]))
        peer.spin(gap)


def latched():
    return kind("QoSProfile")(depth=1, durability=kind("DurabilityPolicy").TRANSIENT_LOCAL)


@needs_generated_types
def test_a_robots_views_open_the_world_in_its_map_and_a_standing_robot_does_not_fill_it(robots):
    peer = robots.peer
    start = pose_from_rotation_vector([3.0, -1.0, 0.0], [0.0, 0.0, 0.5])
    drive(peer, [start] * 15)
    with peer.listening(kind("PoseStamped"), "/robot1/mirage/camera_pose") as poses:
        try:
            peer.wait_for(lambda: poses and abs(poses[-1].pose.position.x - (start @ MOUNT)[0, 3]) < 0.01)
        except TimeoutError:
            pytest.fail(robots.one.output)
    np.testing.assert_allclose(messages.pose_from_stamped(poses[-1], "map"), start @ MOUNT, atol=1e-3)
    _, before = diagnostics(peer, "robot1")
    drive(peer, [start] * 10)
    _, after = diagnostics(peer, "robot1")
    assert int(after["memory points"]) == int(before["memory points"])
    assert int(after["observed views known"]) > int(before["observed views known"])
    assert int(after["observed views written"]) <= 3
    turned = [start @ pose_from_rotation_vector([0.0, 0.0, 0.0], [0.0, 0.0, 0.12 * i]) for i in range(12)]
    drive(peer, turned)
    grown = int(after["memory points"])
    peer.wait_for(lambda: int(diagnostics(peer, "robot1")[1]["memory points"]) > grown, 60.0)
    _, driven = diagnostics(peer, "robot1")
    total = sum(int(driven[f"observed views {kind}"]) for kind in ("written", "known", "left out"))
    assert total >= 20, f"hardly a view is lost: {driven}, {robots.one.output}"


@needs_ros
def test_views_that_do_not_match_or_have_no_pose_are_said(robots):
    peer = robots.peer
    best_effort = kind("qos_profile_sensor_data")
    rows = [m for t, m in views(5 * NANO, 9) if t == "camera_info"]
    peer.publish("/robot1/mirage/observe/camera_info", rows[0], quality=best_effort)
    base = peer.node.get_clock().now().nanoseconds
    for i in range(25):
        stamp = base + i * NANO // 2
        (_, image), (_, depth), _ = views(stamp, 9)
        depth.header.stamp = time_message(stamp + 200_000_000)
        peer.publish("/robot1/mirage/observe/image", image, quality=best_effort)
        peer.publish("/robot1/mirage/observe/depth", depth, quality=best_effort)
        peer.spin(0.02)
    peer.wait_for(lambda: "200 ms apart" in diagnostics(peer, "robot1")[0].message)
    refused = int(diagnostics(peer, "robot1")[1].get("refused observe", 0))
    later = base + 100 * NANO
    for topic, message in views(later, 9):
        message.header.frame_id = "elsewhere"
        peer.publish(f"/robot1/mirage/observe/{topic}", message, quality=best_effort)
    peer.wait_for(lambda: int(diagnostics(peer, "robot1")[1].get("refused observe", 0)) > refused)
    assert "observe_mount" in robots.one.output


@needs_ros
def test_a_velocity_expires_by_the_clock_of_the_simulation(place):
    """At a fifth of real time a velocity that holds for one second moves for one second of that time."""
    from rosgraph_msgs.msg import Clock

    domain = free_domain()
    peer = Peer(domain, place / "logs")
    options = {"use_sim_time": True, "cmd_timeout": 1.0, "max_speed": 2.0}
    try:
        with ros_process(arguments(place, "", options), domain, place) as node:
            clock, began = peer.node.create_publisher(Clock, "/clock", 10), time.monotonic()
            with peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:

                def tick():
                    now = 100 * NANO + round(0.2 * NANO * (time.monotonic() - began))
                    clock.publish(Clock(clock=time_message(now)))

                def until(condition, seconds):
                    end = time.monotonic() + seconds
                    while not condition():
                        assert time.monotonic() < end, node.output
                        tick()
                        peer.spin(0.02)

                until(lambda: poses, 180.0)
                until(lambda: peer.node.count_subscribers("/cmd_vel"), 20.0)
                peer.publish("/cmd_vel", messages.twist_message([0.5, 0, 0], [0, 0, 0]))
                until(lambda: poses[-1].pose.position.x > 0.1, 30.0)
                moving = messages.nanoseconds(poses[-1].header.stamp)
                until(lambda: messages.nanoseconds(poses[-1].header.stamp) > moving + 3 * NANO // 2, 30.0)
            assert poses[-1].pose.position.x == pytest.approx(0.5, abs=0.5 * 8 / RATE)
            stamps = [messages.nanoseconds(p.header.stamp) for p in poses]
            assert (np.diff(stamps) >= 0).all()
            before = len(node.output)
            clock.publish(Clock(clock=time_message(50 * NANO)))
            peer.wait_for(lambda: "time has gone back" in node.output[before:])
    finally:
        peer.close()


@needs_ros
def test_the_node_makes_the_time_that_others_follow(place):
    """Half of real time; it stands while the world is paused, and does not go back with the world."""
    from rosgraph_msgs.msg import Clock
    from std_srvs.srv import SetBool, Trigger

    domain = free_domain()
    peer = Peer(domain, place / "logs")
    options = {"publish_clock": True, "clock_factor": 0.5, "cmd_timeout": 0.0}
    try:
        with ros_process(arguments(place, "", options), domain, place) as node:
            with peer.listening(Clock, "/clock") as ticks, peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:
                peer.wait_for(lambda: len(poses) > 3, 180.0)
                first, began = messages.nanoseconds(ticks[-1].clock), time.monotonic()
                peer.spin(1.5)
                ran = messages.nanoseconds(ticks[-1].clock) - first
                assert ran / NANO == pytest.approx(0.5 * (time.monotonic() - began), rel=0.2)
                peer.call(Trigger, "/mirage/reset")
                assert peer.call(SetBool, "/mirage/pause", SetBool.Request(data=True)).success
                peer.spin(0.3)
                stood = messages.nanoseconds(ticks[-1].clock)
                peer.spin(0.5)
                assert messages.nanoseconds(ticks[-1].clock) == stood
                assert peer.call(Trigger, "/mirage/step").success
                peer.wait_for(lambda: messages.nanoseconds(ticks[-1].clock) > stood)
            for times in ([t.clock for t in ticks], [p.header.stamp for p in poses]):
                assert (np.diff([messages.nanoseconds(t) for t in times]) >= 0).all(), node.output
    finally:
        peer.close()
