"""What the viewer costs, seen from a browser; wants `pip install -e ".[test]"`, a Chromium, and a quiet machine.

    python benchmarks/viewer.py                              # the figures
    python benchmarks/viewer.py --pictures docs --presses 0  # docs/viewer.png and docs/viewer_phone.png

Chromium renders in software (SwiftShader), as on a machine without a GPU.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from mirage_env.commands.room_worlds import open_room
from mirage_env.commands.view import viewing
from mirage_env.commands.view_options import View

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WALK = ("ArrowRight", "w", "ArrowLeft", "ArrowLeft", "w", "ArrowRight")
CONTROLS = """
() => {
  const all = [...document.querySelectorAll("button, select, input, canvas")];
  const shown = all.filter((one) => one.getBoundingClientRect().width > 0);
  const off = shown.filter((one) => {
    const { left, top, right, bottom } = one.getBoundingClientRect();
    return left < 0 || top < 0 || right > innerWidth + 0.5 || bottom > innerHeight + 0.5;
  });
  const large = document.querySelector("#imagined").getBoundingClientRect();
  const share = (large.width * large.height) / (innerWidth * innerHeight);
  return { controls: shown.length, off_screen: off.length, share_of_page: Math.round(1000 * share) / 1000 };
}
"""


@dataclass(frozen=True)
class Options:
    """What to measure or draw."""

    model: str = "rooms"
    seed: int = 7
    presses: int = 20
    """Key presses to time; 0 for none."""
    pictures: Path | None = None
    """Draw the page of a walk, at a desktop's and a phone's width, into this folder."""


def until(page: Page, script: str, seconds: float = 400.0) -> None:
    """Wait until an expression is true in the page (whose policy forbids what playwright waits with)."""
    end = time.monotonic() + seconds
    while not page.evaluate(script):
        if time.monotonic() > end:
            raise TimeoutError(script)
        page.wait_for_timeout(20)


def press(page: Page, key: str) -> dict[str, float]:
    """Walk one chunk; milliseconds from the key to the first picture that answers, and to the chunk's first frame."""
    moment = page.evaluate("[mirage.moment, mirage.answered = 0, mirage.driver.seconds][0]")
    page.keyboard.press(key)
    until(page, f"mirage.moment !== {moment} && mirage.driver.idle")
    return dict(page.evaluate("({warp: mirage.answered, chunk: 1000 * mirage.driver.last})"))


def opened(browser: Browser, address: str, size: dict[str, int]) -> Page:
    """The page, once the world is in it."""
    page = browser.new_page(viewport=size)  # type: ignore[arg-type]
    page.goto(address)
    until(page, "!!window.mirage?.memory?.arrays && mirage.driver.idle")
    page.wait_for_timeout(2000)  # panes are filled
    return page


def _spread(what: str, values: list[float], bar: float | None = None) -> dict[str, Any]:
    return {"what": what, "median": round(float(np.median(values))), "p90": round(float(np.percentile(values, 90))),
            "worst": round(max(values)), "count": len(values), "bar": bar}  # fmt: skip


def main(options: Options) -> None:
    """Measure and draw as asked; prints the figures as JSON."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as caches, sync_playwright() as playwright:
        view = View(seed=options.seed, model=options.model, caches=Path(caches), port=0, no_browser=True)
        with viewing(view, open_room) as address:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = opened(browser, address, DESKTOP)
            if options.pictures is not None:
                for number, key in enumerate(WALK):
                    press(page, key)
                    if number == 2:
                        page.keyboard.press("f")
                        until(page, "mirage.worlds.length === 2")
                page.wait_for_timeout(3000)
                page.screenshot(path=str(options.pictures / "viewer.png"))
                page.close()
            for size in (DESKTOP, PHONE):
                page = opened(browser, address, size)
                page.evaluate("mirage.enter(mirage.worlds.at(-1).world)")
                page.wait_for_timeout(3000)
                figures.append({"page": size, **page.evaluate(CONTROLS)})
                if options.pictures is not None and size is PHONE:
                    page.screenshot(path=str(options.pictures / "viewer_phone.png"))
                page.close()
            if options.presses:
                page = opened(browser, address, DESKTOP)
                times = [press(page, ("ArrowLeft", "ArrowRight")[n % 2]) for n in range(options.presses)]
                figures.append(_spread("key to visible answer, ms", [t["warp"] for t in times], bar=100))
                figures.append(_spread("key to first frame of the chunk, ms", [t["chunk"] for t in times]))
            browser.close()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
