"""The services of simulation_interfaces answer as its definitions say; requests and answers are its own types."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from generated_types import can_generate, shared_types
from stand_ins import picture
from worlds import open_minded_model

from mirage_env.camera import Camera
from mirage_env.interfaces import StartView
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import CameraMount
from ros_bridge.services.simulation_services import SimulationServices
from ros_bridge.services.world_services import WorldControls

pytestmark = pytest.mark.skipif(not can_generate(), reason="no generators of rosidl, or no gcc")

UNSUPPORTED, OK, NOT_FOUND, _, FAILED = range(5)


@pytest.fixture
def services(tmp_path):
    """Callbacks by the topic of the service, the player, and the velocity that the publishers know."""
    shared_types()
    made = {}

    def create_service(kind, topic, callback, callback_group):
        made[topic] = (kind, callback)

    time = SimpleNamespace(stamp=lambda: 7)
    node = SimpleNamespace(create_service=create_service, time=time, streams=True)
    options = WorldParameters()
    view = StartView(picture(), Camera.from_fov(1.3, 32, 32).at(options.start_mount.camera(np.eye(4))))
    player = WorldPlayer(open_minded_model(), view, mount_of=lambda c: CameraMount.above_floor(c.T_world_cam))
    player.start()
    outputs = SimpleNamespace(velocity=(np.array([0.5, 0.0, 0.0]), np.zeros(3)))
    controls = WorldControls(player, lambda: options, lambda: None)
    refused = RejectedInputs(lambda text: None)
    SimulationServices(node, player, outputs, controls, lambda: options, refused, None)
    yield SimpleNamespace(made=made, player=player, folder=tmp_path, refused=refused)
    player.close(20.0)


def call(services, topic, **fields):
    kind, callback = services.made[f"~/{topic}"]
    return callback(kind.Request(**fields), kind.Response())


def code(services, topic, **fields):
    return call(services, topic, **fields).result.result


def state(value):
    from simulation_interfaces.msg import SimulationState

    return {"state": SimulationState(state=value)}


def entity(x=0.0, z=0.0, frame="map", w=1.0, forward=0.0):
    from simulation_interfaces.msg import EntityState

    made = EntityState()
    made.header.frame_id, made.pose.orientation.w, made.twist.linear.x = frame, w, forward
    made.pose.position.x, made.pose.position.z = x, z
    return made


def test_features_are_those_that_work(services):
    from simulation_interfaces.msg import SimulatorFeatures as Kinds

    found = set(call(services, "get_simulator_features").features.features)
    assert {Kinds.SIMULATION_RESET_STATE, Kinds.STEP_SIMULATION_MULTIPLE, Kinds.WORLD_LOADING} <= found
    assert {k for k in vars(Kinds) if k.startswith("_")}.isdisjoint(found)
    offered = {name.removeprefix("~/") for name in services.made}
    assert {"set_entity_state", "get_current_world", "load_world", "step_simulation"} <= offered


def test_states_follow_the_standard(services):
    from simulation_interfaces.srv import SetSimulationState

    again = SetSimulationState.Response.ALREADY_IN_TARGET_STATE
    wrong = SetSimulationState.Response.INCORRECT_TRANSITION
    for asked, answer, now in ((1, again, 1), (2, OK, 2), (2, again, 2), (0, OK, 0), (0, again, 0), (1, OK, 1)):
        assert code(services, "set_simulation_state", **state(asked)) == answer
        assert call(services, "get_simulation_state").state.state == now
    for asked, answer in ((3, UNSUPPORTED), (4, wrong), (5, wrong), (9, FAILED)):
        refused = call(services, "set_simulation_state", **state(asked)).result
        assert (refused.result, bool(refused.error_message)) == (answer, True)
    assert call(services, "get_simulation_state").state.state == 1
    assert services.refused.counts["simulation"] == 7


def show_frames(player, ended):
    """What the node's thread of frames does."""
    while not ended.wait(0.002):
        player.next_frame()


def test_steps_are_taken_while_paused_only(services):
    refused = call(services, "step_simulation", steps=1).result
    assert refused.result == FAILED
    assert "paused (2)" in refused.error_message
    assert code(services, "set_simulation_state", **state(2)) == OK
    assert code(services, "step_simulation", steps=0) == OK
    assert code(services, "step_simulation", steps=2**60) == FAILED, "it would never answer"
    shown, ended = threading.Event(), services.player.state.chunk + 2
    frames = threading.Thread(target=lambda: show_frames(services.player, shown))
    frames.start()
    try:
        assert code(services, "step_simulation", steps=2) == OK
    finally:
        shown.set()
        frames.join()
    assert services.player.state.chunk == ended
    assert services.player.paused


