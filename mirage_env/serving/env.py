"""`Mirage/Remote-v0`: the learned world as an environment whose model runs on a world server."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera, check_camera_height
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.base import ChunkEnv
from mirage_env.envs.vector import ChunkVectorEnv
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import fit_view
from mirage_env.serving.connection import Connection, Line, RemoteMoment
from mirage_env.serving.remote_world import View
from mirage_env.serving.wire import unpack
from mirage_env.spaces.observations import Info, Observation, Shown, WorldFormat
from mirage_env.spaces.reset_options import as_camera


class RemoteEnv(ChunkEnv[RemoteMoment]):
    """A world imagined on a server (`mirage serve`). Actions, observations, `info` and tasks are those of `MirageEnv`.

    So are the results, bit for bit, where the server runs the same model on the same machine. `get_state` gives a
    `RemoteMoment`, which the server holds while it is referred to; `fork` begins another world there at the first step.

    Options of `reset`: as `MirageEnv`, with `cache` the path of a saved world here.

    Args:
        url: of the server, such as "http://127.0.0.1:8400".
        token: for servers that ask for one.
        camera_height, **arguments: as `MirageEnv`.

    Raises:
        ServingError: nobody answers there, or the token is refused.
        InvalidOptionError: an argument with a value that is not on offer.
    """

    world_options = (
        "image", "depth", "labels", "camera", "camera_height", "prompt", "negative_prompt", "guidance_scale", "cache",
    )  # fmt: skip

    def __init__(
        self,
        url: str = "http://127.0.0.1:8400",
        token: str | None = None,
        camera_height: float | None = None,
        **arguments: Any,
    ) -> None:
        self.camera_height = check_camera_height(camera_height)
        self._connection = Connection(url, token)
        said = self._connection.client.describe()
        self.fov = float(said["fov"])
        world = WorldFormat(
            tuple(said["image_size"]),
            tuple(said["latent_size"]),
            said["frames"],
            said["near"],
            said["far"],
            said["frames_per_second"],
            said["first_frames"],
        )
        super().__init__(world, EnvArguments.of(arguments))

    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[RemoteMoment, Shown]:
        """A world from an image, a cache, or a start view that the server draws with `rng`."""
        self._connection.tidy()
        body: dict[str, Any] = {"rng": rng.bit_generator.state, "hold": True, "want": self._want}
        options = options if "cache" in options else {"camera_height": self.camera_height, **options}
        given = ("prompt", "negative_prompt", "guidance_scale", "camera_height")
        body |= {name: options[name] for name in given if options.get(name) is not None}
        if "image" in options:
            camera = options.get("camera")
            fitted = fit_view(
                options["image"],
                self.world.image_size,
                camera if isinstance(camera, Camera) else None,
                options.get("depth"),
                options.get("labels"),
                self.fov,
            )
            is_pose = camera is not None and not isinstance(camera, Camera)
            seen_from = as_camera(np.asarray(camera), fitted.camera) if is_pose else fitted.camera
            body |= {
                "pose": seen_from.T_world_cam,
                "K": seen_from.K_image,
                "depth": fitted.depth,
                "labels": fitted.labels,
            }
            world = self._connection.client.open(image=fitted.image, **body)
        elif others := sorted(set(options) & {"depth", "labels", "camera"}):
            raise InvalidOptionError(f"options {others} describe the option 'image'; give that too")
        elif "cache" in options:
            world = self._open_cache(Path(options["cache"]), body)
        else:
            world = self._connection.client.open(**body)
        assert world.view is not None
        rng.bit_generator.state = world.view.header["rng"]
        return self._arrived(self._connection.line(world.world, world.view.moment), world.view)

    def walk(
        self, states: Sequence[RemoteMoment], paths: Sequence[Sequence[Camera]]
    ) -> list[tuple[RemoteMoment, Shown]]:
        """Generate the next chunk of each world, in one request."""
        lines = [self._line_of(state, states[:i]) for i, state in enumerate(states)]
        let_go = self._connection.tidy({line.world for line in lines})
        walks = [
            {
                "world": line.world,
                "moment": state.number,
                "poses": [camera.T_world_cam.tolist() for camera in path],
                "release": let_go.get(line.world, []),
                "hold": True,
                "want": self._want,
            }
            for line, state, path in zip(lines, states, paths, strict=True)
        ]
        if len(walks) == 1:
            return [self._arrived(lines[0], self._connection.client.call("walk", walks[0]))]
        header, arrays = self._connection.client.ask("walk_many", {"walks": walks})
        ends = np.cumsum([0, *header["lengths"]])
        answers = [arrays["answers"][a:b].tobytes() for a, b in pairwise(ends)]
        return [self._arrived(line, View.of(*unpack(answer))) for line, answer in zip(lines, answers, strict=True)]

    def look(self, state: RemoteMoment) -> Shown:
        """The last frame of a world.

        Raises:
            InvalidOptionError: no `RemoteMoment`.
        """
        if not isinstance(state, RemoteMoment):
            raise InvalidOptionError(f"the state is a {type(state).__name__}; give a RemoteMoment (see `get_state`)")
        body = {"world": state.line.world, "moment": state.number, "want": self._want}
        return self._shown(self._connection.client.call("look", body))

    def picture(self, state: RemoteMoment, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """The last frame of a walk to that camera, as `MirageEnv.picture`."""
        pose = camera.T_world_cam.tolist()
        want = {"frames": "raw"}
        body = {"world": state.line.world, "moment": state.number, "pose": pose, "want": want}
        return self._connection.client.ask("look", body)[1]["frames"][0].copy()

    def known(self, state: RemoteMoment, camera: Camera) -> float:
        """Return the share of a view that the memory there knows."""
        body = {"world": state.line.world, "moment": state.number, "pose": camera.T_world_cam.tolist()}
        return float(self._connection.client.ask("look", {**body, "want": {"frames": "none"}})[0]["known"])

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the world to a cache here, as `MirageEnv.save`; environments of the same model go on from it.

        Raises:
            CacheExistsError: there is something at `path` already, and `overwrite` is not set.
            ResetNeeded: there is no world yet.
        """
        from mirage_env import store

        state = self.get_world()
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "world.zip"
            body = {"world": state.line.world, "moment": state.number, "to": "zip"}
            packed.write_bytes(self._connection.client.ask("export", body)[1]["file"].tobytes())
            store.copy_cache(packed, path, overwrite=overwrite)

    def load(self, path: str | Path) -> tuple[Observation, Info]:
        """Go on from a world that was saved here, as `MirageEnv.load`.

        Raises:
            StoreError: there is no cache, or it is damaged, too new, or of another model; the subclass says which.
        """
        body = {"hold": True, "want": self._want}
        world = self._open_cache(Path(path), body)
        assert world.view is not None
        state, _ = self._arrived(self._connection.line(world.world, world.view.moment), world.view)
        return self.set_state(state)

    def close(self) -> None:
        """Let go of the world; the server closes it."""
        self._current = None
        self._connection.tidy()

    @property
    def _want(self) -> dict[str, Any]:
        want = {"frames": "raw", "depth": True, "labels": True, "observed": True}
        return {**want, "readout": "readout" in self.extras, "every_frame": self.info_frames}

    def _open_cache(self, path: Path, body: dict[str, Any]) -> Any:
        from mirage_env import store

        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "world.zip"
            store.copy_cache(path, packed)
            return self._connection.client.open(world=packed, **body)

    def _line_of(self, state: RemoteMoment, before: Sequence[RemoteMoment]) -> Line:
        """The world that walks on from a moment: its own, or a fork where that has walked on already."""
        line = state.line
        if state.number == line.newest and all(other.line is not line for other in before):
            return line
        view = self._connection.client.call("fork", {"world": line.world, "moment": state.number})
        return self._connection.line(view.world, view.moment)

    def _arrived(self, line: Line, view: View) -> tuple[RemoteMoment, Shown]:
        shown = self._shown(view)
        return self._connection.moment(line, view, shown.cameras[-1]), shown

    def _shown(self, view: View) -> Shown:
        h, arrays = view.header, view.arrays
        K = np.array(h["K"])
        return Shown(
            cameras=tuple(Camera(np.array(pose), K, *self.world.image_size) for pose in h["poses"]),
            frames=arrays["frames"],
            depth=arrays["depth"],
            labels=arrays["labels"],
            readout=arrays.get("readout"),
            observed=arrays["observed"],
            chunk=view.chunk,
            coverage=h["coverage"],
            memory_points=h["memory_points"],
            memory_bytes=h["memory_bytes"],
        )


class RemoteVectorEnv(ChunkVectorEnv[RemoteMoment]):
    """Several worlds of a server, which walk with one request: arguments of `ChunkVectorEnv` and of `RemoteEnv`."""

    env_class = RemoteEnv
    most_threads = 1
