"""Start views: a picture, a room of the simulator, or an image of a robot's camera."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.photographs import start_view_from_files
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import fit_view
from mirage_env.interfaces import StartView
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.sensing.camera_mount import CameraMount


def start_view(config: WorldModelConfig, options: WorldParameters) -> StartView:
    """The view that the parameters ask for: `start_image`, or the room of `seed`.

    Raises:
        InvalidImageError: `start_image` cannot be read.
        InvalidCameraError: a field of view that no camera has.
        InvalidOptionError: a model of another world than rooms, without an image.
    """
    if not options.start_image:
        if config.trained_on not in ("", "rooms"):
            raise InvalidOptionError(
                f"the model {config.name!r} was trained on {config.trained_on!r}, not on rooms; give a start_image"
            )
        return replace(on_floor(room_view(config, options.seed), options), prompt=options.prompt)
    fov = math.radians(options.fov) if options.fov else None
    view = start_view_from_files(config, Path(options.start_image).expanduser(), fov=fov)
    mounted = view.camera.at(options.start_mount.camera(np.eye(4)))
    return replace(on_floor(replace(view, camera=mounted), options), prompt=options.prompt)


def on_floor(view: StartView, options: WorldParameters) -> StartView:
    """The view with the height of its camera above the map's floor, where `camera_height` says that it is known."""
    height = CameraMount.above_floor(view.camera.T_world_cam).height
    return replace(view, camera_height=height if options.camera_height else None)


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
    T_world_cam: NDArray[np.float64] | None = None,  # [4, 4]
) -> StartView:
    """Centre-crop and resize a view of a real camera to the size of a model; without a pose it is at the origin.

    Raises:
        InvalidCameraError: intrinsics that no pinhole camera has, or whose optical axis misses the image.
        InvalidDepthError: a depth map of another size than the image.
    """
    pose = np.eye(4) if T_world_cam is None else T_world_cam
    camera = Camera(pose, K_image, image.shape[0], image.shape[1])
    view = fit_view(image, config.image_size, camera, depth, fov=config.fov)
    return StartView(view.image, view.camera, view.depth)
