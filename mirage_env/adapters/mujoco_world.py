"""MuJoCo scenes as worlds: a free camera with colour, depth and labels through MuJoCo's own renderer."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.adapters.rgbd_env import RgbdEnv, RgbdState, RgbdView
from mirage_env.camera import Camera
from mirage_env.envs.vector import ChunkVectorEnv
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.interfaces import MOVER, SKY, STATIC, KnownObject

FOV = 1.2
"""Horizontal field of view of start cameras, radians."""
STARTS, LOOK = 12, (24, 32)
"""Start cameras that are tried, and the pixels with which."""


class MujocoWorld:
    """Renders a scene from any pinhole camera: `world(camera, time)`, as `RgbdEnv` takes it.

    Bodies that are not welded to the world are movers. The simulation is stepped to the time that is asked for, without
    control; for a robot that acts, change `data` and call `view`.

    Args:
        scene: MJCF or MJB file, MJCF as text, or an `mujoco.MjModel`.

    Raises:
        MissingPackageError: MuJoCo is not installed, or no OpenGL is there that needs no display.
        InvalidOptionError: a scene that MuJoCo cannot load.
    """

    def __init__(self, scene: Any) -> None:
        self._mujoco = _library()
        self.model = _model(self._mujoco, scene)
        self.data = self._mujoco.MjData(self.model)
        self._mujoco.mj_forward(self.model, self.data)
        self._renderers: dict[tuple[int, int], Any] = {}

    def __call__(self, camera: Camera, time: float) -> RgbdView:
        """Render what a camera sees after that many simulated seconds."""
        if time < self.data.time - 1e-9:
            self._mujoco.mj_resetData(self.model, self.data)
        while self.data.time + 0.5 * self.model.opt.timestep < time:
            self._mujoco.mj_step(self.model, self.data)
        self._mujoco.mj_forward(self.model, self.data)
        return self.view(camera)

    def view(self, camera: Camera) -> RgbdView:
        """Render what a camera sees of `data` as it is."""
        renderer = self._aimed(camera)
        image = renderer.render().copy()
        depth, labels = _depth(renderer), self._labels(_parts(renderer))
        return RgbdView(image, np.where(labels == SKY, np.inf, depth).astype(np.float32), labels)

    def objects(self, camera: Camera) -> tuple[KnownObject, ...]:
        """Bodies with a name and a shape, where they are now; `seen` if their middle is in the picture of a camera."""
        found, model = [], self.model
        for body in range(1, model.nbody):
            name, geoms = model.body(body).name, np.flatnonzero(model.geom_bodyid == body)
            if not name or not len(geoms):
                continue
            middle = self.data.geom_xpos[geoms].mean(0)
            reach = np.linalg.norm(self.data.geom_xpos[geoms] - middle, axis=1) + model.geom_rbound[geoms]
            x, y, z = (camera.T_cam_world @ [*middle, 1.0])[:3]
            u, v = (camera.K_image @ [x, y, z])[:2] / max(z, 1e-9)
            seen = z > 0.0 and 0.0 <= u < camera.width and 0.0 <= v < camera.height
            found.append(KnownObject(name, np.array(middle), float(reach.max()), bool(seen)))
        return tuple(found)

    def start_camera(self, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
        """An upright camera that sees much of the scene: the best of a dozen, around it and inside it by turns."""
        tried = [self._somewhere(rng, size, inside=bool(i % 2)) for i in range(STARTS)]
        return max(tried, key=self._worth)

    def _somewhere(self, rng: np.random.Generator, size: tuple[int, int], inside: bool) -> Camera:
        """An upright camera that looks at the scene from a random side, or anywhere from a random place in it."""
        low, high = self._box()
        yaw, extent = rng.uniform(-np.pi, np.pi), float(np.linalg.norm(high - low))
        forward = np.array([np.cos(yaw), np.sin(yaw), -0.15])
        if inside:
            place = low + rng.uniform((0.15, 0.15, 0.3), (0.85, 0.85, 0.7)) * (high - low)
        else:
            place = 0.5 * (low + high) - 0.7 * extent * (forward + np.array([0.0, 0.0, -0.3]))
            forward = 0.5 * (low + high) - place
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        T[:3, 3] = place
        return Camera.from_fov(FOV, *size, T)

    def _box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # [3], [3]
        """Lowest and highest coordinates of everything but planes, metres."""
        things = np.flatnonzero(self.model.geom_type != int(self._mujoco.mjtGeom.mjGEOM_PLANE))
        if not len(things):
            return -np.ones(3), np.ones(3)
        R = self.data.geom_xmat[things].reshape(-1, 3, 3)
        middle, half = self.model.geom_aabb[things, :3], self.model.geom_aabb[things, 3:]
        centre = self.data.geom_xpos[things] + np.einsum("nij,nj->ni", R, middle)
        reach = np.einsum("nij,nj->ni", np.abs(R), half)
        return (centre - reach).min(0), (centre + reach).max(0)

    def _worth(self, camera: Camera) -> float:
        """Score a start camera: many things are seen, none of them in the way, and not through a wall."""
        renderer = self._aimed(camera.resized(*LOOK))
        depth, parts = _depth(renderer), _parts(renderer)[..., 0]
        ahead = self._mujoco.mj_ray(
            self.model, self.data, camera.position, camera.T_world_cam[:3, 2].copy(), None, 1, -1, np.zeros(1, np.int32)
        )
        seen = depth[LOOK[0] // 2, LOOK[1] // 2]
        # From inside of a box a camera looks out of it, a ray does not.
        through = 0.0 <= ahead < 0.9 * seen
        low, high = self._box()
        near = float((depth < 0.03 * np.linalg.norm(high - low)).mean())
        things = len(np.unique(parts[parts >= 0]))
        return min(things, 6) - 9.0 * near - 6.0 * float((parts < 0).mean()) - 9.0 * through

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _aimed(self, camera: Camera) -> Any:
        """The renderer of that image size, with its cameras where ours is."""
        renderer = self._renderer((camera.height, camera.width))
        renderer.update_scene(self.data)
        for eye in renderer.scene.camera:
            _aim(eye, camera)
        return renderer

    def _labels(self, parts: NDArray[np.int32]) -> NDArray[np.uint8]:  # [H, W, 2] -> [H, W]
        number, kind = parts[..., 0], parts[..., 1]
        geom = kind == int(self._mujoco.mjtObj.mjOBJ_GEOM)
        moving = self.model.body_weldid[self.model.geom_bodyid] != 0
        moves = geom & moving[np.clip(number, 0, len(moving) - 1)]
        return np.where(number < 0, SKY, np.where(moves, MOVER, STATIC)).astype(np.uint8)

    def _renderer(self, size: tuple[int, int]) -> Any:
        if size not in self._renderers:
            width, height = self.model.vis.global_.offwidth, self.model.vis.global_.offheight
            self.model.vis.global_.offwidth, self.model.vis.global_.offheight = (
                max(width, size[1]),
                max(height, size[0]),
            )
            try:
                self._renderers[size] = self._mujoco.Renderer(self.model, *size)
            except (RuntimeError, ImportError, AttributeError, OSError) as error:
                raise MissingPackageError(
                    f"MuJoCo finds no OpenGL ({error}); install libegl1 or libosmesa6 and set MUJOCO_GL=egl or osmesa"
                ) from error
        return self._renderers[size]


class MujocoEnv(RgbdEnv):
    """`Mujoco/World-v0`: a MuJoCo scene with the spaces and tasks of `Rooms/World-v0`.

    Args:
        scene: MJCF or MJB file, MJCF as text, or an `mujoco.MjModel`.
        start: the first camera, or a function that draws one; the best of a dozen upright ones if not given.
        image_size: H, W pixels.
        **arguments: of `RgbdEnv`.
    """

    def __init__(
        self, scene: Any, start: Any = None, image_size: tuple[int, int] = (128, 128), **arguments: Any
    ) -> None:
        self.mujoco_world = MujocoWorld(scene)
        start = start or (lambda rng: self.mujoco_world.start_camera(rng, image_size))
        super().__init__(self.mujoco_world, start, image_size, **arguments)

    def close(self) -> None:
        """Free the renderers."""
        self.mujoco_world.close()
        super().close()


class MujocoVectorEnv(ChunkVectorEnv[RgbdState]):
    """Several worlds of one scene: arguments of `ChunkVectorEnv` and of `MujocoEnv`.

    They share the renderer, which belongs to one thread. Each world is simulated to its own time, without control, so
    worlds do not disturb each other.
    """

    env_class = MujocoEnv
    most_threads = 1


def _library() -> Any:
    headless = sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("MUJOCO_GL")
    if headless:
        os.environ["MUJOCO_GL"] = "egl"
    chosen = sys.modules.get("mujoco.rendering.classic.gl_context") or sys.modules.get("mujoco.gl_context")
    try:
        import mujoco

        if headless and chosen is not None:  # whoever imported MuJoCo before had it choose a window
            importlib.reload(chosen)
    except (ImportError, AttributeError) as error:  # AttributeError: PyOpenGL without a library
        raise MissingPackageError(f"MuJoCo cannot be loaded ({error}); pip install 'mirage-env[mujoco]'") from error
    return mujoco


def _model(mujoco: Any, scene: Any) -> Any:
    if isinstance(scene, mujoco.MjModel):
        return scene
    try:
        if isinstance(scene, str) and scene.lstrip().startswith("<"):
            return mujoco.MjModel.from_xml_string(scene)
        path = Path(scene)
        load = mujoco.MjModel.from_binary_path if path.suffix == ".mjb" else mujoco.MjModel.from_xml_path
        return load(str(path))
    except (ValueError, TypeError, OSError) as error:
        raise InvalidOptionError(
            f"the scene cannot be loaded by MuJoCo ({error}); give an MJCF file or text"
        ) from error


def _depth(renderer: Any) -> NDArray[np.float32]:  # [H, W]
    renderer.enable_depth_rendering()
    depth: NDArray[np.float32] = renderer.render().astype(np.float32)
    renderer.disable_depth_rendering()
    return depth


def _parts(renderer: Any) -> NDArray[np.int32]:  # [H, W, 2]
    """Number and kind of what every pixel shows; -1 for nothing."""
    renderer.enable_segmentation_rendering()
    parts: NDArray[np.int32] = renderer.render()
    renderer.disable_segmentation_rendering()
    return parts


def _aim(eye: Any, camera: Camera) -> None:
    """Set one of MuJoCo's cameras to ours: pose, and a frustum through the corners of the image."""
    R, near = camera.T_world_cam[:3, :3], float(eye.frustum_near)
    K = camera.K_image
    left, right = -K[0, 2] / K[0, 0] * near, (camera.width - K[0, 2]) / K[0, 0] * near
    eye.pos[:], eye.forward[:], eye.up[:] = camera.position, R[:, 2], -R[:, 1]
    eye.frustum_center, eye.frustum_width = 0.5 * (left + right), 0.5 * (right - left)
    eye.frustum_top, eye.frustum_bottom = K[1, 2] / K[1, 1] * near, -(camera.height - K[1, 2]) / K[1, 1] * near
