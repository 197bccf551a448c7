"""Clouds and splats as files: PLY and PCD with colours, and 3D Gaussians as splat viewers read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.export.patches import Patches

SH_C0 = 0.28209479177387814
"""Of the spherical harmonic of degree 0 (Kerbl et al. 2023): colour = .5 + SH_C0 * f_dc."""
THICKNESS = 0.1
"""Of a splat, as a share of its radius."""
RADIUS = 0.6
"""Standard deviation of a splat, as a share of the side of its square: neighbours overlap without a gap."""
OPACITY = 0.95


def save_ply(patches: Patches, path: str | Path) -> Path:
    """Write coloured points as binary PLY: x, y, z, normals towards the cameras, red, green, blue."""
    rows = np.empty(
        len(patches),
        [*((n, "<f4") for n in ("x", "y", "z", "nx", "ny", "nz")), *((n, "u1") for n in ("red", "green", "blue"))],
    )
    for i, name in enumerate("xyz"):
        rows[name], rows[f"n{name}"] = patches.xyz[:, i], -patches.R_world_patch[:, i, 2]
    for i, name in enumerate(("red", "green", "blue")):
        rows[name] = patches.colours[:, i]
    return _write_ply(rows, path)


def save_splat(patches: Patches, path: str | Path) -> Path:
    """Write 3D Gaussians as PLY, one flat disc per square: centre, colour, opacity, scales and rotation."""
    from mirage_env.poses import quaternion_from_rotation

    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    rows = np.zeros(len(patches), [(name, "<f4") for name in names])
    radius = np.log(np.maximum(RADIUS * patches.size, 1e-6))
    wxyz = np.asarray(quaternion_from_rotation(patches.R_world_patch))
    for i, name in enumerate("xyz"):
        rows[name] = patches.xyz[:, i]
        rows[f"f_dc_{i}"] = (patches.colours[:, i] / 255.0 - 0.5) / SH_C0
    rows["opacity"] = np.log(OPACITY / (1.0 - OPACITY))
    rows["scale_0"] = rows["scale_1"] = radius
    rows["scale_2"] = radius + np.log(THICKNESS)
    for i in range(4):
        rows[f"rot_{i}"] = wxyz[:, i]
    return _write_ply(rows, path)


def save_pcd(patches: Patches, path: str | Path) -> Path:
    """Write coloured points as binary PCD 0.7: x, y, z, rgb."""
    red, green, blue = patches.colours.astype(np.uint32).T
    rows = np.empty(len(patches), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
    rows["x"], rows["y"], rows["z"] = patches.xyz.T
    rows["rgb"] = red << 16 | green << 8 | blue
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\nDATA binary\n"
    )
    path = Path(path)
    path.write_bytes(header.encode() + rows.tobytes())
    return path


def _write_ply(rows: NDArray[np.void], path: str | Path) -> Path:
    kinds = {"<f4": "float", "|u1": "uchar"}
    fields = "".join(f"property {kinds[rows.dtype[n].str]} {n}\n" for n in rows.dtype.names or ())
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{fields}end_header\n"
    path = Path(path)
    path.write_bytes(header.encode() + rows.tobytes())
    return path
