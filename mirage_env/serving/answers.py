"""Answers of a world server: what a world shows, as a request wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.envs.world import MirageEnv
from mirage_env.serving import requests as asked
from mirage_env.serving.moments import Moment, World
from mirage_env.serving.step_log import step_record
from mirage_env.serving.wire import Encoding, pack
from mirage_env.spaces.observations import EXTRAS, Shown
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState


class Answers:
    """Packs what worlds of one model show."""

    def __init__(self, model: WorldModel, start_views: str | None) -> None:
        """See `Service`."""
        extras = {False: tuple(e for e in EXTRAS if e != "readout"), True: EXTRAS}
        self._envs = {
            (readout, every): MirageEnv(model, rooms_views=start_views, observe=extras[readout], info_frames=every)
            for readout in (False, True)
            for every in (False, True)
        }
        self.env = self._envs[False, False]
        """Shows the least."""

    def showing(self, want: asked.Wanted) -> MirageEnv:
        """The environment that shows what is wanted."""
        return self._envs[want.readout, want.every_frame]

    def of(
        self,
        world: World,
        moment: Moment,
        state: WorldState,
        shown: Shown,
        want: asked.Wanted,
        besides: Mapping[str, Any] | None = None,
        before: WorldState | None = None,
    ) -> bytes:
        """The answer about a moment; `besides` joins its header, `before` is the world that was stepped."""
        header = {
            **names(world, moment),
            "coverage": shown.coverage,
            "memory_points": shown.memory_points,
            "memory_bytes": shown.memory_bytes,
            "poses": [camera.T_world_cam.tolist() for camera in shown.cameras],
            "K": shown.cameras[-1].K_image.tolist(),
            **(besides or {}),
        }
        frames = shown.frames[-1:] if want.last_only else shown.frames
        arrays: dict[str, NDArray[Any]] = {} if want.frames == "none" else {"frames": frames}
        for name in ("depth", "labels", "observed", "readout"):
            if getattr(want, name) and getattr(shown, name) is not None:
                arrays[name] = getattr(shown, name)
        if "depth" in arrays and want.depth_every > 1:
            some = slice(want.depth_every // 2, None, want.depth_every)
            arrays["depth"] = arrays["depth"][:, some, some]
        if want.latents:
            arrays["latents"] = state.latents.float().cpu().numpy()
        if want.record and before is not None:
            arrays["record"] = np.frombuffer(step_record(before, state), np.uint8)
        return pack(header, arrays, encodings(want))


def names(world: World, moment: Moment) -> dict[str, Any]:
    """World, moment and chunk, with which every answer begins."""
    return {"world": world.id, "moment": moment.number, "chunk": moment.chunk}


def encodings(want: asked.Wanted) -> dict[str, Encoding]:
    """Encodings of the pictures that are sent."""
    encoding: Encoding = "png" if want.frames == "none" else want.frames
    return {"frames": encoding, "readout": encoding}


def cameras(
    poses: Sequence[Any], like: Camera, K: Sequence[Sequence[float]] | None = None, size: Sequence[int] | None = None
) -> list[Camera]:
    """Cameras at poses, with the lens and image size of another where none are given."""
    height, width = size or (like.height, like.width)
    lens = like.K_image if K is None else np.array(K)
    return [Camera(np.array(pose), lens, height, width) for pose in poses]
