"""Launch file, parameter file, RViz file and documentation name what the nodes have, and nothing else."""

import ast
import re
import runpy
from dataclasses import asdict, fields

import pytest
import yaml
from repository import ROOT
from ros_process import needs_ros

from mirage_env.errors import InvalidOptionError
from ros_bridge.package_owners import check_owners
from ros_bridge.parameters.policy_parameters import PolicyParameters
from ros_bridge.parameters.world_parameters import WorldParameters

BRIDGE = ROOT / "ros_bridge"
LAUNCH = BRIDGE / "launch/mirage.launch.py"
DOCS = (ROOT / "docs/ros.md").read_text()
INTERFACE = str(ast.get_docstring(ast.parse((BRIDGE / "nodes/world_node.py").read_text())))
NODES = {"mirage": WorldParameters, "mirage_policy": PolicyParameters}
TOPIC = r"(?:~/|(?<![\w/])/)[a-z][\w/]*|\bcmd_vel\b"


def section(text: str, begin: str, end: str) -> str:
    """The lines between one that begins with `begin` and one that begins with `end`."""
    return re.split(rf"^{end}", re.split(rf"^{begin}.*\n", text, flags=re.MULTILINE)[1], flags=re.MULTILINE)[0]


def interface_names() -> set[str]:
    """Topics and services of the world node, from its docstring."""
    wires = section(INTERFACE, "Publishes", "Lifecycle")
    entries = re.findall(r"^  (\S.*?)(?:  +|$)", wires, re.MULTILINE)
    service_topics = re.findall(r"~/\w+_cmd", wires)
    return {name for entry in [*entries, *service_topics] for name in re.findall(TOPIC, entry)}


def row_names(heading: str, end: str, column: int = 0) -> set[str]:
    """Names in code style in a column of the tables of a section of docs/ros.md."""
    rows = [line.split("|")[1:] for line in section(DOCS, heading, end).splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[column])}


def test_docs_name_every_topic_and_service_of_the_node():
    documented = row_names("## Topics", "## ") | row_names("## Services", "## ")
    documented |= {name for name in row_names("## Services", "## ", column=2) if name.startswith("~/")}
    assert documented == interface_names()
    assert "~/image_raw/compressed" in documented
    assert len(documented) > 25


@pytest.mark.parametrize(("heading", "kind"), [("## Parameters", WorldParameters), ("## Policies", PolicyParameters)])
def test_docs_name_every_parameter_with_its_default(heading, kind):
    rows = [line.split("|")[1:] for line in section(DOCS, heading, "## ").splitlines() if line.startswith("| `")]
    documented = {row[0].strip(" `"): (row[1].strip(" `"), row[3].strip()) for row in rows}
    assert documented == {f.name: (yaml_text(f.default), f.metadata["meaning"]) for f in fields(kind)}


def yaml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)


def test_parameter_file_says_the_defaults():
    shipped = yaml.safe_load((BRIDGE / "config/mirage.yaml").read_text())
    assert {name.removeprefix("/**/") for name in shipped} == set(NODES)
    for name, kind in NODES.items():
        assert shipped[f"/**/{name}"]["ros__parameters"] == asdict(kind())


@needs_ros
def test_parameter_file_reaches_the_nodes(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    import rclpy

    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(BRIDGE / "config/mirage.yaml")], context=context)
    try:
        for namespace in ("", "robot1"):
            node = rclpy.create_node("mirage", namespace=namespace, context=context)
            assert node.declare_parameter("jpeg_quality", 1).value == WorldParameters().jpeg_quality
            node.destroy_node()
    finally:
        context.shutdown()


def test_rviz_file_shows_topics_of_the_node_in_its_frame():
    shown = yaml.safe_load((BRIDGE / "rviz/mirage.rviz").read_text())["Visualization Manager"]
    assert shown["Global Options"]["Fixed Frame"] == WorldParameters().map_frame
    parts = [*shown["Displays"], *shown["Tools"]]
    topics = {part["Topic"]["Value"] for part in parts if "Topic" in part}
    assert len(topics) > 5
    assert {topic.replace("/mirage/", "~/") for topic in topics} <= interface_names()


def test_launch_file_names_files_and_executables_that_are_installed():
    tree = ast.parse(LAUNCH.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    nodes = [{k.arg: k.value for k in call.keywords} for call in calls if ast.unparse(call.func) == "Node"]
    ours = [n for n in nodes if ast.literal_eval(n["package"]) == "mirage_env"]
    assert {ast.literal_eval(n["name"]) for n in ours} == set(NODES)
    for node in ours:
        given = ast.unparse(node["parameters"])
        assert all(name in given for name in ("'params'", "common", "prefix"))
        executable = ast.literal_eval(node["executable"])
        assert f"\n{executable} = " in (ROOT / "pyproject.toml").read_text()
        assert (BRIDGE / f"nodes/{executable}.py").is_file()
    shared = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "PathJoinSubstitution"]
    assert len(shared) == 2
    for path in shared:
        words = re.findall(r"'([^']+)'", path)
        assert words[0] == "mirage_env"
        assert BRIDGE.joinpath(*words[1:]).is_file()


def test_launch_arguments_are_documented():
    tree = ast.parse(LAUNCH.read_text())
    (table,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "ARGUMENTS"]
    assert isinstance(table, ast.Dict)
    assert {ast.literal_eval(k) for k in table.keys if k} == row_names("## Quick start with ROS 2", "## ")


def test_launch_description_is_made():
    pytest.importorskip("launch_ros", reason="only a ROS 2 install has launch")
    assert len(runpy.run_path(str(LAUNCH))["generate_launch_description"]().entities) > 3


def test_another_owner_of_our_import_names_is_an_error_with_advice():
    check_owners({"policies": ["mirage-env"], "ros_bridge": ["mirage_env"]})
    with pytest.raises(InvalidOptionError, match=r"policies is also installed by policies;.*workspace"):
        check_owners({"policies": ["mirage-env", "policies"]})
    check_owners()
