"""A world model whose networks run on a world server, while the worlds are here: values, as with one that runs here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera, check_paths
from mirage_env.config.parsing import from_dict
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError, ServingError, WorldNotFoundError
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import splat_batch
from mirage_env.memory.movers import read_with_movers
from mirage_env.serving.connection import Connection, RemoteMoment
from mirage_env.serving.remote_world import View
from mirage_env.serving.step_log import repeat_step
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState


@dataclass(frozen=True)
class RemoteWorldModel(WorldModel):
    """The model of a world server, used like one that is loaded here; it needs no weights. `connect` makes it.

    `step` walks on the server, which holds the worlds as long as somebody here refers to them, and sends what a step
    has changed: so all states are here too, and are saved, forked and shown as ever. A state that the server does not
    have, because it was read from a cache or the server has started anew, is sent to it, some ten kilobytes. The
    networks that `start`, `observe` and views of the memory need are asked one by one. Where both machines are of one
    kind all results are those of the model loaded here, bit for bit. Of a chunk `keep` (nothing), `known` and `latents`
    (zeros) are not sent.

    Every method may raise a `ServingError`: the server does not answer. The same call may be tried again later.
    """

    connection: Connection = field(kw_only=True)
    name: str = field(default="world", kw_only=True)
    """What its worlds are called on the server."""
    moments: WeakKeyDictionary[WorldState, RemoteMoment] = field(default_factory=WeakKeyDictionary, kw_only=True)
    """Where the server has states."""

    @staticmethod
    def connect(url: str, token: str | None = None, name: str = "world") -> RemoteWorldModel:
        """Connect to a server.

        Args:
            url: its address, such as "http://127.0.0.1:8400".
            token: for servers that ask for one.
            name: what its worlds are called there.

        Raises:
            ServingError: nobody answers there, the token is refused, or it is a server of another release.
        """
        connection = Connection(url, token)
        said = connection.client.describe()
        try:
            config = from_dict(WorldModelConfig, said["config"], "the settings of the server's model")
            identity = str(said["identity"])
        except (InvalidOptionError, KeyError) as error:
            raise ServingError(f"{url} serves a model that is unknown here ({error}); use the same release") from error
        nets: Any = RemoteNetworks(connection)
        parts = {"codec": nets, "depth": nets, "segmenter": nets, "refiner": nets, "generator": nets}
        return RemoteWorldModel(config, **parts, identity=identity, connection=connection, name=name)

    @torch.inference_mode()
    def step_batch(
        self, states: Sequence[WorldState], cameras: Sequence[Sequence[Camera]]
    ) -> tuple[list[Chunk], list[WorldState]]:
        """Step worlds on the server, one after the other.

        Raises:
            InvalidCameraError: as `WorldModel.step_batch`.
            ServingError: the server does not answer.
        """
        check_paths(cameras, [self.config.frames_of(state.chunk) for state in states], self.config.image_size)
        stepped = [self._stepped(state, path) for state, path in zip(states, cameras, strict=True)]
        return [chunk for chunk, _ in stepped], [after for _, after in stepped]

    def close(self) -> None:
        """Close the worlds on the server and the connection; a step that is under way fails."""
        self.moments.clear()
        self.connection.close()

    def _stepped(self, state: WorldState, path: Sequence[Camera]) -> tuple[Chunk, WorldState]:
        origin = self.moments.get(state)
        try:
            if origin is None:
                raise WorldNotFoundError
            view = self._walked(origin, path)
        except WorldNotFoundError:  # of a state that was never there, or is there no longer
            view = self._walked(origin := self._lent(state), path)
        after = repeat_step(state, view.arrays["record"].tobytes())
        self.moments[after] = self.connection.moment(origin.line, view, after.camera)
        return self._chunk(state, path, view), after

    def _walked(self, origin: RemoteMoment, path: Sequence[Camera]) -> View:
        world = origin.line.world
        body = {
            "world": world,
            "moment": origin.number,
            "poses": [camera.T_world_cam.tolist() for camera in path],
            "release": self.connection.tidy([world]).get(world, []),
            "hold": True,
            "want": {"frames": "raw", "depth": True, "labels": True, "record": True},
        }
        return self.connection.client.call("walk", body)

    def _lent(self, state: WorldState) -> RemoteMoment:
        """Give a state to the server."""
        from mirage_env.store import save_world

        self.connection.tidy()
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "world.zip"
            save_world(packed, state, self)
            opened = self.connection.client.open(world=packed, name=self.name, hold=True, want={"frames": "none"})
        assert opened.view is not None
        line = self.connection.line(opened.world, opened.view.moment)
        self.moments[state] = moment = self.connection.moment(line, opened.view, state.camera)
        return moment

    def _chunk(self, before: WorldState, path: Sequence[Camera], view: View) -> Chunk:
        c, clean = self.config, self.config.lengths_of(before.chunk)[1]
        views = (*before.clean(clean)[1], *path[c.key_frames])
        readout, movers = read_with_movers(before, views, splat_batch([before.memory], [views])[0], c, past=clean)
        readout, nothing = readout[clean:], torch.zeros_like(readout.latent[clean:])
        return Chunk(
            cameras=tuple(path),
            frames=torch.from_numpy(view.frames.copy()).permute(0, 3, 1, 2) / 127.5 - 1.0,
            depth=torch.from_numpy(view.arrays["depth"].copy()),
            labels=torch.from_numpy(view.arrays["labels"].copy()).long(),
            keep=torch.zeros_like(readout.observed, dtype=torch.bool),
            readout=readout,
            known=nothing,
            latents=nothing,
            movers=movers[clean:],
        )


class RemoteNetworks:
    """The networks of a server, one request a call: codec, depth, segmenter and refiner of `interfaces.py`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def encode(self, images: Tensor) -> Tensor:
        return self._run("encode", {"images": images})

    def encode_chunk(self, frames: Tensor, first: Tensor) -> Tensor:
        return self._run("encode_chunk", {"frames": frames, "first": first})

    def encode_video(self, frames: Tensor) -> Tensor:
        return self._run("encode_video", {"frames": frames})

    def decode(self, latents: Tensor) -> Tensor:
        return self._run("decode", {"latents": latents})

    def decode_chunk(self, latents: Tensor, first: Tensor) -> Tensor:
        return self._run("decode_chunk", {"latents": latents, "first": first})

    def refine(self, readout: Readout) -> Tensor:
        return self._run("refine", {f.name: getattr(readout, f.name) for f in fields(readout)})

    def segment(self, images: Tensor) -> Tensor:
        return self._run("segment", {"images": images}).long()

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        tensors = {"images": images} if known is None else {"images": images, "known": known}
        poses = [camera.T_world_cam.tolist() for camera in cameras]
        return self._run("estimate", tensors, poses=poses, K=cameras[0].K_image.tolist())

    def generate(self, *_: Any, **__: Any) -> Tensor:
        """Refuse: chunks are made by walking on the server (`RemoteWorldModel.step`)."""
        raise ServingError("the generator of a server is not asked alone; step a world")

    def _run(self, part: str, tensors: dict[str, Tensor], **body: Any) -> Tensor:
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
        _, answer = self._connection.client.ask("network", {"part": part, **body}, arrays)
        return torch.from_numpy(np.array(answer["out"]))
