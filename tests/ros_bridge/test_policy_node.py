"""A policy drives over topics as it drives the environment, and stops what it drives when in doubt."""

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ros_process import PATIENCE, Peer, free_domain, needs_ros, node_arguments, ros_process

from mirage_env.camera import Camera
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.spaces.actions import RelativePose
from ros_bridge.messages.optical_frames import body_from_optical
from ros_bridge.motion.motion_commands import velocity_between
from ros_bridge.nodes.policy_actions import motion_of, observation_of
from ros_bridge.parameters.policy_parameters import PolicyParameters
from ros_bridge.sensing.camera_mount import AT_CAMERA, CameraMount

SHARES = st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6)
RUN = "import sys; from ros_bridge.nodes.policy_node import main; sys.exit(main())"


@given(SHARES, st.floats(0.1, 5.0))
def test_velocity_leads_where_the_environment_leads(action, seconds):
    """A constant velocity of the body, for that time, ends where the chunk of this action ends."""
    start = Camera.from_fov(1.3, 32, 32)
    end = RelativePose(8).cameras(np.array(action), start)[-1]
    linear, angular = velocity_between(AT_CAMERA.body_motion(motion_of(action, 1.0, 0.7)), seconds)
    count = 2000
    T_step = pose_from_rotation_vector(linear * seconds / count, angular * seconds / count)
    T = np.linalg.matrix_power(T_step, count)
    np.testing.assert_allclose(T, body_from_optical(end.T_world_cam), atol=2e-3)


@given(SHARES)
def test_goal_is_where_the_environment_leads(action):
    start = Camera.from_fov(1.3, 32, 32, T_world_cam=pose_from_rotation_vector([1.0, 2.0, 3.0], [0.3, -0.2, 0.1]))
    end = RelativePose(8).cameras(np.array(action), start)[-1]
    goal = body_from_optical(start.T_world_cam) @ AT_CAMERA.body_motion(motion_of(action, 1.0, 0.7))
    np.testing.assert_allclose(goal, body_from_optical(end.T_world_cam), atol=1e-6)


def test_forward_is_x_and_turning_right_is_negative_z():
    mount = CameraMount.looking(1.2)
    linear, angular = velocity_between(mount.body_motion(motion_of([0, 0, 1, 0, 0, 0], 0.5, 0.7)), 2.0)
    np.testing.assert_allclose(linear, [0.25, 0.0, 0.0], atol=1e-9)
    linear, angular = velocity_between(mount.body_motion(motion_of([0, 0, 0, 0, 1, 0], 0.5, 0.6)), 2.0)
    np.testing.assert_allclose(angular, [0.0, 0.0, -0.3], atol=1e-9)


def test_actions_are_clipped_and_nonsense_is_refused():
    np.testing.assert_array_equal(motion_of([0, 0, 9, 0, 0, 0], 0.5, 0.7)[:3, 3], [0.0, 0.0, 0.5])
    for wrong in ([np.nan] * 6, [0.0] * 5):
        with pytest.raises(InvalidActionError, match="6 finite numbers"):
            motion_of(wrong, 1.0, 1.0)


def test_images_of_another_size_are_cropped_and_resized():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 10:50] = 200
    seen = observation_of(image, np.eye(4), (32, 32))
    assert seen["pixels"].shape == (32, 32, 3)
    assert (seen["pixels"][:, 2:-2] == 200).all(), "the middle of the image"
    assert seen["pixels"].min() > 150
    as_it_came = observation_of(image, np.eye(4))["pixels"]
    np.testing.assert_array_equal(as_it_came, image)
    assert not np.shares_memory(as_it_came, image)
    np.testing.assert_array_equal(seen["agent_pos"], np.float32([0, 0, 0, 1, 0, 0, 0]))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rate": 0.0}, "from 0.01 to 100"),
        ({"command": "fly"}, "goal_pose"),
        ({"command": "goal_pose", "needs_pose": False}, "needs_pose"),
        ({"width": 64}, "both"),
        ({"seed": 1.5}, "type int"),
    ],
)
def test_wrong_parameter_says_what_is_allowed(wrong, says):
    with pytest.raises(InvalidOptionError, match=says):
        PolicyParameters(**wrong)


def test_frame_of_poses_has_the_prefix_unless_it_begins_with_a_slash():
    assert PolicyParameters(frame_prefix="robot1/").map == "robot1/map"
    assert PolicyParameters(frame_prefix="robot1/", map_frame="/map").map == "map"


@needs_ros
def test_policy_is_made_by_name_with_its_settings(monkeypatch):
    from ros_bridge.nodes.policy_node import make_policy

    assert make_policy("forward", "speed=0.25").act({})[2] == 0.25
    own = ModuleType("own_policies")
    own.make = lambda name, gain=1: (name, gain)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_policies", own)
    assert make_policy("own_policies:make", "name='two words' gain=3") == ("two words", 3)


