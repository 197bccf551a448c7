"""A mesh of a world: the readouts at the views that wrote it, fused by Open3D's TSDF (Curless and Levoy 1996)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.export.occupancy import remembered_frames
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import LatentCodec
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import inverse

FINER = 4
"""Pixels per cell and side that are fused."""
TRUNCATION = 4.0
"""Of the distance field, voxels."""


@torch.inference_mode()
def save_mesh(memory: LatentMemory, codec: LatentCodec, path: str | Path, voxel: float = 0.04) -> Path:
    """Write a coloured mesh, `.glb`, `.ply` or `.obj`; a glTF has y up, its frame is turned for that by its viewers.

    Args:
        memory: of a world.
        codec: of the model that wrote it.
        path: where to; the ending is the format.
        voxel: side of a voxel, metres.

    Raises:
        MissingPackageError: Open3D is not installed.
        InvalidOptionError: a memory with nothing in it, or a voxel that is not positive.
    """
    try:
        import open3d as o3d
    except ImportError as error:
        raise MissingPackageError("a mesh needs Open3D; pip install 'mirage-env[mesh]'") from error
    if not memory.points or not voxel > 0.0:
        raise InvalidOptionError(f"the memory has {memory.points} points, the voxel is {voxel} m; give both above 0")
    volume = o3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel,
        sdf_trunc=TRUNCATION * voxel,
        color_type=o3d.pipelines.integration.TSDFVolumeColorType.RGB8,
    )
    frames, (h, w) = remembered_frames(memory), memory.grid
    size = (FINER * h, FINER * w)
    for index in range(len(frames.row)):
        image, depth = _view(memory, codec, frames.T_world_cam[index], frames.K_latent[index])
        K = np.diag([FINER, FINER, 1.0]) @ frames.K_latent[index]
        lens = o3d.camera.PinholeCameraIntrinsic(size[1], size[0], K[0, 0], K[1, 1], K[0, 2] - 0.5, K[1, 2] - 0.5)
        view = o3d.geometry.RGBDImage.create_from_color_and_depth(
            o3d.geometry.Image(_resized(image, size)),
            o3d.geometry.Image(np.ascontiguousarray(depth.repeat(FINER, 0).repeat(FINER, 1))),
            depth_scale=1.0,
            depth_trunc=float(depth.max()) + 1.0,
            convert_rgb_to_intensity=False,
        )
        volume.integrate(view, lens, inverse(frames.T_world_cam[index]))
    mesh: Any = volume.extract_triangle_mesh()
    mesh.compute_vertex_normals()
    if not o3d.io.write_triangle_mesh(str(path), mesh):
        raise InvalidOptionError(f"{path} cannot be written as a mesh; end it with .glb, .ply or .obj")
    return Path(path)


def _view(
    memory: LatentMemory, codec: LatentCodec, T_world_cam: NDArray[np.float64], K_latent: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:  # [H, W, 3], [h, w]
    """Decoded readout and depth of one view; depth is 0 where nothing is known."""
    from mirage_env.camera import Camera

    readout = memory.read([Camera(T_world_cam, K_latent, *memory.grid)], now=0)
    image = frames_to_uint8(codec.decode(readout.latent))[0]
    return image, readout.depth[0].cpu().numpy().astype(np.float32)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.ascontiguousarray(np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX)))
