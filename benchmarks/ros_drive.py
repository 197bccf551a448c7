"""What a robot's RGB-D camera sees on a walk through a room of the simulator, for `ros_peer.py live`."""

import json
from pathlib import Path

import numpy as np

from mirage_env.rooms import Room
from mirage_env.rooms.camera_walks import random_walk
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL, ros_pose_from_matrix

ENLARGED = 2
"""Rows and columns that each rendered pixel becomes: sizes of messages count here, not their content."""


def write_drive(folder: Path, frames: int, height: int, width: int, seed: int = 3) -> float:
    """Render a walk, if it is not there yet; returns its mean speed at 10 Hz, m/s.

    image.npy [N, H, W, 3] uint8, depth.npy [N, H, W] uint16 mm, poses.npy [N, 7] (x, y, z, qx, qy, qz, qw) of a body at
    the camera, x forward, in the room; info.json: height, width, k, speed.
    """
    if (folder / "info.json").is_file():
        return float(json.loads((folder / "info.json").read_text())["speed"])
    room = Room.generate(seed, "test")
    cameras = random_walk(room, np.random.default_rng(seed), frames, height // ENLARGED, width // ENLARGED)
    body_from_optical = np.eye(4)
    body_from_optical[:3, :3] = R_BODY_OPTICAL
    images, depths, poses = [], [], []
    for camera in cameras:
        view = room.render(camera)
        images.append(view.image)
        depths.append(np.where(view.sky | (view.depth > 60.0), 0.0, 1e3 * view.depth).astype(np.uint16))
        position, quaternion = ros_pose_from_matrix(camera.T_world_cam @ body_from_optical.T)
        poses.append([*position, *quaternion])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("image", images), ("depth", depths), ("poses", poses)):
        values = np.stack(rows)
        np.save(folder / f"{name}.npy", values if name == "poses" else values.repeat(ENLARGED, 1).repeat(ENLARGED, 2))
    K = np.diag([ENLARGED, ENLARGED, 1.0]) @ cameras[0].K_image
    speed = float(10.0 * np.linalg.norm(np.diff(np.asarray(poses)[:, :3], axis=0), axis=1).mean())
    info = {"height": height, "width": width, "k": K.ravel().tolist(), "speed": speed}
    (folder / "info.json").write_text(json.dumps(info))
    return speed
