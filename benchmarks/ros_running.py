"""Processes of benchmarks/bridge.py: a world node, whose time and memory are watched, and a peer."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ros_bridge.command import ros_arguments

PEER = Path(__file__).with_name("ros_peer.py")
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2.0**20
GRACE = 200.0
"""Seconds that a peer may take beyond those it listens: for the node to load, and for itself."""
RUN_NODE = """
import sys, threading
from ros_bridge.nodes.world_node import main
code = main()
print("threads left:", [t.name for t in threading.enumerate() if t is not threading.main_thread()], flush=True)
sys.exit(code)
"""


def environment(domain: int, **more: str) -> dict[str, str]:
    """On this machine only, in a domain of its own; the wheels of rclpy prepare each interpreter themselves."""
    kept = {k: v for k, v in os.environ.items() if k not in ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH")}
    if "AMENT_PREFIX_PATH" in os.environ and "LD_LIBRARY_PATH" in os.environ:  # a sourced install is found by it
        kept["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return {**kept, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **more}


class Node:
    """A world node in a process of its own; ended at the end of a `with` block."""

    def __init__(self, parameters: dict[str, Any], domain: int | None = None, namespace: str = "", **more: str) -> None:
        self.domain = random.SystemRandom().randint(1, 100) if domain is None else domain
        remap = ["-r", f"__ns:={namespace}"] if namespace else []
        self.environment = environment(self.domain, **more)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN_NODE, *ros_arguments(list(parameters.items())), *remap],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.interrupt(10.0)  # a killed process leaves its shared memory behind
        self.kill()
        self._reader.join(10.0)

    def cpu(self) -> float:
        """Seconds of a core that all threads have taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> float:
        """MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    def interrupt(self, seconds: float = 30.0) -> float:
        """Send SIGINT; how long the node takes to end, NaN where it does not."""
        self.process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return float("nan")
        self._reader.join(10.0)
        return time.perf_counter() - start

    def kill(self) -> None:
        """kill -9."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30.0)

    def peer(self, what: str, *arguments: str, python: str = sys.executable, seconds: float = 10.0) -> dict[str, Any]:
        """What a peer found in that time.

        Raises:
            RuntimeError: it, or the node, came to an end before.
        """
        command = [python, str(PEER), what, "--seconds", str(seconds), *arguments]
        run = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds + GRACE, check=False
        )
        if run.returncode or self.process.poll() is not None:
            raise RuntimeError(f"peer: {run.stderr[-2000:]}\nnode: {''.join(self.lines)[-4000:]}")
        found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        return found

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            self.lines.append(line)


def number(diagnostics: list[dict[str, str]], key: str) -> float:
    """The newest value of a key in /diagnostics; NaN where it was not told."""
    return next((float(values[key]) for values in reversed(diagnostics) if key in values), float("nan"))
