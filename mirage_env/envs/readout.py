"""`Mirage/Readout-v0`: looking around in what a memory holds. Nothing is generated, and the memory does not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.envs.arguments import EnvArguments
from mirage_env.envs.base import ChunkEnv
from mirage_env.envs.known_obstacles import KnownObstacles, known_obstacles
from mirage_env.envs.time_step import TimeStep
from mirage_env.envs.vector import ChunkVectorEnv
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidOptionError
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import STATIC, KnownObjects, Readout, StartViews
from mirage_env.memory.latent import PointMemory
from mirage_env.spaces.observations import Info, Observation, Shown, observation_space
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

LATENT_LIMIT = 16.0
"""Bound of the observation `latent`; latents have unit variance."""
KEPT_CACHES = 32
"""Worlds out of `caches` that stay in memory."""


@dataclass(frozen=True)
class Visit:
    """A camera in a world that stays as it is."""

    world: WorldState
    camera: Camera
    chunk: int = 0
    """Steps so far."""


class Preview(Protocol):
    """Draws readouts in one go, in the place of refiner and codec (`models/preview.py`)."""

    def show(self, readout: Readout) -> NDArray[np.uint8]:  # [T, H, W, 3]
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Glance(Shown):
    """View of a memory from one camera. The picture is drawn when it is first asked for."""

    frames: NDArray[np.uint8] = field(init=False)  # [1, H, W, 3]
    readout: NDArray[np.uint8] | None = field(init=False)
    seen: Readout  # of one view
    draw: Callable[[Readout], NDArray[np.uint8]]  # T views to [T, H, W, 3]

    def __getattr__(self, name: str) -> Any:
        if name not in ("frames", "readout"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.shows(self.draw(self.seen))
        return getattr(self, name)

    def shows(self, frames: NDArray[np.uint8]) -> None:  # [1, H, W, 3]
        """The picture, where it was drawn together with others."""
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "readout", frames[-1])

    def unseen(self) -> Shown:
        """The same with a black picture, which costs nothing."""
        black = np.broadcast_to(np.zeros(1, np.uint8), (*self.depth.shape, 3))
        values = {f.name: getattr(self, f.name) for f in fields(Shown) if f.name not in ("frames", "readout")}
        return Shown(frames=black, readout=None, **values)


class ReadoutEnv(ChunkEnv[Visit]):
    """A saved world to look around in: the cheapest of the worlds, with the spaces of `Mirage/World-v0`.

    A step moves the camera to the last one of the chunk and shows what the memory holds there: one frame. It is drawn
    by the model's preview network, or refined and decoded. Where the memory holds nothing the picture is what the codec
    makes of zeros, and the depth is 0 (`near` in the observation `depth`). Every surface counts as static.

    Options of `reset`: `cache`, the path of a saved world; or `image`, `depth` and `camera` as for `MirageEnv`. With
    neither, a cache out of `caches` is drawn, or else a start view. A cache begins where its walk ended.

    Args:
        model: a world model, or a name or folder for `load_world_model`.
        caches: folder of saved worlds (`*.zarr` and `*.zip`). The last ones that were drawn stay in memory and are not
            read again.
        start_views, rooms_views, camera_height: as for `MirageEnv`.
        preview: draw pictures with a preview network: with the one that ships for this model, if there is one (True),
            with that of a folder, or with none (False): refined and decoded, which takes several times as long.
        refine: refine latents; without it, moved ones are shown and decoded as they are.
        pixels: whether the observation has `pixels`; without it has `latent` (float32 [C, h, w], at most 16 in size) in
            their place, and nothing is decoded but for `render` and tasks that look at images.
        **arguments: as for `MirageEnv`.

    Raises:
        InvalidOptionError: an argument with a value that is not on offer, or a folder without caches.
        ModelNotFoundError: no world model of that name.
        WeightsError: its weight files cannot be used.
    """

    world_options = MirageEnv.world_options

    def __init__(
        self,
        model: WorldModel | str | Path = "rooms",
        caches: str | Path | None = None,
        start_views: StartViews | str | None = None,
        rooms_views: str | None = None,
        camera_height: float | None = None,
        preview: bool | str | Path = True,
        refine: bool = True,
        pixels: bool = True,
        **arguments: Any,
    ) -> None:
        self._imagined = MirageEnv(model, start_views, rooms_views, camera_height=camera_height)
        self.model = self._imagined.model
        self.preview = _preview_of(self.model, preview)
        self.caches = [] if caches is None else _caches_in(Path(caches))
        self.refine, self.pixels = refine, pixels
        super().__init__(replace(self._imagined.world, frames=1, first_frames=None), EnvArguments.of(arguments))
        self._kept: dict[Path, WorldState] = {}
        if not pixels:
            c = self.model.config
            latent = Box(-LATENT_LIMIT, LATENT_LIMIT, (c.latent_channels, *c.latent_size), np.float32)
            spaces = observation_space(self.world, self.extras, self.task.goal_space(self.world)).spaces
            self.observation_space = Dict({"latent": latent, **{n: s for n, s in spaces.items() if n != "pixels"}})

    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[Visit, Shown]:
        """A cache that is given or drawn, or a world of one view."""
        objects: KnownObjects | None = None
        if not options and self.caches:
            world = self._kept_world(self.caches[int(rng.integers(len(self.caches)))])
        elif set(options) == {"cache"}:
            world = self._load(options["cache"])
        else:
            world, shown = self._imagined.open_world(rng, options)
            objects = shown.objects
        visit = Visit(world, world.camera)
        return visit, replace(self.look(visit), objects=objects)

    def walk(self, states: Sequence[Visit], paths: Sequence[Sequence[Camera]]) -> list[tuple[Visit, Shown]]:
        """Each camera moved to the end of its path; pictures of several worlds are drawn together."""
        after = [replace(s, camera=path[-1], chunk=s.chunk + 1) for s, path in zip(states, paths, strict=True)]
        glances = [self.look(visit) for visit in after]
        if self.pixels and len(glances) > 1:
            parts = [glance.seen for glance in glances]
            together = Readout(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Readout)})
            for glance, picture in zip(glances, self._draw(together), strict=True):
                glance.shows(picture[None])
        return list(zip(after, glances, strict=True))

    @torch.inference_mode()
    def look(self, state: Visit) -> Glance:
        """Read the memory at the camera of a visit.

        Raises:
            InvalidOptionError: not a `Visit`.
        """
        if not isinstance(state, Visit):
            raise InvalidOptionError(f"the state is a {type(state).__name__}; give a Visit (see `get_state`)")
        memory, model = state.world.memory, self.model
        # Seen as by the chunk that would come next, however long one has been looking around.
        readout = memory.read([state.camera], now=state.world.chunk + 1)
        depth = readout.surface(model.config.far).cpu().numpy()
        (H, W), (h, w) = model.config.image_size, model.config.latent_size
        return Glance(
            cameras=(state.camera,),
            depth=depth.repeat(H // h, axis=1).repeat(W // w, axis=2),
            labels=np.full((1, H, W), STATIC, np.uint8),
            observed=readout.observed[0].cpu().numpy(),
            chunk=state.chunk,
            coverage=float(readout.observed.mean()),
            memory_points=int(memory.points),
            memory_bytes=int(memory.nbytes),
            seen=readout,
            draw=self._draw,
        )

    def glance(self, state: Visit, camera: Camera) -> Glance:
        """Look from there at what the memory shows."""
        return self.look(replace(state, camera=camera))

    def known(self, state: Visit, camera: Camera) -> float:
        """Return the share of a view that the memory knows."""
        return self.glance(state, camera).coverage

    def obstacles(self, state: Visit, height: float) -> KnownObstacles | None:
        """Return what the memory shows to be standing there."""
        memory = state.world.memory
        return known_obstacles(memory, height) if isinstance(memory, PointMemory) else None

    def picture(self, state: Visit, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """Draw the memory at another camera."""
        return self.look(replace(state, camera=camera)).frames[0]

    def _results(self, time_step: TimeStep[Visit]) -> tuple[Observation, Info]:
        glance = time_step.shown
        if self.pixels or not isinstance(glance, Glance):
            return super()._results(time_step)
        observation, info = super()._results(replace(time_step, shown=glance.unseen()))
        latent = self._latent(glance.seen)[0].float().cpu().numpy().clip(-LATENT_LIMIT, LATENT_LIMIT)
        others = {name: value for name, value in observation.items() if name != "pixels"}
        if "readout" in self.extras:
            others["readout"] = glance.frames[-1].copy()
        if self.info_frames:
            info["frames"] = glance.frames.copy()
        return {"latent": latent, **others}, info

    @torch.inference_mode()
    def _latent(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        return self.model.refiner.refine(readout) if self.refine else readout.latent

    @torch.inference_mode()
    def _draw(self, readout: Readout) -> NDArray[np.uint8]:  # [T, H, W, 3]
        if self.preview is not None:
            return self.preview.show(readout)
        return frames_to_uint8(self.model.codec.decode(self._latent(readout)))

    def _kept_world(self, path: Path) -> WorldState:
        """Return a world out of `caches`, from memory if it is there; the one that was used longest ago makes room."""
        world = self._kept.pop(path, None) or self._load(path)
        self._kept[path] = world
        if len(self._kept) > KEPT_CACHES:
            self._kept.pop(next(iter(self._kept)))
        return world

    def _load(self, path: str | Path) -> WorldState:
        from mirage_env import store

        return store.load_world(path, self.model)


class ReadoutVectorEnv(ChunkVectorEnv[Visit]):
    """Several visits at once, which share model and caches: arguments of `ChunkVectorEnv` and of `ReadoutEnv`.

    One thread is the fastest and the default: pictures of all worlds are drawn in one call, and what is left is mostly
    Python, which threads do not share.
    """

    env_class = ReadoutEnv
    default_threads = 1


def _preview_of(model: WorldModel, wanted: bool | str | Path) -> Preview | None:
    """The preview that an environment draws with.

    Raises:
        InvalidOptionError: it is for another model.
        ModelNotFoundError: no preview in that folder.
        WeightsError: its weights are damaged or do not fit.
    """
    if wanted is False:
        return None
    from mirage_env.models.small.preview_decoder import find_preview, load_preview

    folder = find_preview(model.identity) if wanted is True else Path(wanted)
    return None if folder is None else load_preview(folder, model.identity)


def _caches_in(folder: Path) -> list[Path]:
    """Saved worlds of a folder, in the order of their names.

    Raises:
        InvalidOptionError: there are none.
    """
    found = sorted(path for end in ("*.zarr", "*.zip") for path in folder.glob(end))
    if not found:
        raise InvalidOptionError(
            f"caches is {str(folder)!r}, where no name ends in .zarr or .zip; give a folder of saved worlds, such as "
            "`env.unwrapped.save(path)` or `mirage walk` leave"
        )
    return found
