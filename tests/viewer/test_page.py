"""The page of a viewer, in a real browser: it loads, drives, forks, saves and says what went wrong."""

import contextlib
import shutil
import socket
import sys
import time
import urllib.request
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("viser", reason="no viser: pip install 'mirage-env[viewer]'")

import msgspec
import viser
from small_rooms import open_room
from stand_ins import walled_world_model
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from worlds import open_minded_model

from mirage_env.commands.view import viewing
from mirage_env.commands.view_options import View
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.models.world_model_loader import save_world_model
from mirage_env.serving.origins import is_own_page
from mirage_env.viewer.cache_folder import CacheFolder
from mirage_env.viewer.memory_cloud import Cloud
from mirage_env.viewer.page import Page
from mirage_env.viewer.points import FEWER, thinned
from mirage_env.viewer.scene import MOST_FRUSTA, path_cameras
from mirage_env.viewer.server import address_of, serving
from mirage_env.viewer.session import Session
from mirage_env.viewer.world_sources import Openings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
DESKTOP, PHONE = (1280, 800), (390, 844)
PATIENCE = 20_000
"""Milliseconds."""


@dataclass
class Viewer:
    session: Session
    address: str
    server: object
    drawing: Page


@pytest.fixture
def viewer(tmp_path):
    model = walled_world_model()
    session = Session(Openings(["tiny"], lambda name: model, open_room), CacheFolder(tmp_path / "caches"))
    session.open_room(1, "tiny").result(30)
    with serving("127.0.0.1", 0) as server:
        page = Page(server, session)
        yield Viewer(session, address_of(server), server, page)
        page.close()
    session.close()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'mirage-env[test]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; on Debian: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*SOFTWARE, *QUIET])
        yield browser
        browser.close()


@pytest.fixture
def page(request, browser, viewer):
    width, height = getattr(request, "param", DESKTOP)
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(viewer.address)
    page.get_by_text("0 chunks").wait_for()
    yield page
    context.close()


@pytest.mark.parametrize("page", [DESKTOP, PHONE], ids=["desktop", "phone"], indirect=True)
def test_page_drives_forks_saves_and_shows_errors(page, viewer):
    assert page.locator("canvas").first.is_visible()
    page.keyboard.press("i")
    page.get_by_text("1 chunks").wait_for()
    page.get_by_text("↶ J").click()
    page.get_by_text("2 chunks").wait_for()
    page.get_by_text("undo", exact=True).click()
    page.get_by_text("1 chunks").wait_for()
    page.keyboard.press("f")
    page.get_by_text("goes on as room 1 fork").wait_for()
    page.keyboard.press("Space")
    page.get_by_text("2 chunks").wait_for()
    page.get_by_text("Save and load").click()
    page.get_by_role("button", name="save", exact=True).click()
    page.get_by_text("saved as my world.zarr").wait_for()
    page.get_by_role("button", name="save", exact=True).click()
    page.get_by_role("alert").filter(has_text="there is a cache 'my world.zarr' already").first.wait_for()
    assert viewer.session.caches.names() == ["my world.zarr"]
    assert viewer.session.snapshot().names == ("room 1", "room 1 fork")
    assert page.problems == []


@pytest.mark.parametrize("page", [PHONE], ids=["phone"], indirect=True)
def test_sheet_of_a_phone_is_as_wide_as_its_screen(page):
    wide_and_in_sight = """
    () => [...document.querySelectorAll("button")].some(button => {
      const { width, bottom } = button.getBoundingClientRect();
      return button.textContent === "step" && width > 110 && bottom <= window.innerHeight;
    })
    """
    page.wait_for_function(wide_and_in_sight, timeout=PATIENCE)


def test_what_somebody_types_is_never_run_as_html(page, viewer):
    viewer.session.save("<img src=x onerror=document.title='hit'>")
    page.get_by_role("alert").filter(has_text="<img src=x").first.wait_for()
    assert page.title() != "hit"
    assert page.locator("img[src=x]").count() == 0


def test_two_browsers_see_the_same_world(page, browser, viewer):
    other = browser.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(viewer.address)
    other.get_by_text("0 chunks").wait_for()
    page.keyboard.press("i")
    other.get_by_text("1 chunks").wait_for()
    other.keyboard.press("k")
    page.get_by_text("2 chunks").wait_for()
    other.close()


VISIBLE = """
() => Object.fromEntries(Object.entries(window.__viserSceneTree.getState())
  .filter(([name]) => name.startsWith("/memory/"))
  .map(([name, node]) => [name, node.effectiveVisibility ?? node.visibility ?? true]))
"""


