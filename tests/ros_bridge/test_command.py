"""`mirage ros` starts the nodes with what was asked, shows what arrives, and says what is missing."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
from fresh_imports import fresh_imports
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from ros_process import PATIENCE, Peer, free_domain, needs_ros, ros_environment, ros_process
from worlds import open_minded_model, walk

from mirage_env.cli import main
from mirage_env.errors import InvalidOptionError
from mirage_env.models.world_model_loader import save_world_model
from mirage_env.store import save_world
from ros_bridge import command, teleop_keyboard, topic_echo
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.topic_echo import Arrival


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """Runs a `mirage ros` command that ends by itself, in this process; gives what it writes."""

    def asked(*arguments, domain):
        for name, value in ros_environment(domain, tmp_path).items():
            if name.startswith(("ROS_", "FASTDDS_")):
                monkeypatch.setenv(name, value)
        assert main(["ros", *arguments]) == 0
        return capsys.readouterr().out

    return asked


@contextmanager
def publishing(kind: str, topic: str, domain: int, folder):
    """A process that publishes empty messages of that type at 50 Hz, stamped where they have a header."""
    code = f"""
import rclpy
from ros_bridge._ros import message_type
rclpy.init()
node, kind = rclpy.create_node("talker"), message_type({kind!r})
out = node.create_publisher(kind, {topic!r}, 5)
def send():
    message = kind()
    if hasattr(message, "header"):
        message.header.stamp = node.get_clock().now().to_msg()
    out.publish(message)
