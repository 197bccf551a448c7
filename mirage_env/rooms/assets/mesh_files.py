"""Furniture from a catalogue's OBJ files: turned upright, simplified to a bounded number of triangles, and cached."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.errors import MissingPackageError
from mirage_env.files import new_file, open_picture
from mirage_env.files.zips import read_member
from mirage_env.rooms.assets.catalogue import MOST_TEXT_BYTES, Model, opened
from mirage_env.rooms.assets.locations import cache_folder
from mirage_env.rooms.assets.photographs import texels
from mirage_env.rooms.assets.simplification import Part, Surface, simplified
from mirage_env.rooms.mesh_arrays import Mesh, tree

Array = NDArray[Any]

FORMAT = 7
"""Version of the cached files; raise it when what they hold changes."""
FACES = 1500
"""Triangles of a piece of furniture, at most."""
SMALL_FACES = 500
"""Triangles of a thing smaller than `SMALL` metres."""
SMALL = 0.6
GLASS = 0.4
"""Surfaces that let more light through than this share of opacity are left out."""
MOST_GLASS = 0.15
"""Share of a model's area that may be left out as glass."""
_CREASE = 0.77
"""Cosine of the angle between facets below which their edge is sharp."""
_TOP = 32
FAR = 1e9
"""No corner is so far away, in units of its file."""
MOST_OBJ_BYTES, MOST_PICTURE_BYTES = 2**27, 2**26
ODD_MESHES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What trimesh raises at damaged files."""


@lru_cache(maxsize=400)
def load_mesh(model: Model) -> Mesh | None:
    """The mesh of a model, or None if it is of no use (of glass, or too large to simplify)."""
    file = _cached(model)
    if not file.exists():
        mesh = _made(model)
        with new_file(file) as unfinished, unfinished.open("wb") as out:
            np.savez_compressed(out, allow_pickle=False, **({} if mesh is None else _arrays(mesh)))
        return mesh
    with np.load(file, allow_pickle=False) as arrays:
        if not arrays.files:
            return None
        images = tuple(arrays[name] for name in sorted(arrays.files) if name.startswith("image"))
        return Mesh(**{name: arrays[name] for name in arrays.files if not name.startswith("image")}, images=images)


def _cached(model: Model) -> Path:
    key = f"{FORMAT} {FACES} {SMALL_FACES} {model} {model.file.stat().st_size}"
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def _arrays(mesh: Mesh) -> dict[str, Array]:
    arrays = {name: value for name, value in vars(mesh).items() if name != "images"}
    return arrays | {f"image{i:03d}": image for i, image in enumerate(mesh.images)}


def _cross(vertices: Array, faces: Array) -> Array:  # [V, 3], [T, 3] -> [T, 3]
    """Twice the area of every triangle, along its normal."""
    a, b, c = vertices[faces.T]
    return np.cross(b - a, c - a)


def _made(model: Model) -> Mesh | None:
    parts, glass = _read(model)
    if not parts or glass > MOST_GLASS:
        return None
    limit = FACES if max(model.size) > SMALL else SMALL_FACES
    total = sum(len(faces) for _, faces, _, _ in parts)
    if total > limit:
        if sum(len(faces) for _, faces, _, surface in parts if surface[1]) > limit:
            return None  # leaves are cards of a few triangles each: there is nothing to simplify
        parts = [simplified(part, limit / total) for part in parts]
        if sum(len(faces) for _, faces, _, _ in parts) > 2 * limit:
            return None
    return _assembled(model, parts)


def _read(model: Model) -> tuple[list[Part], float]:
    """Parts of a model by material, and the share of its area that is of glass."""
    try:
        import trimesh
    except ImportError as error:
        raise MissingPackageError("furniture needs trimesh; install mirage-env[rooms]") from error
    with opened(model.file) as archive:
        folder, obj = model.obj.rpartition("/")[0], read_member(archive, model.obj, MOST_OBJ_BYTES)
        try:
            loaded: Any = trimesh.load(
                io.BytesIO(obj), file_type="obj", resolver=_members(archive, folder), group_material=True, process=False
            )
        except ODD_MESHES as error:
            raise ValueError(f"{model.obj}: {error!r}") from error
        shapes = list(loaded.geometry.values()) if isinstance(loaded, trimesh.Scene) else [loaded]
        shapes = [shape for shape in shapes if len(getattr(shape, "faces", ()))]
        if not all(map(_is_sound, shapes)):
            raise ValueError(f"{model.obj}: it has corners that are nowhere")
    if not shapes:
        return [], 1.0
    points = [_upright(np.asarray(shape.vertices, np.float64), model.rotation) for shape in shapes]
    low, high = np.min([p.min(0) for p in points], axis=0), np.max([p.max(0) for p in points], axis=0)
    size = np.array(model.size)
    parts, areas = [], []
    for shape, point in zip(shapes, points, strict=True):
        vertices = (point - 0.5 * (low + high)) / np.maximum(high - low, 1e-9) * size
        faces = np.asarray(shape.faces, np.int64)
        cross = _cross(vertices, faces)
        area = 0.5 * np.linalg.norm(cross, axis=1)
        surface, opacity = _surface(shape.visual)
        areas.append((float(area.sum()), opacity < GLASS))
        if opacity >= GLASS:
            uv = getattr(shape.visual, "uv", None)
            uv = np.zeros((len(vertices), 2)) if uv is None or len(uv) != len(vertices) else np.asarray(uv)
            parts.append((vertices, faces[area > 1e-9], np.nan_to_num(uv), surface))
    total = sum(area for area, _ in areas)
    return [part for part in parts if len(part[1])], sum(a for a, glass in areas if glass) / max(total, 1e-12)


def _is_sound(shape: Any) -> bool:
    """Return whether the corners of a mesh are finite, and its faces those of corners that it has."""
    vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
    finite = vertices.ndim == 2 and vertices.shape[1] == 3 and bool((np.abs(vertices) < FAR).all())
    return finite and faces.shape[1:] == (3,) and 0 <= int(faces.min()) <= int(faces.max()) < len(vertices)


def _colour(material: Any) -> Array:  # [3]
    """Colour of a material, 0 to 255; light grey where it has none."""
    colour = np.asarray(getattr(material, "diffuse", ()))
    sound = colour.dtype.kind in "uif" and colour.shape in ((3,), (4,)) and bool(np.isfinite(colour).all())
    return colour[:3] if sound else np.full(3, 180.0)


def _upright(points: Array, rotation: tuple[float, ...] | None) -> Array:
    """From a catalogue's frame (y up, z to the front) to that of furniture (z up, y to the front)."""
    if rotation is not None:
        points = points @ np.reshape(rotation, (3, 3)).T
    return np.stack([-points[:, 0], points[:, 2], points[:, 1]], axis=1)


