"""Standard clients drive the world node: Nav2's actions and bond, and the services of simulators, over the network."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from generated_types import can_generate
from ros_process import Peer, free_domain, ros_process
from world_nodes import START_SECONDS, kind, saved_world, world_arguments

from ros_bridge import messages

pytestmark = pytest.mark.skipif(not can_generate(), reason="no generators of rosidl, or no gcc")

SPEED = 0.5
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6
"""Values of action_msgs/GoalStatus."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = saved_world(tmp_path_factory.mktemp("standards"))
    domain = free_domain()
    peer = Peer(domain, place / "logs")
    try:
        options = {"max_speed": SPEED, "cmd_timeout": 0.0}
        with ros_process(world_arguments(place, **options), domain, place) as node:
            with peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:
                try:
                    peer.wait_for(lambda: poses, START_SECONDS)
                except TimeoutError:
                    pytest.fail(node.output)
            yield SimpleNamespace(node=node, peer=peer)
    finally:
        peer.close()


def pose_now(peer):
    """`T_map_base`."""
    with peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:
        peer.wait_for(lambda: poses)
    return messages.pose_from_stamped(poses[-1], "map")


def ahead(peer, metres):
    T = pose_now(peer)
    T[:3, 3] += metres * T[:3, 0]
    return T


def stamped(T, frame="map"):
    return messages.pose_stamped_message(T, 0, frame)


@pytest.fixture
def ask(world):
    """Sends a goal of an action; gives its handle, its result as a future, and its feedback as it comes."""
    from nav2_msgs.action import FollowPath, NavigateToPose
    from rclpy.action import ActionClient

    peer, clients = world.peer, []

    def ask(topic, **goal):
        action = {"follow_path": FollowPath, "navigate_to_pose": NavigateToPose}[topic]
        clients.append(ActionClient(peer.node, action, f"/mirage/{topic}"))
        peer.wait_for(clients[-1].server_is_ready)
        feedback = []
        sent = clients[-1].send_goal_async(action.Goal(**goal), lambda m: feedback.append(m.feedback))
        peer.wait_for(sent.done)
        handle = sent.result()
        assert handle.accepted
        return SimpleNamespace(handle=handle, result=handle.get_result_async(), feedback=feedback)

    yield ask
    for client in clients:
        client.destroy()


def outcome(peer, asked):
    peer.wait_for(asked.result.done)
    return asked.result.result()


