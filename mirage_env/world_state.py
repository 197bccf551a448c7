"""A world at one moment, and what one step of it shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.interfaces import Guidance, Memory, Readout, Reference
from mirage_env.memory.depth_from_motion import told_again
from mirage_env.memory.depth_scale import Alignment
from mirage_env.memory.floor import Floor
from mirage_env.memory.movers import Movers, Shown
from mirage_env.memory.true_views import with_views


@dataclass(frozen=True, eq=False)
class WorldState:
    """A world at one moment. Everything the next chunk depends on, besides the networks and the cameras asked for."""

    memory: Memory
    camera: Camera
    """Where the last frame was seen from."""
    latents: Tensor  # [P + 1, C, h, w] clean latents, newest last; the very last is a still of the last frame
    chunk: int
    """Chunks generated so far; the start view is chunk 0."""
    noise: Tensor  # [state bytes] uint8, state of the world's torch.Generator
    prompt: str = ""
    """What the world should look like, for models that read text."""
    references: tuple[Reference, ...] = ()
    """Earlier views to choose from, oldest first; none where the model takes none (`references.py`)."""
    guidance: Guidance = field(default_factory=Guidance)
    """How closely the prompt is followed, and what it is led away from."""
    shown: Tensor | None = None  # [P + 1, C, h, w]
    """Read-out latents of the chunks that `latents` come from, for models with `preceding_readouts`."""
    front: tuple[Reference, ...] = ()
    """The last frames as a video, for models whose later chunks begin with more `clean_latents` than one."""
    movers: Movers = ()
    """What moves, where it should be by now (`movers.py`)."""
    floor: Floor | None = None
    """That estimated depth is fitted to, where the height of the camera was known when the world was opened."""

    def generator(self) -> torch.Generator:
        """A generator of noise that goes on from `noise`."""
        generator = torch.Generator()
        generator.set_state(self.noise)
        return generator

    def clean(self, count: int) -> tuple[Tensor, tuple[Camera, ...]]:  # [count, C, h, w]
        """Latents that the next chunk begins with, and their cameras."""
        if count == 1:
            return self.latents[-1:], (self.camera,)
        return torch.stack([r.latent for r in self.front]), tuple(r.camera for r in self.front)

    def preceding(self, in_first_chunk: bool) -> slice:
        """Index of the `latents` that precede the next chunk: P, or none if it is the first and has none."""
        return slice(-1) if self.chunk or in_first_chunk else slice(0)

    def with_views(
        self,
        images: Tensor,  # [F, 3, H, W]
        depth: Tensor | None,  # [F, H, W] metres
        cameras: Sequence[Camera],  # F
    ) -> WorldState:
        """The world with pictures and measured depth of the true views that it was shown last, and what they tell."""
        return replace(self, memory=told_again(with_views(self.memory, images, depth), cameras))

    def shown_after(self, readout: Readout, new: int) -> Tensor | None:
        """`shown` after a chunk with a readout of K views, when K latents are remembered, or a still more."""
        if self.shown is None:
            return None
        rows = torch.arange(new).clamp(max=len(readout.latent) - 1)
        return torch.cat([self.shown, readout.latent[rows]])[-len(self.shown) :]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Result of one step: F new frames and K latents, one for every s-th frame, the key frames (F = s K).

    The start view and views that are observed are stills: every frame is a key frame, whatever the model's stride.
    """

    cameras: tuple[Camera, ...]  # F
    frames: Tensor  # [F, 3, H, W] in [-1, 1]
    depth: Tensor  # [K, H, W] metres
    labels: Tensor  # [K, H, W] STATIC, MOVER, SKY
    keep: Tensor  # [K, h, w] bool, cells that the filters let into the memory
    readout: Readout  # K views: what the memory knew before
    known: Tensor  # [K, C, h, w] refined readout, 0 where the memory knew nothing
    latents: Tensor  # [K, C, h, w] as generated, before decoding and re-encoding
    alignment: Alignment | None = None
    """How `depth` was fitted to the memory; None where that is switched off. A refused chunk keeps no cell."""
    movers: Shown | None = None  # [K, h, w]
    """Which mover of the world before the chunk `readout` shows in each cell, -1 for none."""

    def reading(self, readout: Readout) -> Chunk:
        """The chunk of a memory that knew only this much, when more was shown to the generator."""
        return replace(self, readout=readout, known=self.known * readout.observed[:, None].to(self.known))

    @property
    def coverage(self) -> float:
        """Share of cells that the memory knew, in [0, 1]."""
        return float(self.readout.observed.mean())

    @property
    def key_frames(self) -> slice:
        """Slice of the frames that have a latent, depth and labels."""
        stride = len(self.frames) // len(self.latents)
        return slice(stride - 1, None, stride)

    def key_of(self, frame: int) -> int:
        """Index of the key frame whose latent shows a frame."""
        return frame * len(self.latents) // len(self.frames)

    @property
    def key_cameras(self) -> tuple[Camera, ...]:  # K
        """Cameras of the key frames."""
        return self.cameras[self.key_frames]


Step = Callable[[Sequence[WorldState], Sequence[Sequence[Camera]]], tuple[list[Chunk], list[WorldState]]]


def in_groups(
    step: Step, kinds: Sequence[Hashable], states: Sequence[WorldState], cameras: Sequence[Sequence[Camera]]
) -> tuple[list[Chunk], list[WorldState]]:
    """Step worlds of several kinds, those of one kind together; results in the order given."""
    done: dict[int, tuple[Chunk, WorldState]] = {}
    for kind in dict.fromkeys(kinds):
        alike = [i for i, other in enumerate(kinds) if other == kind]
        stepped = step([states[i] for i in alike], [cameras[i] for i in alike])
        done |= zip(alike, zip(*stepped, strict=True), strict=True)
    return [done[i][0] for i in range(len(states))], [done[i][1] for i in range(len(states))]
