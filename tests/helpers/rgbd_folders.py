"""Recordings of a room on disk, as RGB-D cameras leave them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.poses import pose_from_rotation_vector, vector_from_pose
from mirage_env.rooms import Room, random_walk

DEPTH_FOV = 1.45
"""Wider than the image's, as depth cameras are, radians."""
T_COLOR_DEPTH = pose_from_rotation_vector([0.025, 0.002, -0.004], [0.01, -0.02, 0.005])


def room_walk(seed: int, frames: int, size: tuple[int, int]) -> tuple[Room, list[Camera]]:
    """A walk through a test room."""
    room = Room.generate(seed, "test")
    return room, random_walk(room, np.random.default_rng(seed), frames, *size)


def noisy(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth as a sensor has it: noise that grows with its square, holes, and none beyond 8 m."""
    near = np.where(np.isfinite(depth) & (depth < 8.0), depth, 0.0)
    found = near + rng.normal(size=depth.shape) * 0.0015 * near**2
    found[rng.random(depth.shape) < 0.03] = 0.0
    return found


def lens_of(camera: Camera) -> dict:
    K = camera.K_image
    return {
        "fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "width": camera.width, "height": camera.height
    }  # fmt: skip


def write_tum(
    folder: Path,
    room: Room,
    cameras: list[Camera],
    own_depth_camera: bool = False,
    noise: bool = True,
    depth_fov: float = DEPTH_FOV,
) -> Path:
    """A folder in TUM's layout; depth is in the pixels of the image, or of a depth camera beside it."""
    rng, lists = np.random.default_rng(0), {"rgb": [], "depth": [], "groundtruth": []}
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    for i, camera in enumerate(cameras):
        view = room.render(camera, samples=1)
        Image.fromarray(view.image).save(folder / f"rgb/{i:04}.png")
        depth = view.depth
        if own_depth_camera:
            depth = room.render(
                Camera.from_fov(depth_fov, camera.height, camera.width, camera.T_world_cam @ T_COLOR_DEPTH)
            ).depth
        depth = noisy(depth, rng) if noise else np.where(np.isfinite(depth), depth, 0.0)
        Image.fromarray(np.round(depth * 5000.0).clip(0, 65535).astype(np.uint16)).save(folder / f"depth/{i:04}.png")
        v = vector_from_pose(camera.T_world_cam)
        lists["rgb"].append(f"{0.1 * i:.3f} rgb/{i:04}.png")
        lists["depth"].append(f"{0.1 * i + 0.011:.3f} depth/{i:04}.png")
        lists["groundtruth"].append(" ".join(f"{x:.9f}" for x in (0.1 * i, *v[:3], *v[4:], v[3])))
    for name, rows in lists.items():
        (folder / f"{name}.txt").write_text("# timestamp ...\n" + "\n".join(rows) + "\n")
    said = {"color": lens_of(cameras[0])}
    if own_depth_camera:
        depth_camera = Camera.from_fov(depth_fov, cameras[0].height, cameras[0].width)
        said |= {"depth": lens_of(depth_camera), "T_color_depth": T_COLOR_DEPTH.tolist()}
    (folder / "intrinsics.json").write_text(json.dumps(said))
    return folder