def test_slow_browser_sees_fewer_points_while_its_view_moves_and_all_at_rest(page, browser, viewer):
    """Another browser, which does not move, sees all of them all the time."""
    other = browser.new_page()
    other.goto(viewer.address)
    other.get_by_text("0 chunks").wait_for()
    points = viewer.drawing.scene.points
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(4 * FEWER, 3)).astype(np.float32)
    points.draw(Cloud(xyz, np.zeros((4 * FEWER, 3), np.uint8), 0.02, np.zeros(3)))
    ready = "() => Object.keys(window.__viserSceneTree.getState()).includes('/memory/fewer')"
    for one in (page, other):
        one.wait_for_function(ready, timeout=PATIENCE)
    for motion in (b.motion for b in points._browsers.values()):
        motion.slow = True  # whatever this machine's browser can do
    assert page.evaluate(VISIBLE) == {"/memory/all": True, "/memory/fewer": False}
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(400, 320)
    page.wait_for_function(f"() => ({VISIBLE})()['/memory/fewer'] === true", timeout=PATIENCE)
    assert page.evaluate(VISIBLE)["/memory/all"] is False
    assert other.evaluate(VISIBLE) == {"/memory/all": True, "/memory/fewer": False}
    page.mouse.up()
    page.wait_for_function(f"() => ({VISIBLE})()['/memory/all'] === true", timeout=PATIENCE)
    assert page.evaluate(VISIBLE)["/memory/fewer"] is False
    other.close()


@pytest.mark.parametrize("count", [FEWER + 1, 2 * FEWER, 100_000])
def test_thinned_out_points_are_some_of_the_points(count):
    xyz = np.arange(3 * count, dtype=np.float32).reshape(-1, 3)
    cloud = Cloud(xyz, (xyz % 256).astype(np.uint8), 0.02, np.zeros(3))
    thin = thinned(cloud)
    assert FEWER / 2 - 1 <= len(thin.xyz) <= FEWER
    assert np.isin(thin.xyz[:, 0], xyz[:, 0]).all()
    assert np.array_equal(thin.colours, (thin.xyz % 256).astype(np.uint8))
    assert thin.size > cloud.size


def connected(viewer, origin, host=None):
    """Whether a WebSocket of that origin gets anything."""
    port = viewer.server.get_port()
    address = f"ws://{host or f'127.0.0.1:{port}'}"
    place = {} if host is None else {"host": "127.0.0.1", "port": port}
    with (
        contextlib.suppress(InvalidStatus),
        connect(address, origin=origin, subprotocols=[f"viser-v{viser.__version__}"], **place) as opened,
    ):
        return bool(opened.recv(10))
    return False


def test_only_the_viewers_own_page_may_connect(viewer):
    port = viewer.server.get_port()
    assert connected(viewer, f"http://127.0.0.1:{port}")
    assert connected(viewer, None)
    assert not connected(viewer, "https://elsewhere.example")
    assert not connected(viewer, f"http://localhost:{port + 1}")


UPGRADE = """\
GET / HTTP/1.1\r
Host: 127.0.0.1:{port}\r
Origin: {origin}\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Protocol: viser-v{version}\r
\r
"""


@pytest.mark.parametrize(("own", "status"), [(True, b"101"), (False, b"403")])
def test_another_page_is_refused_in_the_handshake_and_nothing_it_sends_at_once_is_handled(
    viewer, monkeypatch, own, status
):
    server, port = viewer.server, viewer.server.get_port()
    handled = []
    sockets = server._websock_server

    async def handle(client_id, message):
        handled.append(message)

    monkeypatch.setattr(sockets, "_handle_incoming_message", handle)
    origin = f"http://127.0.0.1:{port}" if own else "https://elsewhere.example"
    message = msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": "x", "updates": {}})
    frame = bytes([0x82, 0x80 | len(message), 0, 0, 0, 0]) + message  # binary, masked with zeros
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        request = UPGRADE.format(port=port, origin=origin, version=viser.__version__).encode()
        raw.sendall(request + 5 * frame)
        assert raw.recv(12) == b"HTTP/1.1 " + status
        time.sleep(0.3)
    assert bool(handled) is own


def test_no_other_page_may_show_it_in_a_frame(viewer):
    with urllib.request.urlopen(viewer.address, timeout=10) as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"


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


def test_no_browser_can_ask_for_a_public_address(viewer):
    assert viewer.server.request_share_url() is None


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(InvalidOptionError, match="no address of this machine"), serving("192.0.2.1", 0):
        pass


def test_path_is_thinned_out_where_it_is_long():
    model = SimpleNamespace(config=SimpleNamespace(frames_per_chunk=4))
    path = list(range(1 + 4 * 500))
    drawn = path_cameras(SimpleNamespace(path=path, model=model, camera=path[-1]))
    assert len(drawn) <= MOST_FRUSTA + 1
    assert drawn[0] == ("0", 0)
    assert drawn[-1] == ("here", path[-1])


def test_command_serves_a_page(tmp_path, monkeypatch):
    save_world_model(open_minded_model(), tmp_path / "tiny")
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("a browser was opened"))
    options = View(seed=3, model=str(tmp_path / "tiny"), caches=tmp_path / "caches", port=0, no_browser=True)
    with viewing(options, lambda model, seed: open_room(model, seed)) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"<html" in answer.read(2000)


def test_without_viser_the_command_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "viser"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("page", "server", "panel", "points", "scene"):
        monkeypatch.delitem(sys.modules, f"mirage_env.viewer.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingPackageError, match="pip install"), viewing(View(), open_room):
        pass