@needs_ros
@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("waltz", "", "still, forward, look_around, orbit"),
        ("forward", "pace=1", r"\['speed'\]"),
        ("forward", "speed", "speed=VALUE"),
        ("no_such_module:make", "", "imported"),
        ("math:make", "", "imported"),
    ],
)
def test_wrong_policy_lists_what_there_is(name, settings, says):
    from ros_bridge.nodes.policy_node import make_policy

    with pytest.raises(InvalidOptionError, match=says):
        make_policy(name, settings)


@pytest.fixture
def robot(tmp_path):
    """A peer that stands for a robot: its domain, and it."""
    domain = free_domain()
    peer = Peer(domain, tmp_path / "ros_logs")
    yield domain, peer
    peer.close()


def sends(peer, seconds=0.0, frame="map", size=(8, 8)):
    """Send one image and one pose, a metre ahead of the origin."""
    from ros_bridge import messages

    T_map_base = np.eye(4)
    T_map_base[0, 3] = 1.0
    stamp = peer.node.get_clock().now().nanoseconds
    peer.publish("/mirage/pose", messages.pose_stamped_message(T_map_base, stamp, frame))
    peer.publish("/mirage/image_raw", messages.image_message(np.zeros((*size, 3), np.uint8), stamp, "camera"))
    peer.spin(seconds)


@needs_ros
def test_velocities_follow_images_and_end_with_them(tmp_path, robot):
    from geometry_msgs.msg import Twist

    domain, peer = robot
    options = {"policy": "forward", "settings": "speed=0.5", "rate": 10.0, "image_timeout": 0.5, "max_translation": 0.2}
    with (
        peer.listening(Twist, "/cmd_vel") as got,
        ros_process(node_arguments("ros_bridge.nodes.policy_node", options), domain, tmp_path) as node,
    ):
        peer.wait_for(lambda: len(got) > 2)
        assert not any(twist.linear.x for twist in got), "it has seen nothing yet"
        peer.wait_for(lambda: sends(peer, 0.05) or got[-1].linear.x)
        assert got[-1].linear.x == pytest.approx(0.5 * 0.2 * 10.0)
        peer.wait_for(lambda: got[-1].linear.x == 0.0)

        peer.wait_for(lambda: sends(peer, 0.05) or got[-1].linear.x)
        node.interrupt()
        assert node.wait(PATIENCE) == 0, node.output
        peer.wait_for(lambda: got[-1].linear.x == 0.0)
    assert "Traceback" not in node.output


@needs_ros
def test_goals_are_given_from_the_pose(tmp_path, robot):
    from geometry_msgs.msg import PoseStamped

    domain, peer = robot
    options = {"policy": "forward", "rate": 5.0, "command": "goal_pose", "max_translation": 0.5}
    with (
        peer.listening(PoseStamped, "/mirage/goal_pose") as got,
        ros_process(node_arguments("ros_bridge.nodes.policy_node", options), domain, tmp_path),
    ):
        peer.wait_for(lambda: sends(peer, 0.05) or got)
    assert got[0].header.frame_id == "map"
    assert got[0].pose.position.x == pytest.approx(1.5)


@needs_ros
def test_bad_input_is_refused_and_the_node_lives(tmp_path, robot):
    from geometry_msgs.msg import Twist

    domain, peer = robot
    options = {"policy": "forward", "rate": 20.0}
    with (
        peer.listening(Twist, "/cmd_vel") as got,
        ros_process(node_arguments("ros_bridge.nodes.policy_node", options), domain, tmp_path) as node,
    ):
        peer.wait_for(lambda: sends(peer, 0.05, frame="odom") or (got and "'odom'" in node.output))
        assert not any(twist.linear.x for twist in got)
        peer.wait_for(lambda: sends(peer, 0.05) or got[-1].linear.x)
        assert node.alive


@needs_ros
def test_wrong_policy_ends_the_node(tmp_path):
    with ros_process(["-c", RUN, "--ros-args", "-p", "policy:=waltz"], free_domain(), tmp_path) as node:
        assert node.wait(PATIENCE) == 2
    assert "look_around" in node.output
    assert "Traceback" not in node.output


@needs_ros
def test_lifecycle_leads_the_node(tmp_path, robot):
    from geometry_msgs.msg import Twist
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    domain, peer = robot

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return peer.call(ChangeState, "/mirage_policy/change_state", request).success

    options = {"policy": "forward", "rate": 20.0, "autostart": False}
    with (
        peer.listening(Twist, "/cmd_vel") as got,
        ros_process(node_arguments("ros_bridge.nodes.policy_node", options), domain, tmp_path) as node,
    ):
        for _ in range(2):
            assert change(Transition.TRANSITION_CONFIGURE)
            assert change(Transition.TRANSITION_ACTIVATE)
            peer.wait_for(lambda: sends(peer, 0.05) or (got and got[-1].linear.x))
            assert change(Transition.TRANSITION_DEACTIVATE)
            peer.wait_for(lambda: got[-1].linear.x == 0.0)
            assert change(Transition.TRANSITION_CLEANUP)
            got.clear()
        node.interrupt()
        assert node.wait(PATIENCE) == 0, node.output
