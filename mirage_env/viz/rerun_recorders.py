"""Recorders of worlds: a subscriber of walks, and a wrapper of environments (`rerun_files.py` lists the entities)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mirage_env.camera import Camera, up_direction
from mirage_env.errors import InvalidOptionError
from mirage_env.export.latent_colors import Palette
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import MOVER, SKY, STATIC, Memory
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import pose_from_vector
from mirage_env.viz.pictures import Picture, blank_unseen
from mirage_env.viz.rerun_files import CHUNK, FRAME, Recording, metres, picture, rr, rrb
from mirage_env.viz.walk_curves import depth_change
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

if TYPE_CHECKING:
    from mirage_env.interfaces import Truth

LABELS = ((STATIC, "static", (90, 140, 90)), (MOVER, "mover", (230, 90, 40)), (SKY, "sky", (120, 180, 250)))
KEPT = ((0, "left out", (200, 60, 60)), (1, "kept", (60, 160, 80)))
PATH_COLOUR = (235, 110, 20)
AXES = ("X", "Y", "Z")
SIZES = ("points", "KiB", "age")
"""Figures that are no shares, and are drawn in a plot of their own."""


class WorldRecording(Recording):
    """Records a world; call it with what `start`, `step` or `observe` of its model returned, in that order.

    Args:
        path: the file.
        model: the world model, which decodes what the memory showed; None for a simulator.
        truth: a simulator's true image at a camera and frame number.
        overwrite: replace what is there.

    Raises:
        As `Recording`.
    """

    def __init__(
        self, path: str | Path, model: WorldModel | None, truth: Truth | None = None, overwrite: bool = False
    ) -> None:
        super().__init__(path, overwrite)
        self.model, self.truth = model, truth
        self.frames = 0
        """Recorded so far."""
        self._blocks: dict[int, tuple[str, Any]] = {}
        self._palette = None if model is None else Palette(model.codec)
        self._path: list[NDArray[np.float64]] = []
        self._made = 0

    def __call__(self, chunk: Chunk, state: WorldState) -> None:
        """Add a chunk and the state after it."""
        kept = [rr.SegmentationImage(_pixels(k, chunk)) for k in chunk.keep.cpu().numpy().astype(np.uint8)]
        pictures: dict[str, Sequence[Any]] = {"kept": kept}
        if self.model is not None:
            # Before the start view the memory knew nothing; its readout is of what was just written.
            observed = chunk.readout.observed.float().cpu().numpy() * (state.chunk > 0)
            depth = chunk.readout.surface(self.model.config.far).float().cpu().numpy() * (observed > 0.0)
            pictures["known"] = [picture(image) for image in self._known(self.model, chunk, observed)]
            pictures["known_depth"] = [metres(_pixels(d, chunk)) for d in depth]
        if self.truth is not None:
            numbers = range(self.frames, self.frames + len(chunk.cameras))
            shown = zip(chunk.cameras, numbers, strict=True)
            pictures["true"] = [picture(self.truth(camera, number)[0]) for camera, number in shown]
        self.add(
            state.chunk,
            chunk.cameras,
            frames_to_uint8(chunk.frames),
            chunk.depth.float().cpu().numpy(),
            chunk.labels.cpu().numpy(),
            **pictures,
        )
        self.remember(state.memory)
        self.figures(state.chunk, _figures(chunk, state))

    def add(
        self,
        chunk: int,
        cameras: Sequence[Camera],  # F
        images: Picture,  # [F, H, W, 3]
        depth: NDArray[np.floating] | None = None,  # [K, H, W] metres
        labels: NDArray[np.integer] | None = None,  # [K, H, W]
        **pictures: Sequence[Any],
    ) -> None:
        """Add frames behind those that are there (`Recording.views`), and the path up to them."""
        if not self.frames:
            self._lay_out(cameras[0], pictures)
        self.views(self.frames, chunk, cameras, images, depth, labels, **pictures)
        self.frames += len(cameras)
        self._path = [*(self._path if chunk else []), *(camera.position for camera in cameras)]
        self.at(self.frames - 1, chunk)
        self.stream.log("world/path", rr.LineStrips3D([np.stack(self._path)], colors=[PATH_COLOUR]))

    def remember(self, memory: Memory) -> None:
        """Draw the blocks that are new, and take away those that were merged, changed or dropped."""
        if not isinstance(memory, LatentMemory) or self._palette is None:
            return
        # A block whose evidence alone changed shares its places, so it need not be drawn again.
        now = {id(block.xyz): block for block in memory.blocks}
        for key in set(self._blocks) - set(now):
            self.stream.log(self._blocks.pop(key)[0], rr.Clear(recursive=False))
        for key, block in now.items():
            if key not in self._blocks:
                name = f"world/memory/{self._made}"
                self._made += 1
                self._blocks[key] = (name, block.xyz)  # held, so that no other array gets its id
                near = memory.is_surface(block)
                colours = self._palette.colours(block.values()[near], parts=1)[:, 0]
                radii, places = 0.5 * block.footprint[near].astype(np.float32), block.positions()[near]
                self.stream.log(name, rr.Points3D(places.astype(np.float32), colors=colours, radii=radii))

    def figures(self, chunk: int, values: dict[str, float]) -> None:
        """Add numbers at the last frame."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.scalars(finite, "plots", **{FRAME: self.frames - 1, CHUNK: chunk})

    @torch.inference_mode()
    def _known(self, model: WorldModel, chunk: Chunk, observed: NDArray[np.floating]) -> list[Picture]:
        images = frames_to_uint8(model.codec.decode(chunk.known))
        return [blank_unseen(image, seen) for image, seen in zip(images, observed, strict=True)]

    def _lay_out(self, camera: Camera, pictures: dict[str, Sequence[Any]]) -> None:
        """Axes, names of labels, and what the viewer shows at first."""
        up = up_direction(camera)
        axis = int(np.abs(up).argmax())
        view = getattr(rr.ViewCoordinates, f"RIGHT_HAND_{AXES[axis]}_{'UP' if up[axis] > 0.0 else 'DOWN'}")
        self.stream.log("world", view, static=True)
        self.stream.log("world/camera/labels", rr.AnnotationContext(LABELS), static=True)
        self.stream.log("world/camera/kept", rr.AnnotationContext(KEPT), static=True)
        names = ("imagined", *(n for n in ("true", "known") if n in pictures), "depth", "labels", "kept")
        flat = [rrb.Spatial2DView(origin="world/camera", contents=f"world/camera/{n}", name=n) for n in names]
        hidden = [f"- world/camera/{n}" for n in ("known_depth", "labels", "kept", "known", "true")]
        whole = rrb.Spatial3DView(origin="world", contents=["world/**", *hidden], name="world")
        without = [f"- plots/{name}" for name in SIZES]
        shares = rrb.TimeSeriesView(origin="plots", contents=["plots/**", *without], name="shares")
        sizes = rrb.TimeSeriesView(origin="plots", contents=[f"plots/{name}" for name in SIZES], name="memory")
        left = rrb.Vertical(whole, shares, sizes, row_shares=[3, 1, 1])
        layout = rrb.Horizontal(left, rrb.Grid(*flat), column_shares=[1, 1])
        self.stream.send_blueprint(rrb.Blueprint(layout, rrb.TimePanel(timeline=FRAME), collapse_panels=True))


