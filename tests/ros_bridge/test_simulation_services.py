"""The standard services of simulators drive a player; requests and answers are stood in for: no wheel has them."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from stand_ins import picture
from worlds import open_minded_model

from mirage_env.camera import Camera
from mirage_env.interfaces import StartView
from ros_bridge.nodes.rejected_inputs import RejectedInputs
from ros_bridge.nodes.simulation_services import SimulationServices, simulation_types
from ros_bridge.nodes.world_services import WorldControls
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import CameraMount

pytest.importorskip("rclpy", reason="no rclpy: pip install 'mirage-env[ros]'")

NAMES = (
    "GetSimulatorFeatures",
    "ResetSimulation",
    "StepSimulation",
    "GetSimulationState",
    "SetSimulationState",
    "GetEntityState",
    "SetEntityState",
    "LoadWorld",
)


@pytest.fixture
def services(monkeypatch, tmp_path):
    """Callbacks by the topic of the service, and the player."""
    module = ModuleType("simulation_interfaces.srv")
    for name in NAMES:
        setattr(module, name, name)
    monkeypatch.setitem(sys.modules, "simulation_interfaces", ModuleType("simulation_interfaces"))
    monkeypatch.setitem(sys.modules, "simulation_interfaces.srv", module)
    made = {}
    node = SimpleNamespace(
        create_service=lambda kind, topic, callback, callback_group: made.setdefault(topic, callback),
        time=SimpleNamespace(stamp=lambda: 7),
    )
    options = WorldParameters()
    view = StartView(picture(), Camera.from_fov(1.3, 32, 32).at(options.start_mount.camera(np.eye(4))))
    player = WorldPlayer(open_minded_model(), view, mount_of=lambda c: CameraMount.above_floor(c.T_world_cam))
    player.start()
    controls = WorldControls(player, lambda: options, lambda: None)
    SimulationServices(node, player, controls, lambda: options, RejectedInputs(lambda text: None), None)
    yield SimpleNamespace(made=made, player=player, folder=tmp_path)
    player.close(20.0)


def call(services, topic, **fields):
    response = SimpleNamespace(
        result=SimpleNamespace(result=0, error_message=""),
        state=SimpleNamespace(state=0),
        features=type("SimulatorFeatures", (), {"SIMULATION_RESET": 20, "features": [], "custom_info": ""})(),
    )
    return services.made[f"~/{topic}"](SimpleNamespace(**fields), response)


def state(value):
    return {"state": SimpleNamespace(state=value)}


def test_without_the_package_there_are_no_services():
    assert simulation_types() is None


def test_features_are_those_that_the_installed_version_knows(services):
    assert call(services, "get_simulator_features").features.features == [20]


def test_state_and_steps_follow_the_standard(services):
    refused = call(services, "step_simulation", steps=1).result
    assert refused.result == 4
    assert "paused first" in refused.error_message
    assert call(services, "set_simulation_state", **state(2)).result.result == 1
    assert call(services, "get_simulation_state").state.state == 2
    services.player.next_frame()
    assert call(services, "step_simulation", steps=1).result.result == 1
    assert call(services, "set_simulation_state", **state(9)).result.result == 4
    assert call(services, "set_simulation_state", **state(1)).result.result == 1
    assert call(services, "get_simulation_state").state.state == 1
    assert call(services, "reset_simulation").result.result == 1


def test_the_base_can_be_put_elsewhere_and_stays_level(services):
    found = call(services, "get_entity_state", entity="base_link").state
    assert found.header.frame_id == "map"
    found.pose.position.x, found.pose.position.z = 0.5, 3.0
    assert call(services, "set_entity_state", entity="base_link", state=found).result.result == 1
    base = services.player.mount.base(services.player.state.camera.T_world_cam)
    np.testing.assert_allclose(base[:3, 3], [0.5, 0.0, 0.0], atol=1e-9)
    assert call(services, "get_entity_state", entity="table").result.result == 4


def test_worlds_are_loaded_by_path_or_fork(services):
    services.player.save(services.folder / "world.zarr")
    assert call(services, "load_world", uri=str(services.folder / "world.zarr")).result.result == 1
    services.player.fork()
    assert call(services, "load_world", uri="1").result.result == 1
    assert call(services, "load_world", uri="").result.result == 4
