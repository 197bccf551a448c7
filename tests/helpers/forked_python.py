"""Python processes forked from one interpreter that has imported the nodes: a start takes a moment, not five seconds.

Run as a program with the number of a socket, this file is that interpreter. A request is JSON and the descriptor that
the new process writes to; answers are JSON: the process's number, and later its exit status.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import site
import socket
import subprocess
import sys
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

WARM = ("numba", "mirage_env.models.world_model_loader", "ros_bridge.nodes.world_node",
        "ros_bridge.nodes.policy_node", "mirage_env.rooms")  # fmt: skip
START_SECONDS = 180.0
MESSAGE = 1 << 20


class ForkedProcess:
    """A forked process, with what `subprocess.Popen` offers of it."""

    def __init__(self, server: ForkServer, pid: int, stdout: Any) -> None:
        self.pid, self.stdout = pid, stdout
        self._server = server

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._server.status(self.pid, 0.0)

    def wait(self, timeout: float) -> int:
        """Exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        status = self._server.status(self.pid, timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The interpreter that forks."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        theirs.close()
        self._socket, self._lock = ours, threading.Lock()
        self._statuses: dict[int, int] = {}
        self._started: list[int] = []

    def run(self, arguments: list[str], environment: dict[str, str], folder: str) -> ForkedProcess:
        """Run `-c CODE ARGUMENTS` in a new process, in its own session."""
        reading, writing = os.pipe()
        request = json.dumps({"arguments": arguments, "environment": environment, "folder": folder}).encode()
        with self._lock:
            socket.send_fds(self._socket, [request], [writing])
            os.close(writing)
            end = time.monotonic() + START_SECONDS
            while not self._started:
                assert time.monotonic() < end, "the interpreter that forks does not answer"
                self._receive(0.1)
            pid = self._started.pop()
        return ForkedProcess(self, pid, os.fdopen(reading))

    def status(self, pid: int, seconds: float) -> int | None:
        """Exit status of a process, within that time."""
        end = time.monotonic() + seconds
        while True:
            with self._lock:
                self._receive(0.0)
                if pid in self._statuses or time.monotonic() >= end:
                    return self._statuses.get(pid)
            time.sleep(0.005)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10.0)

    def _receive(self, seconds: float) -> None:
        while select.select([self._socket], [], [], seconds)[0]:
            answer = json.loads(self._socket.recv(MESSAGE) or b'{"ended": true}')
            assert "ended" not in answer, "the interpreter that forks has ended"
            if "status" in answer:
                self._statuses[answer["pid"]] = answer["status"]
            else:
                self._started.append(answer["pid"])
            seconds = 0.0


@cache
def fork_server() -> ForkServer:
    """The one of this process; it ends with it."""
    return ForkServer()


def serve(line: socket.socket) -> str | None:
    """Fork until the other side closes: then None; in each new process the code to run."""
    wake_up, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([line, wake_up], [], [])
        if wake_up in ready:
            os.read(wake_up, 4096)
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    status = os.waitstatus_to_exitcode(ended[1])
                    line.send(json.dumps({"pid": ended[0], "status": status}).encode())
        if line in ready:
            data, descriptors, _, _ = socket.recv_fds(line, MESSAGE, 1)
            if not data:
                return None
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (wake, wake_up):
                    os.close(descriptor)
                line.close()
                return become(json.loads(data), descriptors[0])
            os.close(descriptors[0])
            line.send(json.dumps({"pid": pid}).encode())


def become(request: dict[str, Any], output: int) -> str:
    """Take the arguments, environment and folder of a request; returns its code."""
    os.setsid()
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for path in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        site.addsitedir(path)
    sys.argv = ["-c", *request["arguments"][2:]]
    return str(request["arguments"][1])


def run(code: str) -> NoReturn:
    """Run the code of a new process, and end it when its threads and exit handlers are done."""
    file = Path(f"forked-{os.getpid()}.py")
    file.write_text(code)
    status = 1
    try:
        runpy.run_path(str(file), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if (error := sys.exc_info()[1]) is not None:
            traceback.print_exception(error)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)  # the end of the interpreter would, too, but looks through all of torch


if __name__ == "__main__":
    for module in WARM:
        __import__(module)
    gc.freeze()  # a collection in a fork would copy all pages of torch
    if (asked := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        run(asked)