node.create_timer(0.02, send)
rclpy.spin(node)
"""
    with ros_process(["-c", code], domain, folder) as process:
        yield process


@pytest.mark.parametrize("words", ["", "policy orbit", "topics", "echo a"])
def test_without_ros_the_install_line_is_shown(words, capsys):
    with fresh_imports("ros_bridge", missing=("rclpy",)):
        assert main(["ros", *words.split()]) == 2
    said = capsys.readouterr().err
    assert "pip install 'mirage-env[ros]'" in said
    assert "Traceback" not in said


def test_the_command_line_leaves_the_bridge_alone():
    code = "import sys, mirage_env.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name for name in run.stdout.split() if name.split(".")[0] in ("ros_bridge", "policies")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dance"], "no command 'dance'"),
        (["--domain", "300"], "from 0 to 101"),
        (["--resume"], "--store"),
        (["--rate", "-1"], "from 0 to 240"),
        (["--param", "rate"], "rate=VALUE"),
        (["--param", "speed=3"], "max_speed"),
        (["--param", "seed=x"], "type int"),
        (["--param", "autostart=yes"], "type bool"),
        (["call", "jump"], "rollback"),
        (["policy", "orbit", "--command", "fly"], "cmd_vel"),
        (["policy", "orbit", "--param", "nothing=1"], "needs_pose"),
    ],
)
def test_wrong_option_is_named_with_what_is_allowed(arguments, says, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    assert main(["ros", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_options_become_parameters_with_their_types():
    settings = ["store=a=b", "seed=3", "max_speed=2", "autostart=FALSE", "qos_overrides./a.publisher.depth=1"]
    found = dict(command.given(WorldParameters, settings, rate=30.0, model=None, resume=False))
    assert found == {
        "rate": 30.0, "store": "a=b", "seed": 3, "max_speed": 2.0, "autostart": False,
        "qos_overrides./a.publisher.depth": 1,
    }  # fmt: skip


@needs_ros
def test_parameters_reach_a_node_as_they_are(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    import rclpy

    given = {"a": "a folder: with 'quotes'", "b": "2024", "c": True, "d": 3, "e": 30.0, "f": "C:\\new", "g": "true"}
    context = rclpy.Context()
    rclpy.init(args=command.ros_arguments(list(given.items())), context=context)
    try:
        node = rclpy.create_node("mirage", context=context)
        assert {name: node.declare_parameter(name, type(value)()).value for name, value in given.items()} == given
        node.destroy_node()
    finally:
        context.shutdown()


def test_domain_and_localhost_reach_the_libraries(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    command.join(command.Network(domain=7, localhost=True))
    assert (os.environ["ROS_DOMAIN_ID"], os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"]) == ("7", "LOCALHOST")


@given(st.integers(2, 50), st.floats(1.0, 120.0))
def test_frame_rate_is_that_of_the_arrivals(count, rate):
    arrivals = [Arrival(i / rate, 0.002, 2048) for i in range(count)]
    assert topic_echo.frame_rate(arrivals) == pytest.approx(rate)
    assert "latency 2.0 ms" in topic_echo.arrivals_text(arrivals)
    assert "2.0 KiB" in topic_echo.arrivals_text(arrivals)


def test_no_arrivals_are_told():
    assert topic_echo.arrivals_text([]) == "no frame"
    assert "one frame" in topic_echo.arrivals_text([Arrival(0.0, 0.0, 1)])


def test_topic_is_found_by_its_end():
    types = {"/mirage/image_raw": "a", "/mirage/depth/image_raw": "b", "/mirage/pose": "c"}
    assert topic_echo.find_topic("pose", types) == "/mirage/pose"
    assert topic_echo.find_topic("/mirage/image_raw", types) == "/mirage/image_raw"
    assert topic_echo.find_topic("mirage/image_raw", types) == "/mirage/image_raw"
    assert topic_echo.find_topic("image_raw", types) == "/mirage/image_raw", "not the depth image"
    with pytest.raises(InvalidOptionError, match="give one of them in full"):
        topic_echo.find_topic("pose", {"/a/pose": "c", "/b/pose": "c"})
    with pytest.raises(InvalidOptionError, match="/mirage/pose"):
        topic_echo.find_topic("odom", types)


def test_keys_drive_and_anything_else_stops():
    drive = teleop_keyboard.Drive(speed=0.4, turn=0.8)
    assert drive.pressed("w").velocity == (0.4, 0.0, 0.0)
    assert drive.pressed("E").velocity == (0.0, -0.4, 0.0)
    assert drive.pressed("a").velocity == (0.0, 0.0, 0.8)
    assert drive.pressed("w").pressed("+").velocity == (0.5, 0.0, 0.0)
    assert drive.pressed("w").pressed(" ").velocity == drive.pressed("w").pressed("?").velocity == (0.0, 0.0, 0.0)


def test_bag_is_written_without_ros(tmp_path, capsys):
    rosbags = pytest.importorskip("rosbags.rosbag2")
    model = open_minded_model()
    (first, _), (second, after) = walk(model, 1)
    save_world(tmp_path / "cache.zarr", after, model, [first, second])
    assert main(["ros", "bag", str(tmp_path), "--out", str(tmp_path / "bag"), "--rate", "10", "--poses-only"]) == 0
    with rosbags.Reader(tmp_path / "bag") as reader:
        counts = {name: topic.msgcount for name, topic in reader.topics.items()}
    assert counts["/mirage/pose"] == 1 + model.config.frames_per_chunk
    assert main(["ros", "bag", str(tmp_path / "nothing"), "--out", str(tmp_path / "other")]) == 2


@needs_ros
def test_echo_shows_values_and_topics_lists_them(tmp_path, asked):
    domain = free_domain()
    with publishing("nav_msgs/msg/Path", "/way", domain, tmp_path):
        shown = asked("echo", "way", "--count", "2", "--wait", "120", domain=domain)
        table = until(lambda: asked("topics", "--wait", "120", domain=domain), lambda table: "/way" in table)
    assert shown.startswith("/way: Path")
    assert shown.count("---") == 2
    assert "frame_id:" in shown
    row = next(line.split() for line in table.splitlines() if line.startswith("/way"))
    assert row == ["/way", "nav_msgs/msg/Path", "1", "0"]


@needs_ros
def test_echo_measures_images(tmp_path, asked):
    domain = free_domain()
    with publishing("sensor_msgs/msg/Image", "/camera/image_raw", domain, tmp_path):
        echo = partial(asked, "echo", "image_raw", "--count", "2", "--wait", "120", domain=domain)
        # Those of a second may arrive all at once, or later.
        until(echo, lambda shown: 0.0 < rate_of(shown) < 60.0)


def until(ask, good):
    """Ask until the answer is good: what a second brings depends on how busy the machine is."""
    end = time.monotonic() + PATIENCE
    while not good(answer := ask()):
        assert time.monotonic() < end, answer
    return answer


def rate_of(shown):
    """Frames per second by the last line of an echo."""
    last = shown.splitlines()[-1].split()
    if "frames/s" not in last:
        return 0.0
    assert last[:4] == ["0", "x", "0", last[3]]
    return float(last[last.index("frames/s") - 1])


@needs_ros
def test_call_tells_what_the_service_answers_or_that_it_does_not(tmp_path, asked, capsys):
    domain = free_domain()
    code = """