def test_a_pose_is_navigated_to_with_feedback(world, ask):
    goal = ahead(world.peer, 0.4)
    asked = ask("navigate_to_pose", pose=stamped(goal))
    assert outcome(world.peer, asked).status == SUCCEEDED
    np.testing.assert_allclose(pose_now(world.peer), goal, atol=1e-6)
    left = [f.distance_remaining for f in asked.feedback]
    assert len(left) > 2
    assert (np.diff(left) <= 1e-6).all()
    assert 0.0 <= left[-1] < left[0] <= 0.4 + 1e-6
    one = asked.feedback[len(left) // 2]
    assert one.current_pose.header.frame_id == "map"
    T = messages.pose_from_stamped(one.current_pose)
    assert np.linalg.norm(goal[:3, 3] - T[:3, 3]) == pytest.approx(one.distance_remaining, abs=3 * SPEED / 25.0)
    times = [messages.nanoseconds(f.navigation_time) for f in asked.feedback]
    assert (np.diff(times) > 0).all()


def test_a_goal_where_the_base_is_already_succeeds(world, ask):
    here = pose_now(world.peer)
    assert outcome(world.peer, ask("navigate_to_pose", pose=stamped(here))).status == SUCCEEDED


def test_a_path_that_is_cancelled_stops_on_the_way(world, ask):
    start = pose_now(world.peer)
    far = [stamped(ahead(world.peer, metres)) for metres in (2.0, 50.0)]
    asked = ask("follow_path", path=messages.path_message(far, 0, "map"))
    world.peer.wait_for(lambda: [f for f in asked.feedback if f.speed > 0.5 * SPEED])
    assert asked.feedback[-1].distance_to_goal < 50.0
    cancelled = asked.handle.cancel_goal_async()
    world.peer.wait_for(cancelled.done)
    assert len(cancelled.result().goals_canceling) == 1
    assert outcome(world.peer, asked).status == CANCELED
    with world.peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:
        world.peer.wait_for(lambda: len(poses) > 20 and len({p.pose.position.x for p in poses[-20:]}) == 1)
    assert 0.0 < np.linalg.norm(pose_now(world.peer)[:3, 3] - start[:3, 3]) < 49.0


@pytest.mark.parametrize("by", ["goal", "velocity", "reset"])
def test_whatever_else_moves_the_base_ends_a_goal(world, ask, by):
    from std_srvs.srv import Trigger

    first = ask("navigate_to_pose", pose=stamped(ahead(world.peer, 50.0)))
    world.peer.wait_for(lambda: first.feedback)
    if by == "goal":
        second = ask("navigate_to_pose", pose=stamped(pose_now(world.peer)))
        assert outcome(world.peer, second).status == SUCCEEDED
    elif by == "velocity":
        world.peer.publish("/cmd_vel", messages.twist_message([-0.2, 0, 0], [0, 0, 0]))
    else:
        assert world.peer.call(Trigger, "/mirage/reset").success
    ended = outcome(world.peer, first)
    assert ended.status == ABORTED
    assert "another" in ended.result.error_msg
    if by == "velocity":  # stands before the next goal, which a command that comes late would end
        with world.peer.listening(kind("PoseStamped"), "/mirage/pose") as poses:
            world.peer.wait_for(lambda: len({p.pose.position.x for p in poses}) > 1)
            world.peer.publish("/cmd_vel", messages.twist_message([0, 0, 0], [0, 0, 0]))
            world.peer.wait_for(lambda: len({p.pose.position.x for p in poses[-12:]}) == 1)


@pytest.mark.parametrize(("frame", "w", "says"), [("odom", 1.0, "'odom'"), ("map", 0.0, "length 0")])
def test_a_path_that_cannot_be_is_aborted_with_the_reason(world, ask, frame, w, says):
    wrong = stamped(np.eye(4), frame)
    wrong.pose.orientation.w = w
    asked = ask("follow_path", path=messages.path_message([wrong], 0, frame))
    ended = outcome(world.peer, asked)
    assert ended.status == ABORTED
    assert ended.result.error_code == ended.result.INVALID_PATH
    assert says in ended.result.error_msg


def test_the_lifecycle_managers_bond_is_formed_kept_and_broken_with_the_node(world):
    from bond.msg import Status
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert world.peer.call(ChangeState, "/mirage/change_state", request).success

    with world.peer.listening(Status, "/bond") as heard:
        world.peer.wait_for(lambda: len(heard) > 3)
        instances = {m.instance_id for m in heard}
        assert {m.id for m in heard} == {"mirage"}
        assert len(instances) == 1
        assert all(m.active for m in heard)
        assert heard[-1].heartbeat_timeout > 3 * heard[-1].heartbeat_period > 0.0
        change(Transition.TRANSITION_DEACTIVATE)
        world.peer.wait_for(lambda: not heard[-1].active)
        world.peer.quiet(heard)  # a node that is not active has no heart
        heard.clear()
        change(Transition.TRANSITION_ACTIVATE)
        world.peer.wait_for(lambda: heard and heard[-1].active)
        assert heard[-1].instance_id not in instances
        broken = Status(id="mirage", instance_id="manager", active=False)
        world.peer.publish("/bond", Status(id="another", instance_id="manager", active=False))
        assert heard[-1].active
        world.peer.insist("/bond", broken, lambda: [m for m in heard if m.instance_id != "manager" and not m.active])
    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_ACTIVATE)


def test_a_client_of_simulators_pauses_steps_moves_and_resets_the_world(world):
    from simulation_interfaces import srv
    from simulation_interfaces.msg import Result, SimulationState, SimulatorFeatures

    def call(name, topic, **fields):
        service = getattr(srv, name)
        return world.peer.call(service, f"/mirage/{topic}", service.Request(**fields))

    offered = set(call("GetSimulatorFeatures", "get_simulator_features").features.features)
    assert {SimulatorFeatures.STEP_SIMULATION_MULTIPLE, SimulatorFeatures.WORLD_LOADING} <= offered
    assert SimulatorFeatures.SPAWNING not in offered
    paused = SimulationState(state=SimulationState.STATE_PAUSED)
    assert call("SetSimulationState", "set_simulation_state", state=paused).result.result == Result.RESULT_OK
    assert call("GetSimulationState", "get_simulation_state").state.state == SimulationState.STATE_PAUSED
    world.peer.publish("/cmd_vel", messages.twist_message([0.2, 0, 0], [0, 0, 0]))
    before = call("GetEntityState", "get_entity_state", entity="base_link").state
    assert call("StepSimulation", "step_simulation", steps=2).result.result == Result.RESULT_OK
    after = call("GetEntityState", "get_entity_state", entity="base_link").state
    moved = math.dist(*((s.pose.position.x, s.pose.position.y) for s in (before, after)))
    assert moved == pytest.approx(2 * 4 * 0.2 / 25.0, rel=1e-3), "two chunks of four frames, and they are shown"
    world.peer.publish("/cmd_vel", messages.twist_message([0, 0, 0], [0, 0, 0]))
    assert call("ResetSimulation", "reset_simulation").result.result == Result.RESULT_OK
    playing = SimulationState(state=SimulationState.STATE_PLAYING)
    assert call("SetSimulationState", "set_simulation_state", state=playing).result.result == Result.RESULT_OK
