"""Other simulators as environments with our spaces: a function that renders colour and depth is all they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.parsing import image_size_of
from mirage_env.datasets.recording import checked_labels
from mirage_env.datasets.view_checks import Place, checked_depth, checked_frames
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.base import ChunkEnv
from mirage_env.errors import InvalidCameraError, InvalidOptionError
from mirage_env.interfaces import KnownObject
from mirage_env.spaces.observations import Shown, WorldFormat
from mirage_env.spaces.reset_options import as_camera


@dataclass(frozen=True, eq=False)
class RgbdView:
    """View rendered by a simulator."""

    image: NDArray[np.uint8]  # [H, W, 3]
    depth: NDArray[np.floating]  # [H, W] z in metres, inf where there is no surface
    labels: NDArray[np.integer] | None = None  # [H, W] STATIC, MOVER, SKY


Render = Callable[[Camera, float], RgbdView]
"""What a camera sees at a time in seconds."""


@dataclass(frozen=True)
class RgbdState:
    """Return the camera's pose and time."""

    camera: Camera
    chunk: int = 0
    time: float = 0.0


class RgbdEnv(ChunkEnv[RgbdState]):
    """A simulator with the spaces, controls, `info` and chunks of `MirageEnv`, to record, train and test in.

    Everything is seen: `observed` is 1, `readout` is the image, `coverage` is 1. What is rendered is checked
    (`datasets.view_checks`). Option of `reset`: `camera` (a `Camera`, a 4 x 4 pose or a pose vector).

    Args:
        render: renders a view, in metres and OpenCV axes.
        start: the first camera, or a function that draws one from a generator.
        image_size: H, W pixels; that of the start camera.
        chunk_frames: F, frames per step.
        frames_per_second: simulated time per frame.
        near, far: bounds of the observation `depth`, metres.
        **arguments: as for `MirageEnv`.

    Raises:
        InvalidOptionError: an argument with a value that is not on offer.
    """

    world_options = ("camera",)

    def __init__(
        self,
        render: Render,
        start: Camera | Callable[[np.random.Generator], Camera],
        image_size: tuple[int, int] = (128, 128),
        chunk_frames: int = 8,
        frames_per_second: float = 8.0,
        near: float = 0.1,
        far: float = 50.0,
        **arguments: Any,
    ) -> None:
        H, W = image_size_of(image_size)
        if chunk_frames < 1 or not 0.0 < near < far or not frames_per_second > 0.0:
            raise InvalidOptionError(
                f"chunk_frames is {chunk_frames}, near {near}, far {far}, frames_per_second {frames_per_second}; give "
                "at least 1 frame, 0 < near < far, and a positive rate"
            )
        world = WorldFormat((H, W), (max(1, H // 8), max(1, W // 8)), chunk_frames, near, far, frames_per_second)
        super().__init__(world, EnvArguments.of(arguments))
        self.render_view, self.start = render, start

    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[RgbdState, Shown]:
        """The start camera, or that of the options."""
        camera = self.start if isinstance(self.start, Camera) else self.start(rng)
        if options.get("camera") is not None:
            camera = as_camera(options["camera"], camera)
        if (camera.height, camera.width) != self.world.image_size:
            raise InvalidCameraError(
                f"the camera has image size {(camera.height, camera.width)}; this environment renders "
                f"{self.world.image_size}: use camera.resized(*image_size)"
            )
        state = RgbdState(camera)
        return state, self.look(state)

    def walk(self, states: Sequence[RgbdState], paths: Sequence[Sequence[Camera]]) -> list[tuple[RgbdState, Shown]]:
        """The next chunk of each world; time goes on frame by frame."""
        result = []
        for state, path in zip(states, paths, strict=True):
            times = [state.time + (i + 1) / self.world.frames_per_second for i in range(len(path))]
            after = replace(state, camera=path[-1], chunk=state.chunk + 1, time=times[-1])
            result.append((after, self._shown(after, path, times)))
        return result

    def look(self, state: RgbdState) -> Shown:
        """The last frame of a world.

        Raises:
            InvalidOptionError: not a state of this environment.
        """
        if not isinstance(state, RgbdState):
            raise InvalidOptionError(f"the state is a {type(state).__name__}; give an RgbdState (see `get_state`)")
        return self._shown(state, [state.camera], [state.time])

    def glance(self, state: RgbdState, camera: Camera) -> Shown:
        """The true view."""
        return self._shown(state, [camera], [state.time])

    def picture(self, state: RgbdState, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """The true view."""
        return self.render_view(camera, state.time).image

    def objects(self, state: RgbdState) -> tuple[KnownObject, ...]:
        """The things of the scene, where what renders it knows them (`MujocoWorld.objects`)."""
        known: tuple[KnownObject, ...] = getattr(self.render_view, "objects", lambda camera: ())(state.camera)
        return known

    def _shown(self, state: RgbdState, cameras: Sequence[Camera], times: Sequence[float]) -> Shown:
        views = [self.render_view(camera, time) for camera, time in zip(cameras, times, strict=True)]
        place = Place("render", state.chunk)
        frames = checked_frames(np.stack([v.image for v in views]), place)
        metres = checked_depth(np.stack([v.depth for v in views]), frames.shape[:3], place)
        given = None if any(v.labels is None for v in views) else np.stack([np.asarray(v.labels) for v in views])
        return Shown(
            cameras=tuple(cameras),
            frames=frames,
            depth=metres,
            labels=checked_labels(given, metres, place),
            readout=frames[-1],
            observed=np.ones(self.world.latent_size, np.float32),
            chunk=state.chunk,
            coverage=1.0,
            memory_points=0,
            memory_bytes=0,
        )
