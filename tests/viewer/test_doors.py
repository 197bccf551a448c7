"""Who reaches the page and its server: only its own page, whoever has the token, and no odd bytes."""

import base64
import contextlib
import json
import random
import socket
import struct
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
import websockets.sync.client
from small_rooms import open_room
from websockets.exceptions import InvalidStatus
from world_server import tiny_server
from worlds import open_minded_model

from mirage_env.commands.view import viewing
from mirage_env.commands.view_options import View
from mirage_env.errors import InvalidOptionError, MissingPackageError, ServingError
from mirage_env.models.world_model_loader import save_world_model
from mirage_env.serving import Client, Service
from mirage_env.serving.app import make_app
from mirage_env.serving.origins import is_loopback, is_own_page
from mirage_env.serving.requests import VERBS
from mirage_env.viewer.page_files import FILES

TOKEN = "a token of many characters"
UPGRADE = (
    "GET /v1/socket HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with tiny_server(tmp_path_factory.mktemp("doors")) as url:
        yield url


def fetched(address):
    with urllib.request.urlopen(address, timeout=120) as answer:
        return answer.headers, answer.read()


def test_no_other_page_may_show_it_and_it_runs_only_its_own_files(url):
    headers, page = fetched(url)
    assert headers["X-Frame-Options"] == "DENY"
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy
    assert b"<script>" not in page
    assert b"://" not in page.replace(b"http://www.w3.org", b"")  # nothing from elsewhere
    for name in FILES:
        assert fetched(f"{url}/page/{name}")[0]["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["../page_files.py", "..%2fpage_files.py", "%2e%2e/page_files.py", "/etc/passwd", "none.js", "", "."]
)
def test_nothing_but_the_files_of_the_page_is_given_away(url, name):
    host = urlsplit(url).netloc
    with socket.create_connection(tuple(host.split(":")), timeout=120) as raw:
        raw.sendall(f"GET /page/{name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer[9:12] in (b"404", b"307", b"400")
    assert b"root:" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize(("own", "status"), [(True, b"101"), (False, b"403")])
def test_another_page_is_refused_in_the_handshake_and_nothing_it_sends_at_once_is_handled(
    url, monkeypatch, own, status
):
    handled = []
    call = Service.call

    async def noted(service, verb, *rest):
        handled.append(verb)
        return await call(service, verb, *rest)

    monkeypatch.setattr(Service, "call", noted)
    host = urlsplit(url).netloc
    message = json.dumps({"verb": "list", "id": 1}).encode()
    frame = bytes([0x82, 0x80 | len(message), 0, 0, 0, 0]) + message  # binary, masked with zeros
    with socket.create_connection(tuple(host.split(":")), timeout=120) as raw:
        origin = url if own else "https://elsewhere.example"
        raw.sendall(UPGRADE.format(host=host, origin=origin).encode() + 5 * frame)
        assert raw.recv(12) == b"HTTP/1.1 " + status
        with contextlib.suppress(OSError):  # and once more after the answer, for those who may
            raw.sendall(frame)
        until = time.monotonic() + (120.0 if own else 0.3)
        while not handled and time.monotonic() < until:
            time.sleep(0.02)
    assert bool(handled) is own


@pytest.mark.parametrize(
    ("origin", "host", "listening", "own"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1", True),
        ("http://localhost:8080", "localhost:8080", "127.0.0.1", True),
        ("http://[::1]:8080", "[::1]:8080", "::1", True),
        ("http://rebound.example:8080", "rebound.example:8080", "127.0.0.1", False),
        ("http://robot.lan:8080", "robot.lan:8080", "0.0.0.0", True),
        ("http://elsewhere.example", "robot.lan:8080", "0.0.0.0", False),
        ("null", "127.0.0.1:8080", "127.0.0.1", False),
        (None, "127.0.0.1:8080", "127.0.0.1", True),
    ],
)
def test_own_page_is_told_from_others(origin, host, listening, own):
    assert is_own_page(origin, host, listening) is own


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("x.y", False),
    ],
)
def test_loopback_is_told_from_the_rest(host, local):
    assert is_loopback(host) is local


