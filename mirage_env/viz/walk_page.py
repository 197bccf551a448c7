"""`mirage walk --show`: a page of what a walk left, and a browser that shows it."""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

from mirage_env.viz.html import picture_html, table_html
from mirage_env.viz.pictures import Picture

VIDEO, SHEET, CURVES, CACHE = "walk.mp4", "contact_sheet.png", "curves.png", "cache.zarr"
PAGE = "walk.html"
"""Files in the folder of a walk."""

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#282c2c;background:#fafaf8}"
    "video,img{max-width:100%;border-radius:4px}th{padding-right:1.5rem;vertical-align:top}figure{margin:1.5rem 0}"
    "figcaption{color:#666}"
)


def write_page(folder: Path, rows: Sequence[tuple[str, str]], above: Picture | None) -> Path:
    """A page beside the files of a walk, which it shows.

    Args:
        folder: where `walk` left its video and pictures.
        rows: what was measured.
        above: the memory seen from above.
    """
    figures = [
        f'<video controls loop autoplay muted playsinline src="{VIDEO}"></video>',
        table_html(rows),
        _figure(f'<img alt="contact sheet" src="{SHEET}">', "what was seen on the way"),
        _figure(f'<img alt="curves" src="{CURVES}">', "what the memory knew, how far the world drifts, how it grows"),
    ]
    if above is not None:
        figures.append(_figure(picture_html(above, "the memory from above"), "the memory from above, and the path"))
    go_on = f"mirage view {folder / CACHE}"
    page = folder / PAGE
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>A walk</title><style>{STYLE}</style>'
        f"<h1>A walk</h1>{''.join(figures)}<p>To go on from here: <code>{html.escape(go_on)}</code></p></html>\n",
        encoding="utf-8",
    )
    return page


def open_page(page: Path) -> str:
    """Open a page in the browser, or describe how to see it where there is none."""
    if has_display(os.environ, sys.platform) and webbrowser.open(page.resolve().as_uri()):
        return f"shown in the browser: {page}"
    return (
        f"nothing was opened, because there is no display or no browser here. Open {page} in a browser (copy the whole "
        f"folder to see it elsewhere), or serve it: python -m http.server --bind 127.0.0.1 --directory {page.parent}"
    )


def has_display(environment: Mapping[str, str], platform: str) -> bool:
    """True if windows can be opened (elsewhere a browser could still start in the terminal, and would block it)."""
    return platform != "linux" or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"
