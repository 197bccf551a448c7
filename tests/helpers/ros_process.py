"""A ROS node in a process of its own and a peer in this one, on loopback and a domain of their own, with a time-out.

Importing this module needs no ROS; `needs_ros` skips what does.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from forked_python import ForkedProcess
from repository import ROOT

LIFETIME = 3000.0
"""Seconds after which a process is killed whatever it does."""
PATIENCE = 120.0
"""Seconds that a test waits for what comes at once on a machine that is not busy."""


def ros_is_installed() -> bool:
    """Whether the real rclpy imports; a dummy package of that name exists."""
    try:
        importlib.import_module("rclpy.lifecycle")
        importlib.import_module("diagnostic_msgs.msg")
    except ImportError:
        return False
    return True


needs_ros = pytest.mark.skipif(
    not ros_is_installed(), reason="no rclpy: source a ROS 2 install, or pip install 'mirage-env[ros]'"
)


_domains = itertools.count(os.getpid())  # side by side, two runs of the tests begin at different ones


def free_domain() -> int:
    """A ROS_DOMAIN_ID whose first participant's port nobody has; workers that run side by side take from their own.

    They are taken in turn: what is left of a world that has ended stays apart from the next ones.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
    own = range(1 + worker, 101, 4)
    for domain in (own[next(_domains) % len(own)] for _ in own):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7400 + 250 * domain + 10))
            except OSError:
                continue
            return domain
    raise RuntimeError("every ROS domain of this machine is in use")


def ros_environment(domain: int, logs: Path) -> dict[str, str]:
    """What keeps a process on loopback, in its own domain, and without files in places of the user."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(logs),
        # Shared memory of a process that is killed would stay in /dev/shm.
        "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        "PYTHONUNBUFFERED": "1",
    }


def start(arguments: list[str], environment: dict[str, str], folder: Path) -> Any:
    """Start a Python process; code of `-c` in one that has imported the nodes already."""
    if arguments[0] == "-c":
        return ForkedProcess(arguments, environment, str(folder))
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


class RosProcess:
    """A running Python process; what it writes is kept in `output`."""

    def __init__(self, arguments: list[str], domain: int, folder: Path) -> None:
        environment = ros_environment(domain, folder / "ros_logs")
        self._process = start(arguments, environment, folder)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._watchdog = threading.Timer(LIFETIME, self.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """kill -9, the whole group."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        """Exit status; a process that is still there is an error.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        return self._process.wait(seconds)

    def close(self) -> None:
        """Kill what is left and join the threads of this class."""
        self._watchdog.cancel()
        self.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()
        self._watchdog.join(PATIENCE)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.append(line)


@contextmanager
def ros_process(arguments: list[str], domain: int, folder: Path) -> Iterator[RosProcess]:
    """A Python process with these arguments, killed at the end of the block or after `LIFETIME` seconds."""
    process = RosProcess(arguments, domain, folder)
    try:
        yield process
    finally:
        process.close()


def node_arguments(
    module: str, parameters: Mapping[str, Any], after: str = "", remap: Mapping[str, str] = {}
) -> list[str]:
    """Arguments of an interpreter that runs `main` of a module, and the code `after` when it has returned."""
    code = f"from {module} import main; main(); {after}"
    given = [x for name, value in parameters.items() for x in ("-p", f"{name}:={_yaml(value)}")]
    moved = [x for a, b in remap.items() for x in ("-r", f"{a}:={b}")]
    return ["-c", code, "--ros-args", *given, *moved]


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)


class Peer:
    """A node in this process that listens and asks; it spins only while a test waits for something."""

    def __init__(self, domain: int, logs: Path) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        os.environ.update(
            {k: v for k, v in ros_environment(domain, logs).items() if k.startswith(("ROS_", "FASTDDS_"))}
        )
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("peer", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self._met: set[str] = set()

    def wait_for(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Spin until the condition holds, and give its value.

        Raises:
            TimeoutError: it never did.
        """
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"nothing within {seconds} s")
            self._executor.spin_once(timeout_sec=0.02)
        return value

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)

    @contextmanager
    def listening(self, kind: Any, topic: str, qos: Any = 50) -> Iterator[list[Any]]:
        """The messages that arrive while the block runs."""
        got: list[Any] = []
        subscription = self.node.create_subscription(kind, topic, got.append, qos)
        try:
            yield got
        finally:
            self.node.destroy_subscription(subscription)

    def quiet(self, got: list[Any], seconds: float = 0.3) -> None:
        """Wait until nothing has arrived in a list for so long.

        Raises:
            TimeoutError: messages come and come.
        """
        end = time.monotonic() + PATIENCE
        count = -1
        while count != len(got):
            if time.monotonic() > end:
                raise TimeoutError(f"{len(got)} messages, and no end")
            count = len(got)
            self.spin(seconds)

    def publish(self, topic: str, message: Any, seconds: float = PATIENCE, quality: Any = 5) -> None:
        """Send one message, once another node listens."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, quality)
        publisher = self._publishers[topic]
        own = sum(s.topic_name == publisher.topic_name for s in self.node.subscriptions)
        self.wait_for(lambda: publisher.get_subscription_count() > own, seconds)
        publisher.publish(message)

    def insist(self, topic: str, message: Any, condition: Callable[[], Any], quality: Any = 5) -> Any:
        """Send a message every second until a condition holds, and give its value.

        The first one may go to a subscription that its node has just given up.

        Raises:
            TimeoutError: it never did.
        """
        end = time.monotonic() + PATIENCE
        while True:
            self.publish(topic, message, quality=quality)
            try:
                return self.wait_for(condition, 1.0)
            except TimeoutError:
                if time.monotonic() > end:
                    raise

    def forget(self, topic: str) -> None:
        """Publish on a topic no more."""
        self.node.destroy_publisher(self._publishers.pop(topic))

    def call(self, kind: Any, service: str, request: Any = None, seconds: float = PATIENCE) -> Any:
        """The answer of a service."""
        self._meet(service.rpartition("/")[0], seconds)
        future = self._client(kind, service, seconds).call_async(request or kind.Request())
        self.wait_for(future.done, seconds)
        return future.result()

    def _meet(self, node: str, seconds: float) -> None:
        """Ask a node for something that may be asked again, until it answers.

        A node may know a client's requests before it knows where the answers go, and then they are lost.
        """
        if node in self._met:
            return
        from rcl_interfaces.srv import GetParameters

        end = time.monotonic() + seconds
        while node not in self._met:
            future = self._client(GetParameters, f"{node}/get_parameters", seconds).call_async(GetParameters.Request())
            try:
                self.wait_for(future.done, 5.0)
                self._met.add(node)
            except TimeoutError:
                if time.monotonic() > end:
                    raise

    def _client(self, kind: Any, service: str, seconds: float) -> Any:
        """A client that has found its server; made anew where it does not, as discovery may lose one of two."""
        end = time.monotonic() + seconds
        while True:
            if service not in self._clients:
                self._clients[service] = self.node.create_client(kind, service)
            client = self._clients[service]
            try:
                self.wait_for(client.service_is_ready, min(seconds, 5.0))
                return client
            except TimeoutError:
                if time.monotonic() > end:
                    raise
                self.node.destroy_client(self._clients.pop(service))

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()