def offered(token):
    return ["mirage", "mirage.token." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")]


def test_the_page_needs_no_token_and_its_socket_does(tmp_path):
    with tiny_server(tmp_path, tokens=(TOKEN,)) as url:
        assert b"<title>Mirage</title>" in fetched(url)[1]
        socket_url = url.replace("http", "ws") + "/v1/socket"
        with websockets.sync.client.connect(socket_url, subprotocols=offered(TOKEN)) as opened:
            assert opened.subprotocol == "mirage"
            opened.send(json.dumps({"verb": "list", "id": 1}))
            assert b'"worlds":[]' in opened.recv(120)
        for wrong in (offered("another one of these"), ["mirage"], ["mirage", "mirage.token.*"], ["mirage.token.w7"]):
            with pytest.raises(InvalidStatus):
                websockets.sync.client.connect(socket_url, subprotocols=wrong)
        for private in ("/metrics", "/openapi.json", "/pages", "//page/main.js"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                fetched(url + private)


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


def value(rng, depth=0):
    if depth < 3 and rng.random() < 0.3:
        return {rng.choice("abc"): value(rng, depth + 1)} if rng.random() < 0.5 else [value(rng, depth + 1)]
    return rng.choice((None, True, -1, 2**63, 1e308, float("nan"), "", "x" * 300, "\x1b]0;x\x07", [], {}, [[]]))


def test_bytes_that_are_no_websocket_and_odd_messages_do_no_harm(url):
    """Half of the connections send frames that are none, half requests with odd values; then the page goes on."""
    rng, host = random.Random("frames"), urlsplit(url).netloc
    fields = ("world", "chunk", "poses", "frame", "path", "chunks", "to", "fps", "name", "room", "want", "cache")
    with Client(url) as client:
        world = client.open(room=1).world
    for _ in range(25):
        with socket.create_connection(tuple(host.split(":")), timeout=5) as raw, contextlib.suppress(OSError):
            begun = UPGRADE.format(host=host, origin=url).encode()
            if rng.random() < 0.2:  # the handshake itself
                at = rng.randrange(len(begun))
                begun = begun[:at] + rng.randbytes(rng.randint(0, 40)) + begun[at + rng.randint(0, 40) :]
            raw.sendall(begun + b"".join(frame(rng, rng.randbytes(rng.randint(0, 90))) for _ in range(3)))
            raw.recv(64)
    verbs = [verb for verb in VERBS if verb not in ("close", "open")]
    with websockets.sync.client.connect(url.replace("http", "ws") + "/v1/socket") as opened:
        for number in range(60):
            body = {field: value(rng) for field in rng.sample(fields, 4)}
            body |= {"world": world} if rng.random() < 0.7 else {}
            opened.send(json.dumps({**body, "verb": rng.choice(verbs), "id": number}))
        for _ in range(60):
            assert b"the server failed" not in opened.recv(120)
    assert fetched(url)[1].startswith(b"<!doctype html>")
    with Client(url) as client:
        assert client.world(world).step([0.0] * 6).chunk == 1


def test_command_serves_a_page_at_the_next_free_port(tmp_path, monkeypatch):
    save_world_model(open_minded_model(), tmp_path / "tiny")
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("a browser was opened"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = View(seed=3, model=str(tmp_path / "tiny"), caches=tmp_path / "caches", port=port, no_browser=True)
        with viewing(options, open_room) as address:
            assert address.startswith("http://127.0.0.1:")
            assert urlsplit(address).port > port
            assert b"<title>Mirage</title>" in fetched(address)[1]
            with Client(address) as client:
                [world] = client.worlds()
                assert (world["name"], world["room"]) == ("room 3", 3)
                client.world(world["world"]).save("kept")
            with viewing(View(server=address, no_browser=True), open_room) as same:
                assert same == address
    kept = tmp_path / "caches/kept.zarr"
    again = View(world=kept, model=str(tmp_path / "tiny"), port=0, no_browser=True)
    with viewing(again, open_room) as address, Client(address) as client:
        assert [w["name"] for w in client.worlds()] == ["kept"]
    with pytest.raises(InvalidOptionError, match="give --model"), viewing(View(world=kept, port=0), open_room):
        pass


def test_other_machines_need_the_token_that_is_printed(tmp_path):
    save_world_model(open_minded_model(), tmp_path / "tiny")
    options = View(model=str(tmp_path / "tiny"), caches=tmp_path, host="0.0.0.0", port=0, no_browser=True)
    with viewing(options, open_room) as printed:
        address, _, token = printed.replace("0.0.0.0", "127.0.0.1").partition("/#")
        with pytest.raises(ServingError):
            Client(address)
        with Client(address, token) as client:
            assert [w["name"] for w in client.worlds()] == ["room 7"]


def test_options_that_contradict_each_other_are_refused():
    assert is_loopback(View().host)
    for wrong in ({"server": "http://x", "seed": 3}, {"token": TOKEN}, {"port": -1}):
        with pytest.raises(InvalidOptionError):
            View(**wrong)
    with (
        pytest.raises(ServingError, match="no world server answers"),
        viewing(View(server="http://127.0.0.1:9"), open_room),
    ):
        pass
    with pytest.raises(InvalidOptionError, match="cannot be listened at"), viewing(View(host="192.0.2.1"), open_room):
        pass


def test_without_the_servers_packages_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mirage_env.serving.server", None)
    with pytest.raises(MissingPackageError, match="pip install"), viewing(View(), open_room):
        pass


def test_the_page_is_part_of_the_application():
    assert {"/", "/page/{name}"} <= {route.path for route in make_app(None, "127.0.0.1").routes}