def _surface(visual: Any) -> tuple[Surface, float]:
    """Look of a part and its opacity. Where there is an image, it is the colour: many files tint it with black."""
    material = getattr(visual, "material", None)
    picture = getattr(material, "image", None)
    extra = getattr(material, "kwargs", None) or {}
    try:
        opacity = float(extra["d"][0])
    except (LookupError, TypeError, ValueError):  # none, or no number
        opacity = 1.0
    if picture is None:
        display = _colour(material) / 255.0
        # Pure colours of a colour picker: paint and cloth are duller.
        display = display + 0.3 * (display.mean() - display)
        r, g, b = (float(x) for x in np.clip(display, 0.05, 0.92) ** 2.2)
        return ((r, g, b), False, None), opacity
    image = texels(picture, 256)
    holes = float((image[..., 3] < 128).mean())
    return ((1.0, 1.0, 1.0), holes > 0.02, image), opacity


def _members(archive: zipfile.ZipFile, folder: str) -> Any:
    """Files beside an OBJ file in its archive, as trimesh asks for them: materials by index, pictures by `get`.

    trimesh would decode a picture of any format, so it gets what the guarded reader makes of it.
    """
    from trimesh.resolvers import Resolver

    class Members(Resolver):
        def __init__(self) -> None:
            """Everything it needs is around it."""

        def __getitem__(self, name: str) -> bytes:
            return read_member(archive, f"{folder}/{name.strip()}", MOST_TEXT_BYTES)

        def get(self, name: str) -> bytes:
            out = io.BytesIO()
            picture = open_picture(read_member(archive, f"{folder}/{name.strip()}", MOST_PICTURE_BYTES), None)
            picture.convert("RGBA").save(out, "PNG", compress_level=0)
            return out.getvalue()

        def keys(self) -> list[str]:
            return archive.namelist()

        def namespaced(self, namespace: str) -> Members:
            return self

        def write(self, name: str, data: bytes) -> None:
            """Nothing is written to a catalogue."""

    return Members()