class RecordWorld(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Records an environment of this package: what it shows, its memory, rewards and coverage.

    Every episode of the run goes into the one file, one after the other. Depth and labels are recorded where the
    environment was made with `info_frames=True`. The file is finished when the environment is closed.

    Args:
        env: an environment of this package, wrapped or not.
        path: the recording.
        overwrite: replace what is there.

    Raises:
        InvalidOptionError: an environment without chunks, or there is a recording already.
        MissingPackageError: Rerun is not installed.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], path: str | Path, overwrite: bool = False) -> None:
        RecordConstructorArgs.__init__(self, path=str(path), overwrite=overwrite)
        super().__init__(env)
        if not env.has_wrapper_attr("shown_frames"):
            raise InvalidOptionError(f"{env} does not show chunks (it has no shown_frames); nothing can be recorded")
        model = env.get_wrapper_attr("model") if env.has_wrapper_attr("model") else None
        self.recording = WorldRecording(path, model, overwrite=overwrite)
        self._reward = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and record the view that it starts with."""
        observation, info = super().reset(seed=seed, options=options)
        self._reward = 0.0
        self._add(info, {})
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and record the chunk."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._reward += float(reward)
        self._add(info, {"reward": float(reward), "return": self._reward})
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Finish the recording and close the environment."""
        self.recording.close()
        super().close()

    def _add(self, info: dict[str, Any], figures: dict[str, float]) -> None:
        state = self.get_wrapper_attr("get_world")()
        cameras = [state.camera.at(pose_from_vector(pose)) for pose in info["poses"]]
        depth, labels = info.get("frame_depth"), info.get("frame_labels")
        self.recording.add(info["chunk"], cameras, self.get_wrapper_attr("shown_frames")(), depth, labels)
        if isinstance(state, WorldState):
            self.recording.remember(state.memory)
        known = {name: float(info[key]) for name, key in (("coverage", "coverage"), ("points", "memory_points"))}
        self.recording.figures(info["chunk"], known | figures)


def _pixels(cells: NDArray[Any], chunk: Chunk) -> NDArray[Any]:  # [h, w] -> [H, W]
    stride = chunk.frames.shape[-1] // cells.shape[-1]
    return cells.repeat(stride, 0).repeat(stride, 1)


def _figures(chunk: Chunk, state: WorldState) -> dict[str, float]:
    figures = {
        "coverage": chunk.coverage if state.chunk else 0.0,
        "kept": float(chunk.keep.float().mean()),
        "points": float(state.memory.points),
        "KiB": state.memory.nbytes / 1024.0,
    }
    seen = chunk.readout.observed > 0.0
    if state.chunk and bool(seen.any()):
        figures |= {"age": float(chunk.readout.age[seen].mean()), "depth_change": depth_change(chunk)}
    return figures
