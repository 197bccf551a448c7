"""`RLinfBackend`: worlds of a server as the world-model backend of RLinf's environments.

RLinf's `WorldModelBackend` is a Protocol of open_session, generate, close_session, offload and onload
(github.com/RLinf/RLinf, rlinf/envs/world_model/backend.py); an environment's `_build_backend` returns one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, WorldNotFoundError
from mirage_env.images import frames_to_uint8
from mirage_env.serving import Client
from mirage_env.serving.wire import unpack
from mirage_env.spaces.actions import Waypoints


class RLinfBackend:
    """Advance the frames of RLinf's environment slots, each a world on a server.

    Actions are those of `control="waypoints"`: six numbers in [-1, 1] for every frame, so `action_dim` is 6.

    Args:
        url: of the server.
        token: for servers that ask for one.

    Raises:
        ServingError: nobody answers there, or the token is refused.
    """

    condition_frame_length = 1
    """Frames that a session begins with: the world remembers what came before by itself."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._client = Client(url, token)
        about = self._client.describe()
        self.chunk: int = about["frames"]
        if about["first_frames"] != self.chunk:
            raise InvalidOptionError(
                f"the server's model begins a world with {about['first_frames']} frames and goes on with {self.chunk}; "
                "RLinf takes chunks of one length: set first_chunk_latents to null in its mirage.json"
            )
        self.image_size: tuple[int, int] = tuple(about["image_size"])
        self._control = Waypoints(self.chunk, about["max_translation"], about["max_rotation"])
        self._sessions: dict[int, tuple[str, Camera]] = {}

    def open_session(
        self,
        env_ids: Sequence[int],
        init_frames: Sequence[Sequence[Tensor]],  # for each slot, frames [3, 1, H, W] in [-1, 1]
        task_ids: Sequence[Any],
        seeds: Sequence[int],
        init_actions: Tensor | None = None,
    ) -> None:
        """Open a world from the last frame of each slot; `task_ids` and `init_actions` are not used.

        Raises:
            InvalidImageError: a frame that is no picture.
            QuotaError: the server has as many worlds as allowed.
        """
        for slot, frames, seed in zip(env_ids, init_frames, seeds, strict=True):
            image = frames_to_uint8(frames[-1][:, 0][None])[0]
            world = self._client.open(int(seed), image=image, want={"frames": "none"})
            self.close_session([slot])
            self._sessions[int(slot)] = world.world, self._camera(world.view.header if world.view else {})

    def generate(
        self,
        env_ids: Sequence[int],
        actions: Tensor,  # [B, F, 6]
        condition: Any = None,
    ) -> Tensor:  # [B, 3, F, H, W] in [-1, 1]
        """Walk on by one chunk in every slot, in one request; `condition` is not used.

        Raises:
            WorldNotFoundError: a slot without a session.
            InvalidActionError: an action of another shape, not finite, or outside [-1, 1].
        """
        slots = [int(slot) for slot in env_ids]
        if missing := [slot for slot in slots if slot not in self._sessions]:
            raise WorldNotFoundError(f"the slots {missing} have no session; call open_session first")
        if len(actions) != len(slots):
            raise InvalidOptionError(f"there are actions for {len(actions)} slots and {len(slots)} env_ids")
        walks = []
        for slot, action in zip(slots, np.asarray(torch.as_tensor(actions).cpu()), strict=True):
            world, camera = self._sessions[slot]
            poses = [c.T_world_cam.tolist() for c in self._control.cameras(action, camera)]
            walks.append({"world": world, "poses": poses, "want": {"frames": "raw"}})
        header, arrays = self._client.ask("walk_many", {"walks": walks})
        frames = []
        for slot, (begin, end) in zip(slots, pairwise(np.cumsum([0, *header["lengths"]])), strict=True):
            shown, found = unpack(arrays["answers"][begin:end].tobytes())
            self._sessions[slot] = self._sessions[slot][0], self._camera(shown)
            frames.append(torch.from_numpy(found["frames"].copy()))
        return torch.stack(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0

    def close_session(self, env_ids: Sequence[int]) -> None:
        """Close the worlds of slots; those without a session are ignored."""
        for slot in env_ids:
            if (session := self._sessions.pop(int(slot), None)) is not None:
                self._client.world(session[0]).close()

    def offload(self) -> None:
        """Do nothing: the weights are the server's."""

    def onload(self) -> None:
        """Do nothing: the weights are the server's."""

    def _camera(self, header: Any) -> Camera:
        return Camera(np.array(header["poses"][-1]), np.array(header["K"]), *self.image_size)
