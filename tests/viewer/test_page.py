"""The page in a real browser: it answers at once, drives, forks, saves, records and says what went wrong."""

import io
import threading
import time
from base64 import b64decode
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from browsers import chromium
from page_probes import DROP, MISPAINTED, NEAR_AND_FAR, OFF_SCREEN, OLDER_CAMERA
from PIL import Image
from small_rooms import open_room
from stand_ins import picture, walled_world_model
from videos import read_video
from world_server import START_VIEWS, tiny_server

from mirage_env.commands.view import viewing
from mirage_env.commands.view_options import View
from mirage_env.serving import Address, Service, ServiceOptions, serving
from mirage_env.serving.app import owner_of

DESKTOP, PHONE = (1280, 800), (390, 844)
PATIENCE = 120.0
"""Seconds; other processes may share the machine."""
IDLE = "mirage.driver.idle && !mirage.busy"


@dataclass
class Shown:
    """The page in a browser, and what is behind it."""

    page: object
    gate: threading.Event
    problems: list

    def until(self, script):
        """Wait until an expression is true in the page, which forbids the evaluation of text by its own scripts."""
        end = time.monotonic() + PATIENCE
        while not (found := self.page.evaluate(script)):
            assert time.monotonic() < end, (script, self.page.evaluate("document.body.innerText"), self.problems)
            self.page.wait_for_timeout(20)
        return found

    def picture(self):
        """Grey of the large picture, [H, W]."""
        url = self.page.evaluate("document.querySelector('#imagined').toDataURL()")
        with Image.open(io.BytesIO(b64decode(url.partition(",")[2]))) as image:
            return np.asarray(image.convert("L"), np.float64)

    def pose(self):
        """Position, and what is right and ahead of the camera, after the last chunk."""
        pose = self.page.evaluate("mirage.chunk.frames.at(-1).pose")
        return np.array(pose["t"]), np.array(pose["R"][0::3]), np.array(pose["R"][2::3])

    def chunks(self, least):
        """Wait until so many are there and no more come: a key that is held long on a busy machine makes several."""
        self.until(f"mirage.chunk?.number >= {least} && {IDLE}")
        return self.page.evaluate("mirage.chunk.number")

    def tap(self, key):
        """Press a key for one chunk: on a busy machine it may be held for longer than a chunk takes."""
        self.gate.clear()
        self.page.keyboard.press(key)
        self.until("mirage.driver.busy")
        self.gate.set()

    def says(self, text):
        self.until(f"document.body.innerText.includes({text!r})")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose generator waits at a gate when it is closed."""
    gate, model = threading.Event(), walled_world_model()
    gate.set()

    def generate(**arguments):
        assert gate.wait(PATIENCE)
        return model.generator.generate(**arguments)

    folder = tmp_path_factory.mktemp("viewer")
    options = ServiceOptions(folder / "worlds", saved=folder / "caches")
    slow = walled_world_model(generator=SimpleNamespace(generate=generate))
    service = Service(slow, options, START_VIEWS, open_room)
    service.open_first(owner_of(""), room=1)
    with serving(service, Address(port=0)) as url:
        yield url, gate


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def opened(browser, address):
    """A page in a browser window of its own."""
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    return page


@pytest.fixture
def shown(request, browser, server):
    """The page at a room of its own."""
    url, gate = server
    width, height = getattr(request, "param", DESKTOP)
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    shown = Shown(page, gate, [])
    page.on("pageerror", lambda error: shown.problems.append(str(error)))
    page.on("console", lambda message: shown.problems.append(message.text) if message.type == "error" else None)
    page.goto(url)
    shown.until(f"!!window.mirage?.memory?.arrays && {IDLE}")
    page.evaluate("mirage.open({room: 1})")
    shown.until(f"mirage.chunk.number === 0 && {IDLE}")
    yield shown
    assert shown.problems == []
    gate.set()
    context.close()


@pytest.mark.parametrize("shown", [DESKTOP, PHONE], ids=["desktop", "phone"], indirect=True)
def test_page_drives_forks_saves_and_shows_errors(shown):
    page, phone = shown.page, shown.page.viewport_size["width"] == PHONE[0]
    assert page.evaluate(OFF_SCREEN) == []
    large = page.locator("#imagined").bounding_box()
    assert large["width"] == pytest.approx(large["height"], abs=1.0)  # the native aspect
    share = large["width"] * large["height"] / (page.viewport_size["width"] * page.viewport_size["height"])
    assert share > (0.4 if phone else 0.5)
    start, right, ahead = shown.pose()
    if phone:
        page.locator('[data-move="forward"]').dispatch_event("pointerdown", {"pointerId": 1})
        page.locator('[data-move="forward"]').dispatch_event("pointerup", {"pointerId": 1})
    else:
        page.keyboard.press("w")
    walked = shown.chunks(1)
    there, *_ = shown.pose()
    assert there == pytest.approx(start + 0.4 * walked * ahead, abs=1e-3)
    shown.tap("ArrowLeft")
    assert shown.chunks(walked + 1) == walked + 1
    assert shown.pose()[2] @ right < -0.3
    page.locator("#undo").click()
    shown.until(f"mirage.chunk.number === {walked} && {IDLE}")
    parent = page.evaluate("mirage.world")
    shown.gate.clear()
    page.keyboard.press("d")
    shown.until("mirage.driver.busy")
    page.locator("#fork").click()
    page.keyboard.press("Space")  # waits for the fork, which waits for the chunk that is being made
    shown.gate.set()
    shown.until(f"mirage.world !== {parent!r} && mirage.chunk.number === {walked + 2} && {IDLE}")
    page.evaluate("mirage.list()")
    assert page.locator("#tree ul .current").count() == 1, "a fork hangs below its world"
    fork = page.evaluate("mirage.worlds.find((w) => w.world === mirage.world)")
    first = page.evaluate(f"mirage.worlds.find((w) => w.world === {fork['parent']!r})")
    assert (fork["chunk"], first["chunk"]) == (walked + 2, walked + 1)
    for _ in range(2):
        page.get_by_role("button", name="save", exact=True).click()
        assert page.locator("#save-name").input_value() == fork["name"]
        page.locator("#save-name").fill("phone" if phone else "desk")
        page.locator("#save").click()
    shown.until("document.querySelector('#alert').innerText.includes('already; choose another name')")
    if phone:
        page.locator("#worlds-button").click()
    page.locator("#tree .current [title=rename]").click()
    page.locator("#new-name").fill(f"kitchen of {fork['world']}")
    page.keyboard.press("Enter")
    row = page.locator("#tree .world", has_text=f"kitchen of {fork['world']}")
    row.wait_for()
    page.locator("#tree .world:not(.current) .go").last.click()
    shown.until(f"mirage.world !== {fork['world']!r} && {IDLE}")
    row.locator("[title^=close]").click()
    row.wait_for(state="detached")


def test_a_key_is_answered_by_a_warp_before_its_chunk_is_there(shown):
    page = shown.page
    shown.until("document.querySelector('#imagined').width !== 300")  # of a canvas on which nothing was drawn yet
    before, (_, right, _) = shown.picture(), shown.pose()
    shown.gate.clear()
    page.keyboard.down("d")
    shown.until("mirage.answered > 0")
    assert page.evaluate("mirage.driver.busy && mirage.chunk.number === 0")
    page.wait_for_timeout(300)
    assert page.evaluate("mirage.number") == 1  # held, and no more than one chunk is asked for
    width, end = before.shape[1], time.monotonic() + PATIENCE

    def moved():
        """Pixels to the left that fit best."""
        after = shown.picture()
        off = {by: np.abs(np.roll(before, -by, 1) - after)[:, 60 : width - 60].mean() for by in range(-60, 61, 4)}
        return min(off, key=off.get)

    while (by := moved()) == 0:  # the warp has only begun
        assert time.monotonic() < end
    assert by > 0, "who steps to the right sees things move to the left"
    page.keyboard.up("d")
    shown.gate.set()
    shown.chunks(1)
    here = page.evaluate("mirage.driver.tick(0).pose.t")
    there = page.evaluate("mirage.chunk.frames.at(-1).pose.t")
    assert here == pytest.approx(there, abs=1e-9)
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(180, 300, steps=3)
    page.mouse.up()
    walked = 1
    while shown.pose()[2] @ right <= 0.1:  # a chunk that is made while the mouse still moves has a part of its way
        walked = shown.chunks(walked + 1)
        assert shown.pose()[2] @ right > 0.0, "the picture is drawn to the left"


def test_panes_swap_frames_play_back_and_recordings_are_downloaded(shown, tmp_path):
    page = shown.page
    page.keyboard.press("r")
    page.get_by_role("button", name="paths", exact=True).click()
    page.locator("#chunks").fill("2")
    page.locator("#walk").click()
    assert shown.chunks(2) == 2
    assert page.evaluate(MISPAINTED) == []
    assert page.evaluate("new Set(mirage.chunk.frames.map(({ depth }) => depth.data.byteOffset)).size") == 4
    near, far = page.evaluate(NEAR_AND_FAR)
    assert near > far
    page.locator("#strip button").nth(1).click()
    shown.until("document.querySelectorAll('#strip button')[1].ariaCurrent === 'true'")
    page.keyboard.press("p")
    shown.until("!mirage.film")
    for name in ("depth", "true", "memory"):
        page.locator(f'.panes [data-pane="{name}"]').click()
        shown.until(f"document.querySelector('#stage [data-pane]').dataset.pane === {name!r}")
    assert page.locator(".panes .pane").count() == 5
    assert page.evaluate(OFF_SCREEN) == []
    outside = page.evaluate("document.querySelector('#memory').toDataURL()")
    x, y, goal = page.evaluate(OLDER_CAMERA)
    page.locator("#memory").click(position={"x": x, "y": y})
    walked = shown.chunks(3)
    assert shown.pose()[0] == pytest.approx(goal, abs=1e-3)
    page.locator("#eyes").click()
    shown.until(f"document.querySelector('#memory').toDataURL() !== {outside!r}")
    page.locator("#colouring").select_option("age")
    page.keyboard.press("r")
    for kind in ("gif", "mp4"):
        with page.expect_download() as download:
            page.locator(f"#film-{kind}").click()
        download.value.save_as(tmp_path / f"film.{kind}")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4 * walked
    assert len(read_video(tmp_path / "film.mp4")[1]) == 4 * walked


def test_a_photograph_is_dropped_and_text_of_people_is_never_run_as_html(shown):
    page, file = shown.page, io.BytesIO()
    Image.fromarray(picture(5)).save(file, "PNG")
    page.evaluate(DROP, list(file.getvalue()))
    shown.until(f"document.querySelector('#status').innerText.startsWith('photo: 0') && {IDLE}")
    assert page.evaluate("document.querySelector('[data-pane=\"true\"]').classList.contains('empty')")
    page.evaluate(DROP, list(b"no picture"))
    shown.says("no image that can be read")
    evil = "<img src=x onerror=document.title='hit'>"
    page.evaluate("(name) => mirage.save(name)", evil)
    shown.says(evil)
    assert page.title() == "Mirage"
    assert page.locator("img").count() == 0
    assert page.evaluate(IDLE)


def test_two_browsers_see_the_same_worlds(shown, browser, server):
    other = opened(browser, server[0])
    second = Shown(other, shown.gate, [])
    second.until("!!window.mirage?.chunk")
    world = shown.page.evaluate("mirage.world")
    other.evaluate(f"mirage.enter({world!r})")
    second.until(f"mirage.world === {world!r} && mirage.chunk.number === 0 && {IDLE}")
    shown.page.keyboard.press("w")
    second.chunks(1)
    other.close()


def test_a_token_is_asked_for_until_it_is_right(browser, tmp_path):
    token = "100 % of a token, #1"
    with tiny_server(tmp_path, tokens=(token,)) as url:
        page = opened(browser, url)
        for given, says in (("wrong", "asks for a token"), (token, "knows no such token")):
            page.get_by_text(says).wait_for()
            page.locator("#token").fill(given)
            page.keyboard.press("Enter")
        page.get_by_role("heading", name="Open a world").wait_for()
        page.locator("#seed").fill("3")
        page.keyboard.press("Enter")
        Shown(page, threading.Event(), []).says("room 3: 0 chunks")
        with viewing(View(server=url, token=token, no_browser=True), open_room) as address:
            other = opened(browser, address)
        for one in (page, other):
            one.reload()  # whose address has no token any more
            Shown(one, threading.Event(), []).says("room 3: 0 chunks")
            one.close()
