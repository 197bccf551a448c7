"""`Rooms/World-v0`: the true simulator as a Gymnasium environment with the spaces of the learned world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.parsing import image_size_of
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.base import ChunkEnv
from mirage_env.envs.vector import ChunkVectorEnv
from mirage_env.errors import InvalidCameraError, InvalidOptionError
from mirage_env.interfaces import KnownObject
from mirage_env.rooms import free_space
from mirage_env.rooms.room import FOV, FRAME_SECONDS, Room, check_split, check_style
from mirage_env.spaces.observations import Shown, WorldFormat
from mirage_env.spaces.reset_options import as_camera
from mirage_env.tasks.base import Distance, FloorPlan, Point


@dataclass(frozen=True)
class RoomState:
    """A room at one moment."""

    room: Room
    camera: Camera
    chunk: int = 0
    time: float = 0.0
    """Simulated seconds; decides where the movers are."""


class RoomsEnv(ChunkEnv[RoomState]):
    """A room as it truly is. Spaces, controls, `info` and chunks are those of `MirageEnv`, whose docstring has them.

    With the default sizes it fits the shipped model; with the same seed both begin in the same room with the same
    view. Everything is seen: `observed` is 1, `readout` is the image, `coverage` is 1, and there is no memory.
    As in the learned world the camera passes through walls, unless `contact` is asked for.

    Options of `reset`: `room` (seed of the room) and `split` (`"train"`, `"validation"`, `"test"`), drawn from the
    seed and the constructor's if not given, and `camera` (a `Camera`, a 4 x 4 pose or a pose vector in the room's
    frame, z up), else a free place with a view.

    Args:
        image_size: H, W pixels.
        latent_size: h, w of `observed`; a cell per 8 x 8 pixels if not given.
        chunk_frames: F, frames per step.
        split: rooms to draw from.
        near, far: bounds of the observation `depth`, metres.
        samples: rays per pixel and direction.
        style: "procedural" or "photographic" rooms (see `Room.generate`).
        **arguments: as for `MirageEnv`.

    Raises:
        InvalidOptionError: an argument with a value that is not on offer.
    """

    world_options = ("room", "split", "camera")

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        latent_size: tuple[int, int] | None = None,
        chunk_frames: int = 8,
        split: str = "test",
        near: float = 0.1,
        far: float = 50.0,
        samples: int = 2,
        style: str = "procedural",
        **arguments: Any,
    ) -> None:
        H, W = image_size_of(image_size)
        h, w = latent_size or (H // 8, W // 8)
        if min(h, w, chunk_frames) < 1 or not 0.0 < near < far:
            raise InvalidOptionError(
                f"image_size {(H, W)}, latent_size {(h, w)} and chunk_frames {chunk_frames} must be at least 1, and "
                f"0 < near < far (near is {near}, far {far})"
            )
        world = WorldFormat((H, W), (h, w), chunk_frames, near, far, 1.0 / FRAME_SECONDS)
        super().__init__(world, EnvArguments.of(arguments))
        check_split(split)
        check_style(style)
        self.split = split
        self.style = style
        self.samples = samples

    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[RoomState, Shown]:
        """A room and a place in it; what the options leave open is drawn from `rng`."""
        split = options.get("split", self.split)
        check_split(split)
        seed = options.get("room")
        if seed is None:
            seed = rng.integers(2**31)
        elif isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise InvalidOptionError(f"the option 'room' is {seed!r}; give the seed of a room, an integer from 0")
        room = Room.generate(int(seed), split, self.style)
        H, W = self.world.image_size
        if options.get("camera") is None:
            camera = room.start_camera(rng, H, W)
        else:
            camera = as_camera(options["camera"], Camera.from_fov(FOV, H, W))
            if (camera.height, camera.width) != (H, W):
                raise InvalidCameraError(
                    f"the camera has image size {(camera.height, camera.width)}; this environment renders {(H, W)}: "
                    "use camera.resized(*image_size)"
                )
        state = RoomState(room, camera)
        return state, self.look(state)

    def walk(self, states: Sequence[RoomState], paths: Sequence[Sequence[Camera]]) -> list[tuple[RoomState, Shown]]:
        """The next chunk of each room; simulated time goes on by `FRAME_SECONDS` per frame."""
        result = []
        for state, path in zip(states, paths, strict=True):
            times = [state.time + (i + 1) * FRAME_SECONDS for i in range(len(path))]
            after = replace(state, camera=path[-1], chunk=state.chunk + 1, time=times[-1])
            result.append((after, self._render(after, path, times)))
        return result

    def look(self, state: RoomState) -> Shown:
        """The last frame of a room.

        Raises:
            InvalidOptionError: not a `RoomState`.
        """
        if not isinstance(state, RoomState):
            raise InvalidOptionError(f"the state is a {type(state).__name__}; give a RoomState (see `get_state`)")
        return self._render(state, [state.camera], [state.time])

    def picture(self, state: RoomState, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """The true view."""
        return state.room.render(camera, state.time, self.samples).image

    def glance(self, state: RoomState, camera: Camera) -> Shown:
        """The true view."""
        return self._render(state, [camera], [state.time])

    def obstacles(self, state: RoomState, height: float) -> free_space.RoomObstacles:
        """Walls, things and movers, as they truly are."""
        return free_space.RoomObstacles(state.room, state.time, height)

    def distance_to(self, state: RoomState, goal: Point) -> Distance:
        """Shortest way through the free space of the room."""
        return free_space.Way.to(state.room, goal)

    def gap_to(self, state: RoomState, point: Point) -> float:
        """Metres from a point to the nearest one of the free space."""
        return free_space.gap_to(state.room, point)

    def floor_plan(self, state: RoomState, cell: float) -> FloorPlan:
        """The floor between walls and standing things."""
        return FloorPlan(free_space.floor_cells(state.room, cell), cell)

    def objects(self, state: RoomState) -> tuple[KnownObject, ...]:
        """The things of the room that a turn on the spot sees."""
        return state.room.objects_around(state.camera)

    def free_camera(self, state: RoomState, rng: np.random.Generator, low: float, high: float) -> Camera:
        """A level view from a free place, with a way of `low` to `high` metres, or as near to that as the room has."""
        return free_space.free_camera(state.room, state.camera, rng, low, high)

    def _render(self, state: RoomState, cameras: Sequence[Camera], times: Sequence[float]) -> Shown:
        views = [state.room.render(c, t, self.samples) for c, t in zip(cameras, times, strict=True)]
        frames = np.stack([v.image for v in views])
        return Shown(
            cameras=tuple(cameras),
            frames=frames,
            depth=np.stack([v.depth for v in views]),
            labels=np.stack([v.labels for v in views]),
            readout=frames[-1],
            observed=np.ones(self.world.latent_size, np.float32),
            chunk=state.chunk,
            coverage=1.0,
            memory_points=0,
            memory_bytes=0,
        )


class RoomsVectorEnv(ChunkVectorEnv[RoomState]):
    """Several rooms at once: arguments of `ChunkVectorEnv` and of `RoomsEnv`."""

    env_class = RoomsEnv
