"""The 3D scene: the points of the memory, and the cameras of the path."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray
from viser import CameraFrustumHandle, CameraHandle, ViserServer

from mirage_env.camera import Camera
from mirage_env.poses import Matrix, pose_from_vector
from mirage_env.trajectories import up_direction
from mirage_env.viewer.points import Points
from mirage_env.viewer.world_tree import World

PATH, HERE, LINE = (110, 120, 150), (235, 110, 20), (150, 160, 185)
MOST_FRUSTA = 60
"""Cameras of the path that are drawn and can be clicked, beside the current one."""
Go = Callable[[Matrix], Future[None]]


class Scene:
    """Draws one world at a time.

    Args:
        server: where.
        go: called with a pose `T_world_cam` that was clicked.
    """

    def __init__(self, server: ViserServer, go: Go) -> None:
        self._server, self._go = server, go
        self.points = Points(server)
        self._cameras: dict[str, tuple[Camera, CameraFrustumHandle]] = {}
        self._world_of: tuple[float, ...] = ()

    def look(self, world: World) -> None:
        """Turn the scene upright, and the view of every browser to the world, when it is another one."""
        start = world.path[0]
        name = tuple(start.as_vector())
        if name == self._world_of:
            return
        self._world_of = name
        self._server.scene.set_up_direction(up_direction(start))
        first = self._server.initial_camera
        (first.position, first.look_at), first.up = overview(world.camera), up_direction(start)
        for client in self._server.get_clients().values():
            stand(client.camera, world, from_eyes=False)

    def draw_path(self, world: World) -> None:
        """One camera per chunk, thinned out where there are many, and the current one; a click leads there."""
        with self._server.atomic():
            wanted = {name: camera for name, camera in path_cameras(world)}
            for name in set(self._cameras) - set(wanted):
                self._cameras.pop(name)[1].remove()
            for name, camera in wanted.items():
                drawn = self._cameras.get(name)
                if drawn is None or drawn[0] is not camera:
                    if drawn is not None:
                        drawn[1].remove()
                    self._cameras[name] = (camera, self._frustum(name, camera))
            self._draw_line(np.stack([camera.position for camera in world.path]))

    def _frustum(self, name: str, camera: Camera) -> CameraFrustumHandle:
        here = name == "here"
        handle = self._server.scene.add_camera_frustum(
            f"/path/{name}",
            fov=2.0 * math.atan(0.5 * camera.height / camera.K_image[1, 1]),
            aspect=camera.width / camera.height,
            scale=0.22 if here else 0.12,
            thickness=0.014 if here else 0.007,
            color=HERE if here else PATH,
            position=camera.position,
            wxyz=camera.as_vector()[3:],
            variant="filled" if here else "wireframe",
        )
        if not here:

            @handle.on_click
            def _(_: Any) -> None:
                self._go(camera.T_world_cam)

        return handle

    def _draw_line(self, positions: NDArray[np.float64]) -> None:  # [N, 3]
        if len(positions) > 1:
            segments = np.stack([positions[:-1], positions[1:]], axis=1).astype(np.float32)
            self._server.scene.add_line_segments("/line", segments, LINE, thickness=0.012)
        else:
            self._server.scene.remove_by_name("/line")


def path_cameras(world: World) -> list[tuple[str, Camera]]:
    """The cameras to draw, by name: ends of chunks, evenly thinned, and "here"."""
    per_chunk = world.model.config.frames_per_chunk
    ends = range((len(world.path) - 1) % per_chunk, len(world.path) - 1, per_chunk)
    every = max(1, math.ceil(len(ends) / MOST_FRUSTA))
    return [*((f"{i}", world.path[i]) for i in ends[::every]), ("here", world.camera)]


def overview(start: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Viewpoint and target of a new world: from behind and above its first camera."""
    up = up_direction(start)
    forward = start.T_world_cam[:3, 2] - up * (up @ start.T_world_cam[:3, 2])
    forward /= np.linalg.norm(forward)
    return start.position - 2.2 * forward + 2.6 * up, start.position + 1.6 * forward - 0.6 * up


def stand(camera: CameraHandle, world: World, from_eyes: bool) -> None:
    """Move the view of one browser to the current camera, or back until the whole world is in sight."""
    up = up_direction(world.path[0])
    if from_eyes:
        position, look_at = world.camera.position, world.camera.position + world.camera.T_world_cam[:3, 2]
    else:
        position, look_at = overview(world.camera)
    camera.up_direction = up
    camera.position = position
    camera.look_at = look_at


def pose_of(camera: CameraHandle) -> Matrix:
    """Pose of the view of a browser, `T_world_cam` (OpenCV axes, as viser's)."""
    return pose_from_vector(np.concatenate([camera.position, camera.wxyz]))
