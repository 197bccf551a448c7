"""A world server of the tiny model: in a thread of the test, or as a process that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from forked_python import ForkedProcess
from small_rooms import open_room
from stand_ins import walled_world_model

from mirage_env.serving import Address, Service, ServiceOptions, serving

START_VIEWS = "stand_ins:start_view"
SERVE = """
import sys
from pathlib import Path
from threading import Event
from world_server import tiny_server
with tiny_server(Path(sys.argv[1]), port=int(sys.argv[2])) as url:
    print(url, flush=True)
    Event().wait()
"""


@contextlib.contextmanager
def tiny_server(
    folder: Path,
    tokens: tuple[str, ...] = (),
    certificate: Path | None = None,
    key: Path | None = None,
    port: int = 0,
    drain_seconds: float = 20.0,
    **options,
) -> Iterator[str]:
    service = Service(walled_world_model(), ServiceOptions(folder, **options), START_VIEWS, open_room)
    address = Address(port=port, tokens=tokens, certificate=certificate, key=key)
    with serving(service, address, drain_seconds) as url:
        yield url


@contextlib.contextmanager
def server_process(folder: Path) -> Iterator[tuple[ForkedProcess, str]]:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = ForkedProcess(["-c", SERVE, str(folder), "0"], environment, str(folder))
    try:
        yield process, next(line.strip() for line in process.stdout if line.startswith("http"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()
