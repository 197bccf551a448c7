"""A furniture catalogue and a folder of photographs of the tests' own: boxes of a few triangles, coloured squares."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CC_BY = "This file is under http://creativecommons.org/licenses/by/3.0/"

FURNITURE = (
    # name, category, width, depth, height in cm
    *((f"table{i}", "Table", "Living room", 120, 80, 75) for i in range(12)),
    *((f"chair{i}", "Chair", "Living room", 45, 45, 90) for i in range(12)),
    *((f"bookcase{i}", "Bookcase", "Living room", 90, 35, 180) for i in range(12)),
    *((f"mug{i}", "Coffee mug", "Kitchen", 12, 12, 14) for i in range(12)),
    *((f"male0{i}", "Male", "Characters", 60, 40, 180) for i in range(9)),
)

_CORNERS = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
_SIDES = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]


def box_obj(material: str = "look") -> str:
    """A cube of six squares as an OBJ file."""
    lines = ["mtllib look.mtl", *(f"v {x} {y} {z}" for x, y, z in _CORNERS)]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", f"usemtl {material}"]
    return "\n".join([*lines, *("f " + " ".join(f"{v}/{i + 1}" for i, v in enumerate(s.split())) for s in _SIDES)])


def png(color: tuple[int, ...], size: int = 16) -> bytes:
    """A square of one colour."""
    out = io.BytesIO()
    Image.fromarray(np.full((size, size, len(color)), color, np.uint8)).save(out, "PNG")
    return out.getvalue()


def write_catalogue(
    file: Path, licence: str = CC_BY, mtl: str = "newmtl look\nKd 0.4 0.5 0.6\n", furniture: Sequence[tuple] = FURNITURE
) -> Path:
    """A `.sh3f` file with boxes of the sizes of furniture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("LICENSE.TXT", licence)
        for i, (stem, name, category, width, depth, height) in enumerate(furniture, start=1):
            values = {"name": name, "category": category, "model": f"/{stem}/{stem}.obj", "width": width}
            values |= {"depth": depth, "height": height, "creator": f"Maker of {stem}"}
            lines += [f"{key}#{i}={value}" for key, value in values.items()]
            archive.writestr(f"{stem}/{stem}.obj", box_obj())
            archive.writestr(f"{stem}/look.mtl", mtl)
            archive.writestr(f"{stem}/square.png", png((200, 30, 30, 255)))
            archive.writestr(f"{stem}/air.png", png((200, 30, 30, 0)))
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
    return file


def write_photographs(folder: Path) -> Path:
    """A few photographs by the names that rooms know, and paintings."""
    (folder / "portraits").mkdir(parents=True)
    for name, color in (("wood_1", (160, 110, 60)), ("drywall_1", (210, 210, 205)), ("grass_1", (60, 120, 40))):
        (folder / f"{name}.png").write_bytes(png(color))
    for i in range(20):
        (folder / "portraits" / f"somebody{i}.png").write_bytes(png((120, 60 + i, 40)))
    return folder
