"""Tables of a walk and of a saved world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mirage_env.files import printable

if TYPE_CHECKING:
    from mirage_env.commands.walk_outputs import WalkFigures
    from mirage_env.store import CacheInfo

Rows = list[tuple[str, str]]
"""Names and values; a row without a name goes on with the one before."""


def walk_table(figures: WalkFigures, files: Sequence[Path]) -> str:
    """Figures and files of a walk."""
    return _table([*walk_rows(figures), *(("wrote" if i == 0 else "", str(file)) for i, file in enumerate(files))])


def walk_rows(figures: WalkFigures) -> Rows:
    """Figures of a walk."""
    rows = [
        (
            "walked",
            f"{counted(figures.chunks, 'chunk')}, {figures.frames} frames{' (stopped)' if figures.stopped else ''}",
        ),
        ("speed", f"{figures.frames_per_second:.1f} frames/s, whole cycle with writing"),
        ("memory", f"{figures.points} points, {_bytes(figures.nbytes)}; {_bytes(figures.bytes_per_chunk)} per chunk"),
        ("coverage", f"{100 * figures.coverage:.0f} % of the cells were known to the memory"),
    ]
    if figures.psnr is not None:
        known = "" if figures.psnr_known is None else f", {figures.psnr_known:.1f} dB where the memory knew"
        rows.append(("against truth", f"{figures.psnr:.1f} dB PSNR{known} (movers left out)"))
    return rows


def cache_table(info: CacheInfo) -> str:
    """Contents of a cache."""
    return _table(cache_rows(info))


def cache_rows(info: CacheInfo) -> Rows:
    """The rows of `cache_table`."""
    bounds = "empty"
    if info.bounds is not None:
        low, high = info.bounds
        axes = (f"{name} {a:.2f} to {b:.2f}" for name, a, b in zip("xyz", low, high, strict=True))
        bounds = ", ".join(axes) + " m"
    images = "stored" if info.has_frames else "not stored"
    per_chunk, per_frame = (info.nbytes / max(n, 1) for n in (info.chunks, len(info.cameras) - 1))
    return [
        ("cache", f"{info.path} ({info.software}, {info.created})"),
        ("model", f"{info.model} ({info.identity})"),
        ("walked", f"{counted(info.chunks, 'chunk')}, {len(info.cameras)} cameras, images {images}"),
        ("memory", f"{info.points} points in {counted(info.blocks, 'block')}, {_bytes(info.nbytes)}"),
        ("", f"{_bytes(per_chunk)} per chunk, {_bytes(per_frame)} per frame"),
        ("on disk", _bytes(info.stored_bytes)),
        ("extent", bounds),
    ]


def counted(count: int, what: str) -> str:
    """A number of things: 1 chunk, 2 chunks."""
    return f"{count} {what}{'s' * (count != 1)}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(printable(f"{name:<{width}}{value}", keep="") for name, value in rows)


def _bytes(count: float) -> str:
    return f"{count / 1024:.1f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.2f} MiB"
