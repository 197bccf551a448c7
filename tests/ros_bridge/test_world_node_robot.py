"""A robot beside the world node: its RGB-D views go in, two worlds share a domain, time is the node's."""

import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from generated_types import needs_generated_types
from ros_process import PATIENCE, Peer, free_domain, needs_ros, ros_process
from world_nodes import RATE, START_SECONDS, kind, latched, saved_world, world_arguments

from mirage_env.camera import Camera
from mirage_env.poses import pose_from_rotation_vector
from ros_bridge import messages
from ros_bridge.messages.message_types import NANO, time_message
from ros_bridge.sensing.camera_mount import CameraMount
from ros_bridge.timing.simulation_clock import SimulationClock

LENS = Camera.from_fov(1.2, 60, 80)
MOUNT = CameraMount.looking(0.9, math.radians(8.0)).T_base_optical
HOLDS = 2.0
"""Seconds of a velocity."""
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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved_world(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def robots(place):
    """Two nodes in one domain, each of which observes a robot: by /tf, and by its odometry and poses."""
    domain = free_domain()
    peer = Peer(domain, place / "logs")
    first = {"observe": True, "frame_prefix": "imagined/", "map_frame": "/map", "observe_overlap": 0.8}
    mount = {"observe_mount": "0 0 0.9 0 8 0", "observe_frame": "odom", "observe_body": "robot2_base"}
    second = {"frame_prefix": "robot2/", "cmd_timeout": 0.0, "observe": True, "observe_overlap": 1.0, **mount}
    try:
        with (
            ros_process(world_arguments(place, "/robot1", **first), domain, place) as one,
            ros_process(world_arguments(place, "/robot2", **second), domain, place) as two,
        ):
            for name, node in (("robot1", one), ("robot2", two)):
                with peer.listening(kind("PoseStamped"), f"/{name}/mirage/pose") as poses:
                    try:
                        peer.wait_for(lambda poses=poses: poses, START_SECONDS)
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

    def second():
        found = [t for m in moving for t in m.transforms if t.child_frame_id.startswith("robot2")]
        return [t.transform.translation.x for t in found]

    def links():
        return {(t.header.frame_id, t.child_frame_id) for m in moving for t in m.transforms}

    with (
        peer.listening(TFMessage, "/tf") as moving,
        peer.listening(kind("PoseStamped"), "/robot1/mirage/pose") as poses,
    ):
        peer.publish("/robot2/cmd_vel", messages.twist_message([0.5, 0, 0], [0, 0, 0]))
        peer.wait_for(lambda: len(poses) > 20 and second() and second()[-1] > second()[0] + 0.1)
        peer.wait_for(lambda: len(links()) > 1)
        peer.publish("/robot2/cmd_vel", messages.twist_message([0, 0, 0], [0, 0, 0]))
    assert links() == {("imagined/odom", "imagined/base_link"), ("robot2/odom", "robot2/base_link")}
    assert {m.header.frame_id for m in poses} == {"map"}, "a name that begins with / has no prefix"
    assert len({m.pose.position.x for m in poses}) == 1, "a velocity of robot2 moves robot2 only"


def views(stamp, value, frame="cam"):
    """Image, depth 20 ms later, and CameraInfo of a wall two metres ahead."""
    image = np.full((60, 80, 3), value, np.uint8)
    image[::7] = 255 - value
    depth = np.full((60, 80), 2.0, np.float32)
    return (
        ("image", messages.image_message(image, stamp, frame)),
        ("depth", messages.depth_message(depth, stamp + LATE, frame)),
        ("camera_info", messages.camera_info_message(LENS, stamp, frame)),
    )


def show(peer, namespace, stamp, value, frame="cam"):
    """Send a view, best effort as cameras do."""
    for topic, message in views(stamp, value, frame):
        peer.publish(f"{namespace}/mirage/observe/{topic}", message, quality=kind("qos_profile_sensor_data"))


def drive(peer, poses):
    """A robot that shows what it sees at 10 Hz, and then where it was; some of it may be lost on a busy machine."""
    link = messages.transform_message(MOUNT, 0, "base_link", "cam")
    peer.publish("/tf_static", messages.transforms_message([link]), quality=latched())
    for i, T in enumerate(poses):
        stamp = peer.node.get_clock().now().nanoseconds
        show(peer, "/robot1", stamp, 60 + 5 * (i % 8))
        for at in (stamp - 10_000_000, stamp + 30_000_000):
            peer.publish("/tf", messages.transforms_message([messages.transform_message(T, at, "map", "base_link")]))
        peer.spin(0.1)


@needs_generated_types
def test_a_robots_views_open_the_world_in_its_map_and_a_standing_robot_does_not_fill_it(robots):
    peer = robots.peer
    start = pose_from_rotation_vector([3.0, -1.0, 0.0], [0.0, 0.0, 0.5])

    def count(what):
        return int(diagnostics(peer, "robot1")[1][what])

    with peer.listening(kind("PoseStamped"), "/robot1/mirage/camera_pose") as poses:

        def there():
            return poses and abs(poses[-1].pose.position.x - (start @ MOUNT)[0, 3]) < 0.01

        try:
            peer.wait_for(lambda: drive(peer, [start] * 5) or there())
        except TimeoutError:
            pytest.fail(robots.one.output)
    np.testing.assert_allclose(messages.pose_from_stamped(poses[-1], "map"), start @ MOUNT, atol=1e-3)
    peer.wait_for(lambda: drive(peer, [start] * 5) or count("observed views known") > 0)
    points, known = count("memory points"), count("observed views known")
    peer.wait_for(lambda: drive(peer, [start] * 5) or count("observed views known") > known)
    assert count("memory points") == points
    assert count("observed views written") <= 3
    turned = [start @ pose_from_rotation_vector([0.0, 0.0, 0.0], [0.0, 0.0, 0.12 * i]) for i in range(12)]
    peer.wait_for(lambda: drive(peer, turned) or count("memory points") > points)


@needs_ros
def test_views_that_do_not_match_or_have_no_pose_are_said(robots):
    peer = robots.peer
    best_effort = kind("qos_profile_sensor_data")
    base = peer.node.get_clock().now().nanoseconds

    def send(stamp, frame="cam", late=0):
        for topic, message in views(stamp, 9):
            message.header.frame_id = frame
            if topic == "depth":
                message.header.stamp = time_message(stamp + late)
            peer.publish(f"/robot1/mirage/observe/{topic}", message, quality=best_effort)
        peer.spin(0.02)

    def until(condition, stamps, **options):
        """Send views, some of which may be lost, until a status of the node says so."""
        end, status = time.monotonic() + PATIENCE, []
        with peer.listening(kind("DiagnosticArray"), "/diagnostics") as got:
            while not condition(status[-1] if status else None):
                assert time.monotonic() < end, robots.one.output
                send(next(stamps), **options)
                status = [m.status[0] for m in got if m.status[0].name == "/robot1/mirage"]

    def refused(status):
        return int({v.key: v.value for v in status.values}.get("refused observe", 0)) if status else 0

    apart = itertools.count(base, NANO // 2)
    until(lambda status: status and "200 ms apart" in status.message, apart, late=200_000_000)
    before = refused(diagnostics(peer, "robot1")[0])
    until(lambda status: refused(status) > before, itertools.count(next(apart) + 100 * NANO, NANO), frame="elsewhere")
    assert "observe_mount" in robots.one.output


@needs_ros
def test_poses_of_a_robot_come_from_odometry_or_poses_where_tf_is_silent(robots):
    """The mount is a parameter, and the robot is faster than its poses are often: they are interpolated."""
    peer = robots.peer

    def at(x, seconds):
        return pose_from_rotation_vector([x + 10.0 * seconds, 1.0, 0.0], [0.0, 0.0, 0.7])

    def send(topic, x, stamp):
        for seconds in (-0.01, 0.03):
            T, then = at(x, seconds), stamp + round(seconds * NANO)
            odometry = messages.odometry_message(T, np.zeros(3), np.zeros(3), then, "odom", "robot2_base")
            message = odometry if topic == "odom" else messages.pose_stamped_message(T, then, "odom")
            quality = kind("qos_profile_sensor_data")
            peer.publish(f"/robot2/mirage/observe/{topic}", message, quality=quality)

    with peer.listening(kind("PoseStamped"), "/robot2/mirage/camera_pose") as shown:
        peer.wait_for(lambda: shown)
        for topic, x in (("odom", 2.0), ("pose", -300.0)):
            end, sent = time.monotonic() + PATIENCE, []
            while not any(np.allclose(messages.pose_from_stamped(shown[-1]), T, atol=1e-3) for T in sent):
                assert time.monotonic() < end, robots.two.output  # best effort: some messages may be lost
                stamp, x = peer.node.get_clock().now().nanoseconds, x + 1.0
                show(peer, "/robot2", stamp, 60, "cam2")
                send(topic, x, stamp)
                sent.append(at(x, 0.0) @ MOUNT)
                peer.spin(0.1)


@needs_ros
def test_a_velocity_expires_by_the_clock_of_the_simulation(place):
    """A velocity that holds for two seconds goes on after a pause of the clock, and ends with its time."""
    from rosgraph_msgs.msg import Clock

    domain = free_domain()
    peer = Peer(domain, place / "logs")
    options = {"use_sim_time": True, "cmd_timeout": HOLDS, "max_speed": 2.0}
    try:
        with (
            ros_process(world_arguments(place, **options), domain, place) as node,
            peer.listening(kind("PoseStamped"), "/mirage/pose") as poses,
        ):
            clock, now = peer.node.create_publisher(Clock, "/clock", 10), [100 * NANO]

            def tick():
                clock.publish(Clock(clock=time_message(now[0])))
                peer.spin(0.005)

            def shown():
                return messages.nanoseconds(poses[-1].header.stamp) if poses else 0

            def play(frames):
                """Let time go on, a frame at a time, each when the node has shown the one before.

                One that is due at this very time may be shown with the next: both sides round.
                """
                for _ in range(frames):
                    now[0] += round(NANO / RATE)
                    peer.wait_for(lambda: tick() or shown() > now[0] - 1.5 * NANO / RATE)
                return poses[-1].pose.position.x

            peer.wait_for(lambda: tick() or shown(), START_SECONDS)

            def pushed():
                """Tell whether a velocity moves it: its time may be over before a busy machine has made a chunk."""
                peer.publish("/cmd_vel", messages.twist_message([0.5, 0, 0], [0, 0, 0]))
                return any(play(1) > 0.0 for _ in range(round(1.5 * HOLDS * RATE)))

            peer.wait_for(pushed)
            before = poses[-1].pose.position.x
            peer.spin(1.2 * HOLDS)  # longer than the velocity holds by any other clock
            peer.wait_for(lambda: play(1) > before + 0.1)
            play(round(1.5 * HOLDS * RATE))
            stands = poses[-1].pose.position.x
            assert stands == play(8), "its time is over"
            assert stands <= 0.5 * (HOLDS + 8 / RATE)
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
        with ros_process(world_arguments(place, **options), domain, place) as node:
            ticks = []  # time of the simulation, and when it was sent

            def ticked(message, info):
                ticks.append((messages.nanoseconds(message.clock), info["source_timestamp"]))

            peer.node.create_subscription(Clock, "/clock", ticked, 100)
            with peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:
                peer.wait_for(lambda: len(poses) > 3 and ticks, START_SECONDS)
                peer.wait_for(lambda: ticks[-1][0] > ticks[0][0] + NANO // 2)
                # A tick may be sent late, but not all of them.
                ahead = [sent - 2 * time for time, sent in ticks]
                half = len(ahead) // 2
                assert abs(min(ahead[half:]) - min(ahead[:half])) < 0.1 * NANO
                peer.call(Trigger, "/mirage/reset")
                assert peer.call(SetBool, "/mirage/pause", SetBool.Request(data=True)).success
                peer.wait_for(lambda: ticks[-1][0] == ticks[-2][0])
                stood = ticks[-1][0]
                peer.spin(0.3)
                assert ticks[-1][0] == stood
                assert peer.call(Trigger, "/mirage/step").success
                peer.wait_for(lambda: ticks[-1][0] > stood)
            for times in ([t for t, _ in ticks], [messages.nanoseconds(p.header.stamp) for p in poses]):
                assert (np.diff(times) >= 0).all(), node.output
    finally:
        peer.close()
