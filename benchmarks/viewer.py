"""What the viewer costs, seen from a browser; wants `pip install -e ".[test]"`, a Chromium, and a quiet machine.

    python benchmarks/viewer.py                                        # the figures
    python benchmarks/viewer.py --pictures docs --presses 0 --points 0 # docs/viewer.png and docs/viewer_phone.png

Chromium renders in software (SwiftShader), as on a machine without a GPU.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from mirage_env.commands.room_worlds import open_room
from mirage_env.commands.view import session_of
from mirage_env.commands.view_options import View
from mirage_env.viewer.memory_cloud import Cloud
from mirage_env.viewer.page import Page as ViewerPage
from mirage_env.viewer.server import address_of, serving
from mirage_env.viewer.session import Session

SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WALK = ("turn_right", "forward", "turn_left", "turn_left", "forward", "turn_right")
WATCH = """
() => {
  window.pressed = 0; window.seconds = [];
  document.addEventListener("keydown", () => { window.pressed = performance.now() }, true);
  const shown = [...document.querySelectorAll("img")].find(image => image.getBoundingClientRect().width > 200);
  new MutationObserver(() => {
    if (window.pressed) window.seconds.push((performance.now() - window.pressed) / 1000);
    window.pressed = 0;
  }).observe(shown, { attributes: true, attributeFilter: ["src"] });
}
"""
FRAMES = "() => [performance.now(), window.__viserTestpoints.rendererInfo.render.frame]"
"""The browser's clock in milliseconds, and how many frames it has rendered."""


@dataclass(frozen=True)
class Options:
    """What to measure or draw."""

    model: str = "rooms"
    seed: int = 7
    presses: int = 20
    """Key presses to time; 0 for none."""
    points: int = 100_000
    """Points to turn around; 0 for none."""
    pictures: Path | None = None
    """Draw the page of a walk, at a desktop's and a phone's width, into this folder."""


def key_to_frame(page: Page, session: Session, presses: int) -> dict[str, Any]:
    """Seconds from a key press to the first new picture in the page, one press at a time."""
    page.evaluate(WATCH)
    for number in range(presses):
        page.keyboard.press("jl"[number % 2])
        page.wait_for_function(f"window.seconds.length > {number}", timeout=30_000)
        while session.snapshot().busy is not None:
            page.wait_for_timeout(50)
        page.wait_for_timeout(900)  # until the chunk is played
    return _spread("key press to first new frame, s", page.evaluate("window.seconds"), bar=0.6)


def turning(page: Page, viewer: ViewerPage, session: Session, points: int) -> list[dict[str, Any]]:
    """Frames per second while that many points are turned around with the mouse, for the first and the second time.

    The first time the viewer finds out that the browser is slow.
    """
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((points, 3))
    shell = 3.0 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    origin = session.snapshot().world.path[0].position  # type: ignore[union-attr]
    colours = rng.integers(0, 255, (points, 3), dtype=np.uint8)
    viewer.scene.points.draw(Cloud(shell.astype(np.float32), colours, 0.02, origin))
    page.wait_for_timeout(3000)
    figures = []
    for turn in ("first", "second"):
        began, before = page.evaluate(FRAMES)
        page.mouse.move(300, 400)
        page.mouse.down()
        for step in range(200):
            page.mouse.move(300 + 2 * step, 400 + (step % 40))
            page.wait_for_timeout(20)
        ended, after = page.evaluate(FRAMES)
        page.mouse.up()
        figures.append({"points": points, "turn": turn, "bar": 30,
                        "frames_per_second": round(1000.0 * (after - before) / (ended - began), 1)})  # fmt: skip
        page.wait_for_timeout(3000)
    return figures


def draw(browser: Browser, address: str, session: Session, folder: Path) -> None:
    """Walk a little and take the page's picture."""
    for key in WALK:
        session.press(key).result()
    for name, size in (("viewer", DESKTOP), ("viewer_phone", PHONE)):
        page = opened(browser, address, size)
        page.screenshot(path=str(folder / f"{name}.png"))
        page.close()


def opened(browser: Browser, address: str, size: dict[str, int]) -> Page:
    """The page, once the world is in it."""
    page = browser.new_page(viewport=size)  # type: ignore[arg-type]
    page.goto(address)
    page.get_by_text("points").first.wait_for()
    page.wait_for_timeout(4000)
    warning = page.locator(".mantine-Notification-closeButton").first
    if warning.count():
        warning.click()
        page.wait_for_timeout(1000)
    return page


def _spread(what: str, values: list[float], bar: float) -> dict[str, Any]:
    return {"what": what, "median": round(float(np.median(values)), 3), "worst": round(max(values), 3),
            "count": len(values), "bar": bar}  # fmt: skip


def main(options: Options) -> None:
    """Measure and draw as asked; prints the figures as JSON."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as caches, sync_playwright() as playwright:
        view = View(seed=options.seed, model=options.model, caches=Path(caches), port=0)
        session = session_of(view, open_room)
        with serving(view.host, view.port) as server:
            drawing = ViewerPage(server, session)
            session.warm().result()
            browser = playwright.chromium.launch(executable_path=chromium, args=[*SOFTWARE, *QUIET])
            if options.pictures is not None:
                draw(browser, address_of(server), session, options.pictures)
            page = opened(browser, address_of(server), DESKTOP)
            figures = []
            if options.presses:
                figures.append(key_to_frame(page, session, options.presses))
            for points in (0, options.points) if options.points else ():
                figures.extend(turning(page, drawing, session, points))
            browser.close()
            drawing.close()
        session.close()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
