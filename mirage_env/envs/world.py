"""`Mirage/World-v0`: the learned world as a Gymnasium environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera, between, check_camera_height
from mirage_env.envs.arguments import EnvArguments, imported_start_views
from mirage_env.envs.base import ChunkEnv
from mirage_env.envs.known_obstacles import KnownObstacles, known_obstacles
from mirage_env.envs.vector import ChunkVectorEnv
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import fit_view
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import STATIC, KnownObjects, StartView, StartViews
from mirage_env.memory.latent import PointMemory
from mirage_env.poses import rotation_angle
from mirage_env.spaces.observations import Info, Observation, Shown, WorldFormat
from mirage_env.spaces.reset_options import as_camera
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState
from mirage_env.world_views import current_view, surrounded, with_every_frame

MAX_PICTURE_CHUNKS = 16
"""Longest way to a picture, chunks."""
KNOWN = 0.5
"""Share of the cells that the memory must show of a view for its depth to be taken from there."""


class MirageEnv(ChunkEnv[WorldState]):
    """A world imagined from one image. One step walks one chunk of F frames.

    Action, by `control` (module `actions`): `"relative_pose"` in `Box(-1, 1, (6,))`, the pose of the chunk's last
    camera in the frame of the current one; `"waypoints"` in `Box(-1, 1, (F, 6))`; `"absolute_pose"`, seven numbers.

    Observation: `pixels` (last frame, uint8 [H, W, 3]) and `agent_pos` (x, y, z, qw, qx, qy, qz; float32), and what
    `observe` asks for: `readout` (what the memory showed of the last frame, decoded, uint8 [H, W, 3]), `observed`
    (its visibility, float32 [h, w] in [0, 1]), `depth` (metres, clipped to the model's near and far, float32 [H, W]).

    `info`, with the same keys after reset (one frame) and step (F frames): `poses` [F, 7], `chunk` (0 at the start),
    `coverage` (share of cells the memory showed), `memory_points`, `memory_bytes`, `is_success` (False without a task),
    `frame_rewards` [F]. With `info_frames` also `frames` uint8 [F, H, W, 3], `frame_depth` [F, H, W], `frame_labels`
    [F, H, W], `frame_poses` [F, 4, 4] and `intrinsics` [3, 3]; a model with a latent for every s-th frame only then
    estimates depth and labels of all of them.

    Without a `task` the reward is 0 and episodes do not end by themselves; a task may add `goal` to the observation and
    keys to `info` (module `tasks`).

    Options of `reset`: `image` (a path, PIL image or array of any size and type, see `fit_view`) with its true `depth`
    (metres, [H, W]), `labels` ([H, W]) and `camera` (a `Camera` of the picture, a 4 x 4 pose or a pose vector) where
    they are known; `cache`, the path of a saved world; `camera_height`, in the place of the argument; `prompt`,
    `negative_prompt` and `guidance_scale`, for world models that take them. With neither image nor cache a start view
    is drawn.

    Args:
        model: a world model, or a name or folder for `load_world_model`.
        start_views: draws the view of a `reset` without image; a function or `"module:function"`. The model's own if
            not given: views of the world it was trained on.
        rooms_views: the same for models that were trained on rooms and bring none; the registered environments set it.
        chunk_frames: F, frames per step, also of the first; the model's own if not given. Fewer are generated, looked
            at and remembered: a step costs less, and its views lie farther apart (`docs/costs.md`).
        image_size: H, W in the place of the model's own, where `model` is a name or folder (`load_world_model`).
        camera_height: of the start view's camera above a level floor, metres in [0.05, 10], as a robot knows it:
            estimated depth is fitted to that floor. Up is the axis of the world nearest to the camera's own. A start
            view may bring its own height, a saved world has the one it was opened with; None: not known.
        **arguments: `control`, `max_translation`, `max_rotation`, `observe`, `info_frames`, `render_mode`, `task` and
            `guard`, as in `EnvArguments`.

    Raises:
        InvalidOptionError: an argument with a value that is not on offer.
        ModelNotFoundError: no world model of that name.
        WeightsError: its weight files cannot be used.
    """

    world_options = (
        "image", "depth", "labels", "camera", "camera_height", "prompt", "negative_prompt", "guidance_scale", "cache",
    )  # fmt: skip
    learns_obstacles = True

    def __init__(
        self,
        model: WorldModel | str | Path = "rooms",
        start_views: StartViews | str | None = None,
        rooms_views: str | None = None,
        chunk_frames: int | None = None,
        image_size: tuple[int, int] | None = None,
        camera_height: float | None = None,
        **arguments: Any,
    ) -> None:
        if isinstance(model, str | Path):
            # Brings in diffusers and transformers, which a ready model does not need again.
            from mirage_env.models.world_model_loader import load_world_model

            model = load_world_model(model, image_size=image_size)
        elif image_size not in (None, model.config.image_size):
            raise InvalidOptionError(
                f"image_size is {image_size} and the ready model has {model.config.image_size}; load it with that size"
            )
        if chunk_frames is not None:
            model = replace(model, config=model.config.with_chunk_frames(chunk_frames))
        c = model.config
        sizes = (c.image_size, c.latent_size, c.frames_per_chunk, c.near, c.far, c.frames_per_second, c.frames_of(0))
        super().__init__(WorldFormat(*sizes), EnvArguments.of(arguments))
        self.model, self.camera_height = model, check_camera_height(camera_height)
        if start_views is None and model.config.trained_on in ("", "rooms"):
            start_views = model.start_views or rooms_views
        start_views = start_views or model.start_views
        self.start_views = imported_start_views(start_views) if isinstance(start_views, str) else start_views

    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[WorldState, Shown]:
        """A world from an image, a cache, or a start view drawn from `rng`."""
        self._check(options)
        others: tuple[StartView, ...] = ()
        objects: KnownObjects | None = None
        camera_height = self.camera_height
        if "cache" in options:
            state = self._read(options["cache"])
            return state, self.look(state)
        if "image" in options:
            image, depth, camera = options["image"], options.get("depth"), options.get("camera")
            labels = options.get("labels")
            if camera is not None and not isinstance(camera, Camera):  # a pose; the lens is the picture's
                c = self.model.config
                fitted = fit_view(image, c.image_size, depth=depth, labels=labels, fov=c.fov)
                image, depth, labels = fitted.image, fitted.depth, fitted.labels
                camera = as_camera(camera, fitted.camera)
        elif self.start_views is None:
            home = f" (the model was trained on {self.model.config.trained_on})" if self.model.config.trained_on else ""
            raise InvalidOptionError(
                f"there is no view to start from{home}; give options={{'image': ...}} or `start_views`"
            )
        else:
            view = self.start_views(rng)
            image, depth, labels, camera = view.image, view.depth, view.labels, view.camera
            others, objects = view.others, view.objects
            camera_height = camera_height if view.camera_height is None else view.camera_height
        prompt, seed = options.get("prompt") or "", int(rng.integers(2**63))
        given = ("negative_prompt", "guidance_scale", "camera_height")
        said = {"camera_height": camera_height} | {name: options[name] for name in given if name in options}
        chunk, state = self.model.start(image, camera, depth, seed, prompt, labels, **said)
        state = surrounded(self.model, state, others)
        return state, replace(self.shown(chunk, state), objects=objects)

    def walk(self, states: Sequence[WorldState], paths: Sequence[Sequence[Camera]]) -> list[tuple[WorldState, Shown]]:
        """Generate the next chunk of each world, with one call of the generator."""
        chunks, after = self.model.step_batch(states, paths)
        stepped = zip(states, chunks, after, strict=True)
        return [(state, self.shown(chunk, state, before)) for before, chunk, state in stepped]

    def look(self, state: WorldState) -> Shown:
        """The last frame of a world: its last latent, decoded.

        Raises:
            InvalidOptionError: not a `WorldState`, or one of a world model of another shape.
        """
        if not isinstance(state, WorldState):
            raise InvalidOptionError(f"the state is a {type(state).__name__}; give a WorldState (see `get_state`)")
        c, model = self.model.config, self.model
        shape = (1 + c.preceding_latents, c.latent_channels, *c.latent_size)
        size = (state.camera.height, state.camera.width)
        if tuple(state.latents.shape) != shape or size != c.image_size:
            raise InvalidOptionError(
                f"the state has latents of shape {tuple(state.latents.shape)} and images of {size}; the model "
                f"{c.name!r} has {shape} and {c.image_size}: use the model that the state comes from"
            )
        return self.shown(current_view(model, state), state)

    def glance(self, state: WorldState, camera: Camera) -> Shown:
        """Look from there at what the memory shows; where that is too little, turn there on a fork and look."""
        readout = state.memory.read([camera], now=state.chunk + 1)
        if float(readout.observed.mean()) < KNOWN:
            chunk, after = self._walked(state, camera)
            return self.shown(chunk, after)
        (H, W), (h, w) = self.world.image_size, self.world.latent_size
        depth = readout.surface(self.world.far).cpu().numpy().repeat(H // h, 1).repeat(W // w, 2)
        labels, seen = np.full((1, H, W), STATIC, np.uint8), readout.observed[0].float().cpu().numpy()
        return Shown((camera,), np.zeros((1, H, W, 3), np.uint8), depth, labels, None, seen, state.chunk, 1.0, 0, 0)

    def known(self, state: WorldState, camera: Camera) -> float:
        """Return the share of a view that the memory knows now."""
        return float(state.memory.read([camera], now=state.chunk + 1).observed.mean())

    def obstacles(self, state: WorldState, height: float) -> KnownObstacles | None:
        """Return what the memory shows to be standing there, and what moves."""
        memory = state.memory
        return known_obstacles(memory, height, state.movers) if isinstance(memory, PointMemory) else None

    def picture(self, state: WorldState, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """The last frame of a walk to that camera, on a fork, at no more than the longest step per chunk.

        Raises:
            InvalidOptionError: it is more than `MAX_PICTURE_CHUNKS` chunks away.
        """
        return frames_to_uint8(self._walked(state, camera)[0].frames[-1:])[0]

    def _walked(self, state: WorldState, camera: Camera) -> tuple[Chunk, WorldState]:
        """The last chunk of a walk to a camera."""
        T_here_there = state.camera.T_cam_world @ camera.T_world_cam
        way, turn = float(np.linalg.norm(T_here_there[:3, 3])), rotation_angle(T_here_there)
        count = max(1, math.ceil(max(way / self.arguments.max_translation, turn / self.arguments.max_rotation)))
        if count > MAX_PICTURE_CHUNKS:
            raise InvalidOptionError(
                f"a view is wanted that is {way:.1f} m and {turn:.1f} rad away, {count} chunks of this environment; at "
                f"most {MAX_PICTURE_CHUNKS} are walked for it: choose a nearer one"
            )
        path = between(state.camera, camera, (c := self.model.config).frames_in(count, state.chunk))
        first, *rest = c.pieces(len(path), state.chunk)
        chunk, after = self.model.step(state, path[first])
        for piece in rest:
            chunk, after = self.model.step(after, path[piece])
        return chunk, after

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the world to a cache, from which `load` or `reset(options={"cache": path})` goes on.

        Raises:
            CacheExistsError: there is something at `path` already, and `overwrite` is not set.
            ResetNeeded: there is no world yet.
        """
        from mirage_env import store

        store.save_world(path, self.get_world(), self.model, overwrite=overwrite)

    def load(self, path: str | Path) -> tuple[Observation, Info]:
        """Go on from a saved world; the next step is the one that would have followed when it was saved.

        Raises:
            StoreError: there is no cache, or it is damaged, too new, or of another model; the subclass says which.
        """
        return self.set_state(self._read(path))

    def _read(self, path: str | Path) -> WorldState:
        from mirage_env import store

        return store.load_world(path, self.model)

    def _check(self, options: dict[str, Any]) -> None:
        said = {name: options[name] for name in ("prompt", "negative_prompt", "guidance_scale") if name in options}
        said = {name: value for name, value in said.items() if value is not None}
        for name, value in said.items():
            kind, wanted = ((int, float), "number") if name == "guidance_scale" else ((str,), "text")
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InvalidOptionError(f"the {name} is a {type(value).__name__}; give a {wanted}")
        if said and not getattr(self.model.generator, "takes_prompts", False):
            raise InvalidOptionError(
                f"the world model {self.model.config.name!r} takes no prompt; leave out {list(said)}"
            )
        if said and "cache" in options:
            raise InvalidOptionError(f"options {list(said)} do not go with 'cache', which holds a whole world")
        views = {"image", "depth", "labels", "camera", "camera_height"}
        if "cache" in options and (others := sorted(set(options) & views)):
            raise InvalidOptionError(f"options {others} do not go with 'cache', which holds a whole world")
        if "image" not in options and (others := sorted(set(options) & {"depth", "labels", "camera"})):
            raise InvalidOptionError(f"options {others} describe the option 'image'; give that too")

    @torch.inference_mode()
    def shown(self, chunk: Chunk, state: WorldState, before: WorldState | None = None) -> Shown:
        """Give what a chunk shows, as NumPy arrays; `before`: the world that was stepped."""
        seen: NDArray[np.uint8] | None = None
        if "readout" in self.extras:
            seen = frames_to_uint8(self.model.codec.decode(chunk.known[-1:]))[0]
        if self.info_frames and before is not None:
            chunk = with_every_frame(self.model, chunk, before)
        return Shown(
            cameras=chunk.cameras,
            frames=frames_to_uint8(chunk.frames),
            depth=chunk.depth.float().cpu().numpy(),
            labels=chunk.labels.to("cpu", torch.uint8).numpy(),
            readout=seen,
            observed=chunk.readout.observed[-1].float().cpu().numpy(),
            chunk=state.chunk,
            coverage=chunk.coverage,
            memory_points=int(state.memory.points),
            memory_bytes=int(state.memory.nbytes),
        )


class MirageVectorEnv(ChunkVectorEnv[WorldState]):
    """Several learned worlds at once, which share the world model: arguments of `ChunkVectorEnv` and of `MirageEnv`.

    One thread is the default where the networks do not run on the CPU.
    """

    env_class = MirageEnv

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        first: Any = self.envs[0]
        device = getattr(first.model.codec, "device", torch.device("cpu"))
        if self.threads is None and device.type != "cpu":
            self.threads = 1
