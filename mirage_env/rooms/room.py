"""A room: a world of known geometry that can be looked at from any pose at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.interfaces import MOVER, SKY, STATIC, KnownObject, StartView
from mirage_env.rooms import builder, ray_intersection, raycaster, scene
from mirage_env.rooms.assets.inventory import inventory
from mirage_env.rooms.camera_poses import upright, yaw_pitch
from mirage_env.rooms.mesh_arrays import NO_MESHES
from mirage_env.rooms.textures import atlas

SPLITS = ("train", "validation", "test")
STYLES = ("procedural", "photographic")
FOV = math.radians(75.0)
"""Default horizontal field of view, radians."""
TURN_VIEWS = 8
"""Views of a turn on the spot."""
LEAST_PIXELS = 12
"""Pixels of 64 x 64 that a thing must have to be known."""
FRAME_SECONDS = 1.0 / 8.0
"""Simulated time per frame, seconds."""


@dataclass(frozen=True, eq=False)
class RoomView:
    """View of a camera. Depth, instance, mover and sky belong to the ray through the pixel centre.

    Attributes:
        depth: z in metres, infinite in the sky.
        instance: 0 sky, 1 floor, 2 ceiling, 3 to 6 walls, then one number per thing.
        mover: pixels of things that move.
    """

    image: NDArray[np.uint8]  # [H, W, 3]
    depth: NDArray[np.float32]  # [H, W]
    instance: NDArray[np.int16]  # [H, W]
    mover: NDArray[np.bool_]  # [H, W]
    sky: NDArray[np.bool_]  # [H, W]

    @property
    def labels(self) -> NDArray[np.uint8]:  # [H, W]
        """STATIC, MOVER or SKY of every pixel."""
        return np.where(self.sky, SKY, np.where(self.mover, MOVER, STATIC)).astype(np.uint8)


@dataclass(frozen=True)
class Room:
    """A procedural room or courtyard; make one with `Room.generate`. Immutable, cheap to share between threads."""

    seed: int
    split: str
    scene: scene.Scene

    @staticmethod
    def generate(seed: int, split: str = "train", style: str = "procedural") -> Room:
        """The world of that seed; worlds of different splits are never the same.

        Args:
            seed: number of the world.
            split: `"train"`, `"validation"` or `"test"`; no furniture or painting is in two of them.
            style: `"procedural"`, or `"photographic"` for tiling photographs and real furniture beside the procedural
                things, from packages that are installed (see `rooms.assets`).

        Raises:
            InvalidOptionError: an unknown split or style, a negative seed, or nothing installed for photographic rooms.
        """
        check_split(split)
        check_style(style)
        if seed < 0:
            raise InvalidOptionError(f"seed is {seed}; it must not be negative")
        photographic = style == "photographic"
        rng = np.random.default_rng(np.random.SeedSequence([int(seed), SPLITS.index(split), *[1] * photographic]))
        return Room(int(seed), split, builder.generate(rng, inventory(split) if photographic else None))

    def render(self, camera: Camera, time: float = 0.0, samples: int = 2) -> RoomView:
        """Cast rays: one through each pixel centre for the geometry, `samples` x `samples` per pixel for the colour.

        Args:
            camera: pose in the room's frame (z up, metres).
            time: simulated seconds; moves the movers and nothing else.
            samples: anti-aliasing, 1 to 8 per direction.

        Raises:
            InvalidOptionError: `samples` out of range or a `time` that is not finite.
        """
        if not 1 <= samples <= 8:
            raise InvalidOptionError(f"samples is {samples}; give 1 to 8 per pixel and direction")
        if not math.isfinite(time):
            raise InvalidOptionError(f"time is {time}; give finite seconds")
        s, shape, K = self.scene, (camera.height, camera.width), camera.K_image
        image, depth = np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32)
        instance, mover = np.empty(shape, np.int16), np.empty(shape, np.bool_)
        R = np.ascontiguousarray(camera.T_world_cam[:3, :3])
        raycaster.render(
            s.meshes or NO_MESHES, scene.geometry_at(s, time), s.kind, s.material, s.label,
            s.shell, s.lights, s.ambient, s.sky, atlas(),
            R, camera.position.copy(), K[0, 0], K[1, 1], K[0, 2], K[1, 2], samples, image, depth, instance, mover,
        )  # fmt: skip
        return RoomView(image, depth, instance, mover, instance == 0)

    def is_free(self, position: ArrayLike, radius: float = 0.25) -> bool:
        """Check that a walker with eyes at that point [3] keeps `radius` metres from walls, things and mover paths.

        Raises:
            InvalidPoseError: not three finite numbers.
        """
        x = np.asarray(position, np.float64)
        if x.shape != (3,) or not np.isfinite(x).all():
            raise InvalidPoseError(f"position is {x.tolist()}; give three finite numbers x, y, z in metres")
        if not 0.2 < x[2] < self.scene.shell[2] - 0.1:
            return False
        return bool(scene.clearance(self.scene, x[None, :2], float(x[2]))[0] > radius)

    def view_distance(self, x: float, y: float, yaw: float, z: float = 1.1) -> float:
        """Distance from a point to the first static surface along a level direction, metres."""
        direction = np.array([math.cos(yaw), math.sin(yaw)])
        scene = self.scene
        return ray_intersection.level_distance(
            scene.geometry, scene.kind, scene.mover_of, scene.shell, x, y, z, direction[0], direction[1]
        )

    def start_camera(self, rng: np.random.Generator, height: int = 256, width: int = 256, fov: float = FOV) -> Camera:
        """An upright camera at a free place, looking at something and not straight into a near wall."""
        cells = np.argwhere(self.free_cells)
        best, best_score = None, -np.inf
        for _ in range(10):
            x, y = (cells[rng.integers(len(cells))] + 0.5) * scene.CELL
            z, yaw, pitch = rng.uniform(1.2, 1.6), rng.uniform(-math.pi, math.pi), rng.uniform(-0.16, 0.04)
            T_world_cam = upright(x, y, z, yaw, pitch)
            view = self.render(Camera.from_fov(FOV, 16, 16, T_world_cam), samples=1)
            score = _interest(view)
            if self.is_free((x, y, z), scene.WALK_RADIUS) and score > best_score:
                best, best_score = T_world_cam, score
            if best_score > 1.0:
                break
        if best is None:
            return self.start_camera(rng, height, width, fov)
        return Camera.from_fov(fov, height, width, best)

    def objects_around(self, camera: Camera) -> tuple[KnownObject, ...]:
        """Things that stand still and have a name, seen in a level turn on the spot; a name is that of its maker."""
        x, y, z = camera.position
        yaw, pitch = yaw_pitch(camera.T_world_cam)
        points: dict[int, list[NDArray[np.float64]]] = {}
        seen: set[int] = set()
        for i in range(TURN_VIEWS):
            eye = Camera.from_fov(FOV, 64, 64, upright(x, y, z, yaw + 2.0 * math.pi * i / TURN_VIEWS, pitch))
            view = self.render(eye, samples=1)
            rays = (np.stack(np.meshgrid(*[np.arange(64) + 0.5] * 2), 2) - eye.K_image[:2, 2]) / eye.K_image[0, 0]
            in_eye = np.concatenate([rays, np.ones((64, 64, 1))], 2) * np.where(view.sky, 0.0, view.depth)[..., None]
            place = in_eye @ eye.T_world_cam[:3, :3].T + eye.position
            for number in map(int, np.unique(view.instance[~view.mover])):
                where = view.instance == number
                if self.scene.names[number] and where.sum() >= LEAST_PIXELS:
                    points.setdefault(number, []).append(place[where])
                    if i == 0:
                        seen.add(number)
        found = []
        for number in sorted(points):
            all_of_it = np.concatenate(points[number])
            middle = 0.5 * (all_of_it.min(0) + all_of_it.max(0))
            radius = float(np.linalg.norm(all_of_it - middle, axis=1).max())
            found.append(KnownObject(self.scene.names[number], middle, radius, number in seen))
        return tuple(found)

    @property
    def free_cells(self) -> NDArray[np.bool_]:  # [rows along x, columns along y]
        """Cells of `scene.CELL` metres that a walker can stand in, the largest connected part."""
        return self.scene.free_cells


def check_split(split: str) -> None:
    """Refuse what is no part of the worlds.

    Raises:
        InvalidOptionError: an unknown split.
    """
    if split not in SPLITS:
        raise InvalidOptionError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")


def check_style(style: str) -> None:
    """Refuse an unknown style.

    Raises:
        InvalidOptionError: an unknown style.
    """
    if style not in STYLES:
        raise InvalidOptionError(f"style is {style!r}; choose one of {', '.join(STYLES)}")


def start_view(rng: np.random.Generator, split: str = "test") -> StartView:
    """A view of a room of a split, drawn from `rng`."""
    room = Room.generate(int(rng.integers(2**31)), split)
    camera = room.start_camera(rng)
    view = room.render(camera)
    return StartView(view.image, camera, view.depth, objects=partial(room.objects_around, camera))


def surroundings(rng: np.random.Generator, split: str = "test", views: int = 8, size: int = 256) -> StartView:
    """A start view with others all around the place it was taken from, as a robot has that turned once.

    Args:
        rng: draws the room and the place, the same as `start_view`.
        split: of the room.
        views: in a whole turn.
        size: height and width, pixels.
    """
    room = Room.generate(int(rng.integers(2**31)), split)
    camera = room.start_camera(rng, size, size)
    x, y, z = camera.position
    yaw, pitch = yaw_pitch(camera.T_world_cam)
    turned = [camera.at(upright(x, y, z, yaw + 2.0 * math.pi * i / views, pitch)) for i in range(1, views)]
    others = []
    for eye in turned:
        view = room.render(eye)
        others.append(StartView(view.image, eye, view.depth, labels=view.labels))
    view = room.render(camera)
    known = partial(room.objects_around, camera)
    return StartView(view.image, camera, view.depth, others=tuple(others), objects=known)


def _interest(view: RoomView) -> float:
    """Above 1 for a view with room ahead and several things in it."""
    depth = view.depth[5:11, 4:12]
    things = len(np.unique(view.instance[view.instance > 6]))
    near = float((view.depth < 0.8).mean())
    ahead = min(float(np.median(np.minimum(depth, 6.0))) / 2.2, 1.3)
    return ahead * (0.55 + 0.15 * min(things, 5)) - 2.0 * near - (1.5 if float(depth.min()) < 1.2 else 0.0)