import rclpy
from std_srvs.srv import SetBool, Trigger
def answer(request, response):
    response.success, response.message = True, f"done: {getattr(request, 'data', None)}"
    return response
rclpy.init()
node = rclpy.create_node("mirage")
node.create_service(Trigger, "~/save", answer)
node.create_service(SetBool, "~/pause", answer)
silent = rclpy.create_node("silent")
silent.create_service(Trigger, "~/step", answer)
rclpy.spin(node)
"""
    with ros_process(["-c", code], domain, tmp_path):
        for name, says in (("save", "None"), ("pause", "True"), ("resume", "False")):
            assert asked("call", name, "--wait", "120", domain=domain) == f"done: {says}\n"
        silent = ["call", "step", "--node", "silent", "--wait", "120", "--timeout", "0.2"]
        assert main(["ros", *silent, "--domain", str(domain), "--localhost"]) == 2
        assert "no answer came within 0.2 s; it may have been done" in capsys.readouterr().err


@needs_ros
def test_drive_sends_what_keys_say_and_stops_at_the_end(tmp_path):
    from geometry_msgs.msg import Twist

    domain = free_domain()
    peer, (terminal, keys) = Peer(domain, tmp_path), pty.openpty()
    run = [sys.executable, "-m", "mirage_env.cli", "ros", "drive", "--speed", "0.3"]
    with peer.listening(Twist, "/cmd_vel") as got, open(tmp_path / "shown", "w") as shown:
        environment = ros_environment(domain, tmp_path)
        process = subprocess.Popen(
            run,
            stdin=keys,
            stdout=shown,
            stderr=shown,
            env=environment,
            cwd=tmp_path,
            # A shell that runs the tests in the background has them ignore Ctrl-C.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            peer.wait_for(lambda: got)
            assert got[0].linear.x == 0.0
            os.write(terminal, b"w")
            peer.wait_for(lambda: got[-1].linear.x == pytest.approx(0.3))
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            peer.wait_for(lambda: got[-1].linear.x == 0.0)
        finally:
            process.kill()
            process.wait(PATIENCE)
            for descriptor in (terminal, keys):
                os.close(descriptor)
            peer.close()
    assert "+0.30 m/s" in (tmp_path / "shown").read_text()


@needs_ros
def test_mirage_ros_shows_frames(tmp_path, asked):
    model, domain = tmp_path / "tiny", free_domain()
    save_world_model(open_minded_model(), model)
    options = ["--localhost", "--domain", str(domain), "--model", str(model), "--rate", "20", "--store", "world.zarr"]
    code = "import sys; from mirage_env.cli import main; sys.exit(main(sys.argv[1:]))"
    with ros_process(["-c", code, "ros", *options], domain, tmp_path) as node:
        echo = partial(asked, "echo", "/mirage/image_raw", "--count", "2", "--wait", "120", domain=domain)
        shown = until(echo, lambda shown: "frames/s" in shown)
        node.interrupt()
        assert node.wait(PATIENCE) == 0, node.output
    assert "32 x 32 rgb8" in shown
    assert (tmp_path / "world.zarr").is_dir()
