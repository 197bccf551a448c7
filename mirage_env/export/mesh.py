"""A mesh of a world: every square of its surface as two triangles with its colour, written by trimesh."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.export.patches import Patches

FORMATS = (".glb", ".obj", ".ply", ".stl")
CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
"""Of a square, in its own right and down; front faces look at the camera that saw it."""
TRIANGLES = np.array([[0, 2, 1], [0, 3, 2]])


def save_mesh(patches: Patches, path: str | Path) -> Path:
    """Write a mesh with coloured vertices, in the frame of the world (glTF viewers take y for up).

    The squares are as they were seen: they face the cameras and are not joined with their neighbours.

    Raises:
        MissingPackageError: trimesh is not installed.
        InvalidOptionError: a path with another ending than `FORMATS`.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InvalidOptionError(f"{path} has the ending {path.suffix!r}; a mesh is one of {', '.join(FORMATS)}")
    try:
        import trimesh
    except ImportError as error:
        raise MissingPackageError("a mesh needs trimesh; pip install 'mirage-env[mesh]'") from error
    axes = patches.R_world_patch[:, None, :, :2] * patches.size[:, None, None, None]  # [N, 1, 3, 2]
    corners = patches.xyz[:, None] + np.einsum("nkij,kj->nki", np.repeat(axes, 4, axis=1), CORNERS)
    faces = 4 * np.arange(len(patches))[:, None, None] + TRIANGLES
    colours = np.repeat(patches.colours, 4, axis=0)
    mesh = trimesh.Trimesh(corners.reshape(-1, 3), faces.reshape(-1, 3), vertex_colors=colours, process=False)
    mesh.export(str(path))
    return path