def test_a_reset_is_of_the_state_and_time_goes_on(services):
    for scope, answer in ((0, OK), (2, OK), (3, OK), (255, OK), (1, UNSUPPORTED), (4, UNSUPPORTED)):
        assert code(services, "set_entity_state", entity="base_link", state=entity(x=0.5), set_pose=True) == OK
        assert code(services, "reset_simulation", scope=scope) == answer
        assert base(services)[0, 3] == pytest.approx(0.0 if answer == OK else 0.5, abs=1e-6)


def base(services):
    return services.player.mount.base(services.player.state.camera.T_world_cam)


def test_the_base_can_be_put_elsewhere_and_stays_level(services):
    found = call(services, "get_entity_state", entity="base_link").state
    assert found.header.frame_id == "map"
    assert found.twist.linear.x == pytest.approx(0.5)
    asked = {"entity": "base_link", "set_pose": True}
    assert code(services, "set_entity_state", state=entity(x=0.5, z=3.0), **asked) == OK
    there = base(services)
    np.testing.assert_allclose(there[:3, 3], [0.5, 0.0, 0.0], atol=1e-9)
    assert code(services, "set_entity_state", entity="base_link", state=entity(x=9.0)) == OK
    np.testing.assert_array_equal(base(services), there)
    assert not services.player.stats().moving
    assert code(services, "set_entity_state", entity="base_link", state=entity(forward=0.3), set_twist=True) == OK
    assert services.player.stats().moving


def test_velocities_of_an_entity_are_in_the_map_whatever_way_it_faces(services, monkeypatch):
    left = entity(forward=0.3)
    left.pose.orientation.z = left.pose.orientation.w = math.sqrt(0.5)
    left.twist.linear.x, left.twist.linear.y = 0.0, 0.3
    commands = []
    monkeypatch.setattr(services.player, "command", commands.append)
    assert code(services, "set_entity_state", entity="base_link", state=left, set_pose=True, set_twist=True) == OK
    (given,) = commands
    np.testing.assert_allclose(given.linear, [0.3, 0.0, 0.0], atol=1e-9)
    found = call(services, "get_entity_state", entity="base_link").state.twist.linear
    np.testing.assert_allclose([found.x, found.y], [0.0, 0.5], atol=1e-9)


def test_an_entity_or_pose_that_cannot_be_has_its_own_code(services):
    from simulation_interfaces.srv import SetEntityState

    wrong = SetEntityState.Response.INVALID_POSE
    for name in ("table", ""):
        assert code(services, "get_entity_state", entity=name) == NOT_FOUND
        assert code(services, "set_entity_state", entity=name, state=entity(), set_pose=True) == NOT_FOUND
    for bad in (entity(w=0.0), entity(frame="odom"), entity(x=float("nan"))):
        assert code(services, "set_entity_state", entity="base_link", state=bad, set_pose=True) == wrong
    bad = entity(forward=float("inf"))
    assert code(services, "set_entity_state", entity="base_link", state=bad, set_twist=True) == FAILED


def test_the_current_world_is_told_with_the_cache_that_holds_it(services):
    world = call(services, "get_current_world").world
    assert (world.name, world.world_resource.uri) == (services.player.model.config.name, "")
    assert f"{services.player.state.memory.points} points" in world.description


def test_worlds_are_loaded_by_path_or_fork_and_stand_stopped(services):
    from simulation_interfaces.msg import Resource
    from simulation_interfaces.srv import LoadWorld

    saved, kinds = services.folder / "world.zarr", LoadWorld.Response
    services.player.save(saved)
    services.player.save(services.folder / "broken.zarr")
    (services.folder / "broken.zarr/zarr.json").write_text("nonsense")
    done = call(services, "load_world", world_resource=Resource(uri=str(saved)))
    assert (done.result.result, done.world.name, done.world.world_resource.uri) == (OK, "world", str(saved))
    assert call(services, "get_simulation_state").state.state == 0
    services.player.fork()
    for resource, answer in (
        (Resource(uri="1"), OK),
        (Resource(), kinds.NO_RESOURCE),
        (Resource(resource_string="<sdf/>"), kinds.UNSUPPORTED_FORMAT),
        (Resource(uri="s3://bucket/world.zarr"), kinds.UNSUPPORTED_FORMAT),
        (Resource(uri=str(services.folder / "nothing.zarr")), NOT_FOUND),
        (Resource(uri=str(services.folder / "broken.zarr")), kinds.RESOURCE_PARSE_ERROR),
    ):
        assert code(services, "load_world", world_resource=resource) == answer