def _assembled(model: Model, parts: list[Part]) -> Mesh | None:
    size = np.array(model.size)
    starts = np.cumsum([0] + [len(vertices) for vertices, _, _, _ in parts])
    vertices = np.concatenate([part[0] for part in parts])
    faces = np.concatenate([part[1] + start for part, start in zip(parts, starts[:-1], strict=True)])
    corner_uv = np.concatenate([part[2][part[1]] for part in parts])
    surface = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
    cross = _cross(vertices, faces)
    double = np.linalg.norm(cross, axis=1)
    keep = double > 1e-9
    faces, corner_uv, surface, cross, double = (x[keep] for x in (faces, corner_uv, surface, cross, double))
    if len(faces) < 4:
        return None
    _, position = np.unique(np.round(vertices * 1e4), axis=0, return_inverse=True)
    normals = _smooth(position.reshape(-1)[faces], cross, cross / double[:, None])
    corner_uv = corner_uv - np.floor(corner_uv.min(axis=1, keepdims=True))
    corner_uv = np.clip(corner_uv, 0.0, 500.0)
    e, k = corner_uv[:, 1] - corner_uv[:, 0], corner_uv[:, 2] - corner_uv[:, 0]
    density = np.sqrt(np.abs(e[:, 0] * k[:, 1] - e[:, 1] * k[:, 0]) / double)
    corners = (vertices / (0.5 * size))[faces].astype(np.float32)
    order, nodes, links = tree(corners.min(1).astype(np.float64), corners.max(1).astype(np.float64))
    images = [part[3][2] for part in parts if part[3][2] is not None]
    looks, shown = np.zeros((len(parts), 5)), 0
    for look, (_, _, _, (color, holes, image)) in zip(looks, parts, strict=True):
        look[:] = shown if image is not None else -1, *color, float(holes)
        shown += image is not None
    rows = [corners.reshape(-1, 9), normals.reshape(-1, 9), corner_uv.reshape(-1, 6), density[:, None], looks[surface]]
    triangles = np.concatenate(rows, axis=1)[order].astype(np.float32)
    return Mesh(triangles, nodes, links, _top(corners.astype(np.float64)), tuple(images))


@njit(cache=True)
def _smooth(position: Array, weighted: Array, unit: Array) -> Array:  # [T, 3, 3]
    """Normals of corners: the mean of the facets around that stand at a small angle to the corner's own."""
    count = position.max() + 1
    start = np.zeros(count + 1, np.int64)
    for t in range(position.shape[0]):
        for c in range(3):
            start[position[t, c] + 1] += 1
    start = np.cumsum(start)
    fill, around = start.copy(), np.zeros(3 * position.shape[0], np.int64)
    for t in range(position.shape[0]):
        for c in range(3):
            around[fill[position[t, c]]] = t
            fill[position[t, c]] += 1
    normals = np.zeros((position.shape[0], 3, 3))
    for t in range(position.shape[0]):
        for c in range(3):
            for i in range(start[position[t, c]], start[position[t, c] + 1]):
                other = around[i]
                cosine = unit[t, 0] * unit[other, 0] + unit[t, 1] * unit[other, 1] + unit[t, 2] * unit[other, 2]
                if abs(cosine) > 0.77:  # winding is not to be relied on
                    for k in range(3):
                        normals[t, c, k] += weighted[other, k] if cosine > 0.0 else -weighted[other, k]
            length = _length(normals[t, c])
            for k in range(3):
                normals[t, c, k] = normals[t, c, k] / length if length > 0.0 else unit[t, k]
    return normals


@njit(cache=True)
def _length(v: Array) -> float:
    return (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) ** 0.5


@njit(cache=True)
def _top(corners: Array) -> Array:  # [32, 32] float32, rows along x
    """Height of the surface seen from above, in box coordinates."""
    top = np.full((32, 32), np.float32(-1.0))
    for t in range(corners.shape[0]):
        A, B, C = corners[t, 0], corners[t, 1], corners[t, 2]
        det = (B[0] - A[0]) * (C[1] - A[1]) - (B[1] - A[1]) * (C[0] - A[0])
        if abs(det) < 1e-12:
            continue
        for i in range(32):
            x = (i + 0.5) / 16.0 - 1.0
            if x < min(A[0], min(B[0], C[0])) or x > max(A[0], max(B[0], C[0])):
                continue
            for j in range(32):
                y = (j + 0.5) / 16.0 - 1.0
                s = ((x - A[0]) * (C[1] - A[1]) - (y - A[1]) * (C[0] - A[0])) / det
                r = ((B[0] - A[0]) * (y - A[1]) - (B[1] - A[1]) * (x - A[0])) / det
                if s >= 0.0 and r >= 0.0 and s + r <= 1.0:
                    top[i, j] = max(top[i, j], np.float32(A[2] + s * (B[2] - A[2]) + r * (C[2] - A[2])))
    return top
