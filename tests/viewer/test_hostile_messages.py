"""Whatever arrives at the viewer's port, the page goes on for everybody else, and quickly."""

import contextlib
import json
import random
import socket
import struct
import time
import urllib.request

import pytest

pytest.importorskip("viser", reason="no viser: pip install 'mirage-env[viewer]'")

import msgspec
import viser
from small_rooms import open_room
from stand_ins import walled_world_model
from websockets.sync.client import connect

from mirage_env.viewer.cache_folder import CacheFolder
from mirage_env.viewer.page import Page
from mirage_env.viewer.server import address_of, serving
from mirage_env.viewer.session import Session
from mirage_env.viewer.world_sources import Openings

PROTOCOL = f"viser-v{viser.__version__}"
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    f"Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
)
ODD = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63 - 1,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x" * 300,
    "\x1b]0;x\x07",
    [],
    {},
    [[]],
)
TYPES = (
    "GuiUpdateMessage",
    "GuiButtonHoldMessage",
    "ViewerCameraMessage",
    "ScenePointerMessage",
    "FileTransferStartUpload",
    "FileTransferPart",
    "CommandTriggerMessage",
    "TransformControlsUpdateMessage",
    "ShareUrlRequest",
    "NoSuchMessage",
)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    model = walled_world_model()
    caches = CacheFolder(tmp_path_factory.mktemp("viewer") / "caches")
    session = Session(Openings(["tiny"], lambda name: model, open_room), caches)
    session.open_room(1, "tiny").result(30)
    with serving("127.0.0.1", 0) as server:
        page = Page(server, session)
        yield server, session, page
        page.close()
    session.close()


def goes_on(viewer):
    """The page is served, a browser gets its messages, the page draws, and the world takes a chunk."""
    server, session, page = viewer
    began = time.process_time()
    with urllib.request.urlopen(address_of(server), timeout=20) as answer:
        assert answer.status == 200
    with connect(f"ws://127.0.0.1:{server.get_port()}", subprotocols=[PROTOCOL]) as browser:
        assert browser.recv(20)
    assert page._thread.is_alive()
    session.press("turn_left").result(60)
    assert time.process_time() - began < 5.0


def frame(rng, payload):
    """A WebSocket frame that is wrong in one or more ways, or in none."""
    opcode = rng.choice((0, 1, 2, 2, 2, 3, 8, 9, 15))
    first = (rng.choice((0x80, 0x80, 0x00, 0xF0)) | opcode).to_bytes(1, "big")
    masked = 0x80 if rng.random() < 0.8 else 0
    length = rng.choice((len(payload), len(payload), rng.randrange(2**16), 2**32, 2**63 - 1))
    if length < 126:
        size = struct.pack("!B", masked | length)
    elif length < 2**16:
        size = struct.pack("!BH", masked | 126, length)
    else:
        size = struct.pack("!BQ", masked | 127, length)
    return first + size + bytes(4 if masked else 0) + payload


def test_bytes_that_are_no_websocket_or_half_of_one_do_no_harm(viewer):
    rng = random.Random("frames")
    port = viewer[0].get_port()
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw, contextlib.suppress(OSError):
            begun = HANDSHAKE.format(port=port).encode()
            if rng.random() < 0.2:  # the handshake itself
                at = rng.randrange(len(begun))
                begun = begun[:at] + rng.randbytes(rng.randint(0, 40)) + begun[at + rng.randint(0, 40) :]
            raw.sendall(
                begun + b"".join(frame(rng, rng.randbytes(rng.randint(0, 90))) for _ in range(rng.randint(1, 4)))
            )
            raw.recv(64)
    goes_on(viewer)


def value(rng, depth=0):
    if depth < 3 and rng.random() < 0.3:
        return {rng.choice("abc"): value(rng, depth + 1)} if rng.random() < 0.5 else [value(rng, depth + 1)]
    return rng.choice(ODD)


def message(rng, controls):
    """A message of the viewer's protocol with odd values, or none of it."""
    if rng.random() < 0.1:
        return rng.choice(
            (b"", b"\xc1", b"\x81" * 5000, json.dumps(value(rng)).encode(), msgspec.msgpack.encode(ODD[:5]))
        )
    content = {"type": rng.choice(TYPES)} if rng.random() < 0.6 else {"type": "GuiUpdateMessage"}
    content |= {"uuid": rng.choice(controls), "updates": {rng.choice(("value", "value", "label", "x")): value(rng)}}
    if rng.random() < 0.5:
        content |= {name: value(rng) for name in ("transfer_uuid", "part_index", "content", "wxyz", "position", "fov")}
        content["source_component_uuid"] = content["uuid"]
    return msgspec.msgpack.encode(content)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_messages_with_odd_values_leave_the_page_to_others(viewer):
    """Also values of its own controls: a colouring that there is not, a step of 1e308 metres, NaN."""
    rng = random.Random("messages")
    server = viewer[0]
    controls = list(server.gui._gui_input_handle_from_uuid)
    texts = {u for u, h in server.gui._gui_input_handle_from_uuid.items() if isinstance(getattr(h, "value", None), str)}
    assert len(controls) > 10
    for _ in range(25):
        with (
            contextlib.suppress(Exception),
            connect(f"ws://127.0.0.1:{server.get_port()}", subprotocols=[PROTOCOL]) as browser,
        ):
            browser.recv(10)
            for _ in range(8):
                browser.send(message(rng, controls))
            browser.send(
                msgspec.msgpack.encode(
                    {"type": "GuiUpdateMessage", "uuid": rng.choice(sorted(texts)), "updates": {"value": "no such"}}
                )
            )
    goes_on(viewer)
