"""Start views: a picture, a room of the simulator, or an image of a robot's camera."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.photographs import centre_crop, start_view_from_files
from mirage_env.errors import InvalidCameraError, InvalidDepthError
from mirage_env.interfaces import StartView
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL
from ros_bridge.parameters.world_parameters import WorldParameters


def start_view(config: WorldModelConfig, options: WorldParameters) -> StartView:
    """The view that the parameters ask for: `start_image`, or the room of `seed`.

    Raises:
        InvalidImageError: `start_image` cannot be read.
        InvalidCameraError: a field of view that no camera has.
    """
    if not options.start_image:
        return room_view(config, options.seed)
    fov = math.radians(options.fov) if options.fov else None
    return start_view_from_files(config, Path(options.start_image).expanduser(), fov=fov)


def room_view(config: WorldModelConfig, seed: int) -> StartView:
    """The first view of a test room; `map` is then the room's own frame, z up."""
    from mirage_env.rooms import Room  # ray-casting kernels, which a picture does not need

    room = Room.generate(seed, "test")
    camera = room.start_camera(np.random.default_rng(seed), *config.image_size)
    view = room.render(camera)
    T_world_room = np.eye(4)
    T_world_room[:3, :3] = R_BODY_OPTICAL.T
    return StartView(view.image, camera.at(T_world_room @ camera.T_world_cam), view.depth)


def camera_view(
    config: WorldModelConfig,
    image: NDArray[np.uint8],  # [H', W', 3]
    K_image: NDArray[np.float64],  # [3, 3]
    depth: NDArray[np.float32] | None = None,  # [H', W'] metres, inf where there is no surface
) -> StartView:
    """A view of a real camera, centre-cropped and resized; its place is the origin of a new world.

    Raises:
        InvalidCameraError: intrinsics that no pinhole camera has, or whose optical axis misses the image.
        InvalidDepthError: a depth map of another size than the image.
    """
    height, width = image.shape[:2]
    if depth is not None and depth.shape != (height, width):
        raise InvalidDepthError(f"the depth has shape {depth.shape} and the image {(height, width)}; they must agree")
    camera = Camera(np.eye(4), K_image, height, width)
    cx, cy = camera.K_image[0, 2], camera.K_image[1, 2]
    if not (0.0 < cx < width and 0.0 < cy < height):
        raise InvalidCameraError(
            f"the principal point {(float(cx), float(cy))} lies outside the image of {width} x {height} pixels; send "
            "the CameraInfo that belongs to the image"
        )
    H, W = config.image_size
    box = centre_crop((width, height), W / H)
    K_cropped = camera.K_image.copy()
    K_cropped[:2, 2] -= box[:2]
    scale = np.diag([W / (box[2] - box[0]), H / (box[3] - box[1]), 1.0])
    picture = np.asarray(Image.fromarray(image).resize((W, H), Image.Resampling.LANCZOS, box))
    metres = None
    if depth is not None:
        # Nearest: a mean of two surfaces would be a point between them.
        metres = np.asarray(Image.fromarray(depth).resize((W, H), Image.Resampling.NEAREST, box))
    return StartView(picture, Camera(np.eye(4), scale @ K_cropped, H, W), metres)
