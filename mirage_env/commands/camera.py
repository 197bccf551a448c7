"""`mirage camera`: recognise camera files of other programs, and their contradictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from mirage_env.datasets.camera_files import CameraPath, Lens


@dataclass(frozen=True)
class CameraReport:
    """Recognise a camera file of others: format, axes, units, lens, and what contradicts itself."""

    file: Annotated[Path, tyro.conf.Positional]
    """COLMAP folder, transforms.json, .npz, .npy, or text of KITTI, TUM, RealEstate10K or Open3D."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw the frusta from above and from the side to this PNG file."""


def camera(options: CameraReport) -> int:
    """`mirage camera`."""
    from mirage_env.datasets.camera_files import read_cameras

    path = read_cameras(options.file)
    print("\n".join(report(path)))
    if options.out is not None:
        from PIL import Image

        from mirage_env.viz.frusta import draw_frusta

        options.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_frusta(path.T_world_cam)).save(options.out, "PNG")
        print(f"drawn in {options.out}")
    return 0


def report(path: CameraPath) -> list[str]:
    """Findings and their reasons, one line each."""
    import numpy as np

    from mirage_env.datasets.camera_files import contradictions, median_step

    positions = path.T_world_cam[:, :3, 3]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    unit = "m" if path.metric else "units (not known to be metres)"
    lines = [f"{path.format}: {len(path)} cameras", *path.why]
    lines.append(f"extent {np.round(np.ptp(positions, axis=0), 3).tolist()} {unit}")
    if len(steps):
        lines.append(f"step {median_step(steps):.4g} in the middle, {steps.max():.4g} at most")
    if path.times is not None and len(path) > 1:
        lines.append(f"{path.times[-1] - path.times[0]:.3f} s from first to last")
    if path.fov is not None and not path.lenses:
        lines.append(f"horizontal field of view {np.degrees(path.fov):.1f} degrees")
    lines.append(_lens(path.lens(0)) + (", one for each camera" if len(set(path.lenses)) > 1 else ""))
    if len(path.points):
        lines.append(f"{len(path.points)} triangulated points")
    found = contradictions(path)
    return [*lines, *(f"WARNING: {warning}" for warning in found)]


def _lens(lens: Lens | None) -> str:
    if lens is None:
        return "no intrinsics in the file"
    if lens.relative:
        return f"fx {lens.fx:.4f}, cx {lens.cx:.4f} of the width, fy {lens.fy:.4f}, cy {lens.cy:.4f} of the height"
    size = f" of {lens.width} x {lens.height} pixels" if lens.width and lens.height else ""
    bent = f", {lens.model} distortion {[round(k, 6) for k in lens.distortion]}" if lens.distorted else ""
    return f"fx {lens.fx:.2f}, fy {lens.fy:.2f}, cx {lens.cx:.2f}, cy {lens.cy:.2f}{size}{bent}"
