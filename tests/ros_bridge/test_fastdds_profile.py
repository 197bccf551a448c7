"""Room for large images: the node takes the shipped profile, and what its user has chosen stays."""

import os
import xml.etree.ElementTree as ET

import pytest
from ros_process import needs_ros

from mirage_env.errors import InvalidOptionError
from ros_bridge.fastdds_profile import CHOSEN, FILES, PROFILE, make_room

RAW_RGBD = 640 * 480 * (3 + 2)
"""Bytes of a view as most cameras send it."""


@pytest.mark.parametrize(
    ("release", "name"), [("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"), ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE")]
)
def test_a_node_names_the_shipped_profile_as_its_release_reads_it(tmp_path, release, name):
    environment = {"ROS_DISTRO": release}
    assert make_room(environment, tmp_path)
    assert environment == {"ROS_DISTRO": release, name: str(PROFILE)}
    without = {}
    assert make_room(without, tmp_path)
    assert list(without) == ["FASTDDS_DEFAULT_PROFILES_FILE"]


@pytest.mark.parametrize("name", CHOSEN)
def test_transports_that_a_user_has_chosen_stay(tmp_path, name):
    environment = {name: "mine"}
    assert not make_room(environment, tmp_path)
    assert environment == {name: "mine"}


@pytest.mark.parametrize("name", FILES)
def test_a_profile_in_the_folder_stays(tmp_path, name):
    (tmp_path / name).touch()
    assert not make_room(environment := {}, tmp_path)
    assert environment == {}


@needs_ros
def test_a_node_has_room_before_it_joins_the_network(tmp_path, monkeypatch):
    from ros_bridge.nodes.run_node import run_node

    for name in CHOSEN:
        monkeypatch.setenv(name, "")  # so that it is put back
    monkeypatch.chdir(tmp_path)
    found = []

    def make():
        found.extend(os.environ[name] for name in CHOSEN if os.environ[name])
        raise InvalidOptionError("seen enough")

    assert run_node(make, "mirage", []) == 2
    assert found == [str(PROFILE)]


def test_the_profile_holds_several_raw_views_on_this_machine_and_between_machines():
    rows = {node.tag.rpartition("}")[2]: node.text for node in ET.parse(PROFILE).iter()}
    assert int(rows["segment_size"]) >= 10 * RAW_RGBD
    assert int(rows["receiveBufferSize"]) >= 5 * RAW_RGBD
